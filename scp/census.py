"""How many connections and associations are open, over all processes that listen on one port.

The counts lie in memory that the processes share. Each process writes only its own, so that those of one
that died can be struck out; what two could do at once (the last free place, the next number) is done under a
file lock, which the kernel takes from a process that dies.
"""

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from typing import Any

_SERIAL = 0
_FIRST = 1
_CONNECTIONS, _ASSOCIATIONS, _FIELDS = 0, 1, 2


class Census:
    """One process's view of the counts; threads share it. Pickled as an argument of a new process.

    Parameters
    ----------
    fd : int
        Of the shared memory; owned from here on.
    processes : int
    index : int
        Of the process that counts here, from 0.
    """

    def __init__(self, fd: int, processes: int, index: int) -> None:
        self._fd = fd
        self._processes = processes
        self._index = index
        self._numbers = memoryview(mmap.mmap(fd, _size(processes))).cast("q")
        self._lock = threading.Lock()  # the file lock knows processes only

    @classmethod
    def create(cls, processes: int) -> "Census":
        """Return new counts, all zero, as process 0 sees them."""
        fd = os.memfd_create("dcmpress-census", os.MFD_CLOEXEC)
        os.ftruncate(fd, _size(processes))
        return cls(fd, processes, 0)

    def seen_by(self, index: int) -> "Census":
        """Return the same counts as process `index` sees them."""
        return Census(os.dup(self._fd), self._processes, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._fd), self._processes, self._index)

    def close(self) -> None:
        """Let go of the memory; the other processes keep it."""
        self._numbers.release()
        os.close(self._fd)

    def connected(self) -> int:
        """Count a connection; return its number, which no other has or had."""
        with self._exclusive():
            self._numbers[_SERIAL] += 1
            self._numbers[self._at(_CONNECTIONS)] += 1
            return self._numbers[_SERIAL]

    def admit(self, limit: int) -> bool:
        """Count an association, unless there are `limit` already."""
        with self._exclusive():
            if self.associations >= limit:
                return False
            self._numbers[self._at(_ASSOCIATIONS)] += 1
            return True

    def ended(self, *, admitted: bool) -> None:
        """Strike out a connection, and the association if it was admitted as one."""
        with self._exclusive():
            self._numbers[self._at(_CONNECTIONS)] -= 1
            self._numbers[self._at(_ASSOCIATIONS)] -= admitted

    def forget(self, index: int) -> None:
        """Strike out everything of process `index`, which has died."""
        with self._exclusive():
            for field in range(_FIELDS):
                self._numbers[self._at(field, index)] = 0

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return self._sum(_CONNECTIONS)

    @property
    def associations(self) -> int:
        """Associations that are open now."""
        return self._sum(_ASSOCIATIONS)

    def _sum(self, field: int) -> int:
        return sum(self._numbers[self._at(field, index)] for index in range(self._processes))

    def _at(self, field: int, index: int | None = None) -> int:
        return _FIRST + (self._index if index is None else index) * _FIELDS + field

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _size(processes: int) -> int:
    return 8 * (_FIRST + processes * _FIELDS)


def _received(fd: Any, processes: int, index: int) -> Census:
    return Census(fd.detach(), processes, index)
