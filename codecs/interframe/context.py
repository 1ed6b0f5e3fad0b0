"""Coding contexts from the sizes of errors that the decoder knows before it decodes a row.

The error map of a frame holds E = min(|residual| >> error_shift, 255). The activity of a sample is a weighted
sum of E in the two rows above it and around it in the reference's error map; thresholds cut the activity into
N_CONTEXTS contexts. Nothing depends on the sample's own row, so a row of contexts is one vector loop, and the
entropy decoder need not wait for the predictor.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.ans import N_CONTEXTS
from dcmpress.codecs.bits import shifted
from dcmpress.codecs.interframe.geometry import ABOVE, SIDE
from dcmpress.codecs.jit import inline

MAX_ERROR = 255
MAX_WEIGHT_SUM = 257
"""Of all weights as often as they are applied: an activity before its shift fits 16 bits."""
MAX_ACTIVITY = MAX_ERROR * MAX_WEIGHT_SUM >> 4
N_WEIGHTS = 10
"""N, NW, NE, NWW, NEE, NN, NNE+NNW; reference: centre, cross, corners."""
WEIGHT_USES = np.array([1, 1, 1, 1, 1, 1, 2, 1, 4, 4])
WEIGHT_SHIFT = 4

Array = NDArray[Any]


def error_shift(max_value: int) -> int:
    """Return by how much errors are scaled down in the map: more than 13 bits are not looked at."""
    return max(0, max_value.bit_length() - 13)


@inline
def error_row(residuals: Array, errors: Array, y: Any, columns: Any, shift: Any) -> None:
    """Store row `y` of the error map, with its edges repeated at the sides."""
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    down = np.int32(shift)
    for x in range(columns):
        e = np.int32(residuals[np.uint64(x)])
        size = shifted(max(e, np.int32(-e)), down)
        errors[np.uint64(start + x)] = np.uint16(min(max(size, np.int32(0)), np.int32(MAX_ERROR)))
    for k in range(2):
        errors[start - 1 - k] = errors[start]
        errors[start + columns + k] = errors[start + columns - 1]


@inline
def activity_row(
    activity: Array, y: Any, columns: Any, errors: Array, reference: Array, weights: Array, level: Any
) -> None:
    """Fill `activity`, int16 (columns,), for row `y`; above the first row every error is `level`.

    `weights` is uint16; see MAX_WEIGHT_SUM.
    """
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    if y == 0:
        for above in range(1, 3):
            for k in range(-2, columns + 2):
                errors[start - above * line + k] = level
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 = (
        weights[0], weights[1], weights[2], weights[3], weights[4],
        weights[5], weights[6], weights[7], weights[8], weights[9],
    )  # fmt: skip
    north = start - line
    if len(reference) > 0:
        for x in range(columns):
            i = north + x
            j = start + x
            total = np.uint16(
                w0 * errors[np.uint64(i)]
                + w1 * errors[np.uint64(i - 1)]
                + w2 * errors[np.uint64(i + 1)]
                + w3 * errors[np.uint64(i - 2)]
                + w4 * errors[np.uint64(i + 2)]
                + w5 * errors[np.uint64(i - line)]
                + w6 * (errors[np.uint64(i - line - 1)] + errors[np.uint64(i - line + 1)])
                + w7 * reference[np.uint64(j)]
                + w8
                * (
                    reference[np.uint64(j - 1)]
                    + reference[np.uint64(j + 1)]
                    + reference[np.uint64(j - line)]
                    + reference[np.uint64(j + line)]
                )
                + w9
                * (
                    reference[np.uint64(j - line - 1)]
                    + reference[np.uint64(j - line + 1)]
                    + reference[np.uint64(j + line - 1)]
                    + reference[np.uint64(j + line + 1)]
                )
            )
            activity[np.uint64(x)] = np.int16(total >> WEIGHT_SHIFT)
    else:
        for x in range(columns):
            i = north + x
            total = np.uint16(
                w0 * errors[np.uint64(i)]
                + w1 * errors[np.uint64(i - 1)]
                + w2 * errors[np.uint64(i + 1)]
                + w3 * errors[np.uint64(i - 2)]
                + w4 * errors[np.uint64(i + 2)]
                + w5 * errors[np.uint64(i - line)]
                + w6 * (errors[np.uint64(i - line - 1)] + errors[np.uint64(i - line + 1)])
            )
            activity[np.uint64(x)] = np.int16(total >> WEIGHT_SHIFT)


@inline
def context_row(contexts: Array, activity: Array, columns: Any, thresholds: Array) -> Any:
    """Fill `contexts`, uint8 (columns,): how many of the 15 thresholds, int16, each activity reaches.

    Return the least.
    """
    t0, t1, t2, t3, t4 = thresholds[0], thresholds[1], thresholds[2], thresholds[3], thresholds[4]
    t5, t6, t7, t8, t9 = thresholds[5], thresholds[6], thresholds[7], thresholds[8], thresholds[9]
    t10, t11, t12, t13, t14 = thresholds[10], thresholds[11], thresholds[12], thresholds[13], thresholds[14]
    # The sign of a difference, -1 or 0, stays in 16 bits, where a comparison would be widened: 2.6 times faster.
    for x in range(columns):
        a = activity[np.uint64(x)]
        below = np.int16(
            np.int16(np.int16(a - t0) >> 15) + np.int16(np.int16(a - t1) >> 15)
            + np.int16(np.int16(a - t2) >> 15) + np.int16(np.int16(a - t3) >> 15)
            + np.int16(np.int16(a - t4) >> 15) + np.int16(np.int16(a - t5) >> 15)
            + np.int16(np.int16(a - t6) >> 15) + np.int16(np.int16(a - t7) >> 15)
            + np.int16(np.int16(a - t8) >> 15) + np.int16(np.int16(a - t9) >> 15)
            + np.int16(np.int16(a - t10) >> 15) + np.int16(np.int16(a - t11) >> 15)
            + np.int16(np.int16(a - t12) >> 15) + np.int16(np.int16(a - t13) >> 15)
            + np.int16(np.int16(a - t14) >> 15)
        )  # fmt: skip
        contexts[np.uint64(x)] = np.uint8(below + N_CONTEXTS - 1)
    least = np.uint8(N_CONTEXTS)
    for x in range(columns):
        least = min(least, contexts[np.uint64(x)])
    return np.int64(least)
