"""Intensity contexts: the encoder tells, in at most 33 bytes, which sample values are told apart.

The format: one byte 0 (contexts of equal width), or one byte 32 and a bit for each of 256 cells of equal
width, most significant bit first: 1 where a new context begins.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe.backward_kernel import LEVELS

CELLS = 256
PLAIN_LEVELS = 16
MIN_SAMPLES = 8192
"""Below this many samples the table costs more than it brings."""


def choose_levels(planes: NDArray[np.uint16], max_value: int) -> bytes:
    """Return the coded contexts for these samples: each holds about the same sum of roots of cell counts."""
    if planes.size < MIN_SAMPLES:
        return b"\0"
    counts = np.zeros(max_value + 1, np.int64)
    for plane in planes:
        counts += np.bincount(plane.ravel(), minlength=max_value + 1)
    cells = np.bincount(_cell_of(max_value), weights=counts, minlength=CELLS)
    if np.count_nonzero(cells) < 2:
        return b"\0"
    roots = np.array([math.isqrt(int(count) << 16) for count in cells], dtype=np.int64)
    ends = np.cumsum(roots)
    # Bytes have few values, and often a histogram with gaps: nearly each value has a context to itself.
    wanted = LEVELS if max_value < 256 else 48
    level = np.minimum((ends - roots // 2) * wanted // int(ends[-1]), wanted - 1)
    return bytes([CELLS // 8]) + np.packbits(np.diff(level, prepend=0) != 0).tobytes()


def read_levels(data: bytes, max_value: int) -> tuple[NDArray[np.int32], int]:
    """Return the context of every sample value, and the number of bytes read.

    Raises
    ------
    CorruptStreamError
    """
    cell = _cell_of(max_value)
    size = data[0] if data else 0
    if size == 0:
        return (cell * PLAIN_LEVELS // CELLS).astype(np.int32), min(len(data), 1)
    if size != CELLS // 8 or len(data) < 1 + size:
        raise CorruptStreamError("the table of intensity contexts is damaged")
    starts = np.unpackbits(np.frombuffer(data, np.uint8, size, 1)).astype(np.int32)
    return np.minimum(np.cumsum(starts), LEVELS - 1).astype(np.int32)[cell], 1 + size


def _cell_of(max_value: int) -> NDArray[np.int64]:
    return np.arange(max_value + 1, dtype=np.int64) * CELLS // (max_value + 1)
