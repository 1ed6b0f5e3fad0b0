"""The process ends at every step of the write order; afterwards everything acknowledged is there.

A child process stops (`os._exit`) before its k-th step, for every k that there is. Steps are what changes a
disk: writes and flushes of spool files, sections and flushes of blobs, renames, removals, commits. The
compression runs inside the child, so that its steps count too.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from dcmpress.storage.archive import Archive
from dcmpress.storage.blob import BlobWriter
from dcmpress.storage.catalog import database
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import NoSpaceError
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.pipeline import CompressionRule, Pipeline, PipelineSettings
from dcmpress.storage.spool import Spool, SpoolEntry
from dcmpress.storage.transcode import convert
from dcmpress.storage.verify import verify
from tests.storage.objects import (
    MR_IMAGE,
    SENDER,
    assert_serves,
    encoded,
    image,
    open_archive,
    opened,
    picture,
    receive,
    receive_series,
    served,
)

STOPPED = 77
N_IMAGES = 3
CACHE_BYTES = 1 << 24


class Inline:
    """Stands in for the pool of workers: does the work at once, here."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    ended = False

    def shutdown(self, **_: object) -> None:
        pass

    _processes: dict[int, Any] = {}  # noqa: RUF012


CHOICES = {
    "native": CodecChoice("zstd"),
    "pixel-exact": CodecChoice("interframe", {"effort": "fast"}, pixel_exact=True),
}
SYNTAXES = {"native": EXPLICIT_VR_LITTLE_ENDIAN, "pixel-exact": "1.2.840.10008.1.2.4.201"}


def pipeline_of(archive: Archive, kind: str = "native") -> Pipeline:
    pipeline = Pipeline(archive, PipelineSettings(rules=(CompressionRule(CHOICES[kind]),)))
    pipeline._pool = Inline()  # type: ignore[assignment]
    return pipeline


@cache
def data_sets(kind: str = "native") -> dict[str, bytes]:
    """Return small images, which the spool writes in one piece, and one that it has the disk begin with; or ones
    that `interframe` keeps smaller than the HTJ2K in which they are sent."""
    sent = {}
    for number in range(1, N_IMAGES + 1):
        if kind == "native":
            frames = picture(*((272, 256) if number == 2 else (12, 16)), seed=number)
        else:
            frames = np.repeat(picture(24, 32, seed=number), 4, 0)
        data_set = image(number, frames)
        converted = convert(encoded(data_set), EXPLICIT_VR_LITTLE_ENDIAN, SYNTAXES[kind])
        sent[str(data_set.SOPInstanceUID)] = b"".join(converted.pieces())
    return sent


def changed(data: bytes) -> bytes:
    return data.replace(b"Test^Image", b"Test^Other")


def live(folder: Path, acknowledged: int, policy: str, kind: str = "native") -> None:
    """Receive, compress, receive equal and other bytes, compress again; note each acknowledgement."""

    def take(archive: Archive, uid: str, data: bytes) -> None:
        receive(archive, data, uid, SYNTAXES[kind])
        note = json.dumps([uid, hashlib.sha256(data).hexdigest()]) + "\n"
        UNCOUNTED_WRITE(acknowledged, note.encode())

    sent = data_sets(kind)
    first = next(iter(sent))
    archive = open_archive(folder, on_conflict=policy, disk_cache_bytes=CACHE_BYTES)
    archive.recover()
    for uid, data in sent.items():
        take(archive, uid, data)
    pipeline_of(archive, kind).drain()
    take(archive, first, sent[first])
    take(archive, first, changed(sent[first]))
    pipeline_of(archive, kind).drain()
    archive.close()


UNCOUNTED_WRITE = os.write


class Stopper:
    """Ends the process before step number `at`."""

    def __init__(self, at: int) -> None:
        self.left = at

    def before(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            if self.left == 0:
                os._exit(STOPPED)
            self.left -= 1
            return real(*arguments, **named)

        setattr(owner, name, step)


STEPS: list[tuple[Any, str]] = [
    *((os, name) for name in ("write", "pwrite", "fsync")),
    *((Path, name) for name in ("rename", "unlink", "mkdir", "chmod")),
    *((BlobWriter, name) for name in ("__init__", "add", "finish", "close")),
    (Connection, "commit"),
    (database, "inserted"),
]


def run_until(step: int, folder: Path, policy: str, kind: str) -> int:
    """Run `live` in a child that ends before step `step`; return its exit code."""
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data_sets(kind)  # made here: the threads that convert are not there in a forked process
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            stopper = Stopper(step)
            for owner, name in STEPS:
                stopper.before(owner, name)
            live(folder / "archive", acknowledged, policy, kind)
            code = 0
        finally:
            os._exit(code)
    os.close(acknowledged)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(folder: Path, policy: str, kind: str = "native") -> None:
    """Check what a crash left, before and after it is compressed."""
    lines = (folder / "acknowledged").read_text().splitlines()
    acknowledged: dict[str, list[str]] = {}
    for line in lines:
        uid, digest = json.loads(line)
        acknowledged.setdefault(uid, []).append(digest)
    with opened(folder / "archive", on_conflict=policy, disk_cache_bytes=CACHE_BYTES) as archive:
        assert archive.recover().problems == {}
        assert list(archive.spool.folder.glob("*.part")) == []
        assert list(archive.blobs.staging.iterdir()) == []
        for again in (False, True):
            for uid, digests in acknowledged.items():
                versions = archive.catalog.versions(uid)
                kept = {(version.received_sha256 or version.sha256).hex() for version in versions}
                assert policy == "replace" or kept >= set(digests)
                assert hashlib.sha256(served(archive, uid)).digest() == versions[0].sha256
                newest = (versions[0].received_sha256 or versions[0].sha256).hex()
                # What was whole when the crash came, and not acknowledged yet, may have been taken in too.
                assert newest == digests[-1] or newest not in digests
            if not again:
                pipeline_of(archive, kind).drain()
                assert archive.spool.names() == []
                assert [v.problems for v in verify(archive, mark=False) if v.problems] == []
                assert archive.catalog.settling.blobs_being_written() == []


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a crashed process loses nothing there either, and it is quick."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("policy", ["keep-both", "replace"])
def test_nothing_acknowledged_is_lost(memory_folder: Path, policy: str, kind: str) -> None:
    template = memory_folder / "template"
    open_archive(template / "archive", on_conflict=policy).close()
    points = 0
    while True:
        folder = memory_folder / str(points)
        shutil.copytree(template, folder)
        code = run_until(points, folder, policy, kind)
        assert code in (0, STOPPED)
        check(folder, policy, kind)
        if code == 0:
            with opened(folder / "archive", on_conflict=policy) as archive:
                assert (archive.catalog.statistics().pixel_exact > 0) == (kind == "pixel-exact")
            break
        shutil.rmtree(folder)
        points += 1
    print(f"stopped at {points} points")
    assert points > 55


def test_a_start_reads_only_what_the_catalog_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it takes as long with ten thousand instances in the spool as with none."""
    with opened(tmp_path / "archive") as archive:
        receive_series(archive, 20)
        names = archive.spool.names()
    read: list[str] = []
    real = Spool.entry

    def entry(spool: Spool, name: str) -> SpoolEntry:
        read.append(name)
        return real(spool, name)

    monkeypatch.setattr(Spool, "entry", entry)
    with opened(tmp_path / "archive") as archive:
        assert archive.recover().entered == 0
        assert read == []
    for path in (tmp_path / "archive").glob("catalog.sqlite*"):
        path.unlink()
    with opened(tmp_path / "archive") as archive:
        assert archive.recover().entered == 20
        assert sorted(read) == names


@pytest.mark.parametrize("fails", ["record_all", "record", "both"])
def test_a_start_at_which_the_catalog_fails_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """What lies in the spool may have been acknowledged: it is entered by the next start."""
    with opened(tmp_path / "archive") as archive:
        sent = receive_series(archive, 5)
        names = archive.spool.names()
    for path in (tmp_path / "archive").glob("catalog.sqlite*"):
        path.unlink()

    def fail(*_: object) -> None:
        raise NoSpaceError("no room for the catalog")

    with opened(tmp_path / "archive") as archive, monkeypatch.context() as patch:
        for name in ("record_all", "record"):
            if fails in (name, "both"):
                patch.setattr(archive.catalog, name, fail)
        recovered = archive.recover()
        assert set(recovered.problems) == (set(names) if fails == "both" else set())
        assert archive.spool.names() == names
    with opened(tmp_path / "archive") as archive:
        assert archive.recover().entered == (5 if fails == "both" else 0)
        assert_serves(archive, sent)


@pytest.mark.parametrize("policy", ["keep-both", "reject", "replace"])
@pytest.mark.parametrize("together", [1, 3, 200])
def test_versions_and_duplicates_entered_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, together: int
) -> None:
    """As they would be one by one."""
    monkeypatch.setattr("dcmpress.storage.archive.ENTERED_TOGETHER", together)
    sent = data_sets()
    first = next(iter(sent))
    other = changed(sent[first])
    spool = Spool(tmp_path / "archive" / "spool")
    for uid, data in [*sent.items(), (first, other), (first, sent[first]), (first, other)]:
        writer = spool.begin(FileMeta(MR_IMAGE, uid, EXPLICIT_VR_LITTLE_ENDIAN), SENDER)
        writer.write(data)
        writer.finish()
    spool.close()
    with opened(tmp_path / "archive", on_conflict=policy) as archive:
        recovered = archive.recover()
        assert recovered.problems == {}
        kept = {version.sha256 for version in archive.catalog.versions(first)}
        both = {hashlib.sha256(data).digest() for data in (sent[first], other)}
        assert kept <= both
        assert served(archive, first) == (sent[first] if policy == "reject" else other)
        assert policy != "keep-both" or kept == both
        for uid in list(sent)[1:]:
            assert served(archive, uid) == sent[uid]
        on_disk = {archive.spool.entry(name).sha256 for name in archive.spool.names()}
        assert kept <= on_disk
