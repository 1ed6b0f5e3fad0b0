"""Where the data elements of an encoded data set lie (PS3.5 section 7.1). Offsets only; nothing is decoded.

This is the one place that walks encoded data sets in storage. It is strict where it must be (a length that
leads out of the data is an error, never a guess) and has no opinion on values: the bytes stay the truth.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dcmpress.storage.errors import MalformedError

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_SYNTAXES = frozenset({DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.95"})
NATIVE_SYNTAXES = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN})

Buffer = bytes | bytearray | memoryview

PIXEL_DATA = 0x7FE00010
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF

_LONG_FORM_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""VRs whose explicit form has two reserved bytes and a 32-bit length (PS3.5 table 7.1-1)."""

_SHORT_FORM_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
    | {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)

_MAX_DEPTH = 64
"""Nesting of sequences that is followed; deeper is hostile (the standard's own objects reach about 8)."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are laid out: PS3.5 Annex A."""

    explicit: bool
    little_endian: bool = True


_IMPLICIT = Encoding(explicit=False)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return the element encoding of a transfer syntax; all but three are explicit little endian."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return _IMPLICIT
    return Encoding(explicit=True, little_endian=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN)


class Element(NamedTuple):
    """One top-level data element: `data[start:value]` is its header, `data[value:end]` its value."""

    tag: int
    vr: bytes
    """Two letters, or b"" in implicit VR."""
    start: int
    value: int
    end: int
    """First byte after the element, delimiters of an undefined length included."""
    undefined_length: bool


class _Reader:
    """Element headers of one byte order and VR form."""

    def __init__(self, data: Buffer, encoding: Encoding) -> None:
        order = "<" if encoding.little_endian else ">"
        self.data = data
        self.size = len(data)
        self.explicit = encoding.explicit
        self.first8 = struct.Struct(order + "HH2sH").unpack_from
        self.u32 = struct.Struct(order + "I").unpack_from

    def header(self, at: int) -> tuple[int, bytes, int, int]:
        """Return (tag, VR, offset of the value, length) of the element or item header at `at`."""
        try:
            group, element, vr, length = self.first8(self.data, at)
            tag = group << 16 | element
            if group == 0xFFFE or not self.explicit:
                return tag, b"", at + 8, self.u32(self.data, at + 4)[0]
            if vr in _LONG_FORM_VRS:
                return tag, vr, at + 12, self.u32(self.data, at + 8)[0]
            if not (vr.isalpha() and vr.isupper()):
                raise MalformedError(f"({group:04X},{element:04X}) at byte {at} has no valid VR: {vr!r}")
            return tag, vr, at + 8, length
        except struct.error:
            raise MalformedError(f"ends inside an element header at byte {at}") from None

    def end_of_undefined(self, tag: int, vr: bytes, at: int) -> int:
        """Return the offset after the sequence delimiter of an undefined-length value that starts at `at`.

        Follows nested items with a stack of its own, so that no nesting can exhaust Python's.
        """
        # UN of undefined length holds implicit VR little endian items (PS3.5 section 6.2.2 note 2).
        reader = _Reader(self.data, _IMPLICIT) if vr == b"UN" else self
        stack: list[tuple[_Reader, bool]] = [(reader, True)]  # (reader, inside a sequence, not an item)
        while stack:
            reader, in_sequence = stack[-1]
            found, found_vr, value, length = reader.header(at)
            if in_sequence:
                if found == SEQUENCE_DELIMITER:
                    stack.pop()
                    at = value
                    continue
                if found != ITEM:
                    raise MalformedError(f"no item at byte {at} inside the sequence {tag:08X}")
                if length == UNDEFINED:
                    stack.append((reader, False))
                    at = value
                    continue
            elif found == ITEM_DELIMITER:
                stack.pop()
                at = value
                continue
            elif length == UNDEFINED:
                nested = _Reader(self.data, _IMPLICIT) if found_vr == b"UN" else reader
                stack.append((nested, True))
                if len(stack) > _MAX_DEPTH:
                    raise MalformedError(f"sequences are nested deeper than {_MAX_DEPTH}")
                at = value
                continue
            at = value + length
            if at > self.size:
                raise MalformedError(f"ends inside the value of {found:08X}")
        return at


def iterate(
    data: Buffer, encoding: Encoding, start: int = 0, *, until: int | None = None
) -> Iterator[Element]:
    """Yield the top-level elements of the encoded data set `data`, in the order they stand there.

    With `until`, end before the first element with a greater tag, whole or not; one that stands out of
    order, with a smaller tag than its predecessor, does not count.

    Raises
    ------
    MalformedError
        At the first element that cannot be read; those before it have been yielded. An element whose
        value ends beyond the data is not yielded.
    """
    return map(Element._make, walk(data, encoding, start, until=until))


def walk(
    data: Buffer, encoding: Encoding, start: int = 0, *, until: int | None = None
) -> Iterator[tuple[int, bytes, int, int, int, bool]]:
    """Yield what `iterate` yields, as plain tuples in the order of `Element`: half the time."""
    reader = _Reader(data, encoding)
    first8, size = reader.first8, reader.size
    short = _SHORT_FORM_VRS if encoding.explicit else frozenset()
    at = start
    previous = 0
    while at < size:
        if at + 8 <= size:
            group, number, vr, length = first8(data, at)
            tag, value = group << 16 | number, at + 8
            if vr not in short or group == 0xFFFE:
                tag, vr, value, length = reader.header(at)
        else:
            tag, vr, value, length = reader.header(at)
        if until is not None and tag > until and tag >= previous:
            return
        previous = tag
        if length == UNDEFINED:
            end = reader.end_of_undefined(tag, vr, value)
        else:
            end = value + length
            if end > size:
                raise MalformedError(
                    f"({tag >> 16:04X},{tag & 0xFFFF:04X}) says {length} bytes; only {size - value} follow"
                )
        yield tag, vr, at, value, end, length == UNDEFINED
        at = end


def find_pixel_data(data: Buffer, encoding: Encoding) -> tuple[dict[int, Element], Element | None]:
    """Return the top-level elements before (7FE0,0010) by tag, and that element, or None without one.

    Of elements that stand twice the first counts. The value of (7FE0,0010) may end beyond the data: a data
    set cut short still has the frames that came.
    """
    reader = _Reader(data, encoding)
    before: dict[int, Element] = {}
    at = 0
    while at < reader.size:
        tag, vr, value, length = reader.header(at)
        undefined = length == UNDEFINED
        if tag == PIXEL_DATA:
            return before, Element(
                tag, vr, at, value, reader.size if undefined else value + length, undefined
            )
        end = reader.end_of_undefined(tag, vr, value) if undefined else value + length
        if end > reader.size:
            raise MalformedError(f"ends inside the value of {tag:08X}")
        before.setdefault(tag, Element(tag, vr, at, value, end, undefined))
        at = end
    return before, None


def inflate(data: Buffer, limit: int, *, whole: bool = False) -> bytes:
    """Return up to `limit` bytes of a deflated data set (raw deflate, PS3.5 section A.5).

    Raises
    ------
    MalformedError
        If the bytes are not a deflate stream; with `whole`, also if it does not end within the limit.
    """
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = unpacker.decompress(data, limit)
    except zlib.error as error:
        raise MalformedError(f"not a deflate stream: {error}") from None
    if whole and not unpacker.eof:
        raise MalformedError("the deflate stream is cut short or too long")
    return inflated
