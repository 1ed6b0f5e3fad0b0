"""Where coefficients stand, and what they are if an image goes on smoothly over the border of two blocks.

The samples at both sides of a border are nearly the same, and so is a one-dimensional DCT along it. Of that each
coefficient of the first row or column is one term, so it follows from the other terms of its line and the
neighbour's line; after D. R. Horn et al. (Lepton, NSDI 2017), there for the first row and column, here for DC too.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward_jit import inline

_U = np.uint64
NONE = -1


def _zigzag() -> NDArray[np.int64]:
    """Return row * 8 + column of the coefficients in zigzag order (ITU-T T.81 figure A.6)."""
    places = sorted(
        ((v, u) for v in range(8) for u in range(8)),
        key=lambda place: (sum(place), place[0] if sum(place) % 2 else place[1]),
    )
    return np.array([8 * v + u for v, u in places])


_NUMBER = np.argsort(_zigzag()).reshape(8, 8)
"""Number in zigzag order of the coefficient in a row and column."""


def _higher() -> NDArray[np.int64]:
    """Return for each coefficient the next higher ones across, down and both ways; 64 where there is none."""
    out = np.full((64, 3), 64, np.int64)
    for i, (down, across) in enumerate(((0, 1), (1, 0), (1, 1))):
        out[_NUMBER[: 8 - down, : 8 - across], i] = _NUMBER[down:, across:]
    return out


def _line_of() -> NDArray[np.int64]:
    """Return for each coefficient the line that it begins: row 1 to 7, 8 + column 1 to 7, or NONE."""
    out = np.full(64, NONE, np.int64)
    out[_NUMBER[1:, 0]] = np.arange(1, 8)
    out[_NUMBER[0, 1:]] = np.arange(9, 16)
    return out


HIGHER = _higher()
LINES = np.concatenate([_NUMBER, _NUMBER.T])
"""Coefficients of the rows and of the columns, shape (16, 8)."""
LINE_OF = _line_of()
ROW, COLUMN = 0, 8
"""The lines that DC begins."""
_WEIGHTS = np.array([5793, 8035, 7568, 6811, 5793, 4551, 3135, 1598])
"""Samples of the basis functions of a DCT of 8 at its first place, in 1/8192."""
_MOST = 32767


@inline
def smooth(blocks, b, neighbour, line, steps):
    """Return what the first coefficient of a line of block b is if the border with a block before it is smooth.

    The neighbour is the block at the left for a row, the block above for a column. The other coefficients of the line
    are known.

    Parameters
    ----------
    blocks : int16 array, shape (n, 64)
    steps : int64 array, shape (64,)
        Of quantization, in zigzag order, above 0.
    """
    total = np.int64(0)
    for i in range(8):
        k = LINES[_U(line), _U(i)]
        weight = steps[_U(k)] * _WEIGHTS[_U(i)]
        there = np.int64(blocks[_U(neighbour), _U(k)]) * weight
        total += there if i % 2 == 0 else -there
        if i > 0:
            total -= np.int64(blocks[_U(b), _U(k)]) * weight
    unit = steps[_U(LINES[_U(line), _U(0)])] * _WEIGHTS[0]
    return min(max((2 * total + unit) // (2 * unit), -_MOST), _MOST)
