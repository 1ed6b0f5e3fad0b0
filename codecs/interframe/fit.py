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
from dcmpress.codecs.interframe.predict import COPY, MEDIAN, N_TAPS, NORTH, partial_row
from dcmpress.codecs.jit import inline, njit

_UNIT = 1024.0
_CLIP = 1447
"""512 products of clipped values fit in 31 bits."""
MAX_SAMPLES = 512

Array = NDArray[Any]


@inline
def _flat(current: Array, starts: Array, n_rows: Any, width: Any) -> bool:
    """Whether each of the samples, `width` from each of the starts, equals the one to its left."""
    different = np.int32(0)
    for r in range(n_rows):
        at = starts[r]
        for x in range(width):
            different |= np.int32(current[np.uint64(at + x)] ^ current[np.uint64(at + x - 1)])
    return different == 0


@inline
def _weighted(
    source: Array,
    offset: Any,
    current: Array,
    starts: Array,
    n_rows: Any,
    width: Any,
    scale: Array,
    out: Array,
) -> None:
    """Fill `out`, int16, with the samples of a tap less W, times the samples' weights, clipped.

    A row at a time, so that the loop is over neighbours in memory and becomes one of vectors.
    """
    for r in range(n_rows):
        at = starts[r]
        first = r * width
        tap = at + offset
        for x in range(width):
            d = np.float32(source[np.uint64(tap + x)] - current[np.uint64(at + x - 1)])
            v = np.int32(d * scale[np.uint64(first + x)])
            out[np.uint64(first + x)] = np.int16(min(max(v, np.int32(-_CLIP)), np.int32(_CLIP)))


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
    """Fill `grams`, float32 (tiles, packed_size(m)), with sums over 1 row in `step` of each tile.

    A row holds the lower triangle of a Gram matrix, row by row, then zeros; all zeros if W predicts each of the
    samples looked at, so that flat tiles take no time and no part.

    The m + 1 vectors are the fitted taps less W, and the sample less W, all times the sample's weight
    1 / (1 + 2 mean g + g), g = |N-W| + |NW-N| + |NE-N| + |NN-N|: edges count less.

    frames, offsets : int64 arrays, shape (m,): the frame of each tap (0, 1, 2...) and its flat offset.
    """
    line = columns + 2 * SIDE
    m = len(frames)
    across = (columns + tile - 1) // tile
    down = (rows + tile - 1) // tile
    samples = np.empty((m + 1, MAX_SAMPLES), np.int16)
    gradient = np.empty(MAX_SAMPLES, np.float32)
    starts = np.empty(tile, np.int64)
    for ty in range(down):
        for tx in range(across):
            x0 = tx * tile
            width = min(tile, columns - x0)
            n_rows = 0
            n = 0
            total = np.int32(0)
            for k in range((tile + step - 1) // step):
                # Every phase of `step` comes up: interpolated images have structure in every 2nd or 3rd row.
                y = ty * tile + k * step + k % step
                if y < 1 or y >= min(ty * tile + tile, rows) or n + width > MAX_SAMPLES:
                    continue
                at = (ABOVE + y) * line + SIDE + x0
                for x in range(width):
                    i = at + x
                    north = current[np.uint64(i - line)]
                    g = np.int32(
                        abs(north - current[np.uint64(i - 1)])
                        + abs(current[np.uint64(i - line - 1)] - north)
                        + abs(current[np.uint64(i - line + 1)] - north)
                        + abs(current[np.uint64(i - 2 * line)] - north)
                    )
                    total = np.int32(total + g)
                    gradient[np.uint64(n + x)] = np.float32(g)
                starts[n_rows] = at
                n_rows += 1
                n += width
            mean = np.float32(1.0) + np.float32(2.0) * np.float32(total) / np.float32(max(n, 1))
            for k in range(n):
                gradient[np.uint64(k)] = np.float32(_UNIT) / (mean + gradient[np.uint64(k)])
            gram = grams[ty * across + tx]
            if _flat(current, starts, n_rows, width):
                gram[:] = np.float32(0.0)
                continue
            for t in range(m + 1):
                offset = offsets[t] if t < m else 0
                frame = frames[t] if t < m else 0
                source = current if frame == 0 else (reference if frame == 1 else extra[frame - 2])
                _weighted(source, offset, current, starts, n_rows, width, gradient, samples[t])
            p = 0
            for i in range(m + 1):
                left = samples[i]
                for j in range(i + 1):
                    right = samples[j]
                    accumulator = np.int32(0)
                    for k in range(n):
                        accumulator = np.int32(
                            accumulator + np.int32(left[np.uint64(k)]) * np.int32(right[np.uint64(k)])
                        )
                    gram[p] = np.float32(accumulator)
                    p += 1


def packed_length(m: int) -> int:
    """Return how many entries the packed Gram matrix of `m` taps has; the last is the sample's own square."""
    return (m + 1) * (m + 2) // 2


def packed_size(m: int) -> int:
    """Return the length of a row that holds a packed Gram matrix: a multiple of 8."""
    return -(-packed_length(m) // 8) * 8


@njit
def _solve(packed: Array, m: int, matrix: Array, solution: Array) -> None:
    """Solve the normal equations of a packed Gram matrix by Gaussian elimination, row by row."""
    p = 0
    for i in range(m + 1):
        for j in range(i + 1):
            matrix[i, j] = packed[p]
            matrix[j, i] = packed[p]
            p += 1
    for i in range(m):
        matrix[i, i] += 1e-4 * matrix[i, i] + 1e-5 * matrix[m, m] / (m + 1) + 1e-9
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
def _products(vectors: Array, products: Array) -> None:
    """Fill `products`, float32 (packed, classes): what each Gram entry counts in each class's error."""
    m = vectors.shape[1]
    for c in range(len(vectors)):
        p = 0
        for i in range(m):
            for j in range(i + 1):
                v = vectors[c, i] * vectors[c, j]
                products[p, c] = v if i == j else v + v
                p += 1


@njit
def _errors(gram: Array, products: Array, errors: Array) -> None:
    """Fill `errors`, float32 (classes,), with a tile's squared error under each class."""
    n = len(errors)
    for c in range(n):
        errors[np.uint64(c)] = np.float32(0.0)
    for p in range(0, len(gram), 8):
        g0, g1, g2, g3 = gram[p], gram[p + 1], gram[p + 2], gram[p + 3]
        g4, g5, g6, g7 = gram[p + 4], gram[p + 5], gram[p + 6], gram[p + 7]
        for c in range(n):
            k = np.uint64(c)
            errors[k] = (
                errors[k]
                + (
                    (g0 * products[p, k] + g1 * products[p + 1, k])
                    + (g2 * products[p + 2, k] + g3 * products[p + 3, k])
                )
                + (
                    (g4 * products[p + 4, k] + g5 * products[p + 5, k])
                    + (g6 * products[p + 6, k] + g7 * products[p + 7, k])
                )
            )


@njit
def _nearest(grams: Array, products: Array, n_classes: int, assignment: Array, least: Array) -> None:
    """Give each tile the class of least error, and note that error."""
    errors = np.empty(products.shape[1], np.float32)
    for t in range(len(grams)):
        _errors(grams[t], products, errors)
        best = 0
        for c in range(1, n_classes):
            if errors[c] < errors[best]:
                best = c
        assignment[t] = best
        least[t] = errors[best]


@njit
def cluster(grams: Array, vectors: Array, assignment: Array, iterations: int, warm: bool) -> None:
    """Find `len(vectors)` sets of coefficients and the best of them for each tile.

    Parameters
    ----------
    grams : float32 array, shape (tiles, packed_size(m))
    vectors : float32 array, shape (classes, m + 1); written
        Coefficients, then -1. If `warm`, they are the start.
    assignment : int64 array, shape (tiles,); written
    iterations : int
        So often the classes are moved.
    """
    n_tiles, size = grams.shape
    n_classes = len(vectors)
    m = vectors.shape[1] - 1
    last = (m + 1) * (m + 2) // 2 - 1
    matrix = np.zeros((m + 1, m + 1), np.float64)
    solution = np.zeros(m, np.float64)
    totals = np.zeros((n_classes, size), np.float64)
    members = np.zeros(n_classes, np.int64)
    products = np.zeros((size, (n_classes + 15) // 16 * 16), np.float32)
    least = np.zeros(n_tiles, np.float32)

    if warm:
        _products(vectors, products)
        _nearest(grams, products, n_classes, assignment, least)
    else:
        for t in range(n_tiles):
            scale = 1.0 / (np.float64(grams[t, last]) + 100.0)
            for p in range(size):
                totals[0, p] += scale * grams[t, np.uint64(p)]
        _solve(totals[0], m, matrix, solution)
        for c in range(n_classes):
            for i in range(m):
                vectors[c, i] = solution[i]
            vectors[c, m] = -1.0
        _products(vectors[:1], products)
        _nearest(grams, products, 1, assignment, least)
        relative = np.empty(n_tiles, np.float32)
        for t in range(n_tiles):
            relative[t] = least[t] / (grams[t, last] + np.float32(1.0))
        order = np.argsort(relative, kind="mergesort")
        for rank in range(n_tiles):
            assignment[order[rank]] = rank * n_classes // n_tiles

    for _ in range(iterations):
        totals[:] = 0.0
        members[:] = 0
        for t in range(n_tiles):
            c = assignment[t]
            members[c] += 1
            share = 1.0 / (max(np.float64(least[t]), 0.0) + 100.0)
            total = totals[c]
            for p in range(size):
                total[np.uint64(p)] += share * grams[t, np.uint64(p)]
        for c in range(n_classes):
            if members[c] > 0:
                _solve(totals[c], m, matrix, solution)
                for i in range(m):
                    vectors[c, i] = solution[i]
        _products(vectors, products)
        _nearest(grams, products, n_classes, assignment, least)


def quantise(vectors: Array, taps: Array, shift: int, coarse: int) -> Array:
    """Return the classes' coefficients, int32 (classes, N_TAPS), that sum to 1 << shift in each class.

    All but that of W are multiples of 1 << coarse.
    """
    limit = 4 << shift - coarse
    classes = np.zeros((len(vectors), N_TAPS), np.int32)
    scaled = np.nan_to_num(vectors[:, :-1].astype(np.float64) * (1 << shift - coarse), nan=0.0)
    classes[:, taps] = np.clip(np.floor(scaled + 0.5), -limit, limit).astype(np.int32) << coarse
    classes[:, 0] = (1 << shift) - classes[:, 1:].sum(axis=1)
    return classes


def similar_order(classes: Array) -> Array:
    """Return an order of classes in which each is like the one before, which makes the differences small."""
    left = list(range(1, len(classes)))
    order = [0]
    while left:
        distances = np.abs(classes[left] - classes[order[-1]])[:, 1:].sum(axis=1)
        order.append(left.pop(int(np.argmin(distances))))
    return np.array(order)


@njit
def context_equations(
    errors: Array, reference: Array, rows: int, columns: int, step: int, matrix: Array
) -> None:
    """Add the normal equations of |error| over what the activity sums, 1 row in `step`, to `matrix`.

    matrix : float64 array, shape (N_WEIGHTS + 1, N_WEIGHTS + 1)
        Last row and column: the error itself. Samples weigh 1 / (4 + size of the neighbours)^2.
    """
    line = columns + 2 * SIDE
    v = np.zeros(11, np.float64)
    for y in range(2 + step // 2, rows, step):
        for x in range(y % 3, columns, 3):
            i = (ABOVE + y) * line + SIDE + x
            n = i - line
            v[0] = errors[n]
            v[1] = errors[n - 1]
            v[2] = errors[n + 1]
            v[3] = errors[n - 2]
            v[4] = errors[n + 2]
            v[5] = errors[n - line]
            v[6] = np.int64(errors[n - line - 1]) + np.int64(errors[n - line + 1])
            if len(reference) > 0:
                v[7] = reference[i]
                v[8] = (
                    np.int64(reference[i - 1])
                    + np.int64(reference[i + 1])
                    + np.int64(reference[i - line])
                    + np.int64(reference[i + line])
                )
                v[9] = (
                    np.int64(reference[i - line - 1])
                    + np.int64(reference[i - line + 1])
                    + np.int64(reference[i + line - 1])
                    + np.int64(reference[i + line + 1])
                )
            v[10] = errors[i]
            size = 8.0 + v[0] + v[1] + v[2] + v[5] + v[7] + v[8] * 0.25
            scale = 1.0 / (size * size)
            for j in range(11):
                for k in range(11):
                    matrix[j, k] += scale * v[j] * v[k]


def fit_weights(matrix: Array, uses: Array, total: int) -> Array | None:
    """Return non-negative integer weights that sum to at most `total`, each as often as it is used."""
    n = len(uses)
    keep = [k for k in range(n) if matrix[k, k] > 0]
    while keep:
        m = len(keep)
        packed = np.array([matrix[i, j] for a, i in enumerate([*keep, n]) for j in [*keep, n][: a + 1]])
        solution = np.zeros(m)
        _solve(packed, m, np.zeros((m + 1, m + 1)), solution)
        if not np.isfinite(solution).all():
            return None
        worst = int(np.argmin(solution))
        if solution[worst] >= 0:
            weights = np.zeros(n)
            weights[keep] = solution
            scale = total / max(sum((weights * uses).tolist()), 1e-9)
            return np.floor(weights * scale).astype(np.int64)
        del keep[worst]
    return None


COST = np.array([(1 + e + 4 * e * e).bit_length() * 4 for e in range(2048)], np.int32)


@njit
def choose_modes(
    current: Array,
    reference: Array,
    n_extra: int,
    extra: Array,
    rows: int,
    columns: int,
    tile: int,
    step: int,
    labels: Array,
    classes: Array,
    shift: int,
    wide: bool,
    cost_table: Array,
) -> None:
    """Replace the class of a tile by COPY, NORTH or MEDIAN if that costs less on 1 row in `step`.

    COPY and NORTH are preferred at the same cost: they are the fastest to decode.
    """
    line = columns + 2 * SIDE
    top = np.int32(len(cost_table) - 1)
    across = labels.shape[1]
    partial = np.empty(columns, np.int32)
    linear = np.empty(across, np.int64)
    copy = np.empty(across, np.int64)
    median = np.empty(across, np.int64)
    north = np.empty(across, np.int64)
    sizes = np.empty((4, columns), np.int32)
    for ty in range(labels.shape[0]):
        linear[:] = 0
        copy[:] = 0
        median[:] = 0
        north[:] = 0
        for y in range(ty * tile + 1, min(ty * tile + tile, rows), step):
            partial_row(
                partial, y, columns, tile, labels, classes, shift, current, reference, n_extra, extra, wide
            )
            at = (ABOVE + y) * line + SIDE
            for tx in range(across):
                c0 = classes[labels[ty, tx], 0]
                c1 = classes[labels[ty, tx], 1]
                for x in range(tx * tile, min(tx * tile + tile, columns)):
                    i = at + x
                    value = np.int32(current[np.uint64(i)])
                    total = np.int32(
                        partial[np.uint64(x)]
                        + c0 * current[np.uint64(i - 1)]
                        + c1 * current[np.uint64(i - 2)]
                    )
                    e = np.int32(value - (total >> shift))
                    sizes[0, np.uint64(x)] = min(np.int32(abs(e)), top)
            for x in range(columns):
                i = at + x
                value = np.int32(current[np.uint64(i)])
                w = current[np.uint64(i - 1)]
                n = current[np.uint64(i - line)]
                nw = current[np.uint64(i - line - 1)]
                low = min(w, n)
                high = max(w, n)
                e = np.int32(value - min(max(np.int32(w + n - nw), low), high))
                sizes[1, np.uint64(x)] = min(np.int32(abs(e)), top)
                sizes[3, np.uint64(x)] = min(np.int32(abs(np.int32(value - n))), top)
            if len(reference) > 0:
                for x in range(columns):
                    i = at + x
                    e = np.int32(current[np.uint64(i)] - reference[np.uint64(i)])
                    sizes[2, np.uint64(x)] = min(np.int32(abs(e)), top)
            for tx in range(across):
                for x in range(tx * tile, min(tx * tile + tile, columns)):
                    linear[tx] += cost_table[np.uint64(sizes[0, x])]
                    median[tx] += cost_table[np.uint64(sizes[1, x])]
                    north[tx] += cost_table[np.uint64(sizes[3, x])]
                    if len(reference) > 0:
                        copy[tx] += cost_table[np.uint64(sizes[2, x])]
        for tx in range(across):
            least = min(linear[tx], median[tx])
            if len(reference) > 0 and copy[tx] <= min(least, north[tx]):
                labels[ty, tx] = COPY
            elif north[tx] <= least:
                labels[ty, tx] = NORTH
            elif median[tx] < linear[tx]:
                labels[ty, tx] = MEDIAN
