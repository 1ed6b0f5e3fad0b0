"""Bits and bytes below the codecs: variable-length integers, and unaligned loads for kernels."""

import sys
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dcmpress.codecs.errors import CorruptStreamError

LOAD_SLACK = 8
"""Bytes past the last offset that `load64` may touch."""


@intrinsic
def load64(typingctx: Any, buffer: Any, offset: Any) -> Any:
    """Return `buffer[offset:offset + 8]` as a little-endian uint64, whatever the alignment.

    There is no bounds check, not even with NUMBA_BOUNDSCHECK=1: the caller proves that
    `0 <= offset <= len(buffer) - 8`.
    """
    signature = types.uint64(buffer, types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)
        return builder.bswap(word) if sys.byteorder == "big" else word

    return signature, generate


@intrinsic
def leading_zeros(typingctx: Any, value: Any) -> Any:
    """Return how many of the 64 bits of a uint64 are zero before the first one: 64 for 0."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(0))

    return signature, generate


@intrinsic
def shifted(typingctx: Any, value: Any, count: Any) -> Any:
    """Return `value >> (count & 31)` of two int32 without widening it: a cycle less than `>>`."""
    signature = types.int32(types.int32, types.int32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ashr(arguments[0], builder.and_(arguments[1], ir.IntType(32)(31)))

    return signature, generate


def put_varint(out: bytearray, value: int) -> None:
    """Append `value` >= 0 in groups of 7 bits, least significant first (LEB128)."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_signed(out: bytearray, value: int) -> None:
    """Append `value` of either sign: 0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ..."""
    put_varint(out, 2 * value if value >= 0 else -2 * value - 1)


class ByteReader:
    """Reads what `put_varint` wrote, and plain bytes; raises CorruptStreamError at the end of the data."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def take(self, n_bytes: int) -> memoryview:
        """Return the next `n_bytes` bytes."""
        if n_bytes > self.left:
            raise CorruptStreamError("stream ends inside a field")
        taken = self._data[self._position : self._position + n_bytes]
        self._position += n_bytes
        return taken

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def varint(self, limit: int = 1 << 62) -> int:
        """Return the next unsigned integer; CorruptStreamError if it is above `limit`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise CorruptStreamError("integer is too long")
        if value > limit:
            raise CorruptStreamError(f"field holds {value}; {limit} is the limit")
        return value

    def signed(self, limit: int = 1 << 61) -> int:
        """Return the next integer of either sign."""
        value = self.varint(2 * limit + 1)
        return -(value + 1 >> 1) if value & 1 else value >> 1


def as_bytes(view: memoryview) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return `view` as a uint8 array that shares its memory."""
    return np.frombuffer(view, np.uint8)
