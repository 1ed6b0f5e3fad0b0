"""Where blobs are kept: put once under a name, read, removed; never changed.

This is the local folder. Another store (an object store, say) gives the same five methods.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from dcmpress.storage.errors import MissingError
from dcmpress.storage.folders import flush_folder, make_folder
from dcmpress.storage.scratch import sweep_files

SUFFIX = ".dcmb"


class FolderBlobStore:
    """Blobs as files of one folder, spread over 256 subfolders by the first two letters of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        make_folder(self.staging)
        self._durable: set[Path] = set()

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
        if target.parent not in self._durable:  # another process may have made it, and died before a flush
            target.parent.mkdir(exist_ok=True)
            flush_folder(self.folder)
            self._durable.add(target.parent)
        staged = self.staged(name)
        if staged.exists() or not target.exists():
            staged.chmod(0o440)
            staged.rename(target)
        flush_folder(target.parent)

    def remove(self, name: str) -> None:
        """Remove a blob, staged or put; one that is gone already is no error."""
        self._path(name).unlink(missing_ok=True)
        self.staged(name).unlink(missing_ok=True)

    def sweep(self, held: Callable[[str], bool]) -> None:
        """Remove staged files, but for those of the blobs that a living process is said to be at work on."""
        for path in list(self.staging.glob("*.part")):
            if not held(path.stem):
                path.unlink(missing_ok=True)
        sweep_files(self.staging)

    def names(self) -> Iterator[str]:
        """Yield the names of all blobs that were put."""
        for path in sorted(self.folder.glob(f"??/*{SUFFIX}")):
            yield path.name.removesuffix(SUFFIX)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}{SUFFIX}"
