"""Spatial orientation trees laid out in one vector, parents before children.

In a pyramid whose low-pass corner is cut in groups of 2 x 2, the first coefficient of a group has no
children and each of the other three is the root of a tree in one orientation; every other coefficient has a
2 x 2 block of children at twice its coordinates (Said and Pearlman, IEEE Trans. CSVT 6(3), 1996).
Coefficient 4 g + o of group g (o = 0 ... 3) comes first for all G groups, then level by level the blocks of
four, in the order of their parents. Then the children of a root 4 g + o begin at 4 (G + 3 g + o - 1), and
those of any later index i at 4 i.

The pyramid of a frame of any size is seen as the corner of one whose sides are multiples of 2**(levels +
1); places that the frame does not have are marked absent, are known to both sides, and cost nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

ABSENT = np.uint8(255)


@dataclass(frozen=True)
class Tree:
    """The trees over a pyramid."""

    rows: int
    columns: int
    levels: int
    groups: int
    lowest: NDArray[np.uint8]
    """For each place in the vector: the bit-plane of its last bit, or `ABSENT`. Read only."""

    @property
    def size(self) -> int:
        """Places in the vector."""
        return self.lowest.size

    def gather(self, pyramid: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the coefficients of `pyramid`, shape (rows, columns), in the order of the trees."""
        vector = np.zeros(self.size, np.int32)
        _exchange(pyramid, vector, self.levels, True)
        return vector

    def scatter(self, vector: NDArray[np.int32]) -> NDArray[np.int32]:
        """Undo `gather`."""
        pyramid = np.empty((self.rows, self.columns), np.int32)
        _exchange(pyramid, vector, self.levels, False)
        return pyramid


@lru_cache(maxsize=4)
def make_tree(rows: int, columns: int, levels: int, weighted: bool) -> Tree:
    """Return the trees over a pyramid of `levels` levels of a frame of rows x columns.

    With `weighted`, coefficients count as many powers of two as the 5/3's synthesis functions have energy:
    level l (1 is the finest) 2**l, its diagonal band 2**(l - 1), the low-pass corner 2**levels.
    """
    group_rows = (rows + (2 << levels) - 1) >> (levels + 1)
    group_columns = (columns + (2 << levels) - 1) >> (levels + 1)
    groups = group_rows * group_columns
    pyramid = np.empty((rows, columns), np.int32)
    _planes_of_bands(pyramid, levels, weighted)
    marked = np.full(groups << (2 * levels + 2), int(ABSENT), np.int32)
    _exchange(pyramid, marked, levels, True)
    lowest = marked.astype(np.uint8)
    lowest.flags.writeable = False
    return Tree(rows, columns, levels, groups, lowest)


def default_levels(rows: int, columns: int) -> int:
    """Return the number of levels that leaves at least four low-pass rows and columns, at most 6."""
    return max(0, min(6, min(rows, columns).bit_length() - 3))


@inline
def first_child(index: int, groups: int) -> int:
    """Return where the children of `index` begin; 0 for the first coefficient of a group."""
    if index >= 4 * groups:
        return 4 * index
    orientation = index & 3
    if orientation == 0:
        return 0
    return 4 * (groups + 3 * (index >> 2) + orientation - 1)


@inline
def _spread(value: int) -> int:
    """Put zeros between the bits of a number of at most 7 bits."""
    spread = 0
    for bit in range(7):
        spread |= ((value >> bit) & 1) << (2 * bit)
    return spread


@njit
def _exchange(pyramid: NDArray[np.int32], vector: NDArray[np.int32], levels: int, into_vector: bool) -> None:
    """Copy each coefficient of `pyramid` to its place in `vector`, or back."""
    rows, columns = pyramid.shape
    group_columns = (columns + (2 << levels) - 1) >> (levels + 1)
    group_rows = (rows + (2 << levels) - 1) >> (levels + 1)
    groups = group_rows * group_columns
    for depth in range(levels + 1):
        # depth 0 is the low-pass corner; depth d > 0 holds the three bands of level `levels - d + 1`
        level = levels if depth == 0 else levels - depth + 1
        low_rows = (rows + (1 << level) - 1) >> level
        low_columns = (columns + (1 << level) - 1) >> level
        outer_rows = (rows + (1 << level >> 1) - 1) >> (level - 1) if depth else low_rows
        outer_columns = (columns + (1 << level >> 1) - 1) >> (level - 1) if depth else low_columns
        low_bits = max(depth, 1)
        mask = (1 << low_bits) - 1
        for band in range(1 if depth else 0, 4 if depth else 1):
            y0 = low_rows if band & 2 else 0
            x0 = low_columns if band & 1 else 0
            height = outer_rows - low_rows if band & 2 else low_rows
            width = outer_columns - low_columns if band & 1 else low_columns
            stride = 3 if depth else 1
            base = (groups << (2 * depth)) if depth else 0
            first = band - 1 if depth else 0
            for y in range(height):
                group_row = (y >> low_bits) * group_columns
                row_bits = _spread(y & mask) << 1
                for x in range(width):
                    group = group_row + (x >> low_bits)
                    place = base + (
                        ((group * stride + first) << (2 * low_bits)) | row_bits | _spread(x & mask)
                    )
                    if into_vector:
                        vector[place] = pyramid[y0 + y, x0 + x]
                    else:
                        pyramid[y0 + y, x0 + x] = vector[place]


@njit
def _planes_of_bands(pyramid: NDArray[np.int32], levels: int, weighted: bool) -> None:
    rows, columns = pyramid.shape
    if not weighted:
        pyramid[:] = 0
        return
    pyramid[:] = levels
    for level in range(1, levels + 1):
        n = (rows + (1 << (level - 1)) - 1) >> (level - 1)
        m = (columns + (1 << (level - 1)) - 1) >> (level - 1)
        pyramid[(n + 1) // 2 : n, :m] = level
        pyramid[:n, (m + 1) // 2 : m] = level
        pyramid[(n + 1) // 2 : n, (m + 1) // 2 : m] = level - 1
