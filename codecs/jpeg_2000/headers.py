"""Marker segments of a JPEG 2000 code-stream (ITU-T T.800 annex A), as far as they bear on what the coder writes."""

from dataclasses import dataclass

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError

SOC, SOT, SOD, EOC = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\xd9"
_SIZ, _COD, _QCD, _COM, _TLM, _PLM, _PLT, _CRG = (
    0xFF51,
    0xFF52,
    0xFF5C,
    0xFF64,
    0xFF55,
    0xFF57,
    0xFF58,
    0xFF63,
)
_IGNORED = frozenset({_COM, _TLM, _PLM, _PLT, _CRG})
SOT_BYTES = 12
_MOST_LEVELS = 32


@dataclass(frozen=True)
class Parameters:
    """What the main header says."""

    area: tuple[int, int, int, int]
    """Top, left, bottom, right on the reference grid (T.800 annex B)."""
    tile_size: tuple[int, int]
    """Rows, columns."""
    tile_origin: tuple[int, int]
    precisions: tuple[int, ...]
    """Bits of each component."""
    signed: tuple[bool, ...]
    progression: int
    """T.800 table A.16."""
    layers: int
    colour: bool
    levels: int
    block_exponents: tuple[int, int]
    """Of rows and columns of a code-block."""
    style: int
    precinct_exponents: tuple[tuple[int, int], ...]
    """Of rows and columns, for each resolution."""
    planes: tuple[int, ...]
    """Mb of each band: the lowest resolution, then HL, LH, HH of each above it."""
    start_markers: bool
    """SOP before each packet."""
    end_markers: bool
    """EPH after each packet header."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the samples."""
        top, left, bottom, right = self.area
        n = len(self.precisions)
        return (bottom - top, right - left, n)[: 3 if n > 1 else 2]


def read_main_header(data: bytes) -> tuple[Parameters, int]:
    """Read the main header of a code-stream; return what it says, and its length.

    Raises
    ------
    CorruptStreamError
        If it is no code-stream, or one of a kind that is not coded here.
    """
    if data[:2] != SOC:
        raise CorruptStreamError("no JPEG 2000 code-stream")
    found: dict[int, ByteReader] = {}
    at = 2
    while data[at : at + 2] != SOT:
        marker, content, at = _next_segment(data, at)
        if marker in _IGNORED:
            continue
        if marker not in (_SIZ, _COD, _QCD) or marker in found:
            raise CorruptStreamError(f"marker segment {marker:04x}")
        found[marker] = content
    if len(found) != 3:
        raise CorruptStreamError("a main header without SIZ, COD, QCD")
    return _parameters(found), at


def check_tile_part_header(data: bytes, at: int) -> tuple[int, int, int]:
    """Check the header of a tile-part that begins at `at`; return (tile, Psot, offset behind SOD)."""
    if data[at : at + 4] != SOT + b"\0\x0a":
        raise CorruptStreamError("no tile-part where one belongs")
    fields = ByteReader(data[at + 4 : at + SOT_BYTES])
    tile, size = _number(fields, 2), _number(fields, 4)
    _number(fields, 2)
    at += SOT_BYTES
    while data[at : at + 2] != SOD:
        marker, _, at = _next_segment(data, at)
        if marker not in (_COM, _PLT):
            raise CorruptStreamError(f"marker segment {marker:04x} in a tile-part")
    return tile, size, at + 2


def _next_segment(data: bytes, at: int) -> tuple[int, ByteReader, int]:
    """Return (marker, content, offset behind it)."""
    marker, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
    if not 0xFF50 <= marker <= 0xFF6F or length < 2 or at + 2 + length > len(data):
        raise CorruptStreamError("no marker segment where one belongs")
    return marker, ByteReader(data[at + 4 : at + 2 + length]), at + 2 + length


def _number(segment: ByteReader, n_bytes: int) -> int:
    return int.from_bytes(segment.take(n_bytes), "big")


def _parameters(found: dict[int, ByteReader]) -> Parameters:
    siz, cod, qcd = found[_SIZ], found[_COD], found[_QCD]
    capabilities = _number(siz, 2)
    right, bottom, left, top, tile_columns, tile_rows, tile_left, tile_top = (
        _number(siz, 4) for _ in range(8)
    )
    n = _number(siz, 2)
    components = [bytes(siz.take(3)) for _ in range(min(n, 5))]
    if capabilities > 2 or not 1 <= n <= 4 or siz.left or any(c[1] != 1 or c[2] != 1 for c in components):
        raise CorruptStreamError("components of another number or sampling")
    if not (
        tile_left <= left < min(right, tile_left + tile_columns)
        and tile_top <= top < min(bottom, tile_top + tile_rows)
        and max(right, bottom) < 1 << 20
    ):
        raise CorruptStreamError("an impossible image area")
    precisions = tuple((c[0] & 0x7F) + 1 for c in components)
    if max(precisions) > 16:
        raise CorruptStreamError("samples of more than 16 bits")
    coding, progression, layers, colour, levels = (_number(cod, k) for k in (1, 1, 2, 1, 1))
    columns, rows, style, transform = (cod.byte() for _ in range(4))
    if (
        coding > 7
        or progression > 4
        or not layers
        or colour > (n >= 3)
        or levels > _MOST_LEVELS
        or max(rows, columns) > 8
        or rows + columns > 8
        or style > 63
        or transform != 1
    ):
        raise CorruptStreamError("coded in a way that is not taken apart")
    sizes = bytes(cod.take(levels + 1)) if coding & 1 else bytes([0xFF]) * (levels + 1)
    if cod.left or not all(size & 15 and size >> 4 for size in sizes[1:]):
        raise CorruptStreamError("impossible precincts")
    kind = qcd.byte()
    exponents = bytes(qcd.take(qcd.left))
    if kind & 31 or len(exponents) < 3 * levels + 1:
        raise CorruptStreamError("quantized coefficients")
    return Parameters(
        (top, left, bottom, right),
        (tile_rows, tile_columns),
        (tile_top, tile_left),
        precisions,
        tuple(c[0] > 0x7F for c in components),
        progression,
        layers,
        bool(colour),
        levels,
        (rows + 2, columns + 2),
        style,
        tuple((size >> 4, size & 15) for size in sizes),
        tuple((e >> 3) + (kind >> 5) - 1 for e in exponents[: 3 * levels + 1]),  # T.800 equation E-2,
        bool(coding & 2),
        bool(coding & 4),
    )
