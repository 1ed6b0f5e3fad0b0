"""Series of the real-image corpus as arrays. The folder comes from DCMPRESS_CORPUS."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

_BESIDE_PROJECT = Path(__file__).resolve().parents[2] / "shared" / "corpus"
FOLDER = Path(os.environ.get("DCMPRESS_CORPUS", _BESIDE_PROJECT))


@dataclass(frozen=True)
class Entry:
    """One file of the corpus."""

    group: str
    path: Path
    series: str
    rows: int
    columns: int
    frames: int


def entries(group: str | None = None, folder: Path = FOLDER) -> list[Entry]:
    """Return the files of `group` (or all) that hold an image, in the order of the manifest."""
    found = []
    with (folder / "manifest.tsv").open(newline="") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t"):
            if (group and row["group"] != group) or not row["rows"].isdigit():
                continue
            path = _locate(folder, row)
            found.append(
                Entry(
                    row["group"], path, row["series"], int(row["rows"]), int(row["cols"]), int(row["frames"])
                )
            )
    return found


def _locate(folder: Path, row: dict[str, str]) -> Path:
    return folder / row["group"] / row["repo"].replace("/", "+") / row["path"]


def frames_of(path: Path) -> NDArray[Any]:
    """Return a file's stored samples, decoded: (frames, rows, columns[, samples])."""
    dataset = pydicom.dcmread(path, force=True)
    if not hasattr(dataset.file_meta, "TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    samples = dataset.pixel_array
    colour = int(dataset.SamplesPerPixel) > 1
    if samples.ndim == (3 if colour else 2):
        samples = samples[np.newaxis]
    return samples


def _sort_key(path: Path) -> tuple[float, int]:
    tags = ["ImagePositionPatient", "InstanceNumber", "AcquisitionNumber"]
    dataset = pydicom.dcmread(path, force=True, specific_tags=tags)
    position = dataset.get("ImagePositionPatient") or [0, 0, 0]
    return float(position[2]), int(dataset.get("InstanceNumber") or 0)


def series(
    group: str, limit: int | None = None, folder: Path = FOLDER, size: tuple[int, int] | None = None
) -> NDArray[Any]:
    """Return the largest series of `group` as one array: by place of the slice, then by time.

    Parameters
    ----------
    limit : int, optional
        At most so many frames, from the middle of the series.
    size : (rows, columns), optional
        Only files with such frames.
    """
    by_series: dict[tuple[str, int, int], list[Entry]] = {}
    for entry in entries(group, folder):
        if size and (entry.rows, entry.columns) != size:
            continue
        by_series.setdefault((entry.series, entry.rows, entry.columns), []).append(entry)
    chosen = max(by_series.values(), key=lambda files: sum(e.rows * e.columns * e.frames for e in files))
    paths: Sequence[Path] = [entry.path for entry in chosen]
    if len(paths) > 1:
        paths = sorted(paths, key=_sort_key)
    if limit and len(paths) > limit:
        first = (len(paths) - limit) // 2
        paths = paths[first : first + limit]
    stacked = np.concatenate([frames_of(path) for path in paths])
    return stacked if limit is None else stacked[:limit]
