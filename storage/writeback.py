"""Have the disk begin to write what will be flushed soon; a flush later waits for the rest only."""

import contextlib
import ctypes

_SYNC_FILE_RANGE_WRITE = 2


def start_writing(fd: int, offset: int, length: int) -> None:
    """Begin to write a range of a file to the disk, without waiting. Promises nothing: a flush is still due."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


_sync_file_range = None
with contextlib.suppress(OSError, AttributeError):  # Linux has it
    _sync_file_range = ctypes.CDLL(None).sync_file_range
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
