"""Labels of tiles and counts of symbols as side information, each under a context of what went before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.side import decode_values
from dcmpress.codecs.jit import inline, njit

N_LABEL_CONTEXTS = 2
N_COUNT_CONTEXTS = 17

Array = NDArray[Any]


@inline
def _neighbours(labels: Array, y: int, x: int) -> Any:
    north = labels[y - 1, x] if y > 0 else (labels[y, x - 1] if x > 0 else 0)
    west = labels[y, x - 1] if x > 0 else north
    return north, west


@njit
def label_values(labels: Array, first_context: int, values: Array, contexts: Array) -> None:
    """Turn labels into values: 0 like the tile above, 1 like the tile at the left, else 2 + label."""
    i = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            north, west = _neighbours(labels, y, x)
            label = labels[y, x]
            values[i] = 0 if label == north else (1 if label == west else 2 + label)
            contexts[i] = first_context + (0 if north == west else 1)
            i += 1


@njit
def read_labels(labels: Array, first_context: int, probabilities: Array, state: Array, data: Array) -> None:
    """The inverse, reading as it goes; labels may be out of range if the data are damaged."""
    value = np.empty(1, np.int64)
    context = np.empty(1, np.uint16)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            north, west = _neighbours(labels, y, x)
            context[0] = first_context + (0 if north == west else 1)
            decode_values(value, context, probabilities, state, data)
            v = value[0]
            labels[y, x] = north if v == 0 else (west if v == 1 else v - 2)


@inline
def _bit_length(value: Any) -> Any:
    n = 0
    while value >> n:
        n += 1
    return n


@njit
def count_values(counts: Array, first_context: int, values: Array, contexts: Array) -> Any:
    """Turn each row of counts into values: the last symbol used, then the counts up to it.

    The context of a count is the bit length of the count before it. Return how many values there are.
    """
    i = 0
    for row in range(counts.shape[0]):
        last = counts.shape[1] - 1
        while last > 0 and counts[row, last] == 0:
            last -= 1
        values[i] = last
        contexts[i] = first_context
        i += 1
        before = 0
        for symbol in range(last + 1):
            values[i] = counts[row, symbol]
            contexts[i] = first_context + 1 + min(_bit_length(before), 15)
            before = counts[row, symbol]
            i += 1
    return i


@njit
def read_counts(
    counts: Array, n_symbols: int, first_context: int, probabilities: Array, state: Array, data: Array
) -> bool:
    """The inverse; False if a symbol is not below `n_symbols`."""
    value = np.empty(1, np.int64)
    context = np.empty(1, np.uint16)
    for row in range(counts.shape[0]):
        context[0] = first_context
        decode_values(value, context, probabilities, state, data)
        last = value[0]
        if last >= n_symbols:
            return False
        before = np.int64(0)
        for symbol in range(last + 1):
            context[0] = first_context + 1 + min(_bit_length(before), 15)
            decode_values(value, context, probabilities, state, data)
            before = value[0]
            counts[row, symbol] = before
    return True
