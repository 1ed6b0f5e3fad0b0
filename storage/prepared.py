"""Empty files that a power cut cannot take any more, ready to be filled.

A new file is safe once its content and its entry in the folder are flushed: two flushes, and on a journalling
file system the second costs more than the first. Here entries are made and flushed in advance, many at a
time; what is received then needs one flush, of its own content.
"""

import contextlib
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

UNFINISHED = ".part"
"""Suffix of a file until it is whole: it waits, empty, or is being filled. Locked as long as its process lives."""


class PreparedFiles:
    """Locked empty files in one folder; safe to share between threads.

    The lock (flock) tells other processes that somebody still writes them. Once many are taken, a thread
    prepares the next ones before the last is gone: making a file costs a tenth of receiving an image.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder
        self._durable = durable
        self._changed = threading.Condition()
        self._ready: deque[tuple[str, int]] = deque()
        self._batch = 1
        self._ahead = False
        """Whether a thread is preparing files."""

    def take(self) -> tuple[str, int]:
        """Return (name, file descriptor) of an empty file, which the caller closes.

        Names ascend in the order in which they are taken, and no two processes choose the same.

        Raises
        ------
        OSError
        """
        with self._changed:
            while not self._ready and self._ahead:
                self._changed.wait()
            if not self._ready:
                self._ready.extend(self._prepare(self._batch))
                # A command that stores one file needs one; a node in full flight needs many.
                self._batch = min(MOST, 2 * self._batch)
            name, fd = self._ready.popleft()
            if self._batch == MOST and len(self._ready) < MOST // 2 and not self._ahead:
                self._ahead = True
                try:
                    threading.Thread(target=self._prepare_ahead, name="prepare", daemon=True).start()
                except RuntimeError:  # no more threads: they are made when the last is gone
                    self._ahead = False
        return name, fd

    def close(self) -> None:
        """Remove what was prepared and not taken. More can be taken afterwards."""
        with self._changed:
            while self._ahead:
                self._changed.wait()
            while self._ready:
                name, fd = self._ready.popleft()
                self._remove(name, fd)
            self._batch = 1

    def _prepare_ahead(self) -> None:
        made: list[tuple[str, int]] = []
        try:
            with contextlib.suppress(OSError):  # who takes the next file meets it, and reports it
                made = self._prepare(MOST // 2)
        finally:
            with self._changed:
                self._ready.extend(made)
                self._ahead = False
                self._changed.notify_all()

    def _prepare(self, count: int) -> list[tuple[str, int]]:
        """Return new files, in the order of their names."""
        made: list[tuple[str, int]] = []
        try:
            for _ in range(count):
                name = f"{time.time_ns():016x}{secrets.token_hex(4)}"
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                made.append((name, os.open(f"{self._folder}/{name}{UNFINISHED}", flags, 0o640)))
                fcntl.flock(made[-1][1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._durable:
                flush_folder(self._folder)
        except BaseException:
            for name, fd in made:
                self._remove(name, fd)
            raise
        return made

    def _remove(self, name: str, fd: int) -> None:
        (self._folder / f"{name}{UNFINISHED}").unlink(missing_ok=True)
        os.close(fd)
