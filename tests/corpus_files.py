"""Where real DICOM files for tests are: the corpus if this machine has it, else the golden files."""

import os
from functools import cache
from pathlib import Path

from dcmpress.storage.errors import MalformedError
from dcmpress.storage.part10 import FileMeta, read_part10

PROJECT = Path(__file__).resolve().parent.parent
GOLDEN = PROJECT / "tests" / "data"


def corpus() -> Path | None:
    """Return the corpus folder, or None on a machine without it."""
    folder = Path(os.environ.get("DCMPRESS_CORPUS", PROJECT.parent / "shared" / "corpus"))
    return folder if folder.is_dir() else None


@cache
def part10_files() -> list[Path]:
    """Return every Part 10 file of the corpus (or of the golden files), sorted."""
    found = []
    for path in sorted((corpus() or GOLDEN).rglob("*")):
        if path.is_file() and path.stat().st_size > 132:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    found.append(path)
    return found


def series_files(group: str) -> list[Path]:
    """Return the files of one corpus group (a folder name), or golden ones on a machine without it."""
    folder = corpus()
    if folder is None:
        return part10_files()
    wanted = folder / group
    return [path for path in part10_files() if path.is_relative_to(wanted)]


def data_set(path: Path) -> tuple[FileMeta, bytes]:
    """Return (file meta, bytes of the data set exactly as they stand in the file)."""
    data = path.read_bytes()
    meta, offset = read_part10(data)
    if meta is None:
        raise MalformedError(f"{path} has no file meta information")
    return meta, data[offset:]
