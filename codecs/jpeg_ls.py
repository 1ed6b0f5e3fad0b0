"""Lossless JPEG-LS images (ITU-T T.87): written, taken apart and put together again.

The standard leaves a lossless encoder no choice: samples, and the parameters that stand in the headers, give the
coded data. Mapping tables, restarts, and scans that are not of whole images are left alone.

    recipe := scans (1 byte), (bytes of coded data, bytes before them, these) * scans, bytes behind the last
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_ls_decode import READ_SLACK, decode_scan
from dcmpress.codecs.jpeg_ls_encode import MOST_SAMPLE_BYTES, encode_scan
from dcmpress.codecs.jpeg_ls_model import MAXVAL, RESET, T1, T2, T3
from dcmpress.codecs.jpeg_markers import AFTER, next_segment, signed

_SOF55, _LSE, _SOS, _DRI = 0xF7, 0xF8, 0xDA, 0xDD
_PRESETS = 1

Array = NDArray[Any]


@dataclass
class _Image:
    """What the headers say so far."""

    precision: int = 0
    rows: int = 0
    columns: int = 0
    components: tuple[int, ...] = ()
    presets: tuple[int, ...] = (0, 0, 0, 0, 0)
    """MAXVAL, T1, T2, T3, RESET; 0: the default."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples."""
        n = len(self.components)
        return (self.rows, self.columns, n)[: 3 if n > 1 else 2]

    def parameters(self) -> NDArray[np.int64]:
        """Return what the kernel needs (T.87 A.2.1, C.2.4.1.1)."""
        top = self.presets[0] or (1 << self.precision) - 1
        if top >= 1 << self.precision:
            raise CorruptStreamError("MAXVAL beyond the precision")
        thresholds = [
            given or default for given, default in zip(self.presets[1:4], _thresholds(top), strict=True)
        ]
        if not 1 <= thresholds[0] <= thresholds[1] <= thresholds[2] <= top:
            raise CorruptStreamError("thresholds out of order")
        reset = self.presets[4] or 64
        if not 3 <= reset <= max(255, top):
            raise CorruptStreamError(f"RESET {reset}")
        bits = max(2, top.bit_length())
        limit = 2 * (bits + max(8, bits))
        return np.array([top, top + 1, top.bit_length(), limit, *thresholds, reset], np.int64)


def take_apart(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, list[bytes]] | None:
    """Return (frame, recipes to try); see `restorable`."""
    coded = np.frombuffer(data + AFTER + bytes(READ_SLACK), np.uint8)
    image = _Image()
    planes = np.empty((0, 0, 0), np.uint16)
    recipe = bytearray()
    done = n_scans = begin = 0
    while done == 0 or done < len(image.components):
        at, chosen, together = _read_to_scan(data, begin, image, first=n_scans == 0)
        if n_scans == 0:
            if image.shape != shape or image.precision > 8 * dtype.itemsize or dtype.itemsize > 2:
                return None
            planes = np.empty((len(image.components), image.rows, image.columns), np.uint16)
        _check_scan(image, done, chosen)
        chosen_planes = planes[done : done + len(chosen)]
        end = int(decode_scan(coded, at, chosen_planes, together, image.parameters()))
        if not 0 <= end <= len(data):
            return None
        put_varint(recipe, end - at)
        put_varint(recipe, at - begin)
        recipe += data[begin:at]
        done += len(chosen)
        n_scans += 1
        begin = end
    frame = planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
    if dtype.kind == "i":
        frame = signed(frame, image.precision)
    return frame.astype(dtype), [bytes([n_scans]) + bytes(recipe) + data[begin:]]


def put_together(frame: Array, recipe: bytes) -> bytes:
    """Return the bytes of the image; see `restorable`."""
    if frame.dtype.itemsize > 2:
        raise CorruptStreamError("JPEG-LS: samples of 32 bits")
    reader = ByteReader(recipe)
    image = _Image()
    planes = np.empty((0, 0, 0), np.uint16)
    parts: list[bytes] = []
    done = 0
    for _ in range(reader.byte()):
        size = reader.varint(1 << 40)
        before = bytes(reader.take(reader.varint()))
        at, chosen, together = _read_to_scan(before, 0, image, first=done == 0)
        if image.shape != frame.shape or at != len(before):
            raise CorruptStreamError("JPEG-LS: the recipe is for other samples")
        if done == 0:
            planes = _planes(frame, image.precision)
        _check_scan(image, done, chosen)
        parameters = image.parameters()
        chosen_planes = planes[done : done + len(chosen)]
        if int(chosen_planes.max()) > parameters[0]:
            raise CorruptStreamError("JPEG-LS: a sample beyond MAXVAL")
        limit = min(size + 64, 9 * chosen_planes.size + 64)
        row = len(chosen) * image.columns
        out = np.empty(limit + MOST_SAMPLE_BYTES * row, np.uint8)
        end = int(encode_scan(out, limit, chosen_planes, together, parameters))
        if end < 0:
            raise CorruptStreamError("JPEG-LS: the samples do not fit the recipe")
        parts += [before, out[:end].tobytes()]
        done += len(chosen)
    if done != len(image.components) or not done:
        raise CorruptStreamError("JPEG-LS: a recipe without all scans")
    return b"".join(parts) + bytes(reader.take(reader.left))


def encode_image(image: Array) -> bytes:
    """Return an image in lossless JPEG-LS; its coded data are the very bytes that CharLS writes.

    Parameters
    ----------
    image : uint8 or uint16 array, shape (rows, columns)
        The stream tells the precision of the dtype.
    """
    precision = 8 * image.dtype.itemsize
    parameters = _Image(precision).parameters()
    head = struct.pack(">HHHBHHB3B", 0xFFD8, 0xFF00 | _SOF55, 11, precision, *image.shape, 1, 1, 0x11, 0)
    if precision > 12:  # spelled out, as CharLS does: not every decoder has the standard's defaults there
        presets = [int(parameters[k]) for k in (MAXVAL, T1, T2, T3, RESET)]
        head += struct.pack(">HHB5H", 0xFF00 | _LSE, 13, _PRESETS, *presets)
    head += struct.pack(">HH6B", 0xFF00 | _SOS, 8, 1, 1, 0, 0, 0, 0)
    limit = 4 * image.nbytes  # no sample takes more than LIMIT bits, four times its own
    out = np.empty(limit + MOST_SAMPLE_BYTES * image.shape[1] + 64, np.uint8)
    end = int(encode_scan(out, limit, _planes(image, precision), False, parameters))
    return b"".join([head, out[:end].tobytes(), b"\xff\xd9"])


def _planes(frame: Array, precision: int) -> NDArray[np.uint16]:
    samples = frame.astype(np.uint16)
    if frame.dtype.kind == "i":
        samples &= np.uint16((1 << precision) - 1)
    if frame.ndim == 2:
        return samples[np.newaxis]
    return np.ascontiguousarray(samples.transpose(2, 0, 1))


def _thresholds(top: int) -> tuple[int, int, int]:
    """Return the default T1, T2, T3 (T.87 C.2.4.1.1.1, NEAR = 0)."""

    def clamped(value: int, least: int) -> int:
        return least if value > top or value < least else value

    if top >= 128:
        factor = (min(top, 4095) + 128) // 256
        first = clamped(factor + 2, 1)
        second = clamped(factor * 4 + 3, first)
        return first, second, clamped(factor * 17 + 4, second)
    factor = 256 // (top + 1)
    first = clamped(max(2, 3 // factor), 1)
    second = clamped(max(3, 7 // factor), first)
    return first, second, clamped(max(4, 21 // factor), second)


def _read_to_scan(
    data: bytes, at: int, image: _Image, *, first: bool | None = None
) -> tuple[int, bytes, bool]:
    """Read headers up to the coded data of a scan into `image`; return (where these begin, components, by sample).

    Raises
    ------
    CorruptStreamError
        If it is no image of this kind.
    """
    reader = ByteReader(data)
    reader.take(at)
    if first and bytes(reader.take(2)) != b"\xff\xd8":
        raise CorruptStreamError("no JPEG image")
    while True:
        marker, segment = next_segment(reader)
        if marker == _SOF55 and not image.components:
            _read_frame(segment, image)
        elif marker == _LSE:
            if segment.byte() != _PRESETS:
                raise CorruptStreamError("a mapping table, or an oversize image")
            image.presets = tuple(int.from_bytes(segment.take(2), "big") for _ in range(5))
        elif marker in (_DRI, _SOF55) or 0xC0 <= marker <= 0xCF:
            raise CorruptStreamError(f"marker {marker:02x}")
        elif marker == _SOS:
            break
    if not image.components:
        raise CorruptStreamError("no frame header before the scan")
    n = segment.byte()
    chosen = [bytes(segment.take(2)) for _ in range(n)]
    near, interleave, shift = (segment.byte() for _ in range(3))
    if near or shift or any(table for _, table in chosen) or (interleave == 0) != (n == 1) or interleave > 2:
        raise CorruptStreamError("a scan that is not lossless, or interleaved in no known way")
    return len(data) - reader.left, bytes(component for component, _ in chosen), interleave == 2


def _read_frame(segment: ByteReader, image: _Image) -> None:
    image.precision = segment.byte()
    image.rows, image.columns = (int.from_bytes(segment.take(2), "big") for _ in range(2))
    n = segment.byte()
    if not 2 <= image.precision <= 16 or not image.rows or not image.columns or not 1 <= n <= 4:
        raise CorruptStreamError("impossible frame header")
    components = [bytes(segment.take(3)) for _ in range(n)]
    if n > 1 and any(component[1] != 0x11 for component in components):
        raise CorruptStreamError("components are sampled differently")
    image.components = tuple(component[0] for component in components)


def _check_scan(image: _Image, done: int, chosen: bytes) -> None:
    if not chosen or tuple(chosen) != image.components[done : done + len(chosen)]:
        raise CorruptStreamError("scans of components out of order")
