"""Coding contexts from the sizes of errors that the decoder knows before it decodes a row.

The error map of a frame holds E = min(|residual| >> error_shift, 1023). The activity of a sample is a weighted
sum of E in the two rows above it and around it in the reference's error map; thresholds cut the activity into
N_CONTEXTS contexts. Nothing depends on the sample's own row, so a row of contexts is one vector loop, and the
entropy decoder need not wait for the predictor.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.ans import N_CONTEXTS
from dcmpress.codecs.interframe.geometry import ABOVE, SIDE
from dcmpress.codecs.jit import inline

MAX_ERROR = 1023
MAX_ACTIVITY = 4095
N_WEIGHTS = 10
"""N, NW, NE, NWW, NEE, NN, NNE+NNW; reference: centre, cross, corners."""
WEIGHT_SHIFT = 4

Array = NDArray[Any]


def error_shift(max_value: int) -> int:
    """Return by how much errors are scaled down in the map: more than 13 bits are not looked at."""
    return max(0, max_value.bit_length() - 13)


@inline
def error_row(residuals: Array, errors: Array, y: int, columns: int, shift: int) -> None:
    """Store row `y` of the error map, with its edges repeated at the sides."""
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    for x in range(columns):
        e = np.int32(residuals[np.uint64(x)])
        size = np.int32(max(e, np.int32(-e)) >> shift)
        errors[np.uint64(start + x)] = np.uint16(min(max(size, np.int32(0)), np.int32(MAX_ERROR)))
    for k in range(2):
        errors[start - 1 - k] = errors[start]
        errors[start + columns + k] = errors[start + columns - 1]


@inline
def activity_row(
    activity: Array, y: int, columns: int, errors: Array, reference: Array, weights: Array, level: int
) -> None:
    """Fill `activity`, int32 (columns,), for row `y`; above the first row every error is `level`."""
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    if y == 0:
        for above in range(1, 3):
            for k in range(-2, columns + 2):
                errors[start - above * line + k] = level
    w0, w1, w2, w3, w4, w5, w6 = (
        weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6],
    )  # fmt: skip
    north = start - line
    for x in range(columns):
        i = north + x
        total = np.int32(
            w0 * np.int32(errors[np.uint64(i)])
            + w1 * np.int32(errors[np.uint64(i - 1)])
            + w2 * np.int32(errors[np.uint64(i + 1)])
            + w3 * np.int32(errors[np.uint64(i - 2)])
            + w4 * np.int32(errors[np.uint64(i + 2)])
            + w5 * np.int32(errors[np.uint64(i - line)])
            + w6 * (np.int32(errors[np.uint64(i - line - 1)]) + np.int32(errors[np.uint64(i - line + 1)]))
        )
        activity[np.uint64(x)] = total
    if len(reference) > 0:
        w7, w8, w9 = weights[7], weights[8], weights[9]
        for x in range(columns):
            i = start + x
            total = np.int32(
                activity[np.uint64(x)]
                + w7 * np.int32(reference[np.uint64(i)])
                + w8
                * (
                    np.int32(reference[np.uint64(i - 1)])
                    + np.int32(reference[np.uint64(i + 1)])
                    + np.int32(reference[np.uint64(i - line)])
                    + np.int32(reference[np.uint64(i + line)])
                )
                + w9
                * (
                    np.int32(reference[np.uint64(i - line - 1)])
                    + np.int32(reference[np.uint64(i - line + 1)])
                    + np.int32(reference[np.uint64(i + line - 1)])
                    + np.int32(reference[np.uint64(i + line + 1)])
                )
            )
            activity[np.uint64(x)] = total
    for x in range(columns):
        activity[np.uint64(x)] = min(np.int32(activity[np.uint64(x)] >> WEIGHT_SHIFT), np.int32(MAX_ACTIVITY))


@inline
def context_row(contexts: Array, activity: Array, columns: int, thresholds: Array) -> int:
    """Fill `contexts`, uint8 (columns,): how many thresholds each activity reaches. Return the least."""
    for x in range(columns):
        contexts[np.uint64(x)] = 0
    for k in range(N_CONTEXTS - 1):
        threshold = np.int32(thresholds[k])
        for x in range(columns):
            contexts[np.uint64(x)] += np.uint8(activity[np.uint64(x)] >= threshold)
    least = np.uint8(N_CONTEXTS)
    for x in range(columns):
        least = min(least, contexts[np.uint64(x)])
    return np.int64(least)
