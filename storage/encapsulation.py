"""Encapsulated pixel data put together: items, offset tables, and what stands before and after (PS3.5 A.4)."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from dcmpress.storage.elements import ITEM, PIXEL_DATA, SEQUENCE_DELIMITER, UNDEFINED
from dcmpress.storage.errors import ConversionError

EXTENDED_OFFSET_TABLE = 0x7FE00001
EXTENDED_OFFSET_TABLE_LENGTHS = 0x7FE00002

_LARGEST_OFFSET = 0xFFFFFFFF
_CHUNK = 1 << 20


@dataclass
class Converted:
    """A data set in another transfer syntax: bytes, or bytes around frames that lie in a file."""

    before: bytes
    frames: IO[bytes] | None = None
    """Items of one fragment each."""
    after: bytes = b""
    frames_size: int = 0

    @property
    def size(self) -> int:
        """Of the data set in bytes."""
        return len(self.before) + self.frames_size + len(self.after)

    def pieces(self) -> Iterator[bytes]:
        """Yield the data set, piece by piece. Can be called once."""
        yield self.before
        if self.frames is not None:
            with self.frames as file:
                file.seek(0)
                while chunk := file.read(_CHUNK):
                    yield chunk
        if self.after:
            yield self.after

    def close(self) -> None:
        """Let go of it; `pieces` does so at its end."""
        if self.frames is not None:
            self.frames.close()


def write_fragment(file: IO[bytes], frame: bytes) -> int:
    """Append a frame as one item, padded to an even length; return that length."""
    size = len(frame) + len(frame) % 2
    if size >= UNDEFINED:
        raise ConversionError(f"a frame of {size} bytes does not fit one fragment")
    file.write(_tag(ITEM) + struct.pack("<I", size))
    file.write(frame)
    file.write(b"\0" * (size - len(frame)))
    return size


def opening(sizes: Sequence[int]) -> bytes:
    """Return what stands before the first fragment: (7FE0,0010)'s header and the offset table.

    The Basic Offset Table has 32 bits for an offset. Beyond that it is empty and the Extended Offset Table
    before it has the places (PS3.5 A.4, PS3.3 C.7.6.3.1.8).

    Parameters
    ----------
    sizes : sequence of int
        Of the frames' fragments, in bytes, without their item headers.
    """
    offsets = []
    at = 0
    for size in sizes:
        offsets.append(at)
        at += 8 + size
    extended = b""
    table = struct.pack(f"<{len(offsets)}I", *offsets) if offsets[-1] <= _LARGEST_OFFSET else b""
    if not table:
        extended = _long_element(EXTENDED_OFFSET_TABLE, b"OV", struct.pack(f"<{len(offsets)}Q", *offsets))
        extended += _long_element(
            EXTENDED_OFFSET_TABLE_LENGTHS, b"OV", struct.pack(f"<{len(sizes)}Q", *sizes)
        )
    header = _tag(PIXEL_DATA) + b"OB\0\0" + struct.pack("<I", UNDEFINED)
    return extended + header + _tag(ITEM) + struct.pack("<I", len(table)) + table


CLOSING = struct.pack("<HHI", SEQUENCE_DELIMITER >> 16, SEQUENCE_DELIMITER & 0xFFFF, 0)
"""What stands after the last fragment."""


def _tag(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _long_element(tag: int, vr: bytes, value: bytes) -> bytes:
    return _tag(tag) + vr + b"\0\0" + struct.pack("<I", len(value)) + value
