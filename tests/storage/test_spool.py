"""The spool: what is acknowledged is whole, and nothing else stays."""

import contextlib
import errno
import fcntl
import os
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dcmpress.storage import spool as spool_module
from dcmpress.storage.errors import DamagedError, MissingError, NoSpaceError
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Sender, Spool, SpoolWriter

META = FileMeta("1.2.840.10008.5.1.4.1.1.4", "1.2.3", "1.2.840.10008.1.2.1")
SENDER = Sender("SCANNER", "DCMPRESS", "2001:db8::1")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def written(spool: Spool, data: bytes = b"data set") -> SpoolWriter:
    writer = spool.begin(META, SENDER)
    writer.write(data)
    return writer


def path_of(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_an_entry_reads_as_it_was_finished(spool: Spool) -> None:
    finished = written(spool, b"x" * 100_001).finish()
    assert spool.names() == [finished.name]
    assert spool.entry(finished.name) == finished
    content = spool.path(finished.name).read_bytes()
    assert content[finished.offset :] == b"x" * 100_001


@pytest.mark.parametrize("microsecond", [1, 123457, 999999])
def test_the_time_of_receipt_is_exact(
    spool: Spool, microsecond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Clock":
            return cls(2026, 11, 21, 4, 30, 1, microsecond, UTC)

    monkeypatch.setattr(spool_module, "datetime", Clock)
    finished = written(spool).finish()
    assert finished.received_at.microsecond == microsecond
    assert spool.entry(finished.name).received_at == finished.received_at


def test_write_order(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, proof, flush of the file, its name, flush of the folder."""
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("write", "pwrite", "fsync")}

    def noting(name: str) -> object:
        def call(*arguments: int) -> object:
            steps.append(name if name != "fsync" else f"fsync {path_of(arguments[0])}")
            return real[name](*arguments)

        return call

    rename = Path.rename

    def noting_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    for name in real:
        monkeypatch.setattr(os, name, noting(name))
    monkeypatch.setattr(Path, "rename", noting_rename)
    writer = written(spool)
    part = str(writer._part)
    writer.finish()
    assert steps == ["write", "write", "pwrite", f"fsync {part}", "rename", f"fsync {spool.folder}"]


def test_new_folders_are_flushed_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(path_of(fd)), real(fd)))
    Spool(tmp_path / "a" / "b" / "spool")
    assert flushed == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_abandoned_leaves_nothing(spool: Spool) -> None:
    writer = written(spool)
    writer.abandon()
    writer.abandon()
    finished = written(spool)
    finished.finish()
    finished.abandon()
    assert list(spool.folder.iterdir()) == []


def test_sweep_takes_what_nobody_writes(spool: Spool) -> None:
    live = written(spool)
    (spool.folder / "dead.part").write_bytes(b"x")
    kept = written(spool).finish()
    assert spool.sweep() == 1
    assert live.finish().name in spool.names()
    assert kept.name in spool.names()


def test_sweep_leaves_another_process_alone(spool: Spool) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.storage.test_spool import META, SENDER\n"
        "from dcmpress.storage.spool import Spool\n"
        "writer = Spool(Path(sys.argv[1])).begin(META, SENDER)\n"
        "writer.write(b'from elsewhere')\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nprint(writer.finish().name)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(spool.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert spool.sweep() == 0
        name = other.communicate("go\n")[0].strip()
    assert spool.entry(name).size == len(b"from elsewhere")


@pytest.mark.parametrize("at", [0, 8, 12, 20, 52, 60, 76, 92, 123, 124, 127])
def test_a_damaged_preamble_is_refused(spool: Spool, at: int) -> None:
    name = written(spool).finish().name
    content = bytearray(spool.path(name).read_bytes())
    content[at] ^= 4
    spool.path(name).write_bytes(content)
    with pytest.raises(DamagedError):
        spool.entry(name)
    assert [type(entry) for entry in spool.entries()] == [tuple]


def test_a_preamble_that_lies_is_refused(spool: Spool) -> None:
    name = written(spool, b"x" * 300).finish().name
    content = bytearray(spool.path(name).read_bytes())
    for offset in (0, 100, 131, 1 << 31):
        content[8:12] = offset.to_bytes(4, "little")
        content[124:128] = zlib.crc32(content[:124]).to_bytes(4, "little")
        spool.path(name).write_bytes(content)
        with pytest.raises(DamagedError):
            spool.entry(name)


def test_every_truncation_is_refused(spool: Spool) -> None:
    name = written(spool).finish().name
    whole = spool.path(name).read_bytes()
    for length in range(len(whole)):
        spool.path(name).write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            spool.entry(name)


def test_a_file_that_is_gone_is_missing(spool: Spool) -> None:
    with pytest.raises(MissingError):
        spool.entry("0" * 24)
    spool.remove("0" * 24)


def test_long_names_are_read_back(spool: Spool) -> None:
    meta = FileMeta("1" * 9000, "2" * 9000, "1.2.840.10008.1.2.1")
    finished = spool.begin(meta, SENDER).finish()
    assert spool.entry(finished.name).meta == meta


def test_nothing_is_begun_under_the_reserve(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve=1 << 60)
    with pytest.raises(NoSpaceError):
        spool.begin(META, SENDER)
    spool.reserve = 0
    written(spool).finish()


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Make every file of this process end at `size` bytes: the nearest thing to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_and_abandon(spool: Spool) -> None:
    writer = spool.begin(META, SENDER)
    try:
        for _ in range(10):
            writer.write(bytes(40_000))
    finally:
        writer.abandon()


@pytest.mark.parametrize("limit", [0, 64, 4096, 300_000])
def test_a_full_disk_while_writing(spool: Spool, limit: int) -> None:
    before = open_files()
    with files_no_longer_than(limit), pytest.raises(NoSpaceError):
        write_and_abandon(spool)
    assert list(spool.folder.iterdir()) == []
    assert open_files() == before


def test_a_small_file_system(tmp_path: Path) -> None:
    """A real, small file system; where this process may mount none, RLIMIT_FSIZE above says as much."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return
    try:
        spool = Spool(folder / "spool")
        first = written(spool, b"y" * 20_000).finish()
        with pytest.raises(NoSpaceError):
            write_and_abandon(spool)
        assert spool.names() == [first.name]
        assert spool.entry(written(spool, b"z" * 20_000).finish().name).size == 20_000
        os.close(spool._flusher._fd)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_while_finishing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    writer = written(spool)
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "rename", fail)))
        with pytest.raises(NoSpaceError if code == errno.ENOSPC else OSError):
            writer.finish()
    writer.abandon()
    assert list(spool.folder.iterdir()) == []


def test_threads_share_flushes(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rename is followed by a flush that began after it, and 40 of them need fewer than 40."""
    log: list[tuple[str, int]] = []
    real_fsync, real_rename = os.fsync, Path.rename
    folder_fd = spool._flusher._fd

    def fsync(fd: int) -> None:
        if fd == folder_fd:
            log.append(("begin", threading.get_ident()))
            threading.Event().wait(0.005)
            real_fsync(fd)
            log.append(("end", threading.get_ident()))
        else:
            real_fsync(fd)

    def rename(self: Path, target: Path) -> Path:
        renamed = real_rename(self, target)
        log.append(("renamed", threading.get_ident()))
        return renamed

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)

    def one() -> None:
        for _ in range(5):
            written(spool).finish()
            log.append(("acknowledged", threading.get_ident()))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    n_flushes = sum(what == "begin" for what, _ in log)
    assert n_flushes < 40
    for position, (what, thread_id) in enumerate(log):
        if what == "acknowledged":
            renamed = max(k for k in range(position) if log[k] == ("renamed", thread_id))
            between = [step for step, _ in log[renamed:position]]
            begun = between.index("begin")
            assert "end" in between[begun:], "acknowledged before a flush that began after the rename"
    assert len(spool.names()) == 40


def test_a_failed_flush_fails_for_all_it_was_to_cover(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a lost write once; the flush after it would say that all is well."""
    inside, go = threading.Event(), threading.Event()
    calls = []

    def fsync(_fd: int) -> None:
        calls.append(_fd)
        if len(calls) == 1:
            inside.set()
            go.wait(10)
        elif len(calls) == 2:
            raise OSError(errno.EIO, "lost")

    flusher = spool._flusher
    outcomes: list[str] = []

    def flush() -> None:
        try:
            flusher.flush()
            outcomes.append("ok")
        except OSError:
            outcomes.append("failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        first = threading.Thread(target=flush)
        first.start()
        inside.wait(10)
        others = [threading.Thread(target=flush) for _ in range(3)]
        for thread in others:
            thread.start()
        while len(flusher._waiting) < 3:
            threading.Event().wait(0.001)
        go.set()
        for thread in [first, *others]:
            thread.join()
    assert sorted(outcomes) == ["failed", "failed", "failed", "ok"]
    flusher.flush()


def test_names_are_locked_while_written(spool: Spool) -> None:
    writer = written(spool)
    with writer._part.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.abandon()
