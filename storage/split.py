"""A data set = shell (every byte outside its frames) + frames (an array of samples).

Only native pixel data of whole bytes is split: the frames that Rows, Columns, Samples per Pixel and Bits
Allocated describe, as many as are really there. Everything else, padding after the last frame included, is
shell and kept as it came. Nothing is interpreted that `join` would have to guess: `join(split(x)) == x`.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.storage.elements import (
    EXPLICIT_VR_BIG_ENDIAN,
    NATIVE_SYNTAXES,
    Buffer,
    Element,
    encoding_of,
    find_pixel_data,
)
from dcmpress.storage.errors import MalformedError

SAMPLES_PER_PIXEL = 0x00280002
PLANAR_CONFIGURATION = 0x00280006
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
PIXEL_REPRESENTATION = 0x00280103

TINY_FRAME = 1024
MOST_TINY_FRAMES = 4096
"""More frames than this, each of less than TINY_FRAME bytes, would cost more to list than they hold."""


@dataclass(frozen=True)
class PixelFormat:
    """How the samples of a frame stand in the pixel data."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    signed: bool
    by_plane: bool
    """Samples of one colour stand together (Planar Configuration 1)."""
    big_endian: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a sample as stored."""
        name = f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}"
        return np.dtype((">" if self.big_endian else "<") + name)

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return self.rows * self.columns * self.samples

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame as an array: (rows, columns) or (rows, columns, samples)."""
        return (self.rows, self.columns, self.samples)[: 3 if self.samples > 1 else 2]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.frame_samples * self.bits_allocated // 8

    def to_frames(self, data: Buffer) -> NDArray[Any]:
        """View the bytes of n frames as (n, rows, columns) or (n, rows, columns, samples); a copy only
        if the byte order is not this machine's."""
        stored = np.frombuffer(data, dtype=self.dtype)
        frames: NDArray[Any]
        if self.samples == 1:
            frames = stored.reshape(-1, self.rows, self.columns)
        elif self.by_plane:
            frames = stored.reshape(-1, self.samples, self.rows, self.columns).transpose(0, 2, 3, 1)
        else:
            frames = stored.reshape(-1, self.rows, self.columns, self.samples)
        return frames.astype(frames.dtype.newbyteorder("="), copy=False)

    def to_bytes(self, frames: NDArray[Any]) -> memoryview:
        """Return the bytes that `to_frames` made `frames` from; a view of `frames` if they stand there so."""
        if self.samples > 1 and self.by_plane:
            frames = frames.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(frames, dtype=self.dtype).reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class Split:
    """Where the frames of an encoded data set lie; the rest of it is shell."""

    pixel_format: PixelFormat
    start: int
    """Offset of the first frame in the data set, in bytes."""
    n_frames: int
    elements: dict[int, Element] = field(repr=False, compare=False)
    """Top-level elements before the pixel data, by tag."""

    @property
    def end(self) -> int:
        """Offset after the last frame."""
        return self.start + self.n_frames * self.pixel_format.frame_bytes


def split(data: Buffer, transfer_syntax_uid: str) -> tuple[Split | None, str]:
    """Find the frames of an encoded data set.

    Returns
    -------
    (Split, "") or (None, reason)
        The reason why the data set is kept whole, for the log and `dcmpress inspect`.
    """
    if transfer_syntax_uid not in NATIVE_SYNTAXES:
        return None, "pixel data is encapsulated or deflated"
    encoding = encoding_of(transfer_syntax_uid)
    try:
        before, pixel_data = find_pixel_data(data, encoding)
    except MalformedError as error:
        return None, f"unreadable: {error}"
    if pixel_data is None:
        return None, "no pixel data"
    if pixel_data.undefined_length:
        return None, "encapsulated pixel data in a native transfer syntax"
    pixel_format, reason = pixel_format_of(data, before, transfer_syntax_uid)
    if pixel_format is None:
        return None, reason
    declared = declared_frames(data, before)
    present = (min(pixel_data.end, len(data)) - pixel_data.value) // pixel_format.frame_bytes
    n_frames = min(declared, present)
    if n_frames < 1:
        return None, "pixel data is shorter than one frame"
    if n_frames > MOST_TINY_FRAMES and pixel_format.frame_bytes < TINY_FRAME:
        return None, f"{n_frames} frames of {pixel_format.frame_bytes} bytes"
    return Split(pixel_format, pixel_data.value, n_frames, before), ""


def pixel_format_of(
    data: Buffer, elements: dict[int, Element], transfer_syntax_uid: str
) -> tuple[PixelFormat | None, str]:
    """Return how the attributes before the pixel data describe its samples, or None and the reason."""
    order = ">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<"

    def number(tag: int, default: int = 0) -> int:
        element = elements.get(tag)
        if element is None or element.end - element.value < 2:
            return default
        (value,) = struct.unpack_from(order + "H", data, element.value)
        return int(value)

    rows, columns = number(ROWS), number(COLUMNS)
    bits = number(BITS_ALLOCATED)
    samples = number(SAMPLES_PER_PIXEL, 1)
    if bits not in (8, 16, 32):
        return None, f"Bits Allocated is {bits}"
    if not rows or not columns or not 1 <= samples <= 4:
        return None, f"Rows x Columns x Samples is {rows} x {columns} x {samples}"
    return (
        PixelFormat(
            rows,
            columns,
            samples,
            bits,
            signed=number(PIXEL_REPRESENTATION) == 1,
            by_plane=samples > 1 and number(PLANAR_CONFIGURATION) == 1,
            big_endian=order == ">" and bits > 8,
        ),
        "",
    )


def declared_frames(data: Buffer, elements: dict[int, Element]) -> int:
    """Return what Number of Frames says; 1 if it says nothing."""
    element = elements.get(NUMBER_OF_FRAMES)
    if element is None:
        return 1
    text = bytes(data[element.value : min(element.end, element.value + 16)]).split(b"\\")[0].strip(b" \0")
    return int(text) if text.isdigit() else 1
