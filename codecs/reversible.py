"""Is a compressed image lossless, as far as its own headers say? Nothing here decodes.

A transfer syntax that promises losslessness is a promise of whoever wrote the file. The headers tell when it cannot
be true (a filter that rounds, samples that were shifted, a tolerance) and when parts of the image are missing. They
cannot tell whether an encoder left bits away that it should have written; nothing can.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_markers import next_segment

_SOC, _EOC = b"\xff\x4f", b"\xff\xd9"
_SIZ, _COD, _COC, _QCD, _QCC, _SOT, _SOD = 0x51, 0x52, 0x53, 0x5C, 0x5D, 0x90, 0x93
_SOT_BYTES = 12
_PADDING = b"\0\xff"
"""What encoders append to make a fragment even."""

_SOI, _SOF3, _SOF55, _SOS, _DHT, _DRI, _LSE, _DNL = b"\xff\xd8", 0xC3, 0xF7, 0xDA, 0xC4, 0xDD, 0xF8, 0xDC
_FRAMES = frozenset({*range(0xC0, 0xD0), _SOF55} - {_DHT, 0xC8, 0xCC})
_ADOBE = 0xEE
_NEXT_MARKER = {_SOF3: re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]"), _SOF55: re.compile(rb"\xff[\x80-\xfe]")}
"""In the coded data of a process: what is not a stuffed byte, and no restart."""


@dataclass(frozen=True)
class Told:
    """What the headers of an image say of its samples."""

    shape: tuple[int, ...]
    """(rows, columns) or (rows, columns, samples); of JPEG XL (rows, columns) in any case."""
    signed: bool = False
    transformed: bool = False
    """A reversible colour transform has made three components of red, green and blue."""


def read_told(format_name: str, data: bytes) -> Told:
    """Read the headers of a losslessly compressed image.

    Parameters
    ----------
    format_name : "jpeg-2000", "htj2k", "jpeg-ls", "jpeg" or "jpeg-xl"
        "jpeg" is the lossless process of ITU-T T.81.
    data : bytes
        Of one image, with the zeros that pad it.

    Raises
    ------
    CorruptStreamError
        If it is not lossless, not whole, or not of a kind whose losslessness the headers show.
    """
    try:
        return _READERS[format_name](data)
    except (struct.error, IndexError) as error:
        raise CorruptStreamError(f"{format_name}: the headers are cut short") from error


class _Codestream:
    """Marker segments of JPEG 2000 and HTJ2K (ITU-T T.800 annex A)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.components = 0
        self.told = Told(())
        self.n_tiles = 0
        self.transformed = False
        self.has_style = False

    def header(self, at: int, last: int) -> int:
        """Read the segments from `at` to the marker `last`; return where that stands."""
        while True:
            mark, marker = self.data[at], self.data[at + 1]
            if mark != 0xFF:
                raise CorruptStreamError("JPEG 2000: no marker where one belongs")
            if marker == last:
                return at
            (length,) = struct.unpack_from(">H", self.data, at + 2)
            if length < 2 or at + 2 + length > len(self.data):
                raise CorruptStreamError("JPEG 2000: a marker segment leads out of the image")
            self._segment(marker, self.data[at + 4 : at + 2 + length])
            at += 2 + length

    def _segment(self, marker: int, body: bytes) -> None:
        index = 1 if self.components < 257 else 2
        if marker == _SIZ:
            self._size(body)
        elif marker == _COD:
            self.transformed = _flag(body[4])
            self._filter(body[9])
            self.has_style = True
        elif marker == _COC:
            self._filter(body[index + 5])
        elif marker in (_QCD, _QCC) and body[0 if marker == _QCD else index] & 0x1F:
            raise CorruptStreamError("JPEG 2000: coefficients are quantized")

    def _size(self, body: bytes) -> None:
        x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, n = struct.unpack_from(">8IH", body, 2)
        parts = [struct.unpack_from(">3B", body, 36 + 3 * k) for k in range(n)]
        if not n or len({part[0] for part in parts}) != 1 or any(part[1:] != (1, 1) for part in parts):
            raise CorruptStreamError("JPEG 2000: components of several kinds")
        if not (tile_x and tile_y and x > x0 and y > y0):
            raise CorruptStreamError("JPEG 2000: an image of no extent")
        self.components = n
        self.n_tiles = -(-(x - tile_x0) // tile_x) * -(-(y - tile_y0) // tile_y)
        shape = (y - y0, x - x0, n)[: 3 if n > 1 else 2]
        self.told = Told(shape, signed=bool(parts[0][0] & 0x80))

    @staticmethod
    def _filter(kind: int) -> None:
        if kind != 1:
            raise CorruptStreamError("JPEG 2000: the wavelet is not the reversible one")


def _jpeg_2000(data: bytes) -> Told:
    if data[:2] != _SOC:
        raise CorruptStreamError("JPEG 2000: no code stream")
    stream = _Codestream(data)
    at = stream.header(2, _SOT)
    if not stream.components or not stream.has_style:
        raise CorruptStreamError("JPEG 2000: no size or no coding style")
    transformed = stream.transformed
    parts: dict[int, int] = {}
    announced: dict[int, int] = {}
    while data[at : at + 2] == b"\xff\x90":
        tile, size, _, n_parts = struct.unpack_from(">HIBB", data, at + 4)
        end = at + size if size else data.rfind(_EOC)
        if end < at + _SOT_BYTES or end + len(_EOC) > len(data):
            raise CorruptStreamError("JPEG 2000: a tile is cut short")
        if stream.header(at + _SOT_BYTES, _SOD) >= end:
            raise CorruptStreamError("JPEG 2000: a tile without data")
        if stream.transformed != transformed:
            raise CorruptStreamError("JPEG 2000: tiles differ in their colour transform")
        parts[tile] = parts.get(tile, 0) + 1
        announced[tile] = n_parts or announced.get(tile, 0)
        at = end
    if data[at : at + 2] != _EOC or data[at + 2 :].strip(_PADDING):
        raise CorruptStreamError("JPEG 2000: the code stream does not end where it says")
    if len(parts) != stream.n_tiles or max(parts) >= stream.n_tiles:
        raise CorruptStreamError("JPEG 2000: tiles are missing")
    if any(n and n != parts[tile] for tile, n in announced.items()):
        raise CorruptStreamError("JPEG 2000: parts of tiles are missing")
    return Told(stream.told.shape, stream.told.signed, transformed)


def _flag(value: int) -> bool:
    if value > 1:
        raise CorruptStreamError(f"JPEG 2000: multiple component transform {value}")
    return value == 1


def _by_scans(data: bytes, process: int) -> Told:
    """Read JPEG Lossless (SOF3) or JPEG-LS (SOF55): every scan must lose nothing, and the last one end."""
    reader = ByteReader(data)
    if bytes(reader.take(2)) != _SOI:
        raise CorruptStreamError("JPEG: no start of image")
    shape: tuple[int, ...] = ()
    coded = 0
    while True:
        marker, segment = next_segment(reader)
        if marker in _FRAMES:
            if marker != process or shape:
                raise CorruptStreamError("JPEG: not the one frame of a lossless process")
            _, rows, columns, n = struct.unpack(">BHHB", bytes(segment.take(6)))
            sampling = {bytes(segment.take(3))[1] for _ in range(n)}
            if not (rows and columns and n) or len(sampling) != 1:
                raise CorruptStreamError("JPEG: components of several sizes, or none")
            shape = (rows, columns, n)[: 3 if n > 1 else 2]
        elif marker == _SOS:
            coded += _scan(bytes(segment.take(segment.left)), process)
            at = len(data) - reader.left
            found = _NEXT_MARKER[process].search(data, at)
            if found is None or coded > 4:
                raise CorruptStreamError("JPEG: the image is cut short")
            if found.group() == _EOC:
                if data[found.end() :].strip(_PADDING):
                    raise CorruptStreamError("JPEG: bytes behind the image")
                break
            reader = ByteReader(data[found.start() :])
            data = data[found.start() :]
        elif marker == _DNL or (marker == _ADOBE and bytes(segment.take(segment.left))[11:12] != b"\0"):
            raise CorruptStreamError("JPEG: a colour transform, or a height that is told late")
    if not shape or coded != (shape[2] if len(shape) > 2 else 1):
        raise CorruptStreamError("JPEG: components are missing")
    return Told(shape)


def _scan(header: bytes, process: int) -> int:
    """Return how many components a scan holds."""
    n = header[0]
    if not 1 <= n <= 4:
        raise CorruptStreamError(f"JPEG: a scan of {n} components")
    selectors, (first, second, last) = header[1 : 1 + 2 * n], header[1 + 2 * n : 4 + 2 * n]
    if process == _SOF55:
        lossless = first == 0 and last == 0 and not any(selectors[1::2])  # NEAR, point transform, tables
    else:
        lossless = 1 <= first <= 7 and second == 0 and last == 0
    if not lossless:
        raise CorruptStreamError("JPEG: a scan that loses something, or maps samples")
    return n


class _Bits:
    """Bits of a JPEG XL header, the least significant first (ISO/IEC 18181-1 annex A)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:64], "little")
        self._left = 8 * min(len(data), 64)

    def read(self, n: int) -> int:
        self._left -= n
        if self._left < 0:
            raise CorruptStreamError("JPEG XL: the headers are cut short")
        value = self._value & ((1 << n) - 1)
        self._value >>= n
        return value

    def number(self, *choices: tuple[int, int]) -> int:
        """Read one of four (offset, bits)."""
        offset, n = choices[self.read(2)]
        return offset + self.read(n)


_JXL_FILE = b"\0\0\0\x0cJXL \r\n\x87\n"
_EXTENT = ((1, 9), (1, 13), (1, 18), (1, 30))
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _in_boxes(data: bytes) -> bytes:
    """Return the code stream of a JPEG XL file that holds nothing but that (ISO/IEC 18181-2)."""
    at, found = len(_JXL_FILE), b""
    while data[at:].strip(_PADDING):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + size if size else len(data)
        if kind not in (b"ftyp", b"jxll", b"jxlc") or end < at + 8 or end > len(data):
            raise CorruptStreamError("JPEG XL: a file of more than one code stream")
        if kind == b"jxlc":
            found = data[at + 8 : end]
        at = end
    return found


def _jpeg_xl(data: bytes) -> Told:
    """Read the size and what is said of the samples; a stream in XYB colours is lossy."""
    if data[:12] == _JXL_FILE:
        data = _in_boxes(data)
    if data[:2] != b"\xff\x0a":
        raise CorruptStreamError("JPEG XL: no code stream")
    bits = _Bits(data[2:])
    small = bits.read(1)
    rows = 8 * (1 + bits.read(5)) if small else bits.number(*_EXTENT)
    ratio = bits.read(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        columns = rows * across // down
    else:
        columns = 8 * (1 + bits.read(5)) if small else bits.number(*_EXTENT)
    if bits.read(1):
        raise CorruptStreamError("JPEG XL: colours are XYB, so the image is lossy")
    if bits.read(1):
        raise CorruptStreamError("JPEG XL: turned, animated, or with a preview")
    if bits.read(1):
        raise CorruptStreamError("JPEG XL: floating point samples")
    bits.number((8, 0), (10, 0), (12, 0), (1, 6))
    bits.read(1)
    if bits.number((0, 0), (1, 0), (2, 4), (1, 12)):
        raise CorruptStreamError("JPEG XL: channels besides the colours")
    if bits.read(1):
        raise CorruptStreamError("JPEG XL: colours are XYB, so the image is lossy")
    return Told((rows, columns))


_READERS: dict[str, Callable[[bytes], Told]] = {
    "jpeg-2000": _jpeg_2000,
    "htj2k": _jpeg_2000,
    "jpeg-ls": lambda data: _by_scans(data, _SOF55),
    "jpeg": lambda data: _by_scans(data, _SOF3),
    "jpeg-xl": _jpeg_xl,
}
