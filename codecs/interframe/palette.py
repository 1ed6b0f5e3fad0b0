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
from dcmpress.codecs.jit import njit

MAX_COLOURS = 4096
"""More colours are no palette."""
_SLOTS = 1 << 14
_NEARLY_GREY = 12
"""Distance of red and blue from green, together, up to which a colour is ranked among the greys."""

Array = NDArray[Any]
_U = np.uint64


def find_palette(frames: Iterable[Array]) -> Array | None:
    """Return the colours of uint8 frames (rows, columns, 3), ranked: (colours, 3); None if they are too many."""
    slots = np.full(_SLOTS, -1, np.int64)
    count = 0
    for frame in frames:
        count = _meet(np.ascontiguousarray(frame).reshape(-1, 3), slots, count)
        if count > MAX_COLOURS:
            return None
    found = np.sort(slots[slots >= 0])
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    red, green, blue = colours.T
    coloured = np.abs(red - green) + np.abs(blue - green) > _NEARLY_GREY
    order = np.lexsort((found, red + 2 * green + blue, coloured))
    return colours[order]


def to_ranks(frames: Array, palette: Array) -> Array:
    """Return the frames as ranks of `palette`, which must have all their colours: (n, rows, columns), uint16."""
    slots = np.full(_SLOTS, -1, np.int64)
    rank_of = np.zeros(_SLOTS, np.uint16)
    _number(palette, slots, rank_of)
    ranks = np.empty(frames.shape[:3], np.uint16)
    for frame, target in zip(frames, ranks, strict=True):
        _rank(np.ascontiguousarray(frame).reshape(-1, 3), slots, rank_of, target.reshape(-1))
    return ranks


def from_ranks(ranks: Array, palette: Array) -> Array:
    """Return the frames of these ranks.

    Raises
    ------
    CorruptStreamError
        If a rank has no colour.
    """
    frames = np.empty((*ranks.shape, 3), np.uint8)
    if not _colour(ranks.reshape(-1), palette.astype(np.uint8), frames.reshape(-1, 3)):
        raise CorruptStreamError("rank beyond the palette")
    return frames


@njit
def _place(key, slots):
    """Return the slot of a colour, or the one that it would be put into; there must be an empty one."""
    i = ((key * 0x7FEB352D) >> 16) & (_SLOTS - 1)
    while slots[_U(i)] >= 0 and slots[_U(i)] != key:
        i = (i + 1) & (_SLOTS - 1)
    return i


@njit
def _meet(pixels, slots, count):
    """Put the colours of the pixels into the slots; return how many there are, or the first number too many."""
    last = np.int64(-1)
    for i in range(len(pixels)):
        p = _U(i)
        key = np.int64(pixels[p, 0]) << 16 | np.int64(pixels[p, 1]) << 8 | np.int64(pixels[p, 2])
        if key == last:
            continue
        last = key
        place = _place(key, slots)
        if slots[_U(place)] < 0:
            slots[_U(place)] = key
            count += 1
            if count > MAX_COLOURS:
                break
    return count


@njit
def _number(palette, slots, rank_of):
    """Put the colours of a palette into the slots, and note the rank of each."""
    for rank in range(len(palette)):
        p = _U(rank)
        key = np.int64(palette[p, 0]) << 16 | np.int64(palette[p, 1]) << 8 | np.int64(palette[p, 2])
        place = _place(key, slots)
        slots[_U(place)] = key
        rank_of[_U(place)] = rank


@njit
def _colour(ranks, palette, pixels):
    """Write the colours of ranks; False, and only those before, if one has none."""
    for i in range(len(ranks)):
        rank = ranks[_U(i)]
        if rank >= len(palette):
            return False
        for k in range(3):
            pixels[_U(i), _U(k)] = palette[_U(rank), _U(k)]
    return True


@njit
def _rank(pixels, slots, rank_of, ranks):
    last = np.int64(-1)
    rank = np.uint16(0)
    for i in range(len(pixels)):
        p = _U(i)
        key = np.int64(pixels[p, 0]) << 16 | np.int64(pixels[p, 1]) << 8 | np.int64(pixels[p, 2])
        if key != last:
            last = key
            rank = rank_of[_U(_place(key, slots))]
        ranks[p] = rank


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
