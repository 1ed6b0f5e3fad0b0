"""Which frame predicts which: ordering along a series, correlation, and the tree of references.

Pure functions over arrays and numbers. Correlation is Pearson's, by the classical formulas that the
fluoroscopy literature uses to put a patient's images into groups (cov(x, y) / sqrt(var(x) var(y))).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 64
"""Frames are compared on at most GRID x GRID pixels, evenly spread."""

WINDOW = 8
"""Frames back that a frame is compared with, besides its group's shallow frames."""

WELL_CORRELATED = 0.9
"""A frame whose best candidate correlates less is also tried after a shift."""

SHIFT_CORRELATION_GAIN = 0.05
"""What a shift must add to the correlation before it is believed."""

LARGEST_SHIFT = 0.25
"""Of the frame's height and width; more leaves too little overlap to predict from."""


@dataclass(frozen=True)
class FramePosition:
    """Where a frame belongs in its series; whatever is unknown stays None and sorts first."""

    location: float | None = None
    """Of the image plane along its normal, mm: Image Position (Patient) . normal, or Slice Location."""
    time: float | None = None
    """Temporal Position Identifier, Trigger Time or Acquisition Number, whichever is there."""
    instance_number: int | None = None
    frame_number: int = 0
    arrival: int = 0


@dataclass(frozen=True)
class Group:
    """Frames in coding order and the tree of who predicts whom."""

    references: list[int]
    """references[i] < i predicts frame i; -1: it stands alone."""
    shifts: list[tuple[int, int]]
    """(dy, dx), whole pixels: frame i looks like its reference moved down by dy and right by dx."""
    correlations: list[float]
    """Of frame i with its reference as shifted; 0 where it stands alone."""


def slice_location(orientation: Sequence[float], position: Sequence[float]) -> float | None:
    """Return Image Position (Patient) along the slice normal in mm, or None if the values do not serve.

    The normal is the cross product of the row and column directions (PS3.3 C.7.6.2.1.1).
    """
    if len(orientation) != 6 or len(position) != 3:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    if not np.isfinite(normal).all() or np.linalg.norm(normal) < 0.5:
        return None
    location = float(np.dot(normal, position))
    return round(location, 3) if np.isfinite(location) else None


def coding_order(positions: Sequence[FramePosition]) -> list[int]:
    """Return indices in the order in which frames predict each other best: by location, then time.

    In a series with several images per location the neighbour in time is the better reference (an fMRI
    slice differs by 2 grey levels from itself a moment later, by 13 from its spatial neighbour).
    """

    def key(index: int) -> tuple[float, float, float, int, int]:
        p = positions[index]
        return (
            -np.inf if p.location is None else p.location,
            -np.inf if p.time is None else p.time,
            -np.inf if p.instance_number is None else p.instance_number,
            p.arrival,
            p.frame_number,
        )

    return sorted(range(len(positions)), key=key)


def fingerprint(frame: NDArray[Any]) -> NDArray[np.float32]:
    """Return a frame's samples on the comparison grid, with mean 0 and length 1 (zeros if constant).

    The Pearson correlation of two frames is the dot product of their fingerprints.
    """
    rows, columns = frame.shape[:2]
    grid = frame[:: -(-rows // GRID), :: -(-columns // GRID)].astype(np.float64)
    flat = grid.reshape(-1)
    flat = flat - flat.mean()
    length = float(np.sqrt(np.dot(flat, flat)))
    return (flat / length if length > 0 else flat).astype(np.float32)


def correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the Pearson correlation coefficient of two arrays of equal shape, 0 if one is constant."""
    a = x.astype(np.float64).reshape(-1)
    b = y.astype(np.float64).reshape(-1)
    a = a - a.mean()
    b = b - b.mean()
    denominator = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return float(np.dot(a, b)) / denominator if denominator > 0 else 0.0


def find_shift(reference: NDArray[Any], frame: NDArray[Any]) -> tuple[int, int]:
    """Return (dy, dx) by which `reference` must move to look most like `frame`, by phase correlation.

    Kuglin and Hines, "The phase correlation image alignment method", 1975: the peak of the inverse
    transform of the normalised cross-power spectrum. A window takes away the edges' own cross.
    """
    window = np.hanning(frame.shape[0])[:, None] * np.hanning(frame.shape[1])[None, :]
    first, second = (
        np.fft.rfft2((image - image.mean()) * window)
        for image in (reference.astype(np.float64), frame.astype(np.float64))
    )
    cross = np.conj(first) * second
    magnitude = np.abs(cross)
    magnitude[magnitude == 0] = 1.0
    surface = np.fft.irfft2(cross / magnitude, s=frame.shape)
    peak = int(np.argmax(surface))
    dy, dx = divmod(peak, frame.shape[1])
    if dy > frame.shape[0] // 2:
        dy -= frame.shape[0]
    if dx > frame.shape[1] // 2:
        dx -= frame.shape[1]
    return dy, dx


def shifted_correlation(reference: NDArray[Any], frame: NDArray[Any], dy: int, dx: int) -> float:
    """Return the correlation of `frame` with `reference` moved by (dy, dx), where they overlap."""
    rows, columns = frame.shape
    here = frame[max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)]
    there = reference[max(0, -dy) : rows + min(0, -dy), max(0, -dx) : columns + min(0, -dx)]
    return correlation(there, here)


def group_frames(
    frames: Sequence[NDArray[Any]] | NDArray[Any], *, max_chain: int = 16, min_correlation: float = 0.5
) -> Group:
    """Choose for every frame the earlier frame that predicts it best.

    Parameters
    ----------
    frames : sequence of n arrays, each (rows, columns) or (rows, columns, samples)
        In coding order.
    max_chain : int
        Decoding any frame takes at most this many frames, itself included.
    min_correlation : float
        A frame that correlates less with every candidate stands alone.

    Returns
    -------
    Group
        `references[i]` is the best-correlated among the WINDOW frames before i and the frames of depth 1
        so far, as the bound on the chain allows.
    """
    prints: list[NDArray[np.float32]] = []
    depths: list[int] = []
    references: list[int] = []
    shifts: list[tuple[int, int]] = []
    correlations: list[float] = []
    anchors: list[int] = []
    for i in range(len(frames)):
        prints.append(fingerprint(frames[i]))
        candidates = [c for c in {*range(max(0, i - WINDOW), i), *anchors[-WINDOW:]} if depths[c] < max_chain]
        best, best_correlation, shift = -1, 0.0, (0, 0)
        if candidates:
            values = np.stack([prints[c] for c in candidates]) @ prints[i]
            # Of equals the nearest: its noise and motion are the closest too.
            k = max(range(len(candidates)), key=lambda k: (round(float(values[k]), 4), candidates[k]))
            best, best_correlation = candidates[k], float(values[k])
            if best_correlation < WELL_CORRELATED:
                shifted = _after_shift(frames, i, max(candidates), best_correlation)
                if shifted is not None:
                    best, (best_correlation, shift) = max(candidates), shifted
            if best_correlation < min_correlation:
                best, best_correlation, shift = -1, 0.0, (0, 0)
        references.append(best)
        shifts.append(shift)
        correlations.append(best_correlation)
        depths.append(1 if best < 0 else depths[best] + 1)
        if best < 0:
            anchors.append(i)
    return Group(references, shifts, correlations)


def _after_shift(
    frames: Sequence[NDArray[Any]] | NDArray[Any], i: int, reference: int, unshifted: float
) -> tuple[float, tuple[int, int]] | None:
    """Return (correlation, shift) of frame i with `reference` moved, if that beats `unshifted` clearly."""
    frame, still = _grey(frames[i]), _grey(frames[reference])
    rows, columns = frame.shape
    if min(rows, columns) < 16:
        return None
    dy, dx = find_shift(still, frame)
    if (dy, dx) == (0, 0) or abs(dy) > LARGEST_SHIFT * rows or abs(dx) > LARGEST_SHIFT * columns:
        return None
    value = shifted_correlation(still, frame, dy, dx)
    return (value, (dy, dx)) if value > unshifted + SHIFT_CORRELATION_GAIN else None


def _grey(frame: NDArray[Any]) -> NDArray[Any]:
    """One plane of a frame: the green of three colours carries most of the detail."""
    return frame if frame.ndim == 2 else frame[:, :, min(1, frame.shape[2] - 1)]
