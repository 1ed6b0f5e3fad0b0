"""The region of interest of a fluoroscopy frame: a disc inside a rectangle, and constants around it.

An image intensifier fills a disc and leaves black corners; shutters leave white bands (Arif et al., sections
B-1 and B-2). What is cut off here is exactly constant, so it costs nothing and nothing is lost: a band or a
corner that is not constant stays in the region.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jit import njit
from dcmpress.codecs.leb128 import Cursor, leb128


@dataclass(frozen=True)
class Region:
    """Rows top..bottom and columns left..right (ends excluded), cut by a disc about the centre."""

    top: int
    bottom: int
    left: int
    right: int
    band_values: tuple[int, int, int, int]
    """What fills the bands above, below, left and right of the rectangle."""
    radius2: int
    """Square of twice the disc's radius, 0 for no disc."""
    corner_value: int
    """What fills the rectangle outside the disc."""

    def spans(self, rows: int) -> NDArray[np.int32]:
        """Return for each row the first column of the region and the one after the last, shape (rows, 2)."""
        spans: NDArray[np.int32] = _spans(rows, self.top, self.bottom, self.left, self.right, self.radius2)
        return spans

    def fill_outside(self, image: NDArray[np.uint16], spans: NDArray[np.int32]) -> None:
        """Write the constants around the region into `image`, shape (rows, columns)."""
        image[: self.top] = self.band_values[0]
        image[self.bottom :] = self.band_values[1]
        image[self.top : self.bottom, : self.left] = self.band_values[2]
        image[self.top : self.bottom, self.right :] = self.band_values[3]
        if self.radius2:
            _fill_corners(image, spans, self.left, self.right, self.top, self.bottom, self.corner_value)

    def tobytes(self, rows: int, columns: int) -> bytes:
        """Return the region as stored: insets, values of the bands that exist, disc."""
        insets = (self.top, rows - self.bottom, self.left, columns - self.right)
        fields = [*insets, *(v for inset, v in zip(insets, self.band_values, strict=True) if inset)]
        fields.append(self.radius2)
        if self.radius2:
            fields.append(self.corner_value)
        return b"".join(map(leb128, fields))

    @staticmethod
    def read(cursor: Cursor, rows: int, columns: int, largest: int) -> "Region":
        """Read what `tobytes` wrote; raise CorruptStreamError if it does not fit the frame."""
        insets = [cursor.leb128() for _ in range(4)]
        values = [cursor.leb128() if inset else 0 for inset in insets]
        radius2 = cursor.leb128()
        corner = cursor.leb128() if radius2 else 0
        top, left = insets[0], insets[2]
        bottom, right = rows - insets[1], columns - insets[3]
        if (
            top > bottom
            or left > right
            or max(*values, corner) > largest
            or radius2 > 4 * _corner2(rows, columns)
        ):
            raise CorruptStreamError("region of interest does not fit the frame")
        return Region(top, bottom, left, right, (values[0], values[1], values[2], values[3]), radius2, corner)


def find_region(image: NDArray[np.uint16]) -> Region:
    """Return the region of interest of `image`, shape (rows, columns)."""
    top, bottom, left, right, v_top, v_bottom, v_left, v_right = map(int, _bands(image))
    radius2 = 0
    corner = 0
    if bottom - top > 2 and right - left > 2:
        corner = int(image[top, left])
        found = int(_radius2(image, top, bottom, left, right, corner))
        if 0 < found < (bottom - top - 1) ** 2 + (right - left - 1) ** 2:
            radius2 = found
    return Region(
        top, bottom, left, right, (v_top, v_bottom, v_left, v_right), radius2, corner if radius2 else 0
    )


def _corner2(rows: int, columns: int) -> int:
    return rows * rows + columns * columns


@njit
def _bands(image: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return top, bottom, left, right of the rectangle and the values of the bands around it."""
    rows, columns = image.shape
    top = 0
    while top < rows and np.all(image[top] == image[0, 0]):
        top += 1
    bottom = rows
    while bottom > top and np.all(image[bottom - 1] == image[rows - 1, 0]):
        bottom -= 1
    left = 0
    right = columns
    if top == bottom:
        return np.array([top, bottom, left, right, np.int64(image[0, 0]), np.int64(image[rows - 1, 0]), 0, 0])
    while left < columns and np.all(image[top:bottom, left] == image[top, 0]):
        left += 1
    while right > left and np.all(image[top:bottom, right - 1] == image[top, columns - 1]):
        right -= 1
    return np.array(
        [
            top,
            bottom,
            left,
            right,
            np.int64(image[0, 0]),
            np.int64(image[rows - 1, 0]),
            np.int64(image[top, 0]),
            np.int64(image[top, columns - 1]),
        ]
    )


@njit
def _radius2(image: NDArray[np.uint16], top: int, bottom: int, left: int, right: int, corner: int) -> int:
    """Return the largest squared distance (doubled coordinates) of a pixel that is not `corner`."""
    largest = 0
    for y in range(top, bottom):
        x0 = left
        while x0 < right and image[y, x0] == corner:
            x0 += 1
        if x0 == right:
            continue
        x1 = right - 1
        while image[y, x1] == corner:
            x1 -= 1
        dy = 2 * y - (top + bottom - 1)
        for x in (x0, x1):
            dx = 2 * x - (left + right - 1)
            largest = max(largest, dx * dx + dy * dy)
    return largest


@njit
def _spans(rows: int, top: int, bottom: int, left: int, right: int, radius2: int) -> NDArray[np.int32]:
    spans = np.zeros((rows, 2), np.int32)
    for y in range(top, bottom):
        begin, end = left, right
        if radius2 > 0:
            dy = 2 * y - (top + bottom - 1)
            rest = radius2 - dy * dy
            if rest < 0:
                begin, end = left, left
            else:
                reach = int(np.sqrt(np.float64(rest)))
                while reach * reach > rest:
                    reach -= 1
                while (reach + 1) * (reach + 1) <= rest:
                    reach += 1
                # |2 x - (left + right - 1)| <= reach
                begin = max(left, (left + right - 1 - reach + 1) // 2)
                end = max(begin, min(right, (left + right - 1 + reach) // 2 + 1))
        spans[y, 0] = begin
        spans[y, 1] = end
    return spans


@njit
def _fill_corners(
    image: NDArray[np.uint16],
    spans: NDArray[np.int32],
    left: int,
    right: int,
    top: int,
    bottom: int,
    value: int,
) -> None:
    for y in range(top, bottom):
        for x in range(left, spans[y, 0]):
            image[y, x] = value
        for x in range(spans[y, 1], right):
            image[y, x] = value
