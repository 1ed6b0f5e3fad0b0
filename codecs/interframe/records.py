"""The values of frame records and symbol counts in order, each under a context of what went before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.side import decode_values, open_values
from dcmpress.codecs.jit import inline, njit

_PLAIN, _LENGTH, _RUN, _LABEL = 0, 1, 2, 3
NO_RUNS, BAD_RUNS, BAD_STREAM, BAD_LABEL = -1, -2, -3, -4
"""What `read_frame` returns where it does not return a number of runs."""
N_FRAME_CONTEXTS = 5
N_COUNT_CONTEXTS = 17

Array = NDArray[Any]


@inline
def _neighbours(labels: Array, y: int, x: int) -> Any:
    north = labels[y - 1, x] if y > 0 else (labels[y, x - 1] if x > 0 else 0)
    west = labels[y, x - 1] if x > 0 else north
    return north, west


@njit
def frame_values(
    labels: Array, runs: Array, skipping: bool, lengths: Array, values: Array, contexts: Array
) -> Any:
    """Put the values of a frame record in order; return how many there are.

    They are: 1 if blocks are skipped, and then the number of runs and the runs; the lengths of all streams but
    the last, each as 4096 high + low with the high part less that of the stream before; the labels, 0 like the
    tile above, 1 like the tile at the left, else 2 + label.

    Parameters
    ----------
    labels : int64 array, shape (tiles down, tiles across)
    runs, lengths : int64 arrays
    values, contexts : int64 and uint16 arrays; written, len(runs) + 2 len(lengths) + labels.size + 2 long
    """
    values[0] = 1 if skipping else 0
    contexts[0] = _PLAIN
    n = 1
    if skipping:
        values[n] = len(runs)
        contexts[n] = _PLAIN
        n += 1
        for run in runs:
            values[n] = run
            contexts[n] = _RUN
            n += 1
    before = 0
    for length in lengths:
        high = (length >> 12) - (before >> 12)
        values[n] = 2 * high if high >= 0 else -2 * high - 1
        contexts[n] = _LENGTH
        values[n + 1] = length & 4095
        contexts[n + 1] = _PLAIN
        n += 2
        before = length
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            north, west = _neighbours(labels, y, x)
            label = labels[y, x]
            values[n] = 0 if label == north else (1 if label == west else 2 + label)
            contexts[n] = _LABEL + (0 if north == west else 1)
            n += 1
    return n


@njit
def read_frame(
    data: Array,
    n_bytes: int,
    labels: Array,
    runs: Array,
    starts: Array,
    n_classes: int,
    first: int,
    last: int,
) -> Any:
    """The inverse: read the values of a record from its side information, `data`, and check them.

    Parameters
    ----------
    data : uint8 array
        Damaged data are read to the end like any.
    n_bytes : int
        Of all streams together; each has 2 at least.
    labels, runs : see `frame_values`; written
    starts : int64 array, shape (streams + 1,); written
        Where each stream begins; `n_bytes`.
    n_classes, first, last : int
        A label is a class below `n_classes`, or from `first` to `last`.

    Returns
    -------
    The number of runs; NO_RUNS if no blocks are skipped; BAD_RUNS if there are more runs than `runs` holds,
    BAD_STREAM if a stream is too short, BAD_LABEL.
    """
    probabilities, state = open_values(data, N_FRAME_CONTEXTS)
    value = np.empty(1, np.int64)
    context = np.zeros(1, np.uint16)
    decode_values(value, context, probabilities, state, data)
    n_runs = np.int64(NO_RUNS)
    if value[0] > 0:
        decode_values(value, context, probabilities, state, data)
        n_runs = value[0]
        if n_runs > len(runs):
            return np.int64(BAD_RUNS)
        context[0] = _RUN
        for i in range(n_runs):
            decode_values(value, context, probabilities, state, data)
            runs[i] = value[0]
    length = np.int64(0)
    starts[0] = 0
    for i in range(1, len(starts) - 1):
        context[0] = _LENGTH
        decode_values(value, context, probabilities, state, data)
        v = value[0]
        high = (length >> 12) + (-(v + 1 >> 1) if v & 1 else v >> 1)
        context[0] = _PLAIN
        decode_values(value, context, probabilities, state, data)
        length = (high << 12) + value[0]
        starts[i] = starts[i - 1] + length
        if length < 2:
            return np.int64(BAD_STREAM)
    starts[-1] = n_bytes
    if n_bytes - starts[-2] < 2:
        return np.int64(BAD_STREAM)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            north, west = _neighbours(labels, y, x)
            context[0] = _LABEL + (0 if north == west else 1)
            decode_values(value, context, probabilities, state, data)
            v = value[0]
            label = north if v == 0 else (west if v == 1 else v - 2)
            if not (0 <= label < n_classes or first <= label <= last):
                return np.int64(BAD_LABEL)
            labels[y, x] = label
    return n_runs


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
