"""Scratch folders of work in progress, locked as long as their process lives: a start can tell what a crash left.

A folder is `KIND-NAME` under `tmp`, where NAME is that of the blob that comes of it. Whoever holds it is at work on
that blob: what is staged under its name, and the catalog's announcement of it, are not leftovers either.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_FORGOTTEN_SECONDS = 3600.0
"""Age of a temporary file that its process has let go of. Those without a name never show; on a file system that has
none of these, one has its name for the moment between its making and its removal."""


@contextlib.contextmanager
def scratch_folder(temporary: Path, kind: str, name: str) -> Iterator[Path]:
    """Lend a new folder, gone at the end."""
    folder = temporary / f"{kind}-{name}"
    with contextlib.ExitStack() as stack:
        while True:
            folder.mkdir(mode=0o750, parents=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if folder.exists():  # else it was swept before it was locked
                break
            os.close(fd)
        stack.callback(os.close, fd)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def is_held(temporary: Path, name: str) -> bool:
    """Tell whether a living process is at work on the blob of that name in a scratch folder."""
    for path in temporary.glob(f"*-{name}"):
        try:
            with _opened(path) as fd:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except (BlockingIOError, PermissionError):  # of another user: it cannot be told, so it stays
            return True
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sweep(temporary: Path) -> int:
    """Remove what processes that have died left in a folder of temporary files; return how many things."""
    removed = 0
    for path in temporary.glob("*-*"):
        with contextlib.suppress(OSError), _opened(path) as fd:  # who holds it makes the lock an error
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:  # of an earlier version
                path.unlink()
            removed += 1
    return removed + sweep_files(temporary)


def sweep_files(folder: Path) -> int:
    """Remove temporary files whose process died before they lost their names; return how many."""
    removed = 0
    for path in folder.glob("tmp*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
                path.unlink()
                removed += 1
    return removed
