"""Residuals of a fluoroscopy frame against another frame, and the way back.

Images are uint16 of shape (rows, columns) with values below 2**bits. The difference of a pixel is its value
minus that of the reference at the same place less the shift (nearest pixel at the border; 0 without one).
With `spatial` the difference is itself predicted from its left, upper and upper left neighbours by the median
edge detector of JPEG-LS (ISO/IEC 14495-1, A.3.1). Residuals are taken modulo 2**bits and zigzag mapped.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit


@inline
def _median_edge(west: np.int32, north: np.int32, corner: np.int32) -> np.int32:
    return max(min(west, north), min(max(west, north), west + north - corner))


@njit
def shifted_row(reference: NDArray[np.uint16], y: int, dy: int, dx: int, row: NDArray[np.int32]) -> None:
    """Fill `row`, shape (columns,), with the reference's pixels for row y."""
    rows, columns = reference.shape
    source = reference[min(max(y - dy, 0), rows - 1)]
    if dx == 0:
        for x in range(columns):
            row[x] = np.int32(source[x])
    else:
        for x in range(columns):
            row[x] = np.int32(source[min(max(x - dx, 0), columns - 1)])


@njit
def residuals_of(
    image: NDArray[np.uint16],
    reference: NDArray[np.uint16],
    has_reference: bool,
    dy: int,
    dx: int,
    spatial: bool,
    bits: int,
    spans: NDArray[np.int32],
    row_step: int,
) -> NDArray[np.uint32]:
    """Return the residuals of the pixels in `spans`, row after row (every `row_step`-th row only)."""
    rows, columns = image.shape
    half = np.int32(1 << (bits - 1))
    top_value = np.int32(2 * half - 1)
    n = 0
    for y in range(0, rows, row_step):
        n += int(spans[y, 1] - spans[y, 0])
    out = np.empty(n, np.uint32)
    source = np.zeros(columns, np.int32)
    difference = np.zeros(columns, np.int32)
    above = np.zeros(columns, np.int32)
    k = 0
    for y in range(0, rows, row_step):
        begin, end = int(spans[y, 0]), int(spans[y, 1])
        if begin == end:
            continue
        row = image[y]
        if spatial and y > 0:
            if has_reference:
                shifted_row(reference, y - 1, dy, dx, above)
            for x in range(columns):
                above[x] = np.int32(image[y - 1, x]) - (above[x] if has_reference else np.int32(0))
        if has_reference:
            shifted_row(reference, y, dy, dx, source)
        if not spatial:
            for x in range(begin, end):
                error = ((np.int32(row[x]) - source[x] + half) & top_value) - half
                out[k + x - begin] = np.uint32((error << np.int32(1)) ^ (error >> np.int32(31)))
            k += end - begin
            continue
        for x in range(columns):
            difference[x] = np.int32(row[x]) - source[x]
        for x in range(max(begin, 1), end):
            west = difference[x - 1]
            guess = _median_edge(west, above[x], above[x - 1]) if y > 0 else west
            guess = min(max(source[x] + guess, np.int32(0)), top_value)
            error = ((np.int32(row[x]) - guess + half) & top_value) - half
            out[k + x - begin] = np.uint32((error << np.int32(1)) ^ (error >> np.int32(31)))
        if begin == 0:
            guess = min(max(source[0] + above[0], np.int32(0)), top_value)
            error = ((np.int32(row[0]) - guess + half) & top_value) - half
            out[k] = np.uint32((error << np.int32(1)) ^ (error >> np.int32(31)))
        k += end - begin
    return out


@njit
def image_of(
    residuals: NDArray[np.uint32],
    image: NDArray[np.uint16],
    reference: NDArray[np.uint16],
    has_reference: bool,
    dy: int,
    dx: int,
    spatial: bool,
    bits: int,
    spans: NDArray[np.int32],
) -> bool:
    """Fill the pixels of `image` in `spans` (those outside are filled already).

    Returns False if a residual is not one that `residuals_of` gives.
    """
    rows, columns = image.shape
    top_value = np.int32((1 << bits) - 1)
    seen = np.uint32(0)
    for k in range(residuals.size):
        seen |= residuals[k]
    if seen > np.uint32(top_value):
        return False
    source = np.zeros(columns, np.int32)
    above = np.zeros(columns, np.int32)
    k = 0
    for y in range(rows):
        begin, end = int(spans[y, 0]), int(spans[y, 1])
        if begin == end:
            continue
        row = image[y]
        if spatial and y > 0:
            if has_reference:
                shifted_row(reference, y - 1, dy, dx, above)
            for x in range(columns):
                above[x] = np.int32(image[y - 1, x]) - (above[x] if has_reference else np.int32(0))
        if has_reference:
            shifted_row(reference, y, dy, dx, source)
        if not spatial:
            for x in range(begin, end):
                z = np.int32(residuals[k + x - begin])
                row[x] = np.uint16((source[x] + ((z >> np.int32(1)) ^ -(z & np.int32(1)))) & top_value)
            k += end - begin
            continue
        # as if the pixel left of the first column were the one above it: west = corner = north
        west = np.int32(row[begin - 1]) - source[begin - 1] if begin > 0 else above[0]
        corner = above[begin - 1] if begin > 0 else above[0]
        for x in range(begin, end):
            north = above[x]
            guess = _median_edge(west, north, corner) if y > 0 else west
            guess = min(max(source[x] + guess, np.int32(0)), top_value)
            z = np.int32(residuals[k])
            value = (guess + ((z >> np.int32(1)) ^ -(z & np.int32(1)))) & top_value
            row[x] = np.uint16(value)
            west = value - source[x]
            corner = north
            k += 1
    return True


@njit
def profiles(image: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of each row and, over every fourth row, of each column."""
    rows, columns = image.shape
    by_row = np.zeros(rows, np.int64)
    by_column = np.zeros(columns, np.int64)
    for y in range(rows):
        row = image[y]
        total = np.int64(0)
        for x in range(columns):
            total += np.int64(row[x])
        by_row[y] = total
        if y % 4 == 0:
            for x in range(columns):
                by_column[x] += np.int64(row[x])
    return by_row, by_column


@njit
def profile_shift(current: NDArray[np.int64], reference: NDArray[np.int64], reach: int) -> int:
    """Return the s, |s| <= reach, for which `reference` moved by s is nearest to `current`."""
    n = current.size
    if n < 4 * reach:
        return 0
    best = np.int64(-1)
    shift = 0
    for step in range(2 * reach + 1):
        # 0, -1, 1, -2, ...: the smaller movement wins a tie
        s = -(step + 1) // 2 if step % 2 else step // 2
        distance = np.int64(0)
        for i in range(reach, n - reach):
            distance += abs(current[i] - reference[i - s])
        if best < 0 or distance < best:
            best = distance
            shift = s
    return shift


@njit
def correlation(a: NDArray[np.uint16], b: NDArray[np.uint16], step: int) -> float:
    """Return the correlation coefficient (eq. 3 and 4) of every `step`-th pixel of every `step`-th row.

    Sums are exact integers; 1 if the images are equal, 0 if one of them is constant and they differ.
    """
    rows, columns = a.shape
    n = np.int64(0)
    sum_a = np.int64(0)
    sum_b = np.int64(0)
    equal = True
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            n += 1
            sum_a += np.int64(a[y, x])
            sum_b += np.int64(b[y, x])
            equal &= a[y, x] == b[y, x]
    if equal:
        return 1.0
    # about the rounded means, so that the products stay below 2**63
    mean_a = sum_a // n
    mean_b = sum_b // n
    var_a = np.int64(0)
    var_b = np.int64(0)
    cov = np.int64(0)
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            da = np.int64(a[y, x]) - mean_a
            db = np.int64(b[y, x]) - mean_b
            var_a += da * da
            var_b += db * db
            cov += da * db
    rest_a = sum_a - n * mean_a
    rest_b = sum_b - n * mean_b
    v_a = np.float64(var_a) - np.float64(rest_a) * np.float64(rest_a) / np.float64(n)
    v_b = np.float64(var_b) - np.float64(rest_b) * np.float64(rest_b) / np.float64(n)
    c = np.float64(cov) - np.float64(rest_a) * np.float64(rest_b) / np.float64(n)
    if v_a <= 0 or v_b <= 0:
        return 0.0
    return c / np.sqrt(v_a * v_b)
