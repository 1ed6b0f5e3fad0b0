"""Labels of tiles as side information: each against its northern and western neighbour."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.side import decode_values
from dcmpress.codecs.jit import inline, njit

N_LABEL_CONTEXTS = 2

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
