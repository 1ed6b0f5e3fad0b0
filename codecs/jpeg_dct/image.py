"""JPEG images of sequential DCT as quantized coefficients and a recipe, from which the same bytes are made again.

Given the tables, the restart interval and the order of components that stand in the headers, the coded data follow
from the coefficients: of the encoder's choices only the bits that fill the last byte of an interval are left.

    recipe := 0: filled with ones, 1: with zeros (1 byte); scans; for each: bytes of coded data; bytes of the headers
              before it; these; then what stands behind the last scan
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_dct.headers import HeaderReader, Scan
from dcmpress.codecs.jpeg_dct.scans import decode_scan, encode_scan, fill_tables
from dcmpress.codecs.jpeg_markers import AFTER

_ONES, _ZEROS = 0, 1
"""Flags of a recipe: what fills the last byte of an interval."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """How the blocks of an image lie: component after component, row after row."""

    blocks: tuple[tuple[int, int], ...]
    """Of each component, down and across."""

    @property
    def total(self) -> int:
        """Number of blocks."""
        return sum(down * across for down, across in self.blocks)

    def start(self, k: int) -> int:
        """Return the number of the first block of component k."""
        return sum(down * across for down, across in self.blocks[:k])


@dataclass(frozen=True)
class Jpeg:
    """An image taken apart."""

    layout: Layout
    steps: NDArray[np.int64]
    """Of quantization, shape (components, 64), in zigzag order."""
    coefficients: NDArray[np.int16]
    """Shape (blocks, 64), in zigzag order."""
    recipe: bytes


def take_apart(data: bytes, most_blocks: int) -> Jpeg | None:
    """Take an image of at most `most_blocks` blocks apart; None if the same bytes do not come back.

    Raises
    ------
    CorruptStreamError
        If it is no image of this kind.
    """
    coded = np.frombuffer(data + AFTER, np.uint8)
    headers = HeaderReader()
    kept = bytearray()
    coefficients = np.zeros((0, 64), np.int16)
    layout = Layout(())
    steps = np.ones((0, 64), np.int64)
    at = n_scans = 0
    while not headers.complete:
        scan, length = headers.read(data[at:], first=at == 0)
        if n_scans == 0:
            layout, steps = _layout(headers), headers.steps()
            if layout.total > most_blocks:
                return None
            coefficients = np.zeros((layout.total, 64), np.int16)
        begin = at + length
        places, mcus = _places(headers, scan, layout)
        dc, ac = _lookups(scan.dc_tables), _lookups(scan.ac_tables)
        end = int(decode_scan(coded, begin, dc, ac, places, mcus, scan.restart_interval, coefficients))
        if not begin <= end <= len(data):
            return None
        put_varint(kept, end - begin)
        put_varint(kept, length)
        kept += data[at:begin]
        at = end
        n_scans += 1
    kept += data[at:]
    for filling in (_ONES, _ZEROS):
        recipe = bytes([filling, n_scans]) + bytes(kept)
        try:
            if put_together(layout, coefficients, recipe, len(data)) == data:
                return Jpeg(layout, steps, coefficients, recipe)
        except CorruptStreamError:
            break
    return None


def put_together(layout: Layout, coefficients: Array, recipe: bytes, most_bytes: int) -> bytes:
    """Return the bytes of an image that has at most so many.

    Raises
    ------
    CorruptStreamError
        If the recipe is none, or one for other coefficients or a larger image.
    """
    reader = ByteReader(recipe)
    filling, n_scans = reader.byte(), reader.byte()
    if filling not in (_ONES, _ZEROS):
        raise CorruptStreamError(f"JPEG: filling {filling}")
    headers = HeaderReader()
    out = bytearray()
    for k in range(n_scans):
        size, length = reader.varint(most_bytes), reader.varint()
        before = bytes(reader.take(length))
        scan, read = headers.read(before, first=k == 0)
        if read != length or _layout(headers) != layout:
            raise CorruptStreamError("JPEG: the recipe is for another image")
        out += before
        out += _coded(headers, scan, layout, coefficients, filling == _ONES, size)
    return bytes(out) + bytes(reader.take(reader.left))


def layout_of(recipe: bytes) -> tuple[Layout, NDArray[np.int64]]:
    """Return the layout of the image that a recipe is for, and its steps of quantization.

    Raises
    ------
    CorruptStreamError
        If the recipe is none.
    """
    reader = ByteReader(recipe)
    reader.take(2)
    reader.varint()
    return _laid_out(bytes(reader.take(reader.varint())))


@lru_cache(maxsize=8)
def _laid_out(first_headers: bytes) -> tuple[Layout, NDArray[np.int64]]:
    headers = HeaderReader()
    headers.read(first_headers, first=True)
    return _layout(headers), headers.steps()


def _coded(
    headers: HeaderReader, scan: Scan, layout: Layout, coefficients: Array, ones: bool, size: int
) -> bytes:
    """Return the coded data of a scan, of `size` bytes."""
    places, mcus = _places(headers, scan, layout)
    dc = [_tables(table) for table in scan.dc_tables]
    ac = [_tables(table) for table in scan.ac_tables]
    # A block takes 64 words and values of 31 bits at most, twice if every byte is FF.
    out = np.empty(min(size, 512 * len(coefficients)) + 64, np.uint8)
    end = encode_scan(
        coefficients,
        np.stack([words for _, words, _ in dc]),
        np.stack([lengths for _, _, lengths in dc]),
        np.stack([words for _, words, _ in ac]),
        np.stack([lengths for _, _, lengths in ac]),
        places,
        mcus,
        scan.restart_interval,
        ones,
        out,
    )
    if end != size:
        raise CorruptStreamError("JPEG: the coefficients do not fit the recipe")
    return out[:end].tobytes()


def _layout(headers: HeaderReader) -> Layout:
    frame = headers.frame
    assert frame is not None  # a scan was read
    return Layout(tuple(frame.padded_blocks(k) for k in range(len(frame.components))))


def _places(headers: HeaderReader, scan: Scan, layout: Layout) -> tuple[Array, tuple[int, int]]:
    """Return where the blocks of a scan lie (see `decode_scan`), and its MCUs down and across."""
    frame = headers.frame
    assert frame is not None
    if len(scan.components) == 1:
        k = scan.components[0]
        return np.array([[layout.start(k), layout.blocks[k][1], 1, 1]], np.int64), frame.own_blocks(k)
    rows = []
    for k in scan.components:
        component = frame.components[k]
        rows.append([layout.start(k), layout.blocks[k][1], component.across, component.down])
    first = scan.components[0]
    down, across = layout.blocks[first]
    mcus = down // frame.components[first].down, across // frame.components[first].across
    return np.array(rows, np.int64), mcus


@lru_cache(maxsize=8)
def _lookups(tables: tuple[bytes, ...]) -> Array:
    return np.stack([_tables(table)[0] for table in tables])


@lru_cache(maxsize=32)
def _tables(table: bytes) -> tuple[Array, Array, Array]:
    """Return (lookup, words, lengths): see `fill_tables`."""
    lookup = np.zeros(1 << 16, np.uint16)
    words = np.zeros(256, np.uint16)
    lengths = np.zeros(256, np.uint8)
    counts, symbols = np.frombuffer(table[:16], np.uint8), np.frombuffer(table[16:], np.uint8)
    if not fill_tables(counts, symbols, lookup, words, lengths):
        raise CorruptStreamError("impossible Huffman table")
    return lookup, words, lengths
