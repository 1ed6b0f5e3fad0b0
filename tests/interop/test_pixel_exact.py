"""A node that keeps only the pixels of what came losslessly compressed: everybody else's decoders see no difference."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dcmpress.storage.blob import BlobReader
from dcmpress.storage.pixel_exact import FORMATS
from dcmpress.storage.targets import NAMES
from tests.corpus_files import data_set
from tests.interop.judges import judged, read, words
from tests.interop.test_transcoding import with_pixels
from tests.nodes import Node, send_unchanged
from tests.scp.receivers import get, image_level
from tests.scp.wire import EXPLICIT

EXACT = {"codec": "interframe", "effort": "fast", "pixel_exact": True}


def lossless() -> dict[str, Path]:
    """Return UID -> file in a transfer syntax that is lossless, and not of native pixel data."""
    return {
        uid: path
        for uid, path in with_pixels().items()
        if data_set(path)[0].transfer_syntax_uid in {*FORMATS, NAMES["rle"]}
        and path.stat().st_size < 1_000_000
    }


FILES = lossless()


def copies(folder: Path) -> Path:
    """Return a folder with these files."""
    target = folder / "files"
    target.mkdir(exist_ok=True)
    for uid, path in FILES.items():
        shutil.copyfile(path, target / f"{uid}.dcm")
    return target


def kept_as_samples(node: Node) -> list[str]:
    """Return the instances of which the blobs say that other bytes came."""
    found = []
    for path in (node.data / "blobs").glob("??/*.dcmb"):
        with BlobReader(path) as blob:
            found += [i.sop_instance_uid for i in blob.index.instances if i.received is not None]
    return sorted(found)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("pixel-exact")
    with Node(folder, compression={"rules": [EXACT]}, pipeline={"settle_seconds": 0.2}) as running:
        assert set(send_unchanged(running.port, FILES.values()).values()) == {0}
        running.settled()
        yield running


def test_some_are_kept_as_samples_and_nothing_is_wrong(node: Node) -> None:
    stats = node.stats()
    assert 0 < stats["pixel_exact"] == len(kept_as_samples(node)) < len(FILES)
    assert stats["raw_bytes"] == sum(len(data_set(path)[1]) for path in FILES.values())
    assert "0 problems" in node.command("verify").stdout
    assert not node.events("codec not used")


@pytest.mark.parametrize("wanted", ["as it came", "explicit", "jpeg-ls", "jpeg-2000"])
def test_other_decoders_see_the_pixels_that_came(node: Node, tmp_path: Path, wanted: str) -> None:
    """The file as it was sent and what is fetched are each judged by a decoder that had no part in the conversion."""
    syntaxes = {uid: data_set(FILES[uid])[0].transfer_syntax_uid for uid in kept_as_samples(node)}
    assert {NAMES["jpeg-2000"], NAMES["htj2k"]} & set(syntaxes.values())
    for target in sorted(set(syntaxes.values())) if wanted == "as it came" else [NAMES[wanted]]:
        uids = [uid for uid in syntaxes if wanted != "as it came" or syntaxes[uid] == target]
        classes = {data_set(FILES[uid])[0].sop_class_uid for uid in uids}
        got = get(node.port, [(c, target) for c in classes], image_level(uids))
        assert got.counts == (len(uids), 0, 0)
        for uid, received in got.data_sets.items():
            _, sent = data_set(FILES[uid])
            assert received != sent
            seen = (
                words(read(received, EXPLICIT)) if target == EXPLICIT else judged(received, target, tmp_path)
            )
            np.testing.assert_array_equal(
                seen, judged(sent, syntaxes[uid], tmp_path), err_msg=FILES[uid].name
            )
            was, now = dcmread(FILES[uid], force=True), read(received, target)
            differ = {element.tag for element in was if now.get(element.tag) != element}
            assert differ <= {0x00280004, 0x00280006, 0x7FE00010, 0x00280000, 0x7FE00000}


def test_the_same_sent_again_is_known(node: Node) -> None:
    before = node.stats()
    assert set(send_unchanged(node.port, FILES.values()).values()) == {0}
    assert node.settled()["instances"] == before["instances"]
    assert node.stats() == before


def test_the_catalog_made_anew_says_the_same(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", compression={"rules": [EXACT]})
    node.command("import", copies(tmp_path))
    before = node.stats()
    assert before["pixel_exact"] > 0
    node.command("rebuild")
    after = node.stats()
    assert {**after, "by_codec": None} == {**before, "by_codec": None}
    assert "0 problems" in node.command("verify").stdout
    assert "not its bytes" in node.command("view", kept_as_samples(node)[0]).stdout
    node.command("import", tmp_path / "files")
    assert node.stats() == after


def test_recompress_lets_go_of_bytes_when_it_is_told_to(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", compression={"rules": [{"codec": "interframe", "effort": "fast"}]})
    node.command("import", copies(tmp_path))
    assert node.stats()["pixel_exact"] == 0
    assert node.command("recompress", "--codec", "zstd", "--pixel-exact", check=False).returncode == 2
    before = node.stats()
    node.command("recompress", "--effort", "fast", "--pixel-exact")
    after = node.stats()
    assert after["pixel_exact"] > 0
    assert after["raw_bytes"] == before["raw_bytes"]
    assert after["stored_bytes"] < before["stored_bytes"]
    assert "0 problems" in node.command("verify").stdout
    assert "0 instances" in node.command("recompress", "--effort", "fast", "--pixel-exact").stdout
