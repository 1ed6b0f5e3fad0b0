"""`dcmpress recompress` on real files."""

from pathlib import Path

from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.settling import requested_codec
from tests.corpus_files import data_set, series_files
from tests.nodes import Node


def exported(node: Node, folder: Path) -> dict[str, bytes]:
    node.command("export", "--all", folder)
    return {data_set(path)[0].sop_instance_uid: data_set(path)[1] for path in folder.rglob("*.dcm")}


def names(node: Node) -> set[str]:
    return {path.stem for path in (node.data / "blobs").glob("??/*.dcmb")}


def test_recompress_makes_blobs_smaller_and_keeps_every_byte(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", compression={"rules": [{"codec": "jpeg-ls"}]})
    node.command("import", series_files("MR-GE-fMRI")[0].parent)
    before, first = node.stats(), names(node)
    content = exported(node, tmp_path / "before")
    done = node.command("recompress", "--effort", "fast")
    after = node.stats()
    assert "% saved" in done.stdout
    assert after["stored_bytes"] < before["stored_bytes"]
    assert after["raw_bytes"] == before["raw_bytes"]
    assert set(after["by_codec"]) == {"interframe"}
    assert not first & names(node)
    assert exported(node, tmp_path / "after") == content
    assert "0 problems" in node.command("verify").stdout
    # What is compressed as asked is not touched again.
    second = names(node)
    assert "0 instances" in node.command("recompress", "--effort", "fast").stdout
    assert names(node) == second


def test_what_would_not_become_smaller_stays(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-GE-fMRI")[0].parent)
    first, before = names(node), node.stats()
    node.command("recompress", "--codec", "store")
    assert names(node) == first
    assert node.stats() == before
    assert "0 instances" in node.command("recompress", "--codec", "store").stdout


def test_where_chooses_the_series(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", compression={"rules": [{"codec": "jpeg-ls"}]})
    node.command("import", series_files("MR-GE-fMRI")[0].parent)
    assert "0 instances" in node.command("recompress", "--effort", "fast", "--where", "Modality=CT").stdout
    assert node.command("recompress", "--where", "Colour=red", check=False).returncode == 2
    assert "150 instances" in node.command("recompress", "--effort", "fast", "--where", "Modality=M*").stdout


def test_what_is_left_alone_is_shown_and_can_be_tried_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", compression={"rules": [{"codec": "zstd"}]})
    node.command("import", series_files("MR-GE-fMRI")[0])
    assert node.stats()["left_alone"] == 0
    (blob,) = names(node)
    catalog = Catalog.open(f"sqlite:///{node.data / 'catalog.sqlite'}")
    catalog.tries.give_up(
        [blob], requested_codec("interframe", {"effort": "fast"}), "the worker process died"
    )
    catalog.close()
    assert node.stats()["left_alone"] == 1
    assert "failed on and leaves as they are: 1" in node.command("stats").stdout
    listed = node.command("stats", "--attention").stdout
    assert listed == f"blob {blob}  not re-compressed, kept as it is: the worker process died\n"
    assert "0 instances" in node.command("recompress", "--effort", "fast").stdout
    assert "1 instances" in node.command("recompress", "--effort", "fast", "--retry").stdout
    assert node.stats()["left_alone"] == 0
    assert "0 problems" in node.command("verify").stdout
