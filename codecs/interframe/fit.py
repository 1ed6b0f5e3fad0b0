"""The encoder's analysis: coefficient classes of tiles, and a label for each tile.

Weighted least squares per class, and k-means over tiles in the space of normal equations: a tile is described
by its Gram matrix, so its squared error under any coefficients needs no sample (compare T. Seemann, P. Tischer,
"Generalized locally adaptive DPCM", DCC 1997, and I. Matsuda et al., "Lossless coding using variable
block-size adaptive prediction", EUSIPCO 2005). A class minimises the sum over its tiles of squared error over
the tile's own error variance, which stands for the sum of log errors, hence for bits.

Gram matrices are sums of products of 16-bit integers; the rest is float64 and float32 in a fixed order without
contraction. So every machine finds the same classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.geometry import ABOVE, SIDE
from dcmpress.codecs.interframe.predict import COPY, MEDIAN, N_TAPS
from dcmpress.codecs.jit import njit

_UNIT = 1024.0
_CLIP = 1447
"""512 products of clipped values fit in 31 bits."""
MAX_SAMPLES = 512

Array = NDArray[Any]


@njit
def tile_grams(
    current: Array,
    reference: Array,
    extra: Array,
    rows: int,
    columns: int,
    tile: int,
    step: int,
    frames: Array,
    offsets: Array,
    grams: Array,
) -> None:
    """Fill `grams`, float32 (tiles, m + 1, m + 1), with sums over 1 row in `step` of each tile.

    The m + 1 vectors are the fitted taps less W, and the sample less W, all times the sample's weight
    1 / (1 + mean g + g), g = |N-W| + |NW-N| + |NE-N| + |NN-N|: edges count less.

    frames, offsets : int64 arrays, shape (m,): the frame of each tap (0, 1, 2...) and its flat offset.
    """
    line = columns + 2 * SIDE
    m = len(frames)
    across = (columns + tile - 1) // tile
    down = (rows + tile - 1) // tile
    samples = np.empty((m + 1, MAX_SAMPLES), np.int16)
    gradient = np.empty(MAX_SAMPLES, np.float32)
    where = np.empty(MAX_SAMPLES, np.int64)
    for ty in range(down):
        for tx in range(across):
            x0 = tx * tile
            width = min(tile, columns - x0)
            n = 0
            y = ty * tile + step // 2
            if y >= rows:
                y = rows - 1
            total = np.int64(0)
            while y < min(ty * tile + tile, rows):
                at = (ABOVE + y) * line + SIDE + x0
                if y > 0 and n + width <= MAX_SAMPLES:
                    for x in range(width):
                        i = at + x
                        north = current[np.uint64(i - line)]
                        g = (
                            abs(north - current[np.uint64(i - 1)])
                            + abs(current[np.uint64(i - line - 1)] - north)
                            + abs(current[np.uint64(i - line + 1)] - north)
                            + abs(current[np.uint64(i - 2 * line)] - north)
                        )
                        total += g
                        gradient[np.uint64(n + x)] = g
                        where[np.uint64(n + x)] = i
                    n += width
                y += step
            mean = np.float32(1.0) + np.float32(total) / np.float32(max(n, 1))
            for k in range(n):
                gradient[np.uint64(k)] = np.float32(_UNIT) / (mean + gradient[np.uint64(k)])
            for t in range(m + 1):
                offset = offsets[t] if t < m else 0
                frame = frames[t] if t < m else 0
                source = current if frame == 0 else (reference if frame == 1 else extra[frame - 2])
                for k in range(n):
                    i = where[np.uint64(k)]
                    d = np.float32(source[np.uint64(i + offset)] - current[np.uint64(i - 1)])
                    v = np.int32(d * gradient[np.uint64(k)])
                    samples[t, k] = np.int16(min(max(v, np.int32(-_CLIP)), np.int32(_CLIP)))
            gram = grams[ty * across + tx]
            for i in range(m + 1):
                left = samples[i]
                for j in range(i + 1):
                    right = samples[j]
                    accumulator = np.int32(0)
                    for k in range(n):
                        accumulator = np.int32(
                            accumulator + np.int32(left[np.uint64(k)]) * np.int32(right[np.uint64(k)])
                        )
                    gram[i, j] = np.float32(accumulator)
                    gram[j, i] = np.float32(accumulator)


@njit
def _solve(matrix: Array, solution: Array) -> None:
    """Solve the normal equations in `matrix`, float64 (m + 1, m + 1), last column the right side; destroys it."""
    m = matrix.shape[0] - 1
    for i in range(m):
        matrix[i, i] += 1e-4 * matrix[i, i] + 1e-3 * matrix[m, m] / (m + 1) * 1e-2 + 1e-9
    for k in range(m):
        pivot = matrix[k, k]
        for i in range(k + 1, m):
            factor = matrix[i, k] / pivot
            for j in range(k, m + 1):
                matrix[i, np.uint64(j)] -= factor * matrix[k, np.uint64(j)]
    for k in range(m - 1, -1, -1):
        total = matrix[k, m]
        for j in range(k + 1, m):
            total -= matrix[k, j] * solution[j]
        solution[k] = total / matrix[k, k]


@njit
def _tile_error(gram: Array, vector: Array, product: Array) -> float:
    m = len(vector)
    for j in range(m):
        product[j] = 0.0
    for i in range(m):
        v = vector[i]
        for j in range(m):
            product[np.uint64(j)] += v * gram[i, np.uint64(j)]
    error = np.float32(0.0)
    for j in range(m):
        error += product[j] * vector[j]
    return error


@njit
def cluster(grams: Array, vectors: Array, assignment: Array, iterations: int, warm: bool) -> None:
    """Find `len(vectors)` sets of coefficients and the best of them for each tile.

    Parameters
    ----------
    grams : float32 array, shape (tiles, m + 1, m + 1)
    vectors : float32 array, shape (classes, m + 1); read if `warm`, written
        Coefficients, then -1.
    assignment : int64 array, shape (tiles,); written
    """
    n_tiles = grams.shape[0]
    m = grams.shape[1] - 1
    n_classes = len(vectors)
    matrix = np.zeros((m + 1, m + 1), np.float64)
    solution = np.zeros(m, np.float64)
    product = np.zeros(m + 1, np.float32)
    errors = np.empty(n_tiles, np.float32)
    if not warm:
        for t in range(n_tiles):
            scale = 1.0 / (np.float64(grams[t, m, m]) + 100.0)
            for i in range(m + 1):
                for j in range(m + 1):
                    matrix[i, np.uint64(j)] += scale * grams[t, i, np.uint64(j)]
        _solve(matrix, solution)
        for c in range(n_classes):
            for i in range(m):
                vectors[c, i] = solution[i]
            vectors[c, m] = -1.0
        for t in range(n_tiles):
            errors[t] = _tile_error(grams[t], vectors[0], product) / (grams[t, m, m] + np.float32(1.0))
        order = np.argsort(errors, kind="mergesort")
        for rank in range(n_tiles):
            assignment[order[rank]] = rank * n_classes // n_tiles
        for t in range(n_tiles):
            errors[t] = _tile_error(grams[t], vectors[0], product)
    for round_ in range(iterations + 1):
        if round_ > 0 or not warm:
            for c in range(n_classes):
                matrix[:] = 0.0
                members = 0
                for t in range(n_tiles):
                    if assignment[t] != c:
                        continue
                    members += 1
                    scale = 1.0 / (max(np.float64(errors[t]), 0.0) + 100.0)
                    for i in range(m + 1):
                        for j in range(m + 1):
                            matrix[i, np.uint64(j)] += scale * grams[t, i, np.uint64(j)]
                if members > 0:
                    _solve(matrix, solution)
                    for i in range(m):
                        vectors[c, i] = solution[i]
        if round_ == iterations:
            break
        for t in range(n_tiles):
            best = np.float32(0.0)
            for c in range(n_classes):
                error = _tile_error(grams[t], vectors[c], product)
                if c == 0 or error < best:
                    best = error
                    assignment[t] = c
            errors[t] = best


@njit
def assign(grams: Array, vectors: Array, assignment: Array) -> None:
    """Give each tile the class of least error."""
    product = np.zeros(vectors.shape[1], np.float32)
    for t in range(len(grams)):
        best = np.float32(0.0)
        for c in range(len(vectors)):
            error = _tile_error(grams[t], vectors[c], product)
            if c == 0 or error < best:
                best = error
                assignment[t] = c


def quantise(vectors: Array, taps: Array, shift: int) -> Array:
    """Return the classes' coefficients, int32 (classes, N_TAPS), that sum to 1 << shift in each class."""
    limit = 4 << shift
    classes = np.zeros((len(vectors), N_TAPS), np.int32)
    scaled = np.nan_to_num(vectors[:, :-1].astype(np.float64) * (1 << shift), nan=0.0)
    classes[:, taps] = np.clip(np.floor(scaled + 0.5), -limit, limit).astype(np.int32)
    classes[:, 0] = (1 << shift) - classes[:, 1:].sum(axis=1)
    return classes


COST = np.array([(1 + e + 4 * e * e).bit_length() * 4 for e in range(2048)], np.int32)


@njit
def choose_modes(
    current: Array,
    reference: Array,
    residuals: Array,
    rows: int,
    columns: int,
    tile: int,
    step: int,
    labels: Array,
    cost_table: Array,
) -> int:
    """Replace the class of a tile by COPY or MEDIAN where that costs less on 1 row in `step`.

    `residuals`, int32 (rows, columns), are those of the classes. Return the number of tiles changed.
    """
    line = columns + 2 * SIDE
    changed = 0
    top = np.int32(len(cost_table) - 1)
    for ty in range(labels.shape[0]):
        for tx in range(labels.shape[1]):
            x0 = tx * tile
            x1 = min(x0 + tile, columns)
            linear = np.int64(0)
            copy = np.int64(0)
            median = np.int64(0)
            for y in range(ty * tile + 1, min(ty * tile + tile, rows), step):
                at = (ABOVE + y) * line + SIDE
                for x in range(x0, x1):
                    i = at + x
                    value = current[i]
                    w = current[i - 1]
                    n = current[i - line]
                    nw = current[i - line - 1]
                    low = min(w, n)
                    high = max(w, n)
                    predicted = low if nw >= high else (high if nw <= low else w + n - nw)
                    linear += cost_table[min(abs(residuals[y, x]), top)]
                    median += cost_table[min(abs(value - predicted), top)]
                    if len(reference) > 0:
                        copy += cost_table[min(abs(value - reference[i]), top)]
            if len(reference) > 0 and copy < linear and copy <= median:
                labels[ty, tx] = COPY
                changed += 1
            elif median < linear:
                labels[ty, tx] = MEDIAN
                changed += 1
    return changed
