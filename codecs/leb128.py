"""Unsigned integers of variable length (LEB128), and a cursor over bytes that never reads past their end."""

from dcmpress.codecs.errors import CorruptStreamError

_MAX_BYTES = 9  # 63 bits


def leb128(value: int) -> bytes:
    """Return `value` >= 0 in groups of seven bits, least significant first; bit 7 says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Map 0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """Undo `zigzag`."""
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


class Cursor:
    """Reads a buffer from front to back.

    Every method raises CorruptStreamError when the buffer ends too early.
    """

    def __init__(self, data: memoryview, position: int = 0) -> None:
        self.data = data
        self.position = position

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.position

    def skip(self, count: int) -> int:
        """Move on by `count` bytes and return where they began."""
        if count > self.remaining:
            raise CorruptStreamError(f"{count} bytes announced, {self.remaining} left")
        begin = self.position
        self.position += count
        return begin

    def take(self, count: int) -> memoryview:
        """Read `count` bytes."""
        begin = self.skip(count)
        return self.data[begin : begin + count]

    def byte(self) -> int:
        """Read one byte."""
        return self.data[self.skip(1)]

    def leb128(self) -> int:
        """Read one unsigned integer of at most 63 bits."""
        value = 0
        for shift in range(0, 7 * _MAX_BYTES, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise CorruptStreamError("integer of more than 63 bits")

    def finish(self) -> None:
        """Check that everything was read."""
        if self.remaining:
            raise CorruptStreamError(f"{self.remaining} bytes too many")
