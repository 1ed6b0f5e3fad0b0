"""The spool: what is acknowledged is whole, and nothing else stays."""

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dcmpress.storage import spool as spool_module
from dcmpress.storage.errors import DamagedError, MissingError, NoSpaceError
from dcmpress.storage.part10 import FileMeta, part10_header
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
    """Names, flush of the folder; then for each data set: data, proof, flush of the file, its last name."""
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("pwrite", "fsync", "rename")}

    def noting(name: str) -> object:
        def call(*arguments: Any) -> object:
            detail = {"pwrite": lambda: f" {arguments[-1]}", "fsync": lambda: f" {path_of(arguments[0])}"}
            steps.append(name + detail.get(name, str)())
            return real[name](*arguments)

        return call

    def start_writing(_fd: int, offset: int, length: int) -> None:
        steps.append(f"start {offset} {length}")

    monkeypatch.setattr(spool_module, "start_writing", start_writing)
    for name in real:
        monkeypatch.setattr(os, name, noting(name))
    header = len(part10_header(META))
    for size, expected in (
        (8, ["pwrite 0"]),
        (500_000, ["pwrite 4096", f"start 4096 {500_000 + header - 4096}", "pwrite 0"]),
        (
            1_500_000,
            [
                "pwrite 0",
                "start 0 1048576",
                "pwrite 1048576",
                f"start 1048576 {1_500_000 + header - 1048576}",
                "pwrite 0",
            ],
        ),
    ):
        writer = written(spool, bytes(size))
        part = str(writer._part)
        writer.finish()
        assert steps[-len(expected) - 2 :] == [*expected, f"fsync {part}", "rename"]
        assert steps[: -len(expected) - 2] in ([f"fsync {spool.folder}"], [])
        steps.clear()


@pytest.mark.parametrize("size", [0, 1, 4096, 131_071, 131_072, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("piece", [65_521, 131_066, 3 << 20])
def test_any_size_in_any_pieces(spool: Spool, size: int, piece: int) -> None:
    data = random.Random(size).randbytes(size)
    writer = spool.begin(META, SENDER)
    for at in range(0, size, piece):
        writer.write(memoryview(data)[at : at + piece])
        assert bytes(writer.leading) == data[: min(at + piece, 1 << 16)]
        assert writer.data_set_bytes(2_000_000) == data[: min(at + piece, 2_000_000)]
    assert writer.size == size
    finished = writer.finish()
    assert finished.sha256 == hashlib.sha256(data).digest()
    content = spool.path(finished.name).read_bytes()
    assert content[: finished.offset] == content[:128] + part10_header(META)[128:]
    assert content[finished.offset :] == data
    assert spool.entry(finished.name) == finished


@pytest.mark.parametrize("suffix", [".part", ".free"])
def test_a_power_cut_may_undo_the_renaming(spool: Spool, suffix: str) -> None:
    finished = written(spool, b"acknowledged").finish()
    spool.path(finished.name).rename(spool.folder / f"{finished.name}{suffix}")
    again = Spool(spool.folder)
    assert again.sweep() == 0
    assert again.entry(finished.name) == finished


@pytest.mark.parametrize("suffix", [".part", ".free"])
@pytest.mark.parametrize("at", [0, 60, 127, -1])
def test_a_power_cut_may_leave_the_proof_without_the_data(spool: Spool, suffix: str, at: int) -> None:
    finished = written(spool, b"not acknowledged").finish()
    content = bytearray(spool.path(finished.name).read_bytes())
    spool.remove(finished.name)
    content[at] ^= 1
    (spool.folder / f"{finished.name}{suffix}").write_bytes(content)
    again = Spool(spool.folder)
    assert again.sweep() == 1
    assert again.names() == []


def test_every_name_was_flushed_before_it_is_used(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With threads at work a file is handed out only if a flush of the folder began after it was made."""
    flushed: set[str] = set()
    flushes = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        present = {path.stem for path in spool.folder.iterdir()}
        real_fsync(fd)
        if path_of(fd) == str(spool.folder):
            flushed.update(present)
            flushes.append(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    names: list[str] = []

    def one() -> None:
        for _ in range(10):
            writer = written(spool)
            assert writer.name in flushed
            names.append(writer.finish().name)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == spool.names()
    assert len(names) == 80
    assert len(flushes) < 10


def test_new_folders_are_flushed_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(path_of(fd))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    Spool(tmp_path / "a" / "b" / "spool")
    assert flushed == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_abandoned_leaves_nothing(spool: Spool) -> None:
    writer = written(spool)
    writer.abandon()
    writer.abandon()
    finished = written(spool)
    finished.finish()
    finished.abandon()
    spool.close()
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
        for _ in range(40):
            writer.write(bytes(40_000))
        writer.finish()
    finally:
        writer.abandon()


@pytest.mark.parametrize("limit", [0, 64, 4096, 300_000, 1_200_000])
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
        spool.close()
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
        patch.setattr(os, step, fail)
        with pytest.raises(NoSpaceError if code == errno.ENOSPC else OSError):
            writer.finish()
    writer.abandon()
    spool.close()
    assert list(spool.folder.iterdir()) == []


def test_names_are_locked_while_written(spool: Spool) -> None:
    writer = written(spool)
    with Path(writer._part).open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.abandon()


def test_a_flush_that_fails_while_preparing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="lost"):
            spool.begin(META, SENDER)
    assert list(spool.folder.iterdir()) == []
    assert open_files() == before
    written(spool).finish()
