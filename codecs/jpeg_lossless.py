"""Lossless JPEG images (ITU-T T.81 annex H, Huffman coded) taken apart and put together again.

Given the tables, the predictor and the restart interval that stand in its headers, the coded data follow from the
samples: of the encoder's choices only the bits that fill the last byte of an interval are left.

    recipe := 0: filled with ones, 1: with zeros (1 byte); bytes of coded data; bytes before them; these; those after

Only what one scan holds is taken: one component, or up to four that are interleaved and equally sampled.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_lossless_kernels import decode_scan, encode_scan, fill_tables
from dcmpress.codecs.jpeg_markers import AFTER, next_segment, signed

_ONES, _ZEROS = 0, 1
"""Flags of a recipe: what fills the last byte of an interval."""

_SOF3, _DHT, _SOS, _DRI = 0xC3, 0xC4, 0xDA, 0xDD
Array = NDArray[Any]


@dataclass(frozen=True)
class _Scan:
    """What the headers say."""

    precision: int
    rows: int
    columns: int
    tables: tuple[bytes, ...]
    """Of each component: 16 counts of code words by length, and the symbols in their order."""
    predictor: int
    first: int
    """The prediction where there is no neighbour."""
    restart_rows: int
    """0: no restarts."""
    begin: int
    """Offset of the coded data."""


def take_apart(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, list[bytes]] | None:
    """Return (frame, recipes to try); see `restorable`."""
    scan = _read_headers(data)
    n = len(scan.tables)
    if shape != (scan.rows, scan.columns, n)[: 3 if n > 1 else 2] or scan.precision > 8 * dtype.itemsize:
        return None
    if dtype.itemsize > 2:
        return None
    samples = np.empty((scan.rows, scan.columns * n), np.uint16)
    coded = np.frombuffer(data + AFTER, np.uint8)
    lookups = np.stack([_tables(table)[0] for table in scan.tables])
    end = int(decode_scan(coded, scan.begin, lookups, scan.predictor, scan.first, scan.restart_rows, samples))
    if not 0 <= end <= len(data):
        return None
    frame = signed(samples, scan.precision) if dtype.kind == "i" else samples
    frame = frame.astype(dtype).reshape(shape)
    kept = bytearray()
    put_varint(kept, end - scan.begin)
    put_varint(kept, scan.begin)
    kept += data[: scan.begin] + data[end:]
    return frame, [bytes([_ONES]) + kept, bytes([_ZEROS]) + kept]


def put_together(frame: Array, recipe: bytes) -> bytes:
    """Return the bytes of the image; see `restorable`."""
    reader = ByteReader(recipe)
    flags, size = reader.byte(), reader.varint(1 << 40)
    if flags not in (_ONES, _ZEROS):
        raise CorruptStreamError(f"flags {flags}")
    before = bytes(reader.take(reader.varint()))
    scan = _read_headers(before)
    n = len(scan.tables)
    if frame.shape != (scan.rows, scan.columns, n)[: 3 if n > 1 else 2] or frame.dtype.itemsize > 2:
        raise CorruptStreamError("lossless JPEG: the recipe is for other samples")
    return before + _coded(frame, scan, flags, size) + bytes(reader.take(reader.left))


def _coded(frame: Array, scan: _Scan, flags: int, size: int) -> bytes:
    """Return the coded data, of about `size` bytes."""
    samples = frame.reshape(scan.rows, -1)
    if frame.dtype.kind == "i":
        samples = samples.astype(np.uint16) & np.uint16((1 << scan.precision) - 1)
    tables = [_tables(table) for table in scan.tables]
    # What an interval takes beyond `size` in a corrected image is a matter of a few bytes.
    out = np.empty(min(size + 64, 9 * frame.size + 64), np.uint8)
    end = encode_scan(
        np.ascontiguousarray(samples, np.uint16),
        np.stack([words for _, words, _ in tables]),
        np.stack([lengths for _, _, lengths in tables]),
        scan.predictor,
        scan.first,
        scan.restart_rows,
        flags == _ONES,
        out,
    )
    if end < 0:
        raise CorruptStreamError("lossless JPEG: the samples do not fit the recipe")
    return out[:end].tobytes()


def _read_headers(data: bytes) -> _Scan:
    """Read the headers of an image, up to its coded data.

    Raises
    ------
    CorruptStreamError
        If it is no image of this kind.
    """
    if data[:2] != b"\xff\xd8":
        raise CorruptStreamError("no JPEG image")
    tables: dict[int, bytes] = {}
    frame: tuple[int, int, int, tuple[int, ...]] | None = None
    interval = 0
    reader = ByteReader(data)
    reader.take(2)
    while True:
        marker, segment = next_segment(reader)
        if marker == _DHT:
            _read_tables(segment, tables)
        elif marker == _DRI:
            interval = int.from_bytes(segment.take(2), "big")
        elif marker == _SOF3 and frame is None:
            frame = _read_frame(segment)
        elif 0xC0 <= marker <= 0xCF:  # another process, or a second frame
            raise CorruptStreamError(f"frame header {marker:02x}")
        elif marker == _SOS:
            break
    if frame is None:
        raise CorruptStreamError("no frame header before the scan")
    precision, rows, columns, components = frame
    of_scan, predictor, shift = _read_scan(segment, components)
    if any(table not in tables for table in of_scan) or shift >= precision:
        raise CorruptStreamError("a scan without its tables")
    if interval % columns:
        raise CorruptStreamError("a restart interval that is not of whole rows")
    return _Scan(
        precision,
        rows,
        columns,
        tuple(tables[table] for table in of_scan),
        predictor,
        1 << (precision - shift - 1),
        interval // columns,
        len(data) - reader.left,
    )


def _read_tables(segment: ByteReader, tables: dict[int, bytes]) -> None:
    while segment.left:
        number = segment.byte()
        counts = bytes(segment.take(16))
        table = counts + bytes(segment.take(sum(counts)))
        if number < 4:  # of class 0: lossless processes have no others
            tables[number] = table


def _read_frame(segment: ByteReader) -> tuple[int, int, int, tuple[int, ...]]:
    precision = segment.byte()
    rows, columns = (int.from_bytes(segment.take(2), "big") for _ in range(2))
    n = segment.byte()
    if not 2 <= precision <= 16 or not rows or not columns or not 1 <= n <= 4:
        raise CorruptStreamError("impossible frame header")
    components = [bytes(segment.take(3)) for _ in range(n)]
    if n > 1 and any(component[1] != 0x11 for component in components):
        raise CorruptStreamError("components are sampled differently")
    return precision, rows, columns, tuple(component[0] for component in components)


def _read_scan(segment: ByteReader, components: tuple[int, ...]) -> tuple[list[int], int, int]:
    n = segment.byte()
    chosen = [bytes(segment.take(2)) for _ in range(n)]
    if tuple(component for component, _ in chosen) != components:
        raise CorruptStreamError("a scan of some of the components")
    predictor, _, approximation = (segment.byte() for _ in range(3))
    if not 1 <= predictor <= 7:
        raise CorruptStreamError(f"predictor {predictor}")
    return [table >> 4 for _, table in chosen], predictor, approximation & 15


@lru_cache(maxsize=32)
def _tables(table: bytes) -> tuple[NDArray[np.uint16], NDArray[np.uint32], NDArray[np.uint8]]:
    """Return (lookup, words, lengths): see `fill_tables`."""
    lookup = np.zeros(1 << 16, np.uint16)
    words = np.zeros(1 << 16, np.uint32)
    lengths = np.zeros(1 << 16, np.uint8)
    counts, symbols = np.frombuffer(table[:16], np.uint8), np.frombuffer(table[16:], np.uint8)
    if not fill_tables(counts, symbols, lookup, words, lengths):
        raise CorruptStreamError("impossible Huffman table")
    return lookup, words, lengths
