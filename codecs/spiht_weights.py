"""Coefficients as SPIHT codes them, magnitudes shifted to their weight, and back."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import njit
from dcmpress.codecs.spiht_tree import ABSENT


@njit
def weigh(
    vector: NDArray[np.int32], lowest: NDArray[np.uint8]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_], NDArray[np.uint8]]:
    """Return shifted magnitudes, whether negative, and the number of bits of each magnitude.

    Parameters
    ----------
    vector : ndarray, shape (n,), int32
        Coefficients in the order of the tree; 0 where `lowest` is `ABSENT`.
    lowest : ndarray, shape (n,), uint8
        By how much each is shifted (`Tree.lowest`).
    """
    magnitudes = np.zeros(vector.size, np.uint32)
    negative = np.zeros(vector.size, np.bool_)
    levels = np.zeros(vector.size, np.uint8)
    for i in range(vector.size):
        value = vector[i]
        if value == 0:
            continue
        negative[i] = value < 0
        magnitude = np.uint32(abs(np.int64(value))) << np.uint32(lowest[i])
        magnitudes[i] = magnitude
        n = np.uint8(0)
        while magnitude:
            magnitude >>= np.uint32(1)
            n += np.uint8(1)
        levels[i] = n
    return magnitudes, negative, levels


@njit
def unweigh(values: NDArray[np.int32], lowest: NDArray[np.uint8]) -> None:
    """Turn twice the shifted values into coefficients, in place; halves round away from zero.

    A fully decoded coefficient has none.
    """
    for i in range(values.size):
        value = np.int64(values[i])
        if value != 0 and lowest[i] != ABSENT:
            shift = np.int64(lowest[i]) + 1
            magnitude = (abs(value) + (np.int64(1) << (shift - 1))) >> shift
            values[i] = magnitude if value > 0 else -magnitude


@njit
def fill_intervals(values: NDArray[np.int32], bits: int) -> None:
    """Turn twice the values into coefficients with `bits` more fractional bits, in place.

    After the last plane a magnitude is only known to lie in [v, v + 1); half a unit puts it in the middle.
    """
    for i in range(values.size):
        value = np.int64(values[i])
        if value != 0:
            magnitude = (abs(value) << (bits - 1)) + (np.int64(1) << (bits - 1))
            values[i] = np.int32(magnitude if value > 0 else -magnitude)
