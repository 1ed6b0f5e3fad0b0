"""What the JPEG standards have in common: marker segments (ITU-T T.81 annex B), and samples as DICOM has them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError

AFTER = b"\xff\xd9\xff\xd9"
"""Stands behind coded data while a kernel reads them, so that it always meets a marker."""

_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})


def next_segment(reader: ByteReader) -> tuple[int, ByteReader]:
    """Read a marker segment before a scan; return (marker, its content).

    Raises
    ------
    CorruptStreamError
        If there is none.
    """
    if reader.byte() != 0xFF:
        raise CorruptStreamError("no marker where one belongs")
    marker = 0xFF
    while marker == 0xFF:
        marker = reader.byte()
    if marker in _WITHOUT_LENGTH:
        raise CorruptStreamError(f"marker {marker:02x} before the scan")
    length = int.from_bytes(reader.take(2), "big")
    if length < 2:
        raise CorruptStreamError("a marker segment without length")
    return marker, ByteReader(reader.take(length - 2))


def signed(samples: NDArray[np.uint16], precision: int) -> NDArray[Any]:
    """Return samples of `precision` bits in two's complement as int16."""
    shift = 16 - precision
    return (samples << np.uint16(shift)).view(np.int16) >> np.int16(shift)
