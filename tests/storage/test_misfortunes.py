"""Errors of the machine, one at a time: they say nothing against the images, hold up no others, and name no patient."""

import errno
import os
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.errors import CatalogError
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.pipeline import PipelineSettings
from dcmpress.storage.spool import SpoolEntry
from dcmpress.storage.verify import verify
from tests.postgresql import NewCatalogUrl
from tests.storage.catalog_entries import enter
from tests.storage.objects import (
    MR_IMAGE,
    SENDER,
    assert_serves,
    blob_files,
    compressed,
    encoded,
    image,
    open_archive,
    opened,
    receive,
    receive_series,
)
from tests.storage.test_crash import pipeline_of


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "archive") as archive:
        yield archive


def fails(number: int) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return failing


def meta_of(uid: str) -> FileMeta:
    return FileMeta(MR_IMAGE, uid, EXPLICIT_VR_LITTLE_ENDIAN)


# Verification


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_cannot_be_read_is_damaged_only_if_the_disk_says_so(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whoever verifies without permission to read must not take the archive out of service."""
    sent = receive_series(archive, 2)
    compressed(archive)
    sent |= receive_series(archive, 2, series="1.2.826.0.1.3680043.10.1.3")
    with monkeypatch.context() as patch:
        patch.setattr("dcmpress.storage.verify.InstanceReader", fails(number))
        patch.setattr(archive.spool, "entry", fails(number))
        problems = [problem.what for verified in verify(archive) for problem in verified.problems]
    assert len(problems) == 3
    assert archive.catalog.statistics().damaged == (4 if number == errno.EIO else 0)
    list(verify(archive))
    assert_serves(archive, sent)


def test_a_section_that_cannot_be_read_now(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    receive_series(archive, 2)
    compressed(archive)
    monkeypatch.setattr(InstanceReader, "pieces", fails(errno.ENOMEM))
    assert [len(verified.problems) for verified in verify(archive)] == [1]
    assert archive.catalog.statistics().damaged == 0


# Compression


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_spool_file_that_cannot_be_read_holds_up_no_other(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bad = receive_series(archive, 2)
    good = receive_series(archive, 2, series="1.2.826.0.1.3680043.10.1.3")
    (first, *_) = archive.spool.names()
    read = archive.spool.entry

    def entry(name: str) -> SpoolEntry:
        return fails(number)() if name == first else read(name)

    with monkeypatch.context() as patch:
        patch.setattr(archive.spool, "entry", entry)
        counters = pipeline_of(archive).drain()
    if number == errno.EIO:
        assert (counters.instances, counters.failures) == (3, 0)
        assert archive.catalog.statistics().damaged == 1
    else:
        assert (counters.instances, counters.failures) == (2, 1)
        assert archive.catalog.statistics().damaged == 0
        assert_serves(archive, bad)
    assert_serves(archive, good)


def test_what_a_wrong_clock_received_in_the_future_is_compressed(archive: Archive) -> None:
    sent = receive_series(archive, 2)
    later = (datetime.now(UTC) + timedelta(days=3000)).replace(tzinfo=None)
    with archive.catalog._database.writing() as connection:
        connection.execute(text("UPDATE instance SET received_at = :later"), {"later": str(later)})
    pipeline = pipeline_of(archive)
    assert pipeline._submit_ready(datetime.now(UTC) - timedelta(seconds=10)) == 1
    pipeline._collect(timeout=1.0)
    assert pipeline.counters.instances == 2
    assert_serves(archive, sent)


def test_codecs_that_cannot_be_loaded_ahead(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be begun at the start of the node; later there can."""
    sent = receive_series(archive, 1)
    pipeline = pipeline_of(archive)
    pipeline.settings = PipelineSettings(settle_seconds=0.1)
    monkeypatch.setattr(pipeline, "_warm", fails(errno.EAGAIN))
    pipeline.start()
    deadline = time.monotonic() + 20
    while archive.spool.names() and time.monotonic() < deadline:
        time.sleep(0.05)
    pipeline.stop()
    assert archive.spool.names() == []
    assert_serves(archive, sent)


# Receipt


def test_a_superseded_file_that_cannot_be_removed_takes_nothing_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = open_archive(tmp_path / "archive", on_conflict="replace")
    uid = next(iter(receive_series(archive, 1)))
    (old,) = archive.spool.names()
    new = encoded(image(1, PatientComments="another version"))
    remove = archive.spool.remove
    with monkeypatch.context() as patch:
        patch.setattr(
            archive.spool, "remove", lambda name: fails(errno.EIO)() if name == old else remove(name)
        )
        assert receive(archive, new, uid) == "replaced"
    assert_serves(archive, {uid: new})
    archive.close()
    archive = open_archive(tmp_path / "archive", on_conflict="replace")
    archive.recover()
    assert_serves(archive, {uid: new})
    archive.close()


def test_a_receipt_whose_answer_got_lost_is_not_taken_from_under_the_catalog(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, uid = encoded(image(1)), image(1).SOPInstanceUID
    record = archive.catalog.record

    def recorded(*arguments: Any) -> Any:
        record(*arguments)
        raise CatalogError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(archive.catalog, "record", recorded)
        incoming = archive.begin(meta_of(uid), SENDER)
        incoming.write(data)
        with pytest.raises(CatalogError):
            archive.commit(incoming)
    assert_serves(archive, {uid: data})
    assert receive(archive, data, uid) == "duplicate"
    assert_serves(archive, {uid: data})


def test_a_file_that_cannot_be_removed_is_closed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming = archive.begin(meta_of("1.2.3"), SENDER)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails(errno.EROFS))
        with pytest.raises(OSError, match="Read-only"):
            incoming.abandon()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(incoming.writer._fd)


# The start


def test_an_unfinished_blob_that_cannot_be_removed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = receive_series(archive, 1)
    archive.catalog.settling.begin_blob("0123")
    with monkeypatch.context() as patch:
        patch.setattr(archive.blobs, "remove", fails(errno.EACCES))
        assert list(archive.recover().problems) == ["blob 0123"]
    assert archive.recover().blobs == 1
    assert_serves(archive, sent)
    assert blob_files(archive) == []


# What is said of it


def test_what_the_database_says_names_no_patient(tmp_path: Path, new_catalog_url: NewCatalogUrl) -> None:
    """The log shows the error and what led to it; what was bound to the statement is the patient."""
    catalog = Catalog.open(new_catalog_url(tmp_path))
    with catalog._database.writing() as connection:
        connection.execute(text("ALTER TABLE patient RENAME COLUMN ethnic_group TO gone"))
    patient: Any = {"PatientName": "Secret^Sally", "PatientID": "4711-0815"}  # not in a line of the traceback
    with pytest.raises(CatalogError) as caught:
        enter(catalog, "1.2.3", **patient)
    said = "".join(traceback.format_exception(caught.value))
    assert "ethnic_group" in said
    assert "Secret" not in said
    assert "4711-0815" not in said
    catalog.close()
