"""Folders whose entries survive a power cut: a name is durable only when its folder has been flushed."""

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, so that a power cut cannot take their names away.

    Nobody but owner and group can look into what is made here.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o750, exist_ok=True)
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Return when every name in `folder` is on stable storage."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
