"""Linear prediction with one set of coefficients per tile.

Every tile has a label: below COPY the number of a coefficient set ("class"), COPY the reference's sample,
NORTH the sample above (for flat areas, where it is as good as any and fast), MEDIAN the median edge detector of
JPEG-LS (ITU-T T.87, A.4.1). Sums run in int32, wrapping; a prediction is (half + sum c_i n_i) >> shift. The
coefficients of a class sum to 1 << shift, so that a flat area is predicted exactly and an offset cancels.

The first row is predicted by W, or by W + reference - reference's W.

The prediction of a row is a vector loop over everything but W and WW, which belong to the same row, and a
short serial loop for those two.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.geometry import ABOVE, SIDE
from dcmpress.codecs.jit import inline

MAX_CLASSES = 128
COPY = 128
MEDIAN = 129
NORTH = 130

# Taps as (frame, dy, dx): frame 0 is the one being coded, 1 its reference, 2 and up that frame's own ones.
SPATIAL_TAPS = (
    (0, 0, -1), (0, 0, -2),
    *((0, -1, dx) for dx in range(-3, 4)),
    *((0, -2, dx) for dx in range(-2, 3)),
    *((0, -3, dx) for dx in range(-1, 2)),
)  # fmt: skip
REFERENCE_TAPS = (
    *((1, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)),
    (1, -2, 0), (1, 2, 0), (1, 0, -2), (1, 0, 2),
)  # fmt: skip
MAX_EXTRA = 4
EXTRA_TAPS = tuple((2 + k, 0, 0) for k in range(MAX_EXTRA))
TAPS = SPATIAL_TAPS + REFERENCE_TAPS + EXTRA_TAPS
N_TAPS = len(TAPS)
N_SPATIAL = len(SPATIAL_TAPS)
NEAR_TAPS = (0, 1, 3, 4, 5, 6, 7, 10, 11, 12, *range(17, 26), *range(30, N_TAPS))
_FAR_TAPS = np.array([k for k in range(N_TAPS) if k not in NEAR_TAPS])

Array = NDArray[Any]


def coefficient_shift(max_value: int) -> int:
    """Return the fraction bits of coefficients: the prediction must fit 32 bits before the shift."""
    return 13 if max_value < 1 << 14 else 11


def is_wide(classes: Array) -> bool:
    """Whether any class has a tap outside NEAR_TAPS."""
    return bool(classes[:, _FAR_TAPS].any())


@inline
def _spatial(
    partial: Array, start: Any, n: Any, at: Any, line: Any, current: Array, c: Array, half: Any
) -> None:
    c2, c3, c4, c5, c6, c7, c8 = c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    c9, c10, c11, c12, c13 = c[9], c[10], c[11], c[12], c[13]
    c14, c15, c16 = c[14], c[15], c[16]
    b1 = at - line - 3
    b2 = at - 2 * line - 2
    b3 = at - 3 * line - 1
    for x in range(n):
        partial[np.uint64(start + x)] = np.int32(
            half
            + c2 * current[np.uint64(b1 + x)]
            + c3 * current[np.uint64(b1 + x + 1)]
            + c4 * current[np.uint64(b1 + x + 2)]
            + c5 * current[np.uint64(b1 + x + 3)]
            + c6 * current[np.uint64(b1 + x + 4)]
            + c7 * current[np.uint64(b1 + x + 5)]
            + c8 * current[np.uint64(b1 + x + 6)]
            + c9 * current[np.uint64(b2 + x)]
            + c10 * current[np.uint64(b2 + x + 1)]
            + c11 * current[np.uint64(b2 + x + 2)]
            + c12 * current[np.uint64(b2 + x + 3)]
            + c13 * current[np.uint64(b2 + x + 4)]
            + c14 * current[np.uint64(b3 + x)]
            + c15 * current[np.uint64(b3 + x + 1)]
            + c16 * current[np.uint64(b3 + x + 2)]
        )


@inline
def _spatial_near(
    partial: Array, start: Any, n: Any, at: Any, line: Any, current: Array, c: Array, half: Any
) -> None:
    c3, c4, c5, c6, c7, c10, c11, c12 = c[3], c[4], c[5], c[6], c[7], c[10], c[11], c[12]
    b1 = at - line - 2
    b2 = at - 2 * line - 1
    for x in range(n):
        partial[np.uint64(start + x)] = np.int32(
            half
            + c3 * current[np.uint64(b1 + x)]
            + c4 * current[np.uint64(b1 + x + 1)]
            + c5 * current[np.uint64(b1 + x + 2)]
            + c6 * current[np.uint64(b1 + x + 3)]
            + c7 * current[np.uint64(b1 + x + 4)]
            + c10 * current[np.uint64(b2 + x)]
            + c11 * current[np.uint64(b2 + x + 1)]
            + c12 * current[np.uint64(b2 + x + 2)]
        )


@inline
def _temporal_near(
    partial: Array, start: Any, n: Any, at: Any, line: Any, reference: Array, c: Array
) -> None:
    c17, c18, c19, c20, c21 = c[17], c[18], c[19], c[20], c[21]
    c22, c23, c24, c25 = c[22], c[23], c[24], c[25]
    b0 = at - 1
    b1 = at - line - 1
    b2 = at + line - 1
    for x in range(n):
        partial[np.uint64(start + x)] = np.int32(
            partial[np.uint64(start + x)]
            + c17 * reference[np.uint64(b1 + x)]
            + c18 * reference[np.uint64(b1 + x + 1)]
            + c19 * reference[np.uint64(b1 + x + 2)]
            + c20 * reference[np.uint64(b0 + x)]
            + c21 * reference[np.uint64(b0 + x + 1)]
            + c22 * reference[np.uint64(b0 + x + 2)]
            + c23 * reference[np.uint64(b2 + x)]
            + c24 * reference[np.uint64(b2 + x + 1)]
            + c25 * reference[np.uint64(b2 + x + 2)]
        )


@inline
def _temporal(partial: Array, start: Any, n: Any, at: Any, line: Any, reference: Array, c: Array) -> None:
    c17, c18, c19, c20, c21 = c[17], c[18], c[19], c[20], c[21]
    c22, c23, c24, c25 = c[22], c[23], c[24], c[25]
    c26, c27, c28, c29 = c[26], c[27], c[28], c[29]
    b0 = at - 2
    b1 = at - line - 1
    b2 = at + line - 1
    b3 = at - 2 * line
    b4 = at + 2 * line
    for x in range(n):
        partial[np.uint64(start + x)] = np.int32(
            partial[np.uint64(start + x)]
            + c17 * reference[np.uint64(b1 + x)]
            + c18 * reference[np.uint64(b1 + x + 1)]
            + c19 * reference[np.uint64(b1 + x + 2)]
            + c20 * reference[np.uint64(b0 + x + 1)]
            + c21 * reference[np.uint64(b0 + x + 2)]
            + c22 * reference[np.uint64(b0 + x + 3)]
            + c23 * reference[np.uint64(b2 + x)]
            + c24 * reference[np.uint64(b2 + x + 1)]
            + c25 * reference[np.uint64(b2 + x + 2)]
            + c26 * reference[np.uint64(b3 + x)]
            + c27 * reference[np.uint64(b4 + x)]
            + c28 * reference[np.uint64(b0 + x)]
            + c29 * reference[np.uint64(b0 + x + 4)]
        )


@inline
def _extra(partial: Array, start: Any, n: Any, at: Any, frame: Array, c: Any) -> None:
    for x in range(n):
        partial[np.uint64(start + x)] = np.int32(partial[np.uint64(start + x)] + c * frame[np.uint64(at + x)])


@inline
def partial_row(
    partial: Array,
    y: Any,
    columns: Any,
    tile: Any,
    labels: Array,
    classes: Array,
    shift: Any,
    current: Array,
    reference: Array,
    n_extra: Any,
    extra: Array,
    wide: bool,
) -> None:
    """Fill `partial`, int32 (columns,), with half + the taps outside row `y`, where the label is a class.

    `wide`: whether a coefficient other than those of NEAR_TAPS may differ from 0.
    """
    line = columns + 2 * SIDE
    half = np.int32(1 << (shift - 1))
    row_labels = labels[y // tile]
    x = 0
    while x < columns:
        label = row_labels[x // tile]
        end = x + tile
        while end < columns and row_labels[end // tile] == label:
            end += tile
        end = min(end, columns)
        if label < COPY:
            at = (ABOVE + y) * line + SIDE + x
            c = classes[label]
            if wide:
                _spatial(partial, x, end - x, at, line, current, c, half)
            else:
                _spatial_near(partial, x, end - x, at, line, current, c, half)
            if len(reference) > 0:
                if wide:
                    _temporal(partial, x, end - x, at, line, reference, c)
                else:
                    _temporal_near(partial, x, end - x, at, line, reference, c)
                for k in range(n_extra):
                    _extra(partial, x, end - x, at, extra[k], c[30 + k])
        x = end


@inline
def median_of(w: Any, n: Any, nw: Any) -> Any:
    low = min(w, n)
    high = max(w, n)
    return low if nw >= high else (high if nw <= low else w + n - nw)


@inline
def residual_row(
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
) -> None:
    """Fill `residuals`, int32 (columns,), with the samples of row `y` less their predictions."""
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    if y == 0:
        residuals[0] = current[start] - (reference[start] if len(reference) > 0 else 0)
        for x in range(1, columns):
            e = current[start + x] - current[start + x - 1]
            if len(reference) > 0:
                e -= reference[start + x] - reference[start + x - 1]
            residuals[x] = e
        return
    row_labels = labels[y // tile]
    for first in range(0, columns, tile):
        label = row_labels[first // tile]
        end = min(first + tile, columns)
        if label < COPY:
            c0 = classes[label, 0]
            c1 = classes[label, 1]
            for x in range(first, end):
                total = np.int32(
                    partial[np.uint64(x)]
                    + c0 * current[np.uint64(start + x - 1)]
                    + c1 * current[np.uint64(start + x - 2)]
                )
                residuals[np.uint64(x)] = np.int32(current[np.uint64(start + x)] - (total >> shift))
        elif label == COPY:
            for x in range(first, end):
                residuals[np.uint64(x)] = np.int32(
                    current[np.uint64(start + x)] - reference[np.uint64(start + x)]
                )
        elif label == NORTH:
            for x in range(first, end):
                residuals[np.uint64(x)] = np.int32(
                    current[np.uint64(start + x)] - current[np.uint64(start + x - line)]
                )
        else:
            for x in range(first, end):
                i = start + x
                predicted = median_of(
                    current[np.uint64(i - 1)], current[np.uint64(i - line)], current[np.uint64(i - line - 1)]
                )
                residuals[np.uint64(x)] = np.int32(current[np.uint64(i)] - predicted)
