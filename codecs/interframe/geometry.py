"""Frames with a margin on every side, so that no kernel asks where the edge is.

A padded frame is a flat int32 array of (ABOVE + rows + BELOW) lines of `stride(columns)` values. The frame
being coded has causal margins: the left margin of a row is the first sample of the row above, its right
margin its own last sample, and the lines above the first row repeat it. A reference frame repeats its edges.
Error maps are padded likewise, as uint16, with zeros outside.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

SIDE = 4
ABOVE = 3
BELOW = 2

Array = NDArray[Any]


def stride(columns: int) -> int:
    """Return the length of a line with its two margins."""
    return columns + 2 * SIDE


def padded_size(rows: int, columns: int) -> int:
    """Return the length of a padded frame."""
    return (ABOVE + rows + BELOW) * stride(columns)


@inline
def set_margins(current: Array, y: int, columns: int) -> None:
    """Give row `y` its right margin, row `y + 1` its left one; after row 0, fill the lines above."""
    line = columns + 2 * SIDE
    start = (ABOVE + y) * line + SIDE
    first = current[start]
    last = current[start + columns - 1]
    for k in range(SIDE):
        current[start + columns + k] = last
        current[start + line - SIDE + k] = first
    if y == 0:
        for k in range(SIDE):
            current[start - SIDE + k] = first
        for above in range(ABOVE):
            for k in range(line):
                current[above * line + k] = current[start - SIDE + k]


@njit
def pad_current(plane: Array, current: Array) -> None:
    """Copy `plane`, uint16 (rows, columns), into a padded frame with causal margins."""
    rows, columns = plane.shape
    line = columns + 2 * SIDE
    for y in range(rows):
        start = (ABOVE + y) * line + SIDE
        for x in range(columns):
            current[np.uint64(start + x)] = plane[y, x]
        set_margins(current, y, columns)


@njit
def pad_reference(plane: Array, reference: Array, dy: int, dx: int) -> None:
    """Copy `plane` moved down by `dy` and right by `dx` into a padded frame; edges repeat."""
    rows, columns = plane.shape
    line = columns + 2 * SIDE
    for y in range(-ABOVE, rows + BELOW):
        source = min(max(y - dy, 0), rows - 1)
        start = (ABOVE + y) * line + SIDE
        if dx == 0:
            for x in range(columns):
                reference[np.uint64(start + x)] = plane[source, x]
            for k in range(SIDE):
                reference[np.uint64(start - SIDE + k)] = plane[source, 0]
                reference[np.uint64(start + columns + k)] = plane[source, columns - 1]
        else:
            for x in range(-SIDE, columns + SIDE):
                reference[np.uint64(start + x)] = plane[source, min(max(x - dx, 0), columns - 1)]


@njit
def repeat_edges(current: Array, rows: int, columns: int) -> None:
    """Turn the causal margins of a finished frame into those of a reference."""
    line = columns + 2 * SIDE
    for y in range(rows):
        start = (ABOVE + y) * line + SIDE
        for k in range(SIDE):
            current[start - SIDE + k] = current[start]
            current[start + columns + k] = current[start + columns - 1]
    first = ABOVE * line
    for x in range(line):
        for y in range(ABOVE):
            current[y * line + x] = current[first + x]
        for y in range(ABOVE + rows, ABOVE + rows + BELOW):
            current[y * line + x] = current[first + (rows - 1) * line + x]


@njit
def move_errors(errors: Array, moved: Array, rows: int, columns: int, dy: int, dx: int) -> None:
    """Copy a padded error map moved down by `dy` and right by `dx`; zeros come in."""
    line = columns + 2 * SIDE
    moved[:] = 0
    for y in range(max(0, dy), min(rows, rows + dy)):
        for x in range(max(0, dx), min(columns, columns + dx)):
            moved[(ABOVE + y) * line + SIDE + x] = errors[(ABOVE + y - dy) * line + SIDE + x - dx]


@njit
def unpad(current: Array, plane: Array, max_value: int) -> Any:
    """Copy a padded frame into `plane`, uint16; False if a sample is outside 0..max_value."""
    rows, columns = plane.shape
    line = columns + 2 * SIDE
    worst = np.int32(0)
    least = np.int32(0)
    for y in range(rows):
        start = (ABOVE + y) * line + SIDE
        for x in range(columns):
            value = current[np.uint64(start + x)]
            worst = max(worst, value)
            least = min(least, value)
            plane[y, x] = np.uint16(value)
    return least >= 0 and worst <= max_value
