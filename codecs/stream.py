"""The header that every stream of this room starts with, and its checksum.

    offset  size  field
    0       4     magic of the codec
    4       1     format version
    5       1     dtype: 1 uint8, 2 int8, 3 uint16, 4 int16, 5 uint32, 6 int32
    6       2     samples per pixel, or 0 if the frames have no samples axis
    8       4     frames
    12      4     rows
    16      4     columns
    20      4     CRC-32 (ISO 3309) of bytes 0 to 19 and of everything after the header
    24            payload of the codec

Integers are unsigned and little endian.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from imagecodecs import deflate_crc32
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError, TooLargeError, UnknownVersionError

_FIELDS = struct.Struct("<4sBBHIII")
_CRC = struct.Struct("<I")
HEADER_SIZE = _FIELDS.size + _CRC.size

_DTYPE_CODES = {"uint8": 1, "int8": 2, "uint16": 3, "int16": 4, "uint32": 5, "int32": 6}
_DTYPES = {code: np.dtype(name) for name, code in _DTYPE_CODES.items()}


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says of itself before its payload."""

    version: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """(frames, rows, columns) or (frames, rows, columns, samples)."""

    @property
    def n_samples(self) -> int:
        """Samples in all frames together."""
        total = 1
        for extent in self.shape:
            total *= extent
        return total


def _checksum(fields: Any, payload: Any) -> int:
    # libdeflate's takes a sixth of the time of the one in Python's zlib.
    return int(deflate_crc32(payload, value=deflate_crc32(fields)))


def write_stream(magic: bytes, version: int, frames: NDArray[Any], payload: bytes) -> bytes:
    """Return header + payload for `frames` (shape and dtype are recorded; the samples are not read)."""
    samples = frames.shape[3] if frames.ndim == 4 else 0
    fields = _FIELDS.pack(magic, version, _DTYPE_CODES[frames.dtype.name], samples, *frames.shape[:3])
    crc = _checksum(fields, payload)
    return b"".join((fields, _CRC.pack(crc), payload))


def read_stream(
    data: bytes | memoryview, magic: bytes, newest: int, max_pixels: int, *, prefix: bool = False
) -> tuple[StreamHeader, memoryview]:
    """Check a stream's header and checksum and return (header, payload).

    With `prefix` the payload may have been cut short, so its checksum is not looked at.

    Raises
    ------
    CorruptStreamError, UnknownVersionError, TooLargeError
    """
    view = memoryview(data).cast("B")
    if len(view) < HEADER_SIZE:
        raise CorruptStreamError(f"stream of {len(view)} bytes is shorter than its header")
    found, version, dtype_code, samples, n, rows, columns = _FIELDS.unpack_from(view)
    if found != magic:
        raise CorruptStreamError(f"stream starts with {found!r}, not {magic!r}")
    if not 1 <= version <= newest:
        raise UnknownVersionError(f"format version {version}; this program knows 1 to {newest}")
    if dtype_code not in _DTYPES or 0 in (n, rows, columns):
        raise CorruptStreamError("impossible frame description")
    shape = (n, rows, columns, samples) if samples else (n, rows, columns)
    header = StreamHeader(version, _DTYPES[dtype_code], shape)
    if header.n_samples > max_pixels:
        raise TooLargeError(f"stream declares {header.n_samples} samples; {max_pixels} are allowed")
    payload = view[HEADER_SIZE:]
    if not prefix:
        (crc,) = _CRC.unpack_from(view, _FIELDS.size)
        if _checksum(view[: _FIELDS.size], payload) != crc:
            raise CorruptStreamError("checksum differs: the stream is truncated or damaged")
    return header, payload
