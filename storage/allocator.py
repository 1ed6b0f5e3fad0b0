"""What the C library's allocator does with memory that is freed: for data sets on their way out it is kept, and not
given back to the kernel, which would clear every page of it again for the next one."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_SECONDS = 10.0
"""After so long without use what was kept is given back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30
_KEPT_IDLE = 64 << 20
"""Twice the other threshold, as the C library has it of its own accord."""
_ALLOCATED_APART = 32 << 20
"""Bytes of an allocation that is given back at once in any case."""


class FreedMemory:
    """Keeps what is freed while it is in use, and `idle_seconds` longer. For threads to share."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._users = 0
        self._used = 0.0
        self._watched = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is freed within."""
        with self._lock:
            self._users += 1
            if not self._watched:
                self._watched = True
                _keep()
                self._look_later()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._used = time.monotonic()

    def _look_later(self) -> None:
        timer = threading.Timer(self._idle_seconds, self._look)
        timer.name = "freed-memory"
        timer.daemon = True
        timer.start()

    def _look(self) -> None:
        with self._lock:
            if self._users or time.monotonic() - self._used < self._idle_seconds:
                self._look_later()
                return
            self._watched = False
            self.give_back()  # under the lock, lest it undo what the next one to come has set

    @staticmethod
    def give_back() -> None:
        """Give what was kept back to the kernel."""
        if _libc is not None:
            _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_IDLE)
            _libc.malloc_trim(0)


def _keep() -> None:
    if _libc is not None:
        _libc.mallopt(_M_MMAP_THRESHOLD, _ALLOCATED_APART)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


_libc = None
with contextlib.suppress(OSError, AttributeError):  # glibc has them
    _loaded = ctypes.CDLL(None)
    _loaded.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    _loaded.malloc_trim.argtypes = (ctypes.c_size_t,)
    _libc = _loaded
