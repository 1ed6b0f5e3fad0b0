"""Empty files that a power cut cannot take any more, ready to be filled.

A new file is safe once its content and its entry in the folder are flushed: two flushes, and on a journalling
file system the second costs more than the first. Here entries are made and flushed in advance, many at a
time; what is received then needs one flush, of its own content.
"""

import fcntl
import os
import secrets
import threading
import time
from collections import deque
from pathlib import Path

from dcmpress.storage.folders import flush_folder

MOST = 64
"""Files prepared at a time; each is kept open."""

FREE = ".free"
"""Suffix of a file that waits to be taken."""

TAKEN = ".part"
"""Suffix of one that is being filled. A power cut may undo the renaming."""


class PreparedFiles:
    """Locked empty files in one folder; safe to share between threads.

    The lock (flock) tells other processes that somebody still writes them.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder
        self._durable = durable
        self._lock = threading.Lock()
        self._ready: deque[tuple[str, int]] = deque()
        self._batch = 1

    def take(self) -> tuple[str, int]:
        """Return (name, file descriptor) of the empty file NAME.part, which the caller closes.

        Names ascend in the order in which they are taken, and no two processes choose the same.

        Raises
        ------
        OSError
        """
        with self._lock:
            if not self._ready:
                self._prepare()
            name, fd = self._ready.popleft()
        try:
            os.rename(f"{self._folder}/{name}{FREE}", f"{self._folder}/{name}{TAKEN}")  # noqa: PTH104
        except BaseException:
            self._remove(name, fd)
            raise
        return name, fd

    def close(self) -> None:
        """Remove what was prepared and not taken. More can be taken afterwards."""
        with self._lock:
            while self._ready:
                name, fd = self._ready.popleft()
                self._remove(name, fd)
            self._batch = 1

    def _prepare(self) -> None:
        made: list[tuple[str, int]] = []
        try:
            for _ in range(self._batch):
                name = f"{time.time_ns():016x}{secrets.token_hex(4)}"
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                made.append((name, os.open(self._path(name), flags, 0o640)))
                fcntl.flock(made[-1][1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._durable:
                flush_folder(self._folder)
        except BaseException:
            for name, fd in made:
                self._remove(name, fd)
            raise
        self._ready.extend(made)
        # A command that stores one file needs one; a node in full flight needs many.
        self._batch = min(MOST, 2 * self._batch)

    def _remove(self, name: str, fd: int) -> None:
        self._path(name).unlink(missing_ok=True)
        os.close(fd)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{FREE}"
