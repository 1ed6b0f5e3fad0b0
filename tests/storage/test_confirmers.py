"""What another node sends is decoded by a process of its own: it may crash, hang or talk nonsense there."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcmpress.storage import confirmers
from dcmpress.storage.archive import Archive
from dcmpress.storage.blob_index import BlobIndex
from dcmpress.storage.confirmers import Confirmer, Confirmers
from dcmpress.storage.errors import MalformedError, NoSpaceError
from dcmpress.storage.exchange import IncomingBlob
from tests.storage.objects import SENDER, assert_serves, blob_files, compressed, opened, receive_series
from tests.storage.test_crash import pipeline_of


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Archive]:
    """An archive with a blob to send."""
    with opened(tmp_path / "source") as archive:
        yield archive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """The one that gets it."""
    with opened(tmp_path / "archive") as archive:
        yield archive


def send(archive: Archive, data: bytes) -> bool:
    """Send a blob; tell whether its file was kept."""
    incoming = IncomingBlob(archive)
    try:
        incoming.write(data)
        return incoming.commit(SENDER).adopted
    finally:
        incoming.close()


def nothing_is_left(archive: Archive) -> None:
    assert list(archive.blobs.names()) == []
    assert list(archive.blobs.staging.iterdir()) == []
    assert archive.spool.names() == []
    assert list((archive.settings.root / "tmp").iterdir()) == []
    assert archive.catalog.statistics().instances == 0


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ends the process"),
        ("input(); import ctypes; ctypes.string_at(0)", "ends the process"),
        ("input(); print('{\"ordi', end='')", "ends the process"),
        ("input(); import time; time.sleep(60)", "too long"),
    ],
)
def test_a_process_that_does_not_come_back(
    source: Archive, archive: Archive, monkeypatch: pytest.MonkeyPatch, program: str, problem: str
) -> None:
    sent = receive_series(source)
    compressed(source)
    (blob,) = blob_files(source)
    monkeypatch.setattr("dcmpress.storage.exchange.PATIENCE", 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(Confirmer, "command", (sys.executable, "-c", program))
        with pytest.raises(MalformedError, match=problem):
            send(archive, blob.read_bytes())
    nothing_is_left(archive)
    assert send(archive, blob.read_bytes())  # by another process
    assert_serves(archive, sent)


def test_every_byte_is_looked_at(source: Archive, archive: Archive) -> None:
    receive_series(source, n=2)
    compressed(source)
    data = blob_files(source)[0].read_bytes()
    for at in range(0, len(data), max(1, len(data) // 40)):
        harmed = bytearray(data)
        harmed[at] ^= 0x10
        with pytest.raises(MalformedError):
            send(archive, bytes(harmed))
    nothing_is_left(archive)
    assert len(archive.confirmers._idle) == 1  # one process for all of them


@pytest.mark.parametrize("names", [{"transfer_syntax_uid": "1.2." * 20_000}, {"calling_ae": "A" * 20_000}])
def test_names_that_no_file_could_hold(
    source: Archive, archive: Archive, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> None:
    receive_series(source, n=1)
    written = BlobIndex.to_json

    def long_names(index: BlobIndex) -> bytes:
        index.instances = [replace(one, **names) for one in index.instances]
        return written(index)

    with monkeypatch.context() as patch:
        patch.setattr(BlobIndex, "to_json", long_names)
        patch.setattr("dcmpress.storage.compress._verify", lambda *_: "")
        pipeline_of(source).drain()
    (blob,) = blob_files(source)
    with pytest.raises(MalformedError, match="more than"):
        send(archive, blob.read_bytes())
    nothing_is_left(archive)


def test_data_sets_that_are_known_come_one_by_one(source: Archive, archive: Archive) -> None:
    sent = receive_series(source)
    compressed(source)
    receive_series(archive, n=2)
    (blob,) = blob_files(source)
    assert not send(archive, blob.read_bytes())
    assert archive.catalog.statistics().instances == 4
    assert_serves(archive, sent)
    assert list((archive.settings.root / "tmp").iterdir()) == []


def test_a_full_disk_is_no_damage(source: Archive, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    receive_series(source, n=1)
    compressed(source)
    (blob,) = blob_files(source)
    answer = 'input(); print(\'{"full": "no space"}\', flush=True); input()'
    monkeypatch.setattr(Confirmer, "command", (sys.executable, "-c", answer))
    with pytest.raises(NoSpaceError):
        send(archive, blob.read_bytes())
    nothing_is_left(archive)


def test_idle_processes_end(source: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    receive_series(source, n=1)
    compressed(source)
    (blob,) = blob_files(source)
    kept = Confirmers()
    with kept.lent() as first:
        assert first.confirm(blob, 60)
    with kept.lent() as again:
        assert again is first
        with kept.lent() as other:
            assert other is not first
            assert other.confirm(blob, 60)
    monkeypatch.setattr(confirmers, "IDLE_SECONDS", 0.0)
    with kept.lent() as fresh:
        assert fresh not in (first, other)
        assert first._process.poll() is not None
        process = fresh._process
    kept.close()
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is not None
