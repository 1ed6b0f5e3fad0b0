"""System 1: Table I of the fluoroscopy paper, on real runs and on a synthetic one."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import corpus

from bench.literature_report import Table
from bench.literature_synthetic import fluoroscopy_run
from dcmpress.codecs.fluoroscopy import Fluoroscopy
from dcmpress.codecs.fluoroscopy_kernels import correlation, residuals_of
from dcmpress.codecs.fluoroscopy_region import find_region
from dcmpress.codecs.huffman import Huffman
from dcmpress.codecs.runlength import HUFFMAN, RUN_LENGTH, pack_residuals

RUNS = {
    "XA-catheter": "XA, 12 frames, never lossy",
    "MR-heart-cine-MF": "MR cine",
    "US-EPIQ-cine": "US cine",
    "CT-LIDC0314-thin": "CT, neighbouring slices",
    "XA-rubo0002-lossy": "XA, LOSSY past: flatters every codec",
}
COLUMNS = ["run", "Ref.", "Test", "CC", "HM-S", "R.Huff-S", "HM-D", "R.Huff-P", "ours"]


def _pair(frames: NDArray[Any], k: int) -> list[float]:
    """Return CC and the ratios of frame k + 1 against frame k, as the columns of Table I."""
    pair = np.ascontiguousarray(frames[k : k + 2])
    lowest = int(pair.min())
    reference, test = (pair.astype(np.int64) - lowest).astype(np.uint16)
    bits = 8 * pair.itemsize
    before = pair[1].nbytes
    whole = np.tile(np.array([[0, test.shape[1]]], np.int32), (test.shape[0], 1))
    region = find_region(test)
    spans = region.spans(test.shape[0])
    difference = residuals_of(test, reference, True, 0, 0, False, bits, whole, 1)
    inside = residuals_of(test, reference, True, 0, 0, False, bits, spans, 1)
    codec = Fluoroscopy()
    ours = len(codec.encode(pair, [-1, 0])) - len(codec.encode(pair[:1])) + 4
    sizes = [
        len(Huffman().encode(pair[1:])),
        len(pack_residuals(test.ravel().astype(np.uint32), RUN_LENGTH)),
        len(pack_residuals(difference, HUFFMAN)),
        len(pack_residuals(inside, RUN_LENGTH)) + len(region.tobytes(*test.shape)),
        ours,
    ]
    return [float(correlation(reference, test, 1)), *(before / size for size in sizes)]


def runs(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the runs by name."""
    found: dict[str, NDArray[Any]] = {}
    for group in RUNS:
        frames = corpus.series(group, 27, folder)
        found[group] = frames
    found["synthetic, quantum noise"] = fluoroscopy_run()
    found["synthetic, 16 frames averaged"] = fluoroscopy_run(photons=4000, averaged=16)
    return found


def tables(folder: Path) -> list[Table]:
    """Return Table I and its medians."""
    pairs = Table(
        "fluoroscopy_pairs",
        "Table I: consecutive images, ratio by correlation",
        "CC: correlation coefficient. HM: Huffman, R.Huff: run-length and Huffman; -S on the image itself, "
        "-D on the difference, -P on the difference inside the region of interest. Ours: the codec "
        "`fluoroscopy`, what the second image adds to the stream of the first. Sizes include all tables; every "
        "stream of ours was decoded and compared.",
        COLUMNS,
        shown=11,
        formats={"CC": ".3f"},
    )
    medians = Table(
        "fluoroscopy_medians",
        "Table I: medians of each run",
        "Best is the best single pair; `whole run` the codec's ratio over all images of the run, the first "
        "included, classification and choice of reference left to it.",
        ["run", "what", *COLUMNS[3:], "best ours", "whole run"],
        formats={"CC": ".3f"},
    )
    for name, frames in runs(folder).items():
        rows = [_pair(frames, k) for k in range(len(frames) - 1)]
        pairs.rows += [[name, k + 1, k + 2, *row] for k, row in enumerate(rows)]
        data = Fluoroscopy().encode(frames)
        if not np.array_equal(Fluoroscopy().decode(data), frames):
            raise SystemExit(f"{name}: decoded frames differ")
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        best = max(row[-1] for row in rows)
        what = RUNS.get(name, "8 bits, 512 x 512, simulated")
        medians.rows.append([name, what, *middle, best, frames.nbytes / len(data)])
    return [pairs, medians]
