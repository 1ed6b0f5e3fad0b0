"""The disk is full, or fails, at every step: refused, nothing lost, nothing half-visible, and on it goes.

Each run lets one step of an archive's life fail. Full: that step and all that need space fail until space
returns, which is when the caller tries again. Failing (EIO): that step fails once, whatever it is.
`test_disk_full_node.py` fills real file systems.
"""

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dcmpress.storage.archive import Archive
from dcmpress.storage.blob import BlobWriter
from dcmpress.storage.catalog import database
from dcmpress.storage.errors import NoSpaceError, StorageError
from dcmpress.storage.verify import verify
from tests.storage.objects import open_archive, opened, receive, served
from tests.storage.test_crash import changed, data_sets, pipeline_of

TAKES_SPACE: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "write", "pwrite", "fsync", "rename", "mkdir")),
    *((BlobWriter, name) for name in ("__init__", "add", "finish")),
    (Connection, "commit"),
    (database, "inserted"),
]
FREES: list[tuple[Any, str]] = [*((os, name) for name in ("unlink", "chmod", "close")), (BlobWriter, "close")]


class Fault:
    """Fails step number `at`; a full disk stays full until `mend`."""

    def __init__(self, at: int, code: int) -> None:
        self.at, self.code = at, code
        self.steps = 0
        self.failing = self.armed = self.happened = False
        self.refused: tuple[type[Exception], ...] = (StorageError, OSError)
        if code == errno.ENOSPC:
            self.refused = (NoSpaceError,)  # is answered with 0xA700

    @contextmanager
    def installed(self) -> Iterator["Fault"]:
        """Stand between the program and the disk."""
        steps = TAKES_SPACE + (FREES if self.code == errno.EIO else [])
        before = [(owner, name, getattr(owner, name)) for owner, name in steps]
        try:
            for owner, name, real in before:
                setattr(owner, name, self._wrapped(name, real))
            yield self
        finally:
            for owner, name, real in before:
                setattr(owner, name, real)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            if self.armed and not (name == "open" and not arguments[1] & os.O_CREAT):
                self.steps += 1
                if self.failing or self.steps == self.at:
                    self.happened = True
                    self.failing = self.code == errno.ENOSPC
                    if name == "close":  # Linux has closed it all the same
                        real(*arguments, **named)
                    raise self._error(name)
            return real(*arguments, **named)

        return step

    def _error(self, name: str) -> Exception:
        if name in ("commit", "inserted"):
            full = self.code == errno.ENOSPC
            cause = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
            return OperationalError(name, {}, cause)
        return OSError(self.code, os.strerror(self.code))

    def mend(self) -> None:
        """Space returns."""
        self.failing = False
        self.at = 0


def take(archive: Archive, fault: Fault, uid: str, data: bytes) -> None:
    """Send an instance until it is acknowledged: after a failure, once more."""
    digest = hashlib.sha256(data).digest()
    known = [version.sha256 for version in archive.catalog.versions(uid)]
    try:
        fault.armed = True
        receive(archive, data, uid)
    except fault.refused:
        fault.armed = False
        fault.mend()
        assert [version.sha256 for version in archive.catalog.versions(uid)] == known
        receive(archive, data, uid)
    finally:
        fault.armed = False
    assert digest in {version.sha256 for version in archive.catalog.versions(uid)}


def drain(archive: Archive, fault: Fault) -> None:
    """Compress everything; after a failure, once more."""
    try:
        fault.armed = True
        pipeline_of(archive).drain()
    except (StorageError, OSError):
        pass  # the node's pipeline logs it and goes on after a while
    finally:
        fault.armed = False
    fault.mend()
    pipeline_of(archive).drain()


def live(archive: Archive, fault: Fault) -> dict[str, list[bytes]]:
    """Receive, compress, receive equal and other bytes, compress; return what was acknowledged."""
    sent = data_sets()
    first = next(iter(sent))
    with fault.installed():
        for uid, data in sent.items():
            take(archive, fault, uid, data)
        drain(archive, fault)
        take(archive, fault, first, sent[first])
        take(archive, fault, first, changed(sent[first]))
        drain(archive, fault)
    kept = {uid: [data] for uid, data in sent.items()}
    kept[first].append(changed(sent[first]))
    return kept


def check(archive: Archive, kept: dict[str, list[bytes]]) -> None:
    """Check that everything is there, served, and nothing in part."""
    assert not [path for path in archive.spool.folder.glob("*.part") if path.stat().st_size]
    for uid, versions in kept.items():
        digests = [hashlib.sha256(data).digest() for data in versions]
        found = [version.sha256 for version in archive.catalog.versions(uid)]
        assert sorted(found) == sorted(digests)
        assert served(archive, uid) == versions[-1]


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: it is quick, and no disk is really full."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_every_step(memory_folder: Path, code: int) -> None:
    template = memory_folder / "template"
    open_archive(template).close()
    at = 0
    while True:
        at += 1
        folder = memory_folder / str(at)
        shutil.copytree(template, folder)
        fault = Fault(at, code)
        with opened(folder) as archive:
            kept = live(archive, fault)
            check(archive, kept)
            archive.spool.close()
        with opened(folder) as archive:
            assert archive.recover().problems == {}
            pipeline_of(archive).drain()
            assert archive.spool.names() == []
            assert list(archive.blobs.staging.iterdir()) == []
            check(archive, kept)
            assert [v.problems for v in verify(archive, mark=False) if v.problems] == []
        shutil.rmtree(folder)
        if not fault.happened:
            break
    print(f"{at - 1} steps failed, one at a time")
    assert at > 25
