"""The frozen tables of the backward-adaptive core, made with integer arithmetic only.

Every table is part of the byte format. The values come from series in fixed point with 96 fractional
bits and are rounded once, so they are the same on every machine; `libm` has no say in them.
"""

import numpy as np
from numpy.typing import NDArray

_BITS = 96
_ONE = 1 << _BITS


def _exp_negative(numerator: int, denominator: int) -> int:
    """Return exp(-numerator / denominator) in fixed point, for an argument of 0 to 1."""
    x = (numerator << _BITS) // denominator
    total, term, k = _ONE, _ONE, 1
    while term:
        term = term * x // (k << _BITS)
        total += -term if k & 1 else term
        k += 1
    return total


def _ln(value: int) -> int:
    """Return ln(value) in fixed point; `value` is in fixed point and positive."""
    shift = value.bit_length() - 1 - _BITS
    mantissa = value >> shift if shift >= 0 else value << -shift
    return _ln_series(mantissa) + shift * _LN2


def _ln_series(value: int) -> int:
    # ln v = 2 artanh((v - 1) / (v + 1)), for v of 1 to 2.
    y = ((value - _ONE) << _BITS) // (value + _ONE)
    square = y * y >> _BITS
    total, power, k = 0, y, 1
    while power:
        total += power // k
        power = power * square >> _BITS
        k += 2
    return 2 * total


_LN2 = _ln_series(2 * _ONE)


def _round_shift(value: int, bits: int) -> int:
    return (value + (1 << (bits - 1))) >> bits


def _exp_ladder(n: int, steps_per_unit: int) -> list[int]:
    """Return exp(-i / steps_per_unit) in fixed point for i = 0 to n - 1."""
    step = _exp_negative(1, steps_per_unit)
    ladder = [_ONE]
    for _ in range(n - 1):
        ladder.append(ladder[-1] * step >> _BITS)
    return ladder


def _squash() -> NDArray[np.int32]:
    ladder = _exp_ladder(2049, 128)
    lower = [_round_shift((e << _BITS) // (_ONE + e), _BITS - 16) for e in ladder]
    values = [lower[2048 - i] for i in range(2048)] + [65536 - lower[i] for i in range(2048)]
    return np.clip(np.array(values), 1, 65535).astype(np.uint16)


def _quantiles() -> NDArray[np.int32]:
    # heap of 15 logistic quantiles ln(p / (1 - p)), p = (2 i + 1) / 2^(d + 1), in 1/1024.
    values = [0]
    for depth in range(4):
        n = 2 << depth
        for i in range(1 << depth):
            p = 2 * i + 1
            values.append(_round_shift(_ln(p * _ONE) - _ln((n - p) * _ONE), _BITS - 10))
    return np.array(values, dtype=np.int32)


def _ratio_classes() -> NDArray[np.int32]:
    # floor(2.5 log2(1 + r)), at most 7, for r in steps of 1/16.
    values = []
    for i in range(128):
        q = 0
        # 2.5 log2(v) >= q + 1  <=>  v^5 >= 4^(q + 1)
        while q < 7 and (16 + i) ** 5 >= 16**5 << (2 * (q + 1)):
            q += 1
        values.append(q)
    return np.array(values, dtype=np.int32)


SQUASH = _squash()
# Its inverse: 256 ln(p / (65536 - p)) for p = 16 i + 8, to the next 1/128 nat.
STRETCH = np.clip(2 * np.searchsorted(SQUASH, 16 * np.arange(4096) + 8) - 4096, -2047, 2047).astype(np.int32)
QUANTILE = _quantiles()
RATIO_CLASS = _ratio_classes()
RECIPROCAL = np.array([131072 // (2 * n + 3) for n in range(256)], dtype=np.int32)
# Mean |error| that a class starts with, 2^(c / 5 - 2) levels, in 1/16 level; fifth roots of 2 as literals.
_ROOTS = (1.0, 1.148698354997035, 1.3195079107728942, 1.515716566510398, 1.7411011265922482)
CLASS_ERROR = np.array([4.0 * _ROOTS[c % 5] * 2.0 ** (c // 5) for c in range(96)], dtype=np.float32)

# What the mixer starts from, by node and lane, in 1/256: the weights that it ended with, averaged over CT,
# MR, PET, angiography and ultrasound series. Rounded, frozen.
INITIAL_WEIGHTS = np.array(
    [
        [49, 49, 49, 49, 49, 0, 0, 0],
        [-2, 22, 99, 115, 20, -69, 21, 19],
        [9, 40, 81, 123, 3, -14, 16, 17],
        [8, 39, 74, 140, 7, -31, 11, 11],
        [13, 55, 78, 110, -4, 12, 7, 11],
        [23, 53, 52, 53, 27, -12, 26, 31],
        [34, 52, 56, 54, 30, -8, 30, 28],
        [11, 55, 73, 117, 5, -4, 5, 8],
        [16, 62, 80, 99, -9, 25, 2, 6],
        [26, 56, 56, 56, 25, 3, 1, 0],
        [37, 48, 48, 48, 37, -3, 4, 10],
        [45, 48, 48, 47, 37, -4, 8, 12],
        [49, 49, 46, 45, 37, -3, 13, 13],
        [41, 53, 53, 50, 41, 0, 5, 6],
        [37, 58, 60, 59, 32, 5, 4, -4],
        [18, 64, 74, 103, -1, 14, 0, 3],
        [32, 70, 75, 106, 0, 28, 5, 6],
        [53, 64, 77, 76, 12, 25, 0, 0],
        [36, 41, 49, 44, 22, 4, -7, -7],
        [28, 29, 31, 10, 26, -16, -17, -13],
        [22, 19, 25, 12, 18, -11, -18, -26],
        [31, 26, 32, 25, 20, -12, -11, -8],
        [42, 21, 29, -4, 31, -16, -23, -16],
        [49, 49, 49, 49, 49, 0, 0, 0],
        [43, 67, 94, 113, -1, 37, 4, 2],
        [53, 61, 76, 84, 34, 24, 4, 4],
        [36, 49, 53, 46, 49, 4, 0, -4],
        [20, 33, 32, 14, 49, -16, -10, -10],
        [16, 23, 14, -2, 48, -25, -17, -9],
        [49, 49, 49, 49, 49, 0, 0, 0],
        [49, 49, 49, 49, 49, 0, 0, 0],
        [49, 49, 49, 49, 49, 0, 0, 0],
    ],
    dtype=np.int32,
)
