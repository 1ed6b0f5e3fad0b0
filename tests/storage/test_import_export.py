"""The corpus in, twice, and out again, byte for byte; and files that are not what they seem."""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpress.storage.archive import WANTED, Archive
from dcmpress.storage.blob import BlobReader
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.exporting import export, extract
from dcmpress.storage.importing import files_below, import_file
from dcmpress.storage.leading import read_leading
from dcmpress.storage.part10 import FileMeta, part10_header
from dcmpress.storage.spool import Sender
from tests.corpus_files import data_set, part10_files
from tests.storage.objects import (
    MR_IMAGE,
    blob_files,
    compressed,
    encoded,
    image,
    opened,
    receive,
    receive_series,
)
from tests.storage.test_crash import pipeline_of


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "archive") as archive:
        yield archive


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_in_and_out(archive: Archive, folder: Path, files: list[Path]) -> None:
    """Import twice, compress, export twice; compare the SHA-256 of the data sets."""
    originals: dict[str, str] = {}
    for path in files:
        meta, data = data_set(path)
        leading = read_leading(data, meta.transfer_syntax_uid, WANTED)
        originals[digest(data)] = leading.sop_instance_uid or meta.sop_instance_uid
    outcomes = Counter(import_file(archive, path, Sender()).outcome for path in files)
    assert not outcomes.keys() & {"refused", "not DICOM"}
    compressed(archive, "zstd", group_instances=64)
    assert archive.spool.names() == []
    again = Counter(import_file(archive, path, Sender()).outcome for path in files)
    assert set(again) <= {"duplicate", "directory"}
    assert archive.spool.names() == []

    versions = {v.sha256.hex(): v for uid in originals.values() for v in archive.catalog.versions(uid)}
    located = list(versions.values())
    exported = list(export(archive, located, folder))
    assert [item.problem for item in exported if item.problem] == []
    assert len({item.path for item in exported}) == len(exported)
    found = {digest(data_set(item.path)[1]) for item in exported}
    assert found <= originals.keys()
    assert len(originals.keys() - found) == outcomes["directory"]
    assert all(item.existed for item in export(archive, located, folder))


def test_small_files_of_the_corpus(archive: Archive, tmp_path: Path) -> None:
    files = [path for path in part10_files() if path.stat().st_size < 60_000]
    check_in_and_out(archive, tmp_path / "out", files)


@pytest.mark.long
def test_the_whole_corpus(archive: Archive, tmp_path: Path) -> None:
    check_in_and_out(archive, tmp_path / "out", part10_files())


def file_of(folder: Path, name: str, data: bytes, meta: FileMeta | None) -> Path:
    path = folder / name
    path.write_bytes((part10_header(meta) if meta else b"") + data)
    return path


META = FileMeta(MR_IMAGE, str(image(1).SOPInstanceUID), "1.2.840.10008.1.2.1")


def test_files_that_are_not_what_they_seem(archive: Archive, tmp_path: Path) -> None:
    data = encoded(image(1))
    cases = {
        "bare": (data, None, "new", ""),
        "other UID": (encoded(image(2)), META, "new", "name different UIDs"),
        "text": (b"this is not DICOM at all" * 20, None, "not DICOM", ""),
        "short": (b"x", None, "not DICOM", ""),
        "empty": (b"", None, "not DICOM", ""),
        "preamble only": (bytes(128) + b"DICM", None, "refused", "neither"),
        "long UID": (
            encoded(image(3, SOPInstanceUID="1." * 300)),
            META,
            "refused",
            "more than 128 characters",
        ),
    }
    for name, (content, meta, outcome, problem) in cases.items():
        imported = import_file(archive, file_of(tmp_path, name, content, meta), Sender())
        assert (name, imported.outcome) == (name, outcome)
        assert problem in imported.problem
    assert import_file(archive, file_of(tmp_path, "again", data, META), Sender()).outcome == "duplicate"
    assert len(archive.spool.names()) == 2


def test_a_uid_of_other_characters_stays_the_same_everywhere(archive: Archive, tmp_path: Path) -> None:
    """What a catalog, a spool file and a rebuilt catalog call an instance is one and the same."""
    data = encoded(image(1)).replace(b"1.2.826.0.1.3680043.10.1.2.1", b"1.2.826.0.1.3680043.10.1.2.\xe9")
    imported = import_file(archive, file_of(tmp_path, "odd", data, META), Sender())
    assert imported.outcome == "new"
    (entry,) = archive.spool.entries()
    assert not isinstance(entry, tuple)
    assert archive.catalog.current_version(entry.meta.sop_instance_uid) is not None


def test_long_titles_in_the_file_meta(archive: Archive, tmp_path: Path) -> None:
    meta = FileMeta(META.sop_class_uid, META.sop_instance_uid, META.transfer_syntax_uid, source_ae="A" * 9000)
    path = file_of(tmp_path, "long", encoded(image(1)), meta)
    assert import_file(archive, path, Sender()).outcome == "new"
    (entry,) = archive.spool.entries()
    assert not isinstance(entry, tuple)
    assert entry.meta.source_ae == "A" * 16


def test_files_below_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in files_below(tmp_path)] == ["a", "b", "d"]
    assert list(files_below(tmp_path / "a")) == [tmp_path / "a"]


def test_export_mends_what_lies_there(archive: Archive, tmp_path: Path) -> None:
    sent = receive_series(archive, n=3)
    located = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    first = list(export(archive, located, tmp_path / "out"))
    first[0].path.write_bytes(b"somebody's notes, which are not DICOM" * 9)
    first[1].path.write_bytes(first[1].path.read_bytes()[:-1])
    second = list(export(archive, located, tmp_path / "out"))
    assert sorted(item.existed for item in second) == [False, False, True]
    assert {digest(data_set(item.path)[1]) for item in second} == set(map(digest, sent.values()))
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize("uid", ["../../etc", "..", "/etc/x", "1.2 3", "1.2_3", "a" * 128, "é"])
def test_uids_are_no_paths(archive: Archive, tmp_path: Path, uid: str) -> None:
    receive(archive, b"", uid)
    receive(archive, b"", "1.2*3")
    located = [item for name in (uid, "1.2*3") if (item := archive.catalog.current_version(name))]
    paths = [item.path for item in export(archive, located, tmp_path / "out")]
    assert len(set(paths)) == 2
    for path in paths:
        assert path.is_relative_to(tmp_path / "out")
        assert len(path.relative_to(tmp_path / "out").parts) == 3


def test_extract_says_what_is_damaged_and_gives_the_rest(archive: Archive, tmp_path: Path) -> None:
    sent = receive_series(archive, n=2)
    report = image(7)
    del report.PixelData
    receive(archive, encoded(report), str(report.SOPInstanceUID))
    pipeline_of(archive).drain()
    (blob,) = blob_files(archive)
    copy = tmp_path / "copy"
    data = bytearray(blob.read_bytes())
    data[200] ^= 1
    copy.write_bytes(data)
    written = {item.path.name: item.problem for item in extract(copy, tmp_path / "out")}
    assert sum(bool(problem) for problem in written.values()) == len(sent)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{report.SOPInstanceUID}.dcm"]
    copy.write_bytes(data[:-1])
    with pytest.raises(DamagedError):
        list(extract(copy, tmp_path / "out"))


def test_two_versions_in_one_blob_are_both_extracted(archive: Archive, tmp_path: Path) -> None:
    first, second = encoded(image(1)), encoded(image(1, PatientName="Other^Name"))
    for data in (first, second):
        receive(archive, data, str(image(1).SOPInstanceUID))
    pipeline_of(archive).drain()
    (blob,) = blob_files(archive)
    with BlobReader(blob) as reader:
        assert len(reader.index.instances) == 2
    paths = [item.path for item in extract(blob, tmp_path / "out")]
    assert {data_set(path)[1] for path in paths} == {first, second}


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", _element(0x102, b"OB", bytes(2 << 20))),
        (_element(0x1, b"OB", bytes(2 << 20)), b""),
        (b"", _element(0x102, b"UI", b"1.2.3.4\0") * 100_000),
    ],
    ids=["one element", "its first element", "many elements"],
)
def test_endless_file_meta_information_is_refused(
    archive: Archive, tmp_path: Path, before: bytes, after: bytes
) -> None:
    """What is not read of it would be taken for the data set."""
    data_set = image(1)
    header = part10_header(FileMeta(MR_IMAGE, data_set.SOPInstanceUID, EXPLICIT_VR_LITTLE_ENDIAN))
    at = 128 + 4
    path = tmp_path / "hostile.dcm"
    path.write_bytes(header[:at] + before + header[at:] + after + encoded(data_set))
    imported = import_file(archive, path, Sender())
    assert (imported.outcome, imported.problem) == (
        "refused",
        "its file meta information is longer than 1 MiB",
    )
    assert archive.spool.names() == []
    # A quarter of it is no reason.
    path.write_bytes(header + _element(0x102, b"OB", bytes(1 << 18)) + encoded(data_set))
    assert import_file(archive, path, Sender()).outcome == "new"
    assert b"".join(archive.open(data_set.SOPInstanceUID).pieces()) == encoded(data_set)
