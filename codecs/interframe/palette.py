"""Colour frames of few colours as frames of one number: the rank of the colour in a palette.

Ultrasound and secondary captures are mostly grey, with some hundred colours in a Doppler scale, text and icons. In
three components each colour is coded three times; as a rank it is coded once. Greys come first, by brightness, so
that the number still follows the brightness where the image is one.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe.side import SideReader, SideWriter

MAX_COLOURS = 4096
"""More colours are no palette."""
_NEARLY_GREY = 12
"""Distance of red and blue from green, together, up to which a colour is ranked among the greys."""

Array = NDArray[Any]


def find_palette(frames: Iterable[Array]) -> Array | None:
    """Return the colours of uint8 frames (rows, columns, 3), ranked: (colours, 3); None if they are too many."""
    found = np.zeros(0, np.int64)
    for frame in frames:
        found = np.union1d(found, np.unique(_keys(frame)))
        if len(found) > MAX_COLOURS:
            return None
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    red, green, blue = colours.T
    coloured = np.abs(red - green) + np.abs(blue - green) > _NEARLY_GREY
    order = np.lexsort((found, red + 2 * green + blue, coloured))
    return colours[order]


def to_ranks(frames: Array, palette: Array) -> Array:
    """Return the frames as ranks of `palette`, which must have all their colours: (n, rows, columns), uint16."""
    keys = _keys(palette)
    order = np.argsort(keys)
    ranks = np.empty(frames.shape[:3], np.uint16)
    for frame, target in zip(frames, ranks, strict=True):
        target[...] = order[np.searchsorted(keys[order], _keys(frame))]
    return ranks


def from_ranks(ranks: Array, palette: Array) -> Array:
    """Return the frames of these ranks.

    Raises
    ------
    CorruptStreamError
        If a rank has no colour.
    """
    if ranks.size and int(ranks.max()) >= len(palette):
        raise CorruptStreamError("rank beyond the palette")
    frames: Array = palette.astype(np.uint8)[ranks]
    return frames


def put_palette(out: bytearray, palette: Array) -> None:
    """Append a palette: each colour as its differences to the one before, green, then red and blue less green."""
    red, green, blue = palette.T
    steps = np.diff(np.stack([green, red - green, blue - green], axis=1), axis=0, prepend=0)
    side = SideWriter(3)
    side.put_signed(steps.reshape(-1), np.tile([0, 1, 2], len(palette)))
    table = side.finish()
    put_varint(out, len(palette))
    put_varint(out, len(table))
    out += table


def read_palette(reader: ByteReader) -> Array:
    """Read what `put_palette` wrote."""
    n = reader.varint(MAX_COLOURS)
    side = SideReader(reader.take(reader.varint(16 * MAX_COLOURS)), 3)
    steps = side.take_signed(3 * n, np.tile([0, 1, 2], n)).reshape(-1, 3)
    green, red, blue = np.cumsum(steps, axis=0).T
    palette = np.stack([red + green, green, blue + green], axis=1)
    if n == 0 or palette.min() < 0 or palette.max() > 255:
        raise CorruptStreamError("impossible palette")
    return palette


def _keys(colours: Array) -> Array:
    """Return the colours of an array (..., 3) as one number each."""
    wide = colours.astype(np.int64)
    keys: Array = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return keys
