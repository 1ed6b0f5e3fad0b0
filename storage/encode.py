"""Native pixel data turned into encapsulated pixel data, losslessly, frame by frame on several threads.

The words of the pixel data survive whole, bits above Bits Stored included (but for signs, which JPEG 2000 has
as such). Where no sample has such bits the stream tells a precision of Bits Stored, else one of Bits Allocated.
What a standard's table does not allow (PS3.5 8.2) or the library does not take is refused; the caller then
tries another of the transfer syntaxes that the receiver accepts.
"""

import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.foreign_encode import encode_foreign
from dcmpress.storage.elements import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    Buffer,
    encoding_of,
    find_pixel_data,
    iterate,
)
from dcmpress.storage.encapsulation import (
    CLOSING,
    EXTENDED_OFFSET_TABLE,
    EXTENDED_OFFSET_TABLE_LENGTHS,
    Converted,
    opening,
    write_fragment,
)
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.split import NUMBER_OF_FRAMES, PLANAR_CONFIGURATION, PixelFormat, pixel_format_of
from dcmpress.storage.targets import COMPRESSED

PHOTOMETRIC_INTERPRETATION = 0x00280004
BITS_STORED = 0x00280101
HIGH_BIT = 0x00280102

IN_MEMORY = 64 << 20
"""Bytes of encoded frames that are held in memory; more go to a temporary file."""

_TRANSFORMED = frozenset({"jpeg-2000", "htj2k", "htj2k-rpcl"})
"""Formats whose reversible colour transform the data set tells, as YBR_RCT (PS3.5 8.2.4)."""

_KNOWS_SIGNS = _TRANSFORMED

_EXPLICIT = encoding_of(EXPLICIT_VR_LITTLE_ENDIAN)
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


@dataclass(frozen=True)
class NativePixels:
    """Native pixel data of an encoded data set in little endian, and how it is to be read."""

    pixel_format: PixelFormat
    data: memoryview
    """Its frames alone."""
    bits_stored: int
    high_bit: int
    photometric: str
    subsampled: bool
    """Two pixels share their chrominance: Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2, YBR_FULL_422)."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame as it is stored."""
        plain = self.pixel_format.frame_bytes
        return plain * 2 // 3 if self.subsampled else plain

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.data) // self.frame_bytes

    def frame(self, i: int) -> NDArray[Any]:
        """Return frame `i`, (rows, columns) or (rows, columns, 3)."""
        stored = self.data[i * self.frame_bytes : (i + 1) * self.frame_bytes]
        if not self.subsampled:
            frame: NDArray[Any] = self.pixel_format.to_frames(stored)[0]
            return frame
        quads = np.frombuffer(stored, np.uint8).reshape(-1, 4)
        pixels = np.empty((len(quads), 2, 3), np.uint8)
        pixels[..., 0] = quads[:, :2]
        pixels[..., 1:] = quads[:, None, 2:]
        return pixels.reshape(self.pixel_format.frame_shape)


def native_pixels(data: Buffer, transfer_syntax_uid: str) -> tuple[NativePixels, int, int]:
    """Return the native pixel data of a data set, and where that element begins and ends.

    Raises
    ------
    ConversionError
        If there is none, or it is not what its attributes describe.
    """
    before, element = find_pixel_data(data, encoding_of(transfer_syntax_uid))
    if element is None:
        raise ConversionError("no pixel data to compress")
    if element.undefined_length:
        raise ConversionError("encapsulated pixel data in a native transfer syntax")

    def text(tag: int) -> str:
        found = before.get(tag)
        return bytes(data[found.value : found.end]).decode("latin-1").strip(" \0") if found else ""

    def number(tag: int, default: int) -> int:
        found = before.get(tag)
        if found is None or found.end - found.value != 2:
            return default
        return int(struct.unpack_from("<H", data, found.value)[0])

    form, reason = pixel_format_of(data, before, transfer_syntax_uid)
    if form is None:
        raise ConversionError(reason)
    for group in _OVERLAY_GROUPS:
        if number(group << 16 | 0x0100, 1) != 1:
            raise ConversionError("an overlay stands in unused bits of the pixel data")
    frames = text(NUMBER_OF_FRAMES) or "1"
    if not frames.isdigit() or not int(frames):
        raise ConversionError(f"Number of Frames is {frames!r}")
    photometric = text(PHOTOMETRIC_INTERPRETATION)
    length = element.end - element.value
    pixels = NativePixels(
        form,
        memoryview(data)[element.value : min(element.end, len(data))],
        number(BITS_STORED, form.bits_allocated),
        number(HIGH_BIT, form.bits_allocated - 1),
        photometric,
        subsampled=photometric == "YBR_FULL_422"
        and (form.samples, form.bits_allocated) == (3, 8)
        and form.columns % 2 == 0
        and length < int(frames) * form.frame_bytes,
    )
    wanted = int(frames) * pixels.frame_bytes
    if len(pixels.data) < wanted or length >= wanted + pixels.frame_bytes:
        raise ConversionError(f"{length} bytes of pixel data; the attributes ask for {wanted}")
    return replace(pixels, data=pixels.data[:wanted]), element.start, element.end


def encode_pixels(pixels: NativePixels, head: bytes, tail: bytes, target: str, folder: Path) -> Converted:
    """Return a data set with its pixel data in one of COMPRESSED.

    Parameters
    ----------
    pixels : NativePixels
    head, tail : bytes
        Elements before and after the pixel data, in explicit VR little endian.
    target : str
        Transfer syntax.
    folder : Path
        For a temporary file, if the encoded frames are many.

    Raises
    ------
    ConversionError
        If the format does not take such samples.
    """
    format_name = COMPRESSED[target]
    photometric = _photometric(pixels, format_name)
    bits, extend = _precision(pixels, format_name)
    by_plane = format_name == "run-length"  # its segments are planes
    changed = with_pixels_told(head, photometric, pixels.pixel_format.samples, by_plane=by_plane)
    file = cast("IO[bytes]", SpooledTemporaryFile(IN_MEMORY, dir=str(folder)))  # noqa: SIM115
    try:
        sizes = [
            write_fragment(file, frame)
            for frame in _encoded(pixels, format_name, bits, extend, photometric == "YBR_RCT")
        ]
    except BaseException:
        file.close()
        raise
    return Converted(changed + opening(sizes), file, CLOSING + tail, sum(sizes) + 8 * len(sizes))


def _photometric(pixels: NativePixels, format_name: str) -> str:
    """Return the photometric interpretation of the encoded frames."""
    if pixels.pixel_format.samples == 1:
        return pixels.photometric
    if pixels.pixel_format.samples != 3:
        raise ConversionError(f"{pixels.pixel_format.samples} samples per pixel")
    if pixels.photometric == "RGB":
        return "YBR_RCT" if format_name in _TRANSFORMED else "RGB"
    if pixels.photometric in ("YBR_FULL", "YBR_FULL_422"):
        return "YBR_FULL"
    raise ConversionError(f"photometric interpretation {pixels.photometric}")


def _precision(pixels: NativePixels, format_name: str) -> tuple[int, bool]:
    """Return the bits of a sample that the stream tells, and whether signs are to be extended first.

    Bits Stored, if no sample has more. A format that knows signs takes negative samples as such, also those
    whose unused bits are 0.
    """
    allocated, stored = pixels.pixel_format.bits_allocated, pixels.bits_stored
    if not 1 <= stored < allocated or pixels.high_bit != stored - 1:
        return allocated, False
    unsigned_fits = signed_fits = True
    for i in range(pixels.n_frames):
        frame = pixels.frame(i)
        word = frame.view(f"u{frame.dtype.itemsize}")
        unsigned_fits &= int(word.max()) < 1 << stored
        if pixels.pixel_format.signed:
            limit = 1 << stored - 1
            signed_fits &= -limit <= int(frame.min()) and int(frame.max()) < limit
    if pixels.pixel_format.signed and format_name in _KNOWS_SIGNS:
        return (stored, not signed_fits) if signed_fits or unsigned_fits else (allocated, False)
    return (stored if unsigned_fits else allocated), False


def _encoded(
    pixels: NativePixels, format_name: str, bits: int, extend: bool, decorrelate: bool
) -> Iterator[bytes]:
    """Yield the encoded frames in order; as many are encoded at a time as there are threads."""
    unused = pixels.pixel_format.bits_allocated - bits

    def encode(i: int) -> bytes:
        frame = pixels.frame(i)
        if extend:
            frame = frame << unused >> unused
        try:
            return encode_foreign(format_name, frame, bits, decorrelate=decorrelate)
        except ValueError as error:
            raise ConversionError(str(error)) from error

    if pixels.n_frames == 1:
        yield encode(0)
        return
    waiting: deque[Future[bytes]] = deque()
    try:
        for i in range(pixels.n_frames):
            waiting.append(_threads().submit(encode, i))
            if len(waiting) > _n_threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _n_threads() -> int:
    return max(2, os.cpu_count() or 2)


@cache
def _threads() -> ThreadPoolExecutor:
    """Return threads that encode frames: not those that read instances, which wait for these."""
    return ThreadPoolExecutor(_n_threads(), thread_name_prefix="encode")


def with_pixels_told(head: bytes, photometric: str, samples: int, *, by_plane: bool) -> bytes:
    """Return the elements before pixel data that is to be encoded anew, with what is to be told differently.

    Group lengths and extended offset tables of the old encoding are left away.
    """
    changes: dict[int, bytes | None] = {
        0x00280000: None,
        0x7FE00000: None,
        EXTENDED_OFFSET_TABLE: None,
        EXTENDED_OFFSET_TABLE_LENGTHS: None,
        PHOTOMETRIC_INTERPRETATION: _element(PHOTOMETRIC_INTERPRETATION, b"CS", photometric.encode()),
    }
    if samples > 1:
        changes[PLANAR_CONFIGURATION] = _element(PLANAR_CONFIGURATION, b"US", struct.pack("<H", by_plane))
    return with_elements(head, changes)


def with_elements(data: bytes, changes: Mapping[int, bytes | None]) -> bytes:
    """Return elements in explicit VR little endian with some replaced, put in their places, or left away.

    Parameters
    ----------
    changes : mapping
        Tag -> the whole element, or None to leave it away.
    """
    added = sorted((tag, element) for tag, element in changes.items() if element is not None)
    parts: list[Buffer] = []
    kept = 0
    for element in iterate(data, _EXPLICIT):
        while added and added[0][0] <= element.tag:
            parts += [data[kept : element.start], added.pop(0)[1]]
            kept = element.start
        if element.tag in changes:
            parts.append(data[kept : element.start])
            kept = element.end
    parts.append(data[kept:])
    parts += [element for _, element in added]
    return b"".join(parts)


def elements_around(data: bytes, tag: int = PIXEL_DATA) -> tuple[bytes, bytes]:
    """Return the elements of a data set without pixel data that belong before and after it."""
    for element in iterate(data, _EXPLICIT):
        if element.tag > tag:
            return data[: element.start], data[element.start :]
    return data, b""


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return an element of a short-form VR."""
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
