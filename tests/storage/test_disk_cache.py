"""Spool files that stay for retrieval when their instances lie in blobs: served like the spool's, never relied on."""

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcmpress.storage.archive import Archive
from dcmpress.storage.disk_cache import DiskCache
from dcmpress.storage.elements import IMPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import DamagedError, NoSpaceError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.rebuild import rebuild_blobs
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

CAPACITY = 1 << 24


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY) as archive:
        yield archive


def files(archive: Archive) -> list[Path]:
    return sorted(archive.disk_cache.folder.glob("*/*.dcm"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the instances that are decoded from blobs, as it happens."""
    numbers: list[int] = []
    real = InstanceReader.pieces

    def pieces(reader: InstanceReader, number: int) -> Any:
        numbers.append(number)
        return real(reader, number)

    monkeypatch.setattr(InstanceReader, "pieces", pieces)
    return numbers


def test_what_was_compressed_is_served_without_decoding(archive: Archive, decoded: list[int]) -> None:
    sent = receive_series(archive)
    before = {path.stat().st_ino for path in archive.spool.folder.glob("*.dcm")}
    compressed(archive)
    decoded.clear()  # the verification
    assert archive.spool.names() == []
    assert {path.stat().st_ino for path in files(archive)} == before  # renamed, not written again
    assert_serves(archive, sent)
    assert decoded == []
    assert archive.retriever.recent.size == 0
    assert archive.disk_cache.size() == sum(path.stat().st_blocks * 512 for path in files(archive)) + 4096


def test_nobody_else_may_read_them(archive: Archive) -> None:
    receive_series(archive)
    compressed(archive)
    for path in (archive.disk_cache.folder, *archive.disk_cache.folder.rglob("*")):
        assert not path.stat().st_mode & stat.S_IRWXO


def rotten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [rotten, cut, emptied, Path.unlink])
def test_a_copy_that_does_not_hold_is_decoded_instead(
    archive: Archive, decoded: list[int], harm: Callable[[Path], None]
) -> None:
    sent = receive_series(archive)
    compressed(archive)
    decoded.clear()
    harm(files(archive)[1])
    assert_serves(archive, sent)
    assert decoded == [1]
    assert len(files(archive)) == 3


def test_one_series_of_which_some_copies_are_gone(archive: Archive, decoded: list[int]) -> None:
    sent = receive_series(archive, n=9)
    compressed(archive, segment_bytes=1 << 13)
    decoded.clear()
    for path in files(archive)[2:5]:
        path.unlink()
    located = [archive.catalog.current_version(uid) for uid in sent]
    given = list(archive.retrieve([item for item in located if item], lambda item: item.transfer_syntax_uid))
    assert [b"".join(item.pieces()) for item in given] == list(sent.values())  # type: ignore[union-attr]
    assert sorted(decoded) == [2, 3, 4]


def test_a_large_one_is_served_from_its_file(
    archive: Archive, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcmpress.storage.retrieve.IN_MEMORY", 1000)
    sent = receive_series(archive, n=2)
    uid = next(iter(sent))
    assert_serves(archive, sent)  # from the spool
    compressed(archive)
    decoded.clear()
    assert_serves(archive, sent)
    converted = b"".join(archive.open(uid, [IMPLICIT_VR_LITTLE_ENDIAN]).pieces())
    assert converted == encoded(image(1), IMPLICIT_VR_LITTLE_ENDIAN)
    assert decoded == []
    rotten(files(archive)[0])
    assert_serves(archive, sent)
    assert decoded == [0]


def test_verification_reads_the_blob(archive: Archive) -> None:
    sent = receive_series(archive)
    compressed(archive)
    (blob,) = blob_files(archive)
    blob.chmod(0o640)
    rotten(blob)
    assert any(verified.problems for verified in verify(archive, mark=False))
    assert_serves(archive, sent)  # nobody has marked it, and these are the bytes that were received
    assert any(verified.problems for verified in verify(archive))
    with pytest.raises(DamagedError):
        served(archive, next(iter(sent)))


def test_it_outlives_a_restart_and_a_lost_catalog(tmp_path: Path, decoded: list[int]) -> None:
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY) as archive:
        sent = receive_series(archive)
        compressed(archive)
    decoded.clear()
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY) as archive:
        archive.recover()
        assert_serves(archive, sent)
    for path in (tmp_path / "archive").glob("catalog.sqlite*"):
        path.unlink()
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY) as archive:
        assert [rebuilt.instances for rebuilt in rebuild_blobs(archive)] == [4]
        assert archive.recover().entered == 0
        assert_serves(archive, sent)
        assert decoded == []


def test_a_crash_before_the_copies_move(archive: Archive, decoded: list[int]) -> None:
    sent = receive_series(archive)
    spool = archive.spool.folder
    kept = spool.parent / "kept"
    shutil.copytree(spool, kept)
    compressed(archive)
    shutil.rmtree(archive.disk_cache.folder)
    for path in kept.glob("*.dcm"):
        path.rename(spool / path.name)
    decoded.clear()
    assert archive.recover().entered == 0
    assert archive.spool.names() == []
    assert len(files(archive)) == 4
    assert_serves(archive, sent)
    assert decoded == []


def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY) as archive:
        sent = receive_series(archive)
        compressed(archive)
        assert len(files(archive)) == 4
    with opened(tmp_path / "archive") as archive:
        uid, data = "1.2.826.0.1.3680043.10.1.9.1", encoded(image(1, series="1.2.826.0.1.3680043.10.1.9"))
        receive(archive, data, uid)
        compressed(archive)
        assert files(archive) == []  # what an earlier configuration has left goes, too
        assert_serves(archive, {**sent, uid: data})


def test_recompressed_blobs_leave_nothing(archive: Archive) -> None:
    receive_series(archive)
    compressed(archive)
    (blob,) = archive.blobs.names()
    archive.disk_cache.remove(blob)
    assert list(archive.disk_cache.folder.iterdir()) == []


# Which go


def filled(folder: Path, capacity: int, reserve: int = 0, n: int = 8, size: int = 1 << 16) -> DiskCache:
    """Return a cache with `n` blobs of one file each, used one hour after the other."""
    cache = DiskCache(folder / "cache", capacity, reserve)
    for number in range(n):
        put(cache, f"blob{number}", size)
        used = time.time() - 3600 * (n - number)
        os.utime(cache.folder / f"blob{number}", (used, used))
    return cache


def put(cache: DiskCache, blob: str, size: int) -> None:
    file = cache.folder.parent / f"{blob}.spool"
    file.write_bytes(os.urandom(size))
    assert cache.keep(file, blob, 0)
    assert not file.exists()


def blobs(cache: DiskCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


EACH = (1 << 16) + 4096
"""Bytes on the disk of a file and its folder in `filled`."""


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = filled(tmp_path, 8 * EACH)
    cache.trim()
    assert len(blobs(cache)) == 8
    assert cache.holds("blob0")  # somebody fetches it
    put(cache, "blob8", 1 << 16)
    put(cache, "blob9", 1 << 16)
    cache.trim()
    assert blobs(cache) == ["blob0", *(f"blob{number}" for number in range(3, 10))]


def test_what_was_there_before_the_start_counts(tmp_path: Path) -> None:
    filled(tmp_path, 1 << 30)
    cache = DiskCache(tmp_path / "cache", 4 * EACH)
    cache.trim()
    assert blobs(cache) == ["blob4", "blob5", "blob6", "blob7"]


def test_what_another_process_has_removed_does_not_count(tmp_path: Path) -> None:
    cache = filled(tmp_path, 8 * EACH)
    other = DiskCache(tmp_path / "cache", 8 * EACH)
    assert other.make_room(0) == 8 * EACH  # small as they are
    assert blobs(cache) == []
    for number in range(8):
        put(cache, f"new{number}", 1 << 16)
    cache.trim()
    assert len(blobs(cache)) == 8


def test_a_file_that_would_push_everything_out_is_not_kept(tmp_path: Path) -> None:
    cache = filled(tmp_path, 8 * EACH)
    file = tmp_path / "large"
    file.write_bytes(bytes(3 * EACH))
    assert not cache.keep(file, "large", 0)
    assert file.exists()
    assert not cache.keep(tmp_path / "absent", "absent", 0)


class SmallDisk:
    """Stands in for a file system of a certain size on which there is nothing but spool and cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, free: int) -> None:
        self.root = root
        self.size = free + self.used()
        monkeypatch.setattr(os, "statvfs", self.statvfs)
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def used(self) -> int:
        files = [*self.root.rglob("*.dcm"), *self.root.rglob("*.part")]
        return sum(path.stat().st_size for path in files)

    def statvfs(self, _: object) -> os.statvfs_result:
        free = max(0, self.size - self.used()) // 512
        return os.statvfs_result((512, 512, self.size // 512, free, free, 0, 0, 0, 0, 255))

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        grows = max(0, offset + len(data) - os.fstat(fd).st_size)
        if self.used() + grows > self.size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwrite(fd, data, offset)


def test_it_gives_way_before_an_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "archive", disk_cache_bytes=CAPACITY, reserve=1 << 30) as archive:
        sent = receive_series(archive)
        compressed(archive)
        SmallDisk(monkeypatch, tmp_path, free=(1 << 30) + (1 << 17))
        assert files(archive)
        uid, data = "1.2.826.0.1.3680043.10.1.9.1", encoded(image(1, series="1.2.826.0.1.3680043.10.1.9"))
        receive(archive, data, uid)
        assert files(archive) == []
        assert_serves(archive, {**sent, uid: data})
        with pytest.raises(NoSpaceError):
            receive_series(archive, n=200, series="1.2.826.0.1.3680043.10.1.8")


def test_it_gives_way_in_the_middle_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a reserve the disk is found full only when it is."""
    monkeypatch.setattr("dcmpress.storage.spool._NEARLY_SHORT", 0)
    with opened(tmp_path / "archive", disk_cache_bytes=1 << 26) as archive:
        receive_series(archive, n=8, pixels=picture(256, 512))
        compressed(archive)
        cached = len(files(archive))
        SmallDisk(monkeypatch, tmp_path, free=1 << 17)
        data = encoded(image(1, picture(512, 512), series="1.2.826.0.1.3680043.10.1.9"))
        receive(archive, data, "1.2.826.0.1.3680043.10.1.9.1")
        assert cached == 8
        assert files(archive) == []
        assert served(archive, "1.2.826.0.1.3680043.10.1.9.1") == data


def test_it_leaves_headroom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write to the disk, too."""
    cache = filled(tmp_path, 1 << 30, reserve=1 << 20)
    monkeypatch.setattr("dcmpress.storage.disk_cache.HEADROOM", 1 << 21)
    free = (1 << 20) + (1 << 21) - 3 * EACH
    of_disk = (512, 512, 1 << 30, 0, free // 512, 0, 0, 0, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(of_disk))
    cache.trim()
    assert blobs(cache) == ["blob3", "blob4", "blob5", "blob6", "blob7"]


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """What cannot be moved there is removed."""
    archive = open_archive(tmp_path / "archive", disk_cache_bytes=CAPACITY)
    sent = receive_series(archive)
    archive.disk_cache.folder.write_bytes(b"a file where the folder should be")
    compressed(archive)
    assert archive.spool.names() == []
    assert_serves(archive, sent)
    archive.close()
