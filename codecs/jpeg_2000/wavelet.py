"""The reversible transforms of JPEG 2000: the 5/3 wavelet (ITU-T T.800 annex F) and that of colour (annex G)."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import njit


@njit
def _analyse_rows(x: NDArray[np.int32], odd: int, out: NDArray[np.int32]) -> None:
    """Split the rows of `x`, of which the first is at an odd place or not, into low and high-pass ones in `out`."""
    n, width = x.shape
    low = (n + 1 - odd) // 2
    high = n - low
    if n == 1:
        for j in range(width):
            out[0, j] = x[0, j] << odd
        return
    for i in range(high):
        at = 2 * i + 1 - odd
        before, after = abs(at - 1), at + 1 if at + 1 < n else n - 2
        for j in range(width):
            out[low + i, j] = x[at, j] - ((x[before, j] + x[after, j]) >> 1)
    for i in range(low):
        at = 2 * i + odd
        before, after = low + min(max(i - 1 + odd, 0), high - 1), low + min(i + odd, high - 1)
        for j in range(width):
            out[i, j] = x[at, j] + ((out[before, j] + out[after, j] + 2) >> 2)


@njit
def _synthesise_rows(x: NDArray[np.int32], odd: int, out: NDArray[np.int32]) -> None:
    """Undo `_analyse_rows`."""
    n, width = x.shape
    low = (n + 1 - odd) // 2
    high = n - low
    if n == 1:
        for j in range(width):
            out[0, j] = x[0, j] >> odd
        return
    for i in range(low):
        at = 2 * i + odd
        before, after = low + min(max(i - 1 + odd, 0), high - 1), low + min(i + odd, high - 1)
        for j in range(width):
            out[at, j] = x[i, j] - ((x[before, j] + x[after, j] + 2) >> 2)
    for i in range(high):
        at = 2 * i + 1 - odd
        before, after = abs(at - 1), at + 1 if at + 1 < n else n - 2
        for j in range(width):
            out[at, j] = x[low + i, j] + ((out[before, j] + out[after, j]) >> 1)


@njit
def _transpose(x: NDArray[np.int32], out: NDArray[np.int32]) -> None:
    rows, columns = x.shape
    for top in range(0, rows, 16):
        for left in range(0, columns, 16):
            for i in range(top, min(top + 16, rows)):
                for j in range(left, min(left + 16, columns)):
                    out[j, i] = x[i, j]


@njit
def analyse(plane: NDArray[np.int32], bounds: NDArray[np.int64]) -> None:
    """Transform a tile of a component in place; the bands come to lie low-pass first, level within level.

    Parameters
    ----------
    bounds : (levels + 1, 4)
        Top, left, bottom, right of each resolution in its own coordinates, the highest first.
    """
    first = np.empty(plane.size, np.int32)
    second = np.empty(plane.size, np.int32)
    for level in range(len(bounds) - 1):
        top, left, bottom, right = bounds[level]
        h, w = bottom - top, right - left
        if h == 0 or w == 0:
            return
        part = plane[:h, :w]
        one, two = first[: h * w].reshape(h, w), second[: h * w].reshape(w, h)
        _analyse_rows(part, top & 1, one)
        _transpose(one, two)
        one = first[: h * w].reshape(w, h)
        _analyse_rows(two, left & 1, one)
        _transpose(one, part)


@njit
def synthesise(plane: NDArray[np.int32], bounds: NDArray[np.int64]) -> None:
    """Undo `analyse`."""
    first = np.empty(plane.size, np.int32)
    second = np.empty(plane.size, np.int32)
    for level in range(len(bounds) - 2, -1, -1):
        top, left, bottom, right = bounds[level]
        h, w = bottom - top, right - left
        if h == 0 or w == 0:
            continue
        part = plane[:h, :w]
        one, two = first[: h * w].reshape(w, h), second[: h * w].reshape(w, h)
        _transpose(part, one)
        _synthesise_rows(one, left & 1, two)
        one = first[: h * w].reshape(h, w)
        _transpose(two, one)
        _synthesise_rows(one, top & 1, part)


@njit
def to_components(planes: NDArray[np.int32]) -> None:
    """Transform red, green and blue in place (T.800 G.2.1)."""
    for y in range(planes.shape[1]):
        for x in range(planes.shape[2]):
            red, green, blue = planes[0, y, x], planes[1, y, x], planes[2, y, x]
            planes[0, y, x] = (red + 2 * green + blue) >> 2
            planes[1, y, x] = blue - green
            planes[2, y, x] = red - green


@njit
def from_components(planes: NDArray[np.int32]) -> None:
    """Undo `to_components` (T.800 G.2.2)."""
    for y in range(planes.shape[1]):
        for x in range(planes.shape[2]):
            luma, second, third = planes[0, y, x], planes[1, y, x], planes[2, y, x]
            green = luma - ((second + third) >> 2)
            planes[0, y, x] = third + green
            planes[1, y, x] = green
            planes[2, y, x] = second + green
