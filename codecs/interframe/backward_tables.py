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
    return np.clip(np.array(values, dtype=np.int32), 1, 65535)


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
QUANTILE = _quantiles()
RATIO_CLASS = _ratio_classes()
