"""Integer wavelet transforms by lifting, of images of any size: the reversible 5/3 and a fixed-point 9/7.

The 5/3 is that of JPEG 2000 (ISO/IEC 15444-1, annex F.3): integers to integers, undone exactly. The 9/7 is
bior4.4 (Cohen, Daubechies, Feauveau) in the lifting steps of Daubechies and Sweldens, "Factoring wavelet
transforms into lifting steps" (1998), with constants of 24 fractional bits, so that every machine computes
the same bits; it is undone up to rounding. Signals are extended symmetrically about their end samples.

Coefficients take the place of the pixels: each level leaves ceil(n / 2) low-pass and floor(n / 2) high-pass
coefficients of an axis of n, low-pass first; the next level goes on with the low-pass corner.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import njit

# One lifting step per row: which samples change (0 even, 1 odd), factor, rounding offset, shift.
STEPS_53 = np.array([[1, -1, 1, 1], [0, 1, 2, 2]], np.int64)
"""d -= floor((s + s') / 2), then s += floor((d + d' + 2) / 4)."""

_BITS = 24
_ONE = 1 << _BITS
STEPS_97 = np.array(
    [
        [parity, round(factor * _ONE), _ONE // 2, _BITS]
        for parity, factor in (
            (1, -1.586134342059924),
            (0, -0.052980118572961),
            (1, 0.882911075530934),
            (0, 0.443506852043971),
        )
    ],
    np.int64,
)
_SCALE = 1.149604398860241
SCALES_53 = np.array([0, 0], np.int64)
SCALES_97 = np.array([round(_SCALE * _ONE), round(_ONE / _SCALE)], np.int64)
"""Factors of the low-pass and the high-pass coefficients: the low-pass gain is then sqrt(2) as in bior4.4."""

FRACTION_97 = 6
"""Fractional bits that an image gets before the 9/7."""


@njit
def _lift_down(block: NDArray[np.int32], steps: NDArray[np.int64], inverse: bool) -> None:
    """Lift along the first axis, in place."""
    n, m = block.shape
    if n == 1:
        return
    for k in range(steps.shape[0]):
        at = steps.shape[0] - 1 - k if inverse else k
        factor, offset, shift = steps[at, 1], steps[at, 2], steps[at, 3]
        for i in range(steps[at, 0], n, 2):
            before = block[i - 1] if i > 0 else block[i + 1]
            after = block[i + 1] if i + 1 < n else block[i - 1]
            row = block[i]
            if inverse:
                for j in range(m):
                    row[j] -= np.int32(
                        (factor * (np.int64(before[j]) + np.int64(after[j])) + offset) >> shift
                    )
            else:
                for j in range(m):
                    row[j] += np.int32(
                        (factor * (np.int64(before[j]) + np.int64(after[j])) + offset) >> shift
                    )


@njit
def _lift_across(block: NDArray[np.int32], steps: NDArray[np.int64], inverse: bool) -> None:
    """Lift along the second axis, in place."""
    n, m = block.shape
    if m == 1:
        return
    for i in range(n):
        row = block[i]
        for k in range(steps.shape[0]):
            at = steps.shape[0] - 1 - k if inverse else k
            factor, offset, shift = steps[at, 1], steps[at, 2], steps[at, 3]
            sign = np.int64(-1) if inverse else np.int64(1)
            first = steps[at, 0]
            if first == 0:
                step = (factor * (np.int64(row[1]) + np.int64(row[1])) + offset) >> shift
                row[0] += np.int32(sign * step)
                first = 2
            j = first
            while j + 1 < m:
                step = (factor * (np.int64(row[j - 1]) + np.int64(row[j + 1])) + offset) >> shift
                row[j] += np.int32(sign * step)
                j += 2
            if j < m:
                step = (factor * (np.int64(row[j - 1]) + np.int64(row[j - 1])) + offset) >> shift
                row[j] += np.int32(sign * step)


@njit
def _scale(block: NDArray[np.int32], low: int, high: int) -> None:
    """Multiply even and odd samples of both axes by their factors (24 fractional bits)."""
    n, m = block.shape
    half = np.int64(_ONE // 2)
    for i in range(n):
        down = np.int64(_ONE) if n == 1 else (np.int64(high) if i & 1 else np.int64(low))
        for j in range(m):
            across = np.int64(_ONE) if m == 1 else (np.int64(high) if j & 1 else np.int64(low))
            value = (np.int64(block[i, j]) * down + half) >> _BITS
            block[i, j] = np.int32((value * across + half) >> _BITS)


@njit
def _forward(
    image: NDArray[np.int32], levels: int, steps: NDArray[np.int64], scales: NDArray[np.int64]
) -> None:
    n, m = image.shape
    for _ in range(levels):
        block = image[:n, :m].copy()
        _lift_down(block, steps, False)
        _lift_across(block, steps, False)
        if scales[0]:
            _scale(block, scales[0], scales[1])
        low_n, low_m = (n + 1) // 2, (m + 1) // 2
        for i in range(n):
            to = i // 2 + (low_n if i & 1 else 0)
            for j in range(low_m):
                image[to, j] = block[i, 2 * j]
            for j in range(m - low_m):
                image[to, low_m + j] = block[i, 2 * j + 1]
        n, m = low_n, low_m


@njit
def _inverse(
    image: NDArray[np.int32], levels: int, steps: NDArray[np.int64], scales: NDArray[np.int64]
) -> None:
    rows, columns = image.shape
    for level in range(levels - 1, -1, -1):
        n = (rows + (1 << level) - 1) >> level
        m = (columns + (1 << level) - 1) >> level
        low_n, low_m = (n + 1) // 2, (m + 1) // 2
        block = np.empty((n, m), np.int32)
        for i in range(n):
            source = i // 2 + (low_n if i & 1 else 0)
            for j in range(low_m):
                block[i, 2 * j] = image[source, j]
            for j in range(m - low_m):
                block[i, 2 * j + 1] = image[source, low_m + j]
        if scales[0]:
            _scale(block, scales[1], scales[0])
        _lift_across(block, steps, True)
        _lift_down(block, steps, True)
        image[:n, :m] = block


def forward_53(image: NDArray[np.int32], levels: int) -> NDArray[np.int32]:
    """Return the 5/3 coefficients of `image`, shape (rows, columns), int32, below 2**24 in magnitude."""
    coefficients = np.array(image, np.int32, order="C")
    _forward(coefficients, levels, STEPS_53, SCALES_53)
    return coefficients


def inverse_53(coefficients: NDArray[np.int32], levels: int) -> NDArray[np.int32]:
    """Undo `forward_53` exactly."""
    image = np.array(coefficients, np.int32, order="C")
    _inverse(image, levels, STEPS_53, SCALES_53)
    return image


def forward_97(image: NDArray[np.int32], levels: int) -> NDArray[np.int32]:
    """Return the 9/7 coefficients of `image`, shape (rows, columns), int32, with fractional bits.

    `image` holds integers of at most 17 bits; `levels` is at most 6.
    """
    coefficients = np.array(image, np.int32, order="C") << np.int32(FRACTION_97)
    _forward(coefficients, levels, STEPS_97, SCALES_97)
    return coefficients


def inverse_97(coefficients: NDArray[np.int32], levels: int) -> NDArray[np.int32]:
    """Undo `forward_97` up to rounding; the result is rounded to integers."""
    image = np.array(coefficients, np.int32, order="C")
    _inverse(image, levels, STEPS_97, SCALES_97)
    return (image + np.int32(1 << (FRACTION_97 - 1))) >> np.int32(FRACTION_97)
