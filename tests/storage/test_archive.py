"""In and out of one archive: duplicates, versions, damage and its cure, rebuilding, recovery."""

import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.registry import get_codec
from dcmpress.storage.archive import Archive
from dcmpress.storage.blob import BlobReader
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import (
    ConflictError,
    ConversionError,
    DamagedError,
    MalformedError,
    MismatchError,
    MissingError,
)
from dcmpress.storage.rebuild import rebuild_blobs
from dcmpress.storage.retrieve import Failed, Outgoing
from dcmpress.storage.spool import SpoolEntry
from dcmpress.storage.verify import verify
from tests.storage.objects import (
    assert_serves,
    blob_files,
    compressed,
    encoded,
    image,
    open_archive,
    opened,
    picture,
    receive,
    receive_series,
    served,
)
from tests.storage.test_crash import pipeline_of


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "archive") as archive:
        yield archive


def settle(archive: Archive) -> None:
    pipeline_of(archive).drain()
    assert archive.spool.names() == []


def flip(path: Path, at: int) -> None:
    path.chmod(0o640)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def problems(archive: Archive, *, mark: bool = True) -> list[Any]:
    return [problem for verified in verify(archive, mark=mark) for problem in verified.problems]


# Receiving


@pytest.mark.parametrize("settled", [False, True])
def test_equal_bytes_again_store_nothing(archive: Archive, settled: bool) -> None:
    sent = receive_series(archive, n=1)
    ((uid, data),) = sent.items()
    if settled:
        settle(archive)
    before = archive.spool.names()
    assert receive(archive, data, uid) == "duplicate"
    assert archive.spool.names() == before
    assert_serves(archive, sent)


@pytest.mark.parametrize("settled", [False, True])
def test_equal_bytes_again_replace_what_is_gone(archive: Archive, settled: bool) -> None:
    """A duplicate is dropped only if the first copy is really there: this may be the only one left."""
    sent = receive_series(archive, n=2)
    uid, data = next(iter(sent.items()))
    if settled:
        settle(archive)
        blob_files(archive)[0].unlink()
    else:
        (name,) = [item.spool_name for item in archive.spooled() if item.sop_instance_uid == uid]
        archive.spool.remove(name)
    assert not archive.committed(uid)
    assert receive(archive, data, uid) == "healed"
    assert archive.committed(uid)
    assert served(archive, uid) == data


def test_a_spool_file_that_is_gone_is_noticed_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        sent = receive_series(archive, n=2)
        gone = next(archive.spooled())
        archive.spool.remove(gone.spool_name)
    with opened(tmp_path) as archive:
        assert list(archive.recover().problems) == [gone.spool_name]
        uid = gone.sop_instance_uid
        with pytest.raises(DamagedError):
            archive.open(uid)
        assert receive(archive, sent[uid], uid) == "healed"
        assert_serves(archive, sent)


def test_conflicts(tmp_path: Path) -> None:
    first, second = encoded(image(1)), encoded(image(1, PatientName="Other^Name"))
    uid = str(image(1).SOPInstanceUID)
    for policy, current, versions in (
        ("keep-both", second, 2),
        ("replace", second, 1),
        ("reject", first, 1),
    ):
        with opened(tmp_path / policy, on_conflict=policy) as archive:
            receive(archive, first, uid)
            if policy == "reject":
                with pytest.raises(ConflictError):
                    receive(archive, second, uid)
            else:
                receive(archive, second, uid)
            assert served(archive, uid) == current
            assert len(archive.catalog.versions(uid)) == versions
            settle(archive)
            assert served(archive, uid) == current
            if versions == 2:
                older = archive.catalog.versions(uid)[1]
                assert b"".join(archive.open_version(older).pieces()) == first


def test_refusals_leave_nothing(archive: Archive) -> None:
    with pytest.raises(MismatchError):
        receive(archive, encoded(image(1)), "1.2.3")
    with pytest.raises(MismatchError):
        receive(archive, encoded(image(1)), str(image(1).SOPInstanceUID), sop_class_uid="1.2.3")
    assert archive.spool.names() == []


@pytest.mark.parametrize("policy", ["keep", "refuse"])
def test_unreadable(tmp_path: Path, policy: str) -> None:
    garbage = b"\x08\x00\x16\x00??" + b"\xff" * 300
    with opened(tmp_path, on_unreadable=policy) as archive:
        if policy == "refuse":
            with pytest.raises(MalformedError):
                receive(archive, garbage, "1.2.3")
            assert archive.spool.names() == []
        else:
            receive(archive, garbage, "1.2.3")
            assert served(archive, "1.2.3") == garbage
            settle(archive)
            assert served(archive, "1.2.3") == garbage


@pytest.mark.parametrize("policy", ["keep", "refuse"])
def test_a_large_image_is_readable(tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels lie beyond everything that is searched for attributes; nothing is wrong with that."""
    monkeypatch.setattr("dcmpress.storage.archive.LARGEST_LEADING", 1 << 17)
    data_set = image(1, picture(256, 512))
    with opened(tmp_path, on_unreadable=policy) as archive:
        receive(archive, encoded(data_set), str(data_set.SOPInstanceUID))
        statistics = archive.catalog.statistics()
        assert statistics.instances == 1
        assert archive.catalog.statistics().needs_attention == 0


# Giving out


def test_an_instance_that_moves_is_followed(archive: Archive) -> None:
    sent = receive_series(archive)
    located = [archive.catalog.current_version(uid) for uid in sent]
    settle(archive)
    found = [item for item in located if item is not None]
    assert all(item.spool_name for item in found)
    results = list(archive.retrieve(found, lambda item: item.transfer_syntax_uid))
    data = [b"".join(result.pieces()) for result in results if isinstance(result, Outgoing)]
    assert data == list(sent.values())


def test_an_older_version_that_moves_is_followed(archive: Archive) -> None:
    uid = str(image(1).SOPInstanceUID)
    first = encoded(image(1))
    receive(archive, first, uid)
    receive(archive, encoded(image(1, PatientName="Other^Name")), uid)
    older = archive.catalog.versions(uid)[1]
    settle(archive)
    assert b"".join(archive.open_version(older).pieces()) == first


def test_one_that_is_gone_does_not_stop_the_others(archive: Archive) -> None:
    sent = receive_series(archive)
    located = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    archive.spool.remove(str(located[1].spool_name))
    flip(archive.spool.path(str(located[2].spool_name)), -1)
    results = list(archive.retrieve(located, lambda item: item.transfer_syntax_uid))
    assert [type(result) for result in results] == [Outgoing, Failed, Failed, Outgoing]
    errors = [result.error for result in results if isinstance(result, Failed)]
    assert [type(error) for error in errors] == [MissingError, DamagedError]


@pytest.mark.parametrize("settled", [False, True])
def test_a_large_instance_goes_through_a_file(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    monkeypatch.setattr("dcmpress.storage.retrieve.IN_MEMORY", 10_000)
    data_set = image(1, picture(64, 64, frames=9))
    uid = str(data_set.SOPInstanceUID)
    receive(archive, encoded(data_set), uid)
    if settled:
        settle(archive)
    outgoing = archive.open(uid)
    assert outgoing._file is not None
    assert b"".join(outgoing.pieces()) == encoded(data_set)
    assert outgoing._file.closed
    assert list((archive.settings.root / "tmp").iterdir()) == []


def test_damage_found_in_a_large_instance_leaves_no_file(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcmpress.storage.retrieve.IN_MEMORY", 10_000)
    data_set = image(1, picture(64, 64, frames=9))
    receive(archive, encoded(data_set), str(data_set.SOPInstanceUID))
    flip(archive.spool.path(archive.spool.names()[0]), -1)
    with pytest.raises(DamagedError):
        archive.open(str(data_set.SOPInstanceUID))
    assert temporary_files(archive) == []


def temporary_files(archive: Archive) -> list[str]:
    """Return the nameless temporary files of an archive that this process holds open."""
    folder = str(archive.settings.root / "tmp")
    found = []
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the listing itself
            continue
        if target.startswith(folder):
            found.append(target)
    return found


def test_closing_early_gives_up_the_rest(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcmpress.storage.retrieve.BATCH_BYTES", 1)
    monkeypatch.setattr("dcmpress.storage.retrieve.IN_MEMORY", 1)
    sent = receive_series(archive, n=12)
    settle(archive)
    located = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    results = archive.retrieve(located, lambda item: item.transfer_syntax_uid)
    first = next(results)
    assert isinstance(first, Outgoing)
    assert temporary_files(archive) != []
    first.close()
    results.close()
    archive.retriever._pool.shutdown(wait=True)
    assert temporary_files(archive) == []


def test_each_instance_is_handed_over_when_it_is_ready(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = receive_series(archive, n=6)
    settle(archive)
    located = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    goes_on = threading.Event()
    read = archive.retriever._read

    def waiting(item: Located, *rest: Any) -> Outgoing | Failed:
        if item is not located[0]:
            assert goes_on.wait(60)
        return read(item, *rest)

    monkeypatch.setattr(archive.retriever, "_read", waiting)
    found = []
    for result in archive.retrieve(located, lambda item: item.transfer_syntax_uid):
        assert isinstance(result, Outgoing)
        found.append(b"".join(result.pieces()))
        goes_on.set()
    assert found == list(sent.values())


def test_frames_that_need_nothing_damaged_are_given_out(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where decoding a segment ends at one frame, the others are decoded by themselves."""

    class Failing(type(get_codec("zstd"))):  # type: ignore[misc]
        def decode_stepwise(self, data: Any, select: Any = None, **limits: Any) -> tuple[Any, Iterator[int]]:
            if select is not None and 2 in select:
                raise CorruptStreamError("frame 2")
            frames, whole = super().decode_stepwise(data, select, **limits)
            return frames, (cut_short(whole) if select is None else whole)

    def cut_short(whole: Iterator[int]) -> Iterator[int]:
        for place in whole:
            if place == 2:
                raise CorruptStreamError("frame 2")
            yield place

    sent = receive_series(archive, n=6)
    settle(archive)
    located = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    monkeypatch.setattr("dcmpress.storage.join.get_codec", lambda name, **parameters: Failing(**parameters))
    results = list(archive.retrieve(located, lambda item: item.transfer_syntax_uid))
    assert [isinstance(result, Outgoing) for result in results] == [True] * 2 + [False] + [True] * 3
    for result, data in zip(results, sent.values(), strict=True):
        assert isinstance(result, Failed) or b"".join(result.pieces()) == data


def test_whoever_waits_for_an_archive_that_is_closed_goes_on(archive: Archive) -> None:
    sent = receive_series(archive, n=1)
    (item,) = [item for uid in sent if (item := archive.catalog.current_version(uid))]
    goes_on = threading.Event()
    for _ in range(archive.retriever._pool._max_workers):
        archive.retriever._pool.submit(goes_on.wait, 60)
    ended = threading.Event()

    def retrieve() -> None:
        with pytest.raises(CancelledError):
            next(archive.retrieve([item], lambda item: item.transfer_syntax_uid))
        ended.set()

    thread = threading.Thread(target=retrieve)
    thread.start()
    time.sleep(0.2)
    archive.retriever.close()
    assert ended.wait(30)
    goes_on.set()
    thread.join()


def test_what_is_cut_short_is_served_exactly_or_not_at_all(archive: Archive) -> None:
    """pydicom leaves away what it cannot read at the end; a shorter data set is not the one received."""
    data = encoded(image(1))[:-50]
    uid = str(image(1).SOPInstanceUID)
    receive(archive, data, uid)
    assert b"".join(archive.open(uid, [EXPLICIT_VR_LITTLE_ENDIAN]).pieces()) == data
    with pytest.raises(ConversionError):
        archive.open(uid, [IMPLICIT_VR_LITTLE_ENDIAN])


# Damage


def test_damage_is_named_refused_and_healed(archive: Archive) -> None:
    sent = receive_series(archive) | receive_series(archive, series="1.2.826.0.1.3680043.10.1.8")
    settle(archive)
    assert problems(archive) == []
    damaged = blob_files(archive)[0]
    flip(damaged, 200)
    found = problems(archive)
    assert {problem.place for problem in found} == {damaged.name.removesuffix(".dcmb")}
    uids = {problem.sop_instance_uid for problem in found} - {""}
    assert len(uids) == 4
    for uid in uids:
        assert not archive.committed(uid)
        with pytest.raises(DamagedError):
            archive.open(uid)
        assert receive(archive, sent[uid], uid) == "healed"
    assert_serves(archive, sent)
    settle(archive)
    assert_serves(archive, sent)


def test_only_what_is_damaged_is_marked(archive: Archive) -> None:
    """A report and an image share a blob; the image's frames are damaged, and padding that holds nothing."""
    sent = receive_series(archive, n=1)
    report = image(7)
    del report.PixelData
    receive(archive, encoded(report), str(report.SOPInstanceUID))
    settle(archive)
    flip(blob_files(archive)[0], 200)
    assert problems(archive)
    assert archive.committed(str(report.SOPInstanceUID))
    assert served(archive, str(report.SOPInstanceUID)) == encoded(report)
    assert not archive.committed(next(iter(sent)))


def test_a_blob_that_is_cut_or_gone(archive: Archive) -> None:
    for series in ("1.2.826.0.1.3680043.10.1.5", "1.2.826.0.1.3680043.10.1.6"):
        receive_series(archive, n=2, series=series)
    settle(archive)
    cut, gone = blob_files(archive)
    cut.chmod(0o640)
    cut.write_bytes(cut.read_bytes()[:-5])
    gone.unlink()
    assert sorted({problem.what for problem in problems(archive)})[-1] == "the file is gone"
    assert archive.catalog.statistics().instances == 4
    for verified in verify(archive, mark=False):
        assert verified.problems


def test_a_blob_written_while_verify_runs_is_not_missed(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = receive_series(archive)
    monkeypatch.setattr(archive.blobs, "names", lambda: iter(()))
    settled = pipeline_of(archive)
    settled.drain()
    assert problems(archive) == []
    assert_serves(archive, sent)


def test_a_damaged_spool_file_is_marked(archive: Archive) -> None:
    sent = receive_series(archive, n=2)
    names = [item.spool_name for item in archive.spooled()]
    flip(archive.spool.path(names[0]), -1)
    flip(archive.spool.path(names[1]), 60)
    assert len(problems(archive)) == 2
    assert list(archive.spooled()) == []
    for uid, data in sent.items():
        assert receive(archive, data, uid) == "healed"
    assert_serves(archive, sent)


def test_who_has_seen_enough_of_verify_does_not_wait(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_series(archive, n=30)
    read: list[str] = []
    real = archive.spool.entry

    def slowly(name: str) -> SpoolEntry:
        read.append(name)
        time.sleep(0.01)
        return real(name)

    monkeypatch.setattr(archive.spool, "entry", slowly)
    checking = verify(archive)
    next(checking)
    checking.close()  # type: ignore[attr-defined]
    assert len(read) < 30


# From blobs and spool alone


def dump(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the catalog says, keys of rows aside."""
    engine = create_engine(archive.catalog._database.url)
    columns = {
        "patient": "identity, patient_name, patient_id",
        "study": "study_instance_uid, study_date, study_description",
        "series": "series_instance_uid, modality, series_number",
    }
    with engine.connect() as connection:
        found = {
            table: sorted(tuple(row) for row in connection.execute(text(f"SELECT {names} FROM {table}")))
            for table, names in columns.items()
        }
        rows = connection.execute(
            text(
                "SELECT i.*, b.name AS blob_name FROM instance i LEFT JOIN blob b ON b.pk = i.blob_pk "
                "ORDER BY i.sop_instance_uid, i.sha256"
            )
        ).mappings()
        hidden = {"pk", "series_pk", "blob_pk"}
        found["instance"] = [tuple((k, v) for k, v in row.items() if k not in hidden) for row in rows]
    engine.dispose()
    return found


def test_rebuilding_gives_the_same_catalog(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    archive = open_archive(root)
    sent = receive_series(archive) | receive_series(archive, series="1.2.826.0.1.3680043.10.1.8", n=2)
    uid = next(iter(sent))
    settle(archive)
    sent[uid] = encoded(image(1, PatientName="Test^Image", PatientComments="a second version"))
    receive(archive, sent[uid], uid)
    settle(archive)
    sent |= receive_series(archive, series="1.2.826.0.1.3680043.10.1.9", n=2)  # stays in the spool
    before = dump(archive)
    versions = [version.sha256 for version in archive.catalog.versions(uid)]
    archive.close()
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    archive = open_archive(root)
    assert [rebuilt.problem for rebuilt in rebuild_blobs(archive)] == ["", "", ""]
    assert archive.recover().entered == 2
    assert dump(archive) == before
    assert [version.sha256 for version in archive.catalog.versions(uid)] == versions
    assert_serves(archive, sent)
    assert problems(archive) == []
    assert next(iter(rebuild_blobs(archive))).problem == ""
    assert dump(archive) == before
    archive.close()


def test_a_mixed_blob_is_listed_under_the_same_codec_after_rebuilding(tmp_path: Path) -> None:
    """Plain frames that Zstandard coded are most of the bytes, and least of the blob."""
    root = tmp_path / "archive"
    noise = np.random.default_rng(1).integers(0, 4096, (1, 64, 64), dtype=np.uint16)
    with opened(root) as archive:
        for number, pixels in ((1, noise), (2, np.zeros((1, 512, 512), np.uint16))):
            data_set = image(number, pixels)
            receive(archive, encoded(data_set), data_set.SOPInstanceUID)
        compressed(archive, "jpeg-ls")
        (blob,) = blob_files(archive)
        with BlobReader(blob) as reader:
            assert {segment.codec for segment in reader.index.segments} == {"jpeg-ls", "zstd"}
        before = archive.catalog.statistics().by_codec
        assert set(before) == {"zstd"}
    (root / "catalog.sqlite").unlink()
    with opened(root) as archive:
        assert [rebuilt.problem for rebuilt in rebuild_blobs(archive)] == [""]
        assert archive.catalog.statistics().by_codec == before


def test_rebuilding_leaves_out_what_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    with opened(root) as archive:
        kept = receive_series(archive, n=2)
        settle(archive)
        (good,) = blob_files(archive)
        receive_series(archive, n=2, series="1.2.826.0.1.3680043.10.1.8")
        settle(archive)
        (bad,) = [path for path in blob_files(archive) if path != good]
        flip(bad, -1)
    (root / "catalog.sqlite").unlink()
    with opened(root) as archive:
        found = {rebuilt.blob: bool(rebuilt.problem) for rebuilt in rebuild_blobs(archive)}
        assert found == {good.name.removesuffix(".dcmb"): False, bad.name.removesuffix(".dcmb"): True}
        assert_serves(archive, kept)


def test_a_blob_folder_moved_elsewhere(tmp_path: Path) -> None:
    """Blobs need no path of their own: another archive adopts them."""
    with opened(tmp_path / "a") as archive:
        sent = receive_series(archive)
        settle(archive)
    shutil.copytree(tmp_path / "a" / "blobs", tmp_path / "b" / "blobs")
    with opened(tmp_path / "b") as archive:
        assert sum(rebuilt.instances for rebuilt in rebuild_blobs(archive)) == 4
        assert_serves(archive, sent)
        digests = {hashlib.sha256(data).digest() for data in sent.values()}
        assert {v.sha256 for uid in sent for v in archive.catalog.versions(uid)} == digests
