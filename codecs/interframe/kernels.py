"""Whole-frame loops of the forward core: one call each per frame, so that small frames cost little."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.ans import N_CONTEXTS, SLOTS, begin_row, finish_row, start_streams
from dcmpress.codecs.interframe.context import activity_row, context_row, error_row
from dcmpress.codecs.interframe.geometry import set_margins
from dcmpress.codecs.interframe.predict import partial_row, residual_row
from dcmpress.codecs.interframe.restore import restore_row
from dcmpress.codecs.jit import njit

BLOCK = 8
"""Samples of a row that are skipped together if all are predicted exactly and surely."""

Array = NDArray[Any]


@njit
def residual_frame(
    residuals: Array,
    errors: Array,
    current: Array,
    reference: Array,
    n_extra: Any,
    extra: Array,
    tile: Any,
    labels: Array,
    classes: Array,
    shift: Any,
    wide: bool,
    errors_shift: Any,
) -> Any:
    """Fill `residuals`, int32 (rows, columns), and the error map; return the largest |residual|."""
    rows, columns = residuals.shape
    partial = np.empty(columns, np.int32)
    worst = np.int32(0)
    for y in range(rows):
        row = residuals[y]
        if y > 0:
            partial_row(
                partial, y, columns, tile, labels, classes, shift, current, reference, n_extra, extra, wide
            )
        residual_row(row, partial, y, columns, tile, labels, classes, shift, current, reference)
        error_row(row, errors, y, columns, errors_shift)
        for x in range(columns):
            worst = max(worst, np.int32(abs(row[np.uint64(x)])))
    return np.int64(worst)


@njit
def activity_frame(
    activities: Array, errors: Array, reference_errors: Array, weights: Array, level: Any, histogram: Array
) -> None:
    """Fill `activities`, int16 (rows, columns), and count 1 row in 4 of them in `histogram`."""
    rows, columns = activities.shape
    for y in range(rows):
        activity = activities[y]
        activity_row(activity, y, columns, errors, reference_errors, weights, level)
        if y & 3 == 0:
            for x in range(columns):
                histogram[np.uint64(activity[np.uint64(x)])] += 1


@njit
def token_frame(
    tokens: Array,
    row_lengths: Array,
    runs: Array,
    activities: Array,
    residuals: Array,
    thresholds: Array,
    histogram: Array,
) -> Any:
    """Turn residuals into tokens, skipping exact blocks, and count them.

    Parameters
    ----------
    tokens : uint32 array, shape (rows * columns,); written
    row_lengths : int64 array, shape (rows,); written
    runs : int64 array, as long as there can be blocks; written
    activities : int16 array, shape (rows, columns)
    residuals : int32 array, shape (rows, columns)
    thresholds : int16 array, shape (N_CONTEXTS - 1,)
    histogram : int64 array, shape (N_CONTEXTS * SLOTS,); added to

    Returns
    -------
    (tokens, runs) written
    """
    rows, columns = residuals.shape
    blocks = (columns + BLOCK - 1) // BLOCK
    contexts = np.zeros(blocks * BLOCK, np.uint8)
    block_contexts = contexts.view(np.uint64)
    floats = np.empty(columns, np.float32)
    patterns = floats.view(np.int32)
    unsigned = np.zeros(blocks * BLOCK, np.int32)
    second = np.zeros(len(histogram), np.int64)
    n = 0
    n_runs = 0
    run = 0
    for y in range(rows):
        least = context_row(contexts, activities[y], columns, thresholds)
        for x in range(columns):
            e = residuals[y, np.uint64(x)]
            u = np.int32(np.int32(e << 1) ^ np.int32(e >> 31))
            unsigned[np.uint64(x)] = u
            floats[np.uint64(x)] = np.float32(u)
        start = n
        for x in range(columns):
            u = unsigned[np.uint64(x)]
            top = np.int32(patterns[np.uint64(x)] >> 21)
            raw_bits = np.int32(max(np.int32((top >> 2) - 129), np.int32(0)))
            big = u >= 32
            symbol = np.int32(top - 496) if big else u
            raw = np.int32(u & np.int32((np.int32(1) << raw_bits) - 1)) if big else np.int32(0)
            tokens[np.uint64(start + x)] = np.uint32(
                symbol | np.int32(contexts[np.uint64(x)]) << 7 | raw << 11
            )
        if least > 0:
            n += columns
        else:
            for block in range(blocks):
                first = block * BLOCK
                width = min(BLOCK, columns - first)
                sure = block_contexts[np.uint64(block)] == 0
                if sure:
                    some = np.int32(0)
                    for k in range(BLOCK):
                        some |= unsigned[np.uint64(first + k)]
                    if some == 0:
                        run += 1
                        continue
                    runs[n_runs] = run
                    n_runs += 1
                    run = 0
                if n < start + first:
                    for k in range(width):
                        tokens[np.uint64(n + k)] = tokens[np.uint64(start + first + k)]
                n += width
        row_lengths[y] = n - start
        i = start
        while i + 1 < n:
            histogram[np.uint64(tokens[np.uint64(i)] & np.uint32(N_CONTEXTS * SLOTS - 1))] += 1
            second[np.uint64(tokens[np.uint64(i + 1)] & np.uint32(N_CONTEXTS * SLOTS - 1))] += 1
            i += 2
        if i < n:
            histogram[np.uint64(tokens[np.uint64(i)] & np.uint32(N_CONTEXTS * SLOTS - 1))] += 1
    for slot in range(len(histogram)):
        histogram[slot] += second[slot]
    return n, n_runs


@njit
def decode_frame(
    current: Array,
    errors: Array,
    rows: Any,
    columns: Any,
    reference: Array,
    reference_errors: Array,
    n_extra: Any,
    extra: Array,
    tile: Any,
    labels: Array,
    classes: Array,
    shift: Any,
    wide: bool,
    errors_shift: Any,
    weights: Array,
    level: Any,
    thresholds: Array,
    table: Array,
    buffer: Array,
    starts: Array,
    runs: Array,
    skipping: bool,
) -> Any:
    """Decode one frame into `current` and its error map; False if the streams do not end where they must.

    All indices that come from the stream (labels, table entries, starts) have been checked by the caller;
    `buffer` has `slack_bytes(columns)` past starts[-1].
    """
    cursor = np.empty((4, 2), np.int64)
    if not start_streams(buffer, starts, cursor):
        return False
    limit = 8 * starts[4]
    blocks = (columns + BLOCK - 1) // BLOCK
    partial = np.empty(columns, np.int32)
    residuals = np.zeros(blocks * BLOCK, np.int32)
    activity = np.empty(columns, np.int16)
    contexts = np.zeros(blocks * BLOCK, np.uint8)
    block_contexts = contexts.view(np.uint64)
    packed = np.zeros(blocks * BLOCK, np.int32)
    slots = np.empty(columns, np.uint32)
    words = np.empty(columns, np.uint32)
    coded = np.empty(blocks, np.int64)
    next_run = 0
    run = runs[0] if len(runs) > 0 else np.int64(1) << 62
    # Row y is restored while the values of row y + 1 are read.
    for y in range(-1, rows):
        if y > 0:
            partial_row(
                partial, y, columns, tile, labels, classes, shift, current, reference, n_extra, extra, wide
            )
        if y >= 0:
            error_row(residuals, errors, y, columns, errors_shift)
        n = 0
        if y + 1 < rows:
            activity_row(activity, y + 1, columns, errors, reference_errors, weights, level)
            least = context_row(contexts, activity, columns, thresholds)
            n = blocks
            if least == 0 and skipping:
                n = 0
                for block in range(blocks):
                    if block_contexts[np.uint64(block)] == 0:
                        if run > 0:
                            run -= 1
                            continue
                        next_run += 1
                        run = runs[next_run] if next_run < len(runs) else np.int64(1) << 62
                    coded[np.uint64(n)] = block
                    block_contexts[np.uint64(n)] = block_contexts[np.uint64(block)]
                    n += 1
        length = n * BLOCK
        if n > 0 and (n == blocks or coded[n - 1] == blocks - 1):
            length -= blocks * BLOCK - columns
        begin_row(contexts, length, slots)
        restore_row(
            residuals, partial, y, columns, tile, labels, classes, shift, current, reference,
            length, slots, words, cursor, limit, buffer, table,
        )  # fmt: skip
        if y >= 0:
            set_margins(current, y, columns)
        if n == blocks:
            finish_row(slots, words, length, residuals)
        else:
            finish_row(slots, words, length, packed)
            residuals[:] = 0
            for i in range(n):
                at = coded[np.uint64(i)] * BLOCK
                for k in range(BLOCK):
                    residuals[np.uint64(at + k)] = packed[np.uint64(i * BLOCK + k)]
    exact = True
    for stream in range(4):
        exact &= cursor[stream, 0] == 8 * starts[stream + 1] and cursor[stream, 1] == 0
    return exact
