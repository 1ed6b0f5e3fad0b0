"""Where blobs are kept: put once under a name, read, removed; never changed.

This is the local folder. Another store (an object store, say) gives the same five methods.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dcmpress.storage.errors import MissingError

SUFFIX = ".dcmb"


class FolderBlobStore:
    """Blobs as files of one folder, spread over 256 subfolders by the first two letters of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        self.staging.mkdir(parents=True, exist_ok=True)

    def staged(self, name: str) -> Path:
        """Return where the blob `name` is written before it is put."""
        return self.staging / f"{name}.part"

    def path(self, name: str) -> Path:
        """Return where the blob `name` lies, or raise MissingError."""
        path = self._path(name)
        if not path.exists():
            raise MissingError(f"no blob {name}")
        return path

    def put(self, name: str) -> None:
        """Move the staged and flushed blob to its place; durable when this returns. Can be repeated."""
        target = self._path(name)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            _flush_folder(self.folder)
        staged = self.staged(name)
        if staged.exists() or not target.exists():
            staged.chmod(0o440)
            staged.rename(target)
        _flush_folder(target.parent)

    def remove(self, name: str) -> None:
        """Remove a blob, staged or put; one that is gone already is no error."""
        self._path(name).unlink(missing_ok=True)
        self.staged(name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """Yield the names of all blobs that were put."""
        for path in sorted(self.folder.glob(f"??/*{SUFFIX}")):
            yield path.name.removesuffix(SUFFIX)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}{SUFFIX}"


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
