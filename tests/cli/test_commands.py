"""The commands, used as an admin uses them, on real files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dcmpress.cli import archive_commands
from dcmpress.cli.app import with_commands
from dcmpress.config import load
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.workers import exclusive
from tests.corpus_files import GOLDEN, data_set, part10_files, series_files
from tests.nodes import Node, dcmtk, send_unchanged


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node's folder with a few series imported; the node does not run."""
    node = Node(tmp_path_factory.mktemp("offline"))
    for group in ("MR-GE-fMRI", "CT-LIDC0314-thin"):
        folder = series_files(group)[0].parent
        node.command("import", folder)
    return node


def imported_files() -> list[Path]:
    return [
        path
        for group in ("MR-GE-fMRI", "CT-LIDC0314-thin")
        for path in series_files(group)
        if path.is_relative_to(series_files(group)[0].parent)
    ]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcmpress", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def blobs(node: Node) -> list[Path]:
    return sorted((node.data / "blobs").glob("??/*.dcmb"))


def test_help_explains_every_command() -> None:
    shown = run("--help").stdout
    for command in [
        "serve",
        "stats",
        "import",
        "find",
        "export",
        "extract",
        "verify",
        "inspect",
        "rebuild",
        "estimate",
        "echo",
        "config",
        "version",
    ]:
        assert command in shown
        assert CliRunner().invoke(with_commands(), [command, "--help"]).exit_code == 0


def test_import_compresses_and_a_second_import_stores_nothing_new(offline: Node) -> None:
    before = offline.stats()
    assert before["instances"] == len(imported_files())
    assert before["spool"]["instances"] == 0
    assert before["stored_bytes"] < before["raw_bytes"] / 2
    files = list(blobs(offline))
    again = offline.command("import", series_files("MR-GE-fMRI")[0].parent)
    assert "duplicate" in again.stdout
    assert offline.stats() == before
    assert blobs(offline) == files


def test_stats_shows_a_table(offline: Node) -> None:
    shown = offline.command("stats").stdout
    for word in ("instances", "raw", "stored", "ratio", "MR", "CT", "interframe"):
        assert word in shown


def test_find_lists_what_export_takes(offline: Node, tmp_path: Path) -> None:
    studies = [json.loads(line) for line in offline.command("find", "--json").stdout.splitlines()]
    assert {study["ModalitiesInStudy"] for study in studies} == {"CT", "MR"}
    assert sum(int(study["NumberOfStudyRelatedInstances"]) for study in studies) == len(imported_files())
    (ct,) = (study for study in studies if study["ModalitiesInStudy"] == "CT")
    header, line = offline.command("find", "ModalitiesInStudy=CT", "StudyDate=19000101-").stdout.splitlines()
    assert header.split()[:2] == ["StudyInstanceUID", "StudyDate"]
    assert line.split()[0] == ct["StudyInstanceUID"]
    series = offline.command("find", "Modality=C*", "--level", "series", "--json").stdout.splitlines()
    assert len(series) == 1
    images = offline.command("find", "Modality=CT", "--level", "image", "--json").stdout.splitlines()
    assert len(images) == int(ct["NumberOfStudyRelatedInstances"])
    offline.command("export", line.split()[0], tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == len(images)


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["PatientNme=X"], 2, "did you mean PatientName?"),
        (["PatientName"], 2, "write KEYWORD=VALUE"),
        (["Modality=CT"], 2, "--level series"),
        (["StudyDate=noon"], 2, "no DA value or range"),
        (["PatientName=Nobody^*"], 1, ""),
    ],
)
def test_find_says_what_is_wrong(arguments: list[str], code: int, what: str, offline: Node) -> None:
    done = offline.command("find", *arguments, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert what in done.stderr
    assert len(done.stderr.splitlines()) == (1 if what else 0)


def test_import_of_something_else_is_passed_over(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "notes.txt").write_text("not an image, whatever its name\n" * 10)
    (junk / "empty.dcm").touch()
    done = node.command("import", junk)
    assert "2 not DICOM" in done.stdout
    assert node.stats()["instances"] == 0


def test_import_of_a_missing_folder_is_a_wrong_call(tmp_path: Path) -> None:
    assert Node(tmp_path / "node").command("import", tmp_path / "absent", check=False).returncode == 2


def test_export_gives_plain_files_with_the_received_bytes(offline: Node, tmp_path: Path) -> None:
    done = offline.command("export", "--all", tmp_path / "out")
    assert f"{len(imported_files())} instances, 0 of them there already" in done.stdout
    exported = {data_set(path)[0].sop_instance_uid: path for path in (tmp_path / "out").rglob("*.dcm")}
    for path in imported_files():
        meta, data = data_set(path)
        found, exported_data = data_set(exported[meta.sop_instance_uid])
        assert exported_data == data
        assert found.transfer_syntax_uid == meta.transfer_syntax_uid
    dcmtk("dcmftest", *list(exported.values())[:20])
    again = offline.command("export", "--all", tmp_path / "out")
    assert f"{len(imported_files())} of them there already; 0 bytes written" in again.stdout


def test_export_of_one_study_and_of_nothing(offline: Node, tmp_path: Path) -> None:
    study = next(iter(p.name for p in _exported(offline, tmp_path / "all")))
    done = offline.command("export", study, tmp_path / "one")
    assert [p.name for p in (tmp_path / "one").iterdir()] == [study]
    assert done.returncode == 0
    assert offline.command("export", "1.2.3.4.5", tmp_path / "none", check=False).returncode == 1
    assert offline.command("export", tmp_path / "no-uid", check=False).returncode == 2


def _exported(node: Node, folder: Path) -> list[Path]:
    node.command("export", "--all", folder)
    return sorted(folder.iterdir())


def test_extract_needs_the_blob_alone(offline: Node, tmp_path: Path) -> None:
    originals = {data_set(path)[0].sop_instance_uid: data_set(path)[1] for path in imported_files()}
    n = 0
    for blob in blobs(offline):
        copy = tmp_path / "alone" / blob.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(blob.read_bytes())
        assert run("extract", copy, tmp_path / "out" / blob.stem).returncode == 0
    for path in (tmp_path / "out").rglob("*.dcm"):
        meta, data = data_set(path)
        assert originals[meta.sop_instance_uid] == data
        n += 1
    assert n == len(originals)


def test_inspect_shows_a_blob_and_refuses_what_is_none(offline: Node, tmp_path: Path) -> None:
    blob = blobs(offline)[0]
    shown = run("inspect", blob).stdout
    assert "interframe" in shown
    index = json.loads(run("inspect", "--json", blob).stdout)
    assert all(instance["sop_instance_uid"] in shown for instance in index["instances"])
    other = tmp_path / "x.dcmb"
    other.write_bytes(b"no blob" * 100)
    assert run("inspect", other).returncode == 1
    shown = run("inspect", GOLDEN / "blob-v1-pixel-exact.dcmb").stdout
    assert shown.count("; received as 118") == shown.count("which are not kept") == 2
    assert run("inspect", tmp_path / "absent").returncode == 2


def test_verify_finds_nothing_wrong(offline: Node) -> None:
    done = offline.command("verify")
    assert f"{len(imported_files())} instances" in done.stdout
    assert "0 problems" in done.stdout


def test_verify_names_a_damaged_blob_and_an_equal_import_heals_it(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    folder = series_files("MR-heart-cine-MF")[0].parent
    node.command("import", folder)
    (blob,) = blobs(node)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o640)
    blob.write_bytes(data)
    done = node.command("verify", check=False)
    assert done.returncode == 1
    assert blob.stem in done.stdout
    assert node.stats()["damaged"] == 1
    listed = node.command("stats", "--attention").stdout.splitlines()
    assert len(listed) == 1
    assert "damaged" in listed[0]
    assert node.command("export", "--all", tmp_path / "out", check=False).returncode == 1
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert "healed" in node.command("import", folder).stdout
    assert node.stats()["damaged"] == 0
    node.command("export", "--all", tmp_path / "out")


def test_verify_believes_a_blob_that_was_restored_from_a_copy(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-heart-cine-MF")[0].parent)
    (blob,) = blobs(node)
    sound = blob.read_bytes()
    blob.chmod(0o640)
    blob.write_bytes(sound[: len(sound) // 2] + bytes(16) + sound[len(sound) // 2 + 16 :])
    assert node.command("verify", check=False).returncode == 1
    blob.write_bytes(sound)
    node.command("verify")
    assert node.stats()["damaged"] == 0
    node.command("export", "--all", tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.dcm"))


def test_what_is_kept_is_not_readable_by_everybody(offline: Node) -> None:
    kept = [offline.data, *offline.data.iterdir(), *blobs(offline)]
    assert [path for path in kept if path.stat().st_mode & 0o007 and path.name != "pipeline.lock"] == []


@pytest.mark.parametrize("command", [("stats",), ("verify",), ("export", "--all", "out")])
def test_a_folder_without_an_archive_is_not_an_empty_archive(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"storage: {{root: {tmp_path}/data}}\n")
    done = run(*command, "--config", tmp_path / "config.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("dcmpress: there is no archive in ")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["inspect", "extract"])
def test_a_folder_is_no_blob(command: str, tmp_path: Path) -> None:
    done = run(command, tmp_path, *([tmp_path / "out"] if command == "extract" else []))
    assert done.returncode == 1
    assert done.stderr == f"dcmpress: {tmp_path}: Is a directory\n"


def test_a_catalog_that_cannot_be_opened_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("storage: {catalog_url: 'postgres://x:secret@y/z'}\n")
    done = run("config", "check", "--config", tmp_path / "config.yaml")
    assert done.returncode == 1
    assert "FAILED  catalog: " in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_rebuild_recreates_the_catalog(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-GE-fMRI")[0].parent)
    before = node.stats()
    for file in node.data.glob("catalog.sqlite*"):
        file.unlink()
    node.command("rebuild")
    assert node.stats() == before
    assert "0 problems" in node.command("verify").stdout


def test_an_interrupted_rebuild_leaves_the_old_catalog_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-GE-fMRI")[0].parent)
    before = node.stats()

    def interrupted(_: object) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(archive_commands, "rebuild_blobs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            archive_commands.rebuild(node.config_file)
    assert node.stats() == before
    node.command("rebuild")
    assert node.stats() == before
    left = {path.name.partition(".before-")[0] for path in node.data.glob("catalog*")}
    assert left == {"catalog.sqlite"}


def test_rebuild_does_not_take_the_catalog_from_a_recompression(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-GE-fMRI")[0])
    with exclusive(node.data, "recompress.lock"):
        refused = node.command("rebuild", check=False)
    assert refused.returncode == 2
    assert "stop it first" in refused.stderr
    assert not list(node.data.glob("catalog*before*"))


def test_rebuild_keeps_what_is_still_to_be_committed(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-GE-fMRI")[0])
    url = f"sqlite:///{node.data / 'catalog.sqlite'}"
    catalog = Catalog.open(url)
    catalog.commitments.add("1.2.3", "CT1", [("1.2", "1.2.3.4")])
    catalog.close()
    assert "1 requests for storage commitment taken over" in node.command("rebuild").stdout
    catalog = Catalog.open(url)
    (request,) = catalog.commitments.due(datetime.now(UTC))
    assert (request.transaction_uid, request.requestor_ae) == ("1.2.3", "CT1")
    assert request.references == (("1.2", "1.2.3.4"),)
    catalog.close()
    (node.data / "catalog.sqlite").write_bytes(b"no database at all" * 300)
    assert "commitment are lost" in node.command("rebuild").stdout


def test_rebuild_refuses_while_the_node_runs(node: Node) -> None:
    done = node.command("rebuild", check=False)
    assert done.returncode == 2
    assert "stop it first" in done.stderr


def test_estimate_agrees_with_what_the_archive_then_takes(offline: Node) -> None:
    folder = series_files("CT-LIDC0314-thin")[0].parent
    shown = offline.command("estimate", folder, "--sample", "16").stdout
    for word in ("JPEG-LS", "HTJ2K", "no interval from a single series", "hours of one core"):
        assert word in shown
    estimated = float(shown.split("GB: ")[1].split(" : 1")[0])
    share = offline.stats()["by_modality"]["CT"]
    assert estimated == pytest.approx(share["raw_bytes"] / share["stored_bytes"], rel=0.1)


def test_estimate_gives_an_interval_for_several_series(tmp_path: Path) -> None:
    for group in ("MR-heart-cine-MF", "NM"):
        path = series_files(group)[0]
        (tmp_path / group).write_bytes(path.read_bytes())
    shown = run("estimate", tmp_path).stdout
    low, high = map(float, shown.split("(95 % interval ")[1].split(")")[0].split(" to "))
    assert 1 < low < float(shown.split("GB: ")[1].split(" : 1")[0]) < high


def test_config_check_tries_everything_it_names(node: Node, tmp_path: Path) -> None:
    other = Node(
        tmp_path / "other",
        dicom={
            "peers": {
                "up": {"ae_title": "DCMPRESS", "host": "127.0.0.1", "port": node.port},
                "down": {"ae_title": "GONE", "host": "127.0.0.1", "port": 1},
            }
        },
    )
    done = other.command("config", "check", check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok      peer DCMPRESS") for line in lines)
    assert [line for line in lines if line.startswith("FAILED")] == [
        line for line in lines if "peer GONE" in line
    ]


def test_config_check_says_whether_compression_keeps_up(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    (line,) = [line for line in node.command("config", "check").stdout.splitlines() if "compression" in line]
    rates = re.findall(r"(\d+) MB/s by (interframe \w+)", line)
    assert line.startswith("ok      compression: 1 worker sustains ")
    assert [name for _, name in rates] == [
        "interframe fast",
        "interframe balanced",
    ]  # the node's own rule first
    assert all(int(rate) > 0 for rate, _ in rates)
    done = node.command("config", "check", "--ingest", "90000", check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert "90000 MB/s coming in is too much for interframe fast: more cores" in line


def test_a_wrong_configuration_ends_with_2_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dicom:\n  prot: 1\n")
    done = run("serve", "--config", path)
    assert done.returncode == 2
    assert done.stderr == f"dcmpress: {path}, line 2: unknown key dicom.prot; did you mean port?\n"


def test_config_show_prints_a_configuration_that_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DCMPRESS_DICOM__ALLOW", '[{"ae_title": "1", "networks": ["192.0.2.0/24"]}]')
    monkeypatch.setenv("DCMPRESS_DICOM__TRANSFER_SYNTAXES", '["htj2k", "stored"]')
    monkeypatch.setenv("DCMPRESS_COMPRESSION__RULES", '[{"codec": "zstd", "match": {"Modality": "CT"}}]')
    monkeypatch.setenv("DCMPRESS_STORAGE__CATALOG_URL", "postgresql+psycopg://joe:secret@h/d")
    expected = load()
    done = run("config", "show")
    assert "secret" not in done.stdout
    for name in [name for name in os.environ if name.startswith("DCMPRESS_") and "__" in name]:
        monkeypatch.delenv(name)
    path = tmp_path / "shown.yaml"
    path.write_text(done.stdout.replace("***", "secret"))
    shown = load(path)
    assert shown.catalog_url == expected.catalog_url
    storage = {"root": shown.storage.root}
    assert shown == expected.model_copy(update={"storage": expected.storage.model_copy(update=storage)})


def test_echo(node: Node) -> None:
    assert run("echo", "127.0.0.1", str(node.port)).returncode == 0
    assert run("echo", "127.0.0.1", "1").returncode == 1
    assert run("echo", "127.0.0.1", "65536").returncode == 2
    assert run("echo", "127.0.0.1", str(node.port), "--calling", "LONGER_THAN_SIXTEEN").returncode == 2


def test_an_older_version_stays_retrievable(node: Node, tmp_path: Path) -> None:
    first = next(p for p in part10_files() if p.is_relative_to(series_files("MR-GE-fMRI")[0].parent))
    meta, data = data_set(first)
    second = tmp_path / "second.dcm"
    raw = first.read_bytes()
    second.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1, raw[-1]]))
    assert set(send_unchanged(node.port, [first]).values()) == {0}
    assert set(send_unchanged(node.port, [second]).values()) == {0}
    node.settled()
    node.command("export", meta.sop_instance_uid, tmp_path / "new")
    node.command("export", meta.sop_instance_uid, tmp_path / "both", "--versions")
    (newest,) = (tmp_path / "new").rglob("*.dcm")
    assert data_set(newest)[1] == data_set(second)[1]
    both = {data_set(path)[1] for path in (tmp_path / "both").rglob("*.dcm")}
    assert both == {data, data_set(second)[1]}
