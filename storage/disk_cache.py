"""What was received lately, as plain files: a study is fetched within days of its receipt, or hardly ever.

When a blob is confirmed its spool copies are not removed but renamed into this folder, one subfolder for each
blob: `BLOB/NUMBER.dcm` is the spool file of the instance with that number in the blob. Nothing relies on a file
here. Whoever reads one compares it with the SHA-256 of receipt and falls back to the blob, so nothing is ever
flushed, and a power cut may take anything.

The folder of a blob is what ages: its time of change is when something was put in or fetched from it last. The
least recently used go first, when there are more than `capacity` bytes, and sooner when the disk runs short.
Several processes share the folder; each may read and make room. One, that of the pipeline, puts files in.
"""

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import IO

from dcmpress.storage.folders import make_folder

HEADROOM = 2 << 30
"""Free bytes that are left beyond the reserve, or a tenth of the disk if that is less, before more is put in."""

_LEAST = 256 << 20
"""Bytes that are freed at least when the disk runs short, so that not every image finds it short again."""

_LARGEST_SHARE = 4
"""A file larger than one part in so many of the capacity is not kept."""

_FOLDER_BYTES = 4096
"""What a subfolder takes by itself. Blobs of one small instance add up."""

_TOUCH_SECONDS = 60.0
"""A subfolder that was used is noted so no oftener than that."""


class DiskCache:
    """Spool files of instances that lie in blobs by now, up to `capacity` bytes. For threads to share.

    Parameters
    ----------
    folder : Path
        On the file system of the spool; made when something is put in.
    capacity : int
        Bytes on the disk; 0: nothing is put in, and what is there goes with the next `trim`.
    reserve : int
        Free bytes that must remain for the spool.
    """

    def __init__(self, folder: Path, capacity: int, reserve: int = 0) -> None:
        self.folder = folder
        self.capacity = capacity
        self._reserve = reserve
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        """Bytes of the subfolders that were looked into."""

    # Filling

    def keep(self, file: Path, blob: str, number: int) -> bool:
        """Take a spool file over, the instance `number` of a blob; False: it could not be, and is where it was."""
        target = self.folder / blob / f"{number}.dcm"
        try:
            size = _on_disk(file.stat())
            if size * _LARGEST_SHARE > self.capacity:
                return False
            try:
                file.rename(target)
            except FileNotFoundError:
                make_folder(self.folder)
                target.parent.mkdir(mode=0o750, exist_ok=True)
                file.rename(target)
        except OSError:  # gone, on another file system, or the disk is full
            return False
        with self._lock:
            self._sizes[blob] = self._sizes.get(blob, _FOLDER_BYTES) + size
        return True

    def trim(self) -> None:
        """Remove what is too much: to be called when something was put in, and once at the start."""
        if not self.folder.exists():
            return
        with self._lock:
            self._sizes = {  # those from before the start are looked into; others may have removed some
                name: self._sizes.get(name) or _size_of(f"{self.folder}/{name}") for name in self._names()
            }
            excess = sum(self._sizes.values()) - self.capacity
            disk = os.statvfs(self.folder)
            wanted_free = self._reserve + min(HEADROOM, disk.f_blocks * disk.f_frsize // 10)
            self._free(max(excess, wanted_free - disk.f_bavail * disk.f_frsize))

    # Giving way

    def make_room(self, wanted: int) -> int:
        """Remove the least recently used until `wanted` bytes are free that were not; return how many are."""
        with self._lock:
            return self._free(max(wanted, _LEAST))

    def remove(self, blob: str) -> None:
        """Remove the files of a blob that is gone."""
        with self._lock:
            self._drop(blob)

    def _free(self, wanted: int) -> int:
        if wanted <= 0:
            return 0
        freed = 0
        names = self._names()
        for name in sorted(names, key=names.__getitem__):
            freed += self._drop(name)
            if freed >= wanted:
                break
        return freed

    def _names(self) -> dict[str, float]:
        """Return the subfolders, each with the time when it was used last."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found[entry.name] = entry.stat().st_mtime
        return found

    def _drop(self, blob: str) -> int:
        """Remove a subfolder; return the bytes freed."""
        self._sizes.pop(blob, None)
        path = f"{self.folder}/{blob}"
        freed = 0
        with contextlib.suppress(OSError):
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        size = _on_disk(entry.stat())
                        os.unlink(entry.path)  # noqa: PTH108 - thousands of them
                        freed += size
            os.rmdir(path)  # noqa: PTH106
            freed += _FOLDER_BYTES
        return freed

    # Reading

    def holds(self, blob: str) -> bool:
        """Tell whether there are files of a blob, which somebody is about to fetch."""
        path = f"{self.folder}/{blob}"
        try:
            used = os.stat(path).st_mtime  # noqa: PTH116 - as often as images are fetched
            if abs(time.time() - used) > _TOUCH_SECONDS:
                os.utime(path)
        except OSError:
            return False
        return True

    def open(self, blob: str, number: int) -> IO[bytes] | None:
        """Open the file of an instance; None if there is none."""
        try:
            return open(f"{self.folder}/{blob}/{number}.dcm", "rb", buffering=0)  # noqa: PTH123 - as above
        except OSError:
            return None

    def discard(self, blob: str, number: int) -> None:
        """Remove the file of an instance that is not what was received."""
        with contextlib.suppress(OSError):
            (self.folder / blob / f"{number}.dcm").unlink()

    def size(self) -> int:
        """Return the bytes of all files, which are looked at one by one."""
        return sum(_size_of(f"{self.folder}/{name}") for name in self._names())


def _size_of(folder: str) -> int:
    size = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        size = _FOLDER_BYTES
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                size += _on_disk(entry.stat())
    return size


def _on_disk(stat: os.stat_result) -> int:
    return max(stat.st_size, stat.st_blocks * 512)
