"""A row of samples from its residuals, while the next row's residuals are read.

Both are chains in which each step waits for the one before: a sample needs its left neighbours, an entropy decoder
its state. Neither needs the other, so they take turns in one loop, and each works while the other waits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.ans import close_row, open_row, pull_two
from dcmpress.codecs.bits import shifted
from dcmpress.codecs.interframe.geometry import ABOVE, SIDE
from dcmpress.codecs.interframe.predict import COPY, NORTH, median_of
from dcmpress.codecs.jit import inline

Array = NDArray[Any]


@inline
def _first_row(residuals: Array, columns: Any, current: Array, reference: Array) -> None:
    start = ABOVE * (columns + 2 * SIDE) + SIDE
    value = np.int32(residuals[0] + (reference[start] if len(reference) > 0 else 0))
    current[start] = value
    for x in range(1, columns):
        value = np.int32(value + residuals[x])
        if len(reference) > 0:
            value = np.int32(value + reference[start + x] - reference[start + x - 1])
        current[start + x] = value


@inline
def _next(partial: Array, i: Any, taps: Any, shift: Any, current: Array, start: Any) -> Any:
    """Restore sample `i` of a row; taps: coefficients of W and WW, and these."""
    c0, c1, w, ww = taps
    total = np.int32(np.int32(partial[np.uint64(i)] + c1 * ww) + c0 * w)
    value = shifted(total, shift)
    current[np.uint64(start + i)] = value
    return c0, c1, value, w


@inline
def restore_row(
    residuals: Array,
    partial: Array,
    y: Any,
    columns: Any,
    tile: Any,
    labels: Array,
    classes: Array,
    shift: Any,
    current: Array,
    reference: Array,
    length: Any,
    slots: Array,
    words: Array,
    cursor: Array,
    limit: Any,
    buffer: Array,
    table: Array,
) -> None:
    """Write row `y` of `current` (none if it is -1), the inverse of `residual_row`; read `length` values of the next.

    Parameters
    ----------
    partial
        As `partial_row` leaves it; overwritten.
    slots, words : uint32 arrays
        See `begin_row`; what `finish_row` makes values of.
    cursor, limit, buffer, table
        Of the entropy decoder: see `open_row`.
    """
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    first, second, third, fourth = open_row(cursor, limit)
    down, unit = np.int32(shift), np.int32(1 << shift)
    n = 0
    x = 0
    if y <= 0:
        x = columns
    if y == 0:
        _first_row(residuals, columns, current, reference)
    row_labels = labels[max(y, 0) // tile]
    while x < columns:
        label = row_labels[x // tile]
        end = x + tile
        while end < columns and row_labels[end // tile] == label:
            end += tile
        end = min(end, columns)
        if label < COPY:
            # Residuals go in before the shift: one addition less between a sample and the next. All that fits
            # 32 bits if the samples are in their range, which is checked when the frame is done.
            for i in range(x, end):
                partial[np.uint64(i)] = np.int32(partial[np.uint64(i)] + unit * residuals[np.uint64(i)])
            taps = (
                np.int32(classes[label, 0]), np.int32(classes[label, 1]),
                np.int32(current[start + x - 1]), np.int32(current[start + x - 2]),
            )  # fmt: skip
            i = x
            while i + 8 <= end and n + 8 <= length:
                first = pull_two(first, n, slots, words, buffer, table)
                taps = _next(partial, i, taps, down, current, start)
                taps = _next(partial, i + 1, taps, down, current, start)
                second = pull_two(second, n + 1, slots, words, buffer, table)
                taps = _next(partial, i + 2, taps, down, current, start)
                taps = _next(partial, i + 3, taps, down, current, start)
                third = pull_two(third, n + 2, slots, words, buffer, table)
                taps = _next(partial, i + 4, taps, down, current, start)
                taps = _next(partial, i + 5, taps, down, current, start)
                fourth = pull_two(fourth, n + 3, slots, words, buffer, table)
                taps = _next(partial, i + 6, taps, down, current, start)
                taps = _next(partial, i + 7, taps, down, current, start)
                n += 8
                i += 8
            while i < end:
                taps = _next(partial, i, taps, down, current, start)
                i += 1
        elif label == COPY:
            for i in range(x, end):
                current[np.uint64(start + i)] = np.int32(
                    reference[np.uint64(start + i)] + residuals[np.uint64(i)]
                )
        elif label == NORTH:
            for i in range(x, end):
                current[np.uint64(start + i)] = np.int32(
                    current[np.uint64(start + i - line)] + residuals[np.uint64(i)]
                )
        else:
            w = np.int32(current[start + x - 1])
            for i in range(x, end):
                at = start + i - line
                north = current[np.uint64(at)]
                w = np.int32(median_of(w, north, current[np.uint64(at - 1)]) + residuals[np.uint64(i)])
                current[np.uint64(start + i)] = w
        x = end
    while n + 8 <= length:
        first = pull_two(first, n, slots, words, buffer, table)
        second = pull_two(second, n + 1, slots, words, buffer, table)
        third = pull_two(third, n + 2, slots, words, buffer, table)
        fourth = pull_two(fourth, n + 3, slots, words, buffer, table)
        n += 8
    close_row((first, second, third, fourth), n, length, cursor, slots, words, buffer, table)
