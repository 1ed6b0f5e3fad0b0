"""Encapsulated pixel data (PS3.5 section A.4): which fragments there are, and which of them make an image.

Nothing here has to be right for the bytes to come back: an image that is put together wrongly does not decode,
and is kept as it came.
"""

import struct
from dataclasses import dataclass, field

from dcmpress.storage.elements import (
    ITEM,
    NATIVE_SYNTAXES,
    Buffer,
    Element,
    encoding_of,
    find_pixel_data,
)
from dcmpress.storage.errors import MalformedError
from dcmpress.storage.split import declared_frames

MOST_FRAGMENTS = 1 << 16
"""Of one instance; one with more is kept whole."""

_JPEG_START = b"\xff\xd8"
_ITEM_HEADER = struct.Struct("<HHI")

Fragments = tuple[tuple[int, int], ...]
"""Offsets (start, stop) of values in the data set."""


@dataclass(frozen=True)
class Encapsulated:
    """The compressed images of a data set."""

    start: int
    """Offset of the first item, that of the offset table."""
    end: int
    """Offset after the sequence delimiter, or of the data set's end."""
    images: tuple[Fragments, ...]
    """The fragments of each image."""
    elements: dict[int, Element] = field(repr=False, compare=False)
    """Top-level elements before the pixel data, by tag."""


def find_encapsulated(data: Buffer, transfer_syntax_uid: str) -> Encapsulated | None:
    """Find the compressed images of an encoded data set; None if there are none to be found."""
    if transfer_syntax_uid in NATIVE_SYNTAXES:
        return None
    try:
        before, pixel_data = find_pixel_data(data, encoding_of(transfer_syntax_uid))
    except MalformedError:
        return None
    if pixel_data is None or not pixel_data.undefined_length:
        return None
    items, end = _items(data, pixel_data.value)
    if not 2 <= len(items) <= MOST_FRAGMENTS:
        return None
    table, fragments = items[0], items[1:]
    images = _images(data, table, fragments, declared_frames(data, before))
    return Encapsulated(pixel_data.value, end, images, before)


def _items(data: Buffer, at: int) -> tuple[list[tuple[int, int]], int]:
    """Return the values of the items that begin at `at`, and the offset after what delimits them."""
    items: list[tuple[int, int]] = []
    while at + _ITEM_HEADER.size <= len(data) and len(items) <= MOST_FRAGMENTS:
        group, element, length = _ITEM_HEADER.unpack_from(data, at)
        at += _ITEM_HEADER.size
        if group << 16 | element != ITEM or at + length > len(data):
            break
        items.append((at, at + length))
        at += length
    return items, at


def _images(
    data: Buffer, table: tuple[int, int], fragments: list[tuple[int, int]], n_frames: int
) -> tuple[Fragments, ...]:
    """Divide fragments among the frames: by number, by the offset table, or by how a JPEG image begins."""
    if n_frames == 1:
        return (tuple(fragments),)
    if len(fragments) == n_frames:
        return tuple((fragment,) for fragment in fragments)
    first = fragments[0][0] - _ITEM_HEADER.size
    n_offsets = (table[1] - table[0]) // 4
    if n_offsets == n_frames:
        offsets = {first + offset for offset in struct.unpack_from(f"<{n_offsets}I", data, table[0])}
        begins = [start - _ITEM_HEADER.size in offsets for start, _ in fragments]
    else:
        begins = [bytes(data[start : start + 2]) == _JPEG_START for start, _ in fragments]
    images: list[list[tuple[int, int]]] = []
    for fragment, begin in zip(fragments, begins, strict=True):
        if begin or not images:
            images.append([])
        images[-1].append(fragment)
    return tuple(map(tuple, images))
