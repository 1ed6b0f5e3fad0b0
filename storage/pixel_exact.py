"""Losslessly compressed images as native pixel data: what is kept in place of bytes that nobody can make again.

A rule asks for it (`pixel_exact`); `docs/decisions/0006-pixel-exact.md` says what is kept and what is not. The data
set is the received one in Explicit VR Little Endian. Beside the pixel data only what must be told differently
changes: Photometric Interpretation where the codec itself transformed colours, Planar Configuration, offset tables
and group lengths. Whatever is in doubt is refused; it is then kept as it came.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from dcmpress.codecs.errors import CodecError
from dcmpress.codecs.foreign import decode_foreign
from dcmpress.codecs.reversible import Told, read_told
from dcmpress.storage.elements import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    UNDEFINED,
    Buffer,
    encoding_of,
    iterate,
)
from dcmpress.storage.encapsulated import Fragments, find_encapsulated
from dcmpress.storage.encapsulation import CLOSING
from dcmpress.storage.encode import (
    BITS_STORED,
    HIGH_BIT,
    PHOTOMETRIC_INTERPRETATION,
    with_pixels_told,
)
from dcmpress.storage.errors import ConversionError, MalformedError
from dcmpress.storage.received import Form
from dcmpress.storage.split import (
    NUMBER_OF_FRAMES,
    PixelFormat,
    pixel_format_of,
)

_PREFIX = "1.2.840.10008.1.2.4."
FORMATS = {
    **dict.fromkeys([f"{_PREFIX}{n}" for n in (57, 70)], "jpeg"),
    f"{_PREFIX}80": "jpeg-ls",
    f"{_PREFIX}90": "jpeg-2000",
    **dict.fromkeys([f"{_PREFIX}{n}" for n in (201, 202)], "htj2k"),
    f"{_PREFIX}110": "jpeg-xl",
}
"""Transfer syntax -> format of its frames (`decode_foreign`). All of them promise that nothing was lost."""

_HEADER_BYTES = 12
"""Of (7FE0,0010) in explicit VR."""

_LOSSY_MARKS = (0x00282110, 0x00282112, 0x00282114)
_SIGNATURES = (0x4FFE0001, 0xFFFAFFFA)
_PIXEL_DATA_PROVIDER = 0x00287FE0
_NESTED = re.compile(rb"\xe0\x7f\x10\x00(?:..\0\0)?\xff\xff\xff\xff", re.DOTALL)
"""The beginning of encapsulated pixel data in an item."""

_OVERLAY_BITS_ALLOCATED = [0x60000100 + (group << 16) for group in range(0, 0x20, 2)]

Decode = Callable[["NativeForm", bytes], NDArray[Any]]
"""Gives the samples of one image."""


@dataclass(frozen=True)
class NativeForm:
    """How a data set looks whose compressed images are replaced by native pixel data; not decoded yet."""

    transfer_syntax_uid: str
    """As received."""
    images: tuple[Fragments, ...]
    pixel_format: PixelFormat
    bits_stored: int
    photometric: str
    """As received."""
    transformed: bool
    """See `Told`."""
    head: bytes
    """Everything before the first sample."""
    tail: bytes
    """Everything after the last."""

    @property
    def size(self) -> int:
        """Bytes of the data set."""
        return len(self.head) + len(self.images) * self.pixel_format.frame_bytes + len(self.tail)

    def pieces(self, data: Buffer, decode: Decode) -> Iterator[bytes]:
        """Yield the data set, a frame at a time.

        Parameters
        ----------
        data
            The received data set, of which this is the form.
        decode
            `by_imagecodecs` or `by_pydicom`.

        Raises
        ------
        ConversionError
            If an image is not lossless, cannot be decoded, or holds other samples than the attributes say.
        """
        yield self.head
        for fragments in self.images:
            encoded = b"".join(bytes(data[start:stop]) for start, stop in fragments)
            try:
                told = read_told(FORMATS[self.transfer_syntax_uid], encoded)
            except CodecError as error:
                raise ConversionError(str(error)) from error
            if told.transformed != self.transformed:
                raise ConversionError("images differ in their colour transform")
            yield self._bytes(told, decode(self, encoded))
        yield self.tail

    def _bytes(self, told: Told, samples: NDArray[Any]) -> bytes:
        form = self.pixel_format
        if form.frame_shape[: len(told.shape)] != told.shape or samples.shape != form.frame_shape:
            raise ConversionError(f"an image of {samples.shape}; the attributes say {form.frame_shape}")
        if samples.dtype.kind not in "iu" or (told.signed and not form.signed):
            raise ConversionError(f"samples of {samples.dtype}; the attributes say {form.dtype}")
        words = samples.astype(f"{samples.dtype.kind}{form.dtype.itemsize}")
        if samples.dtype.itemsize > words.dtype.itemsize and np.any(words != samples):
            raise ConversionError("samples do not fit Bits Allocated")
        words = words.view(form.dtype)
        limit = 1 << (self.bits_stored - form.signed)
        if int(words.max()) >= limit or int(words.min()) < (-limit if form.signed else 0):
            raise ConversionError("samples have bits above Bits Stored")
        return words.tobytes()

    def digest(self, data: Buffer, decode: Decode) -> Form:
        """Return what identifies the data set that `pieces` yields.

        Raises
        ------
        ConversionError
        """
        sha256 = hashlib.sha256()
        for piece in self.pieces(data, decode):
            sha256.update(piece)
        return Form(EXPLICIT_VR_LITTLE_ENDIAN, self.size, sha256.digest())


def native_form(data: Buffer, transfer_syntax_uid: str) -> NativeForm:
    """Return how a received data set looks with native pixel data.

    Raises
    ------
    ConversionError
        If anything about it is in doubt.
    """
    format_name = FORMATS.get(transfer_syntax_uid)
    if format_name is None:
        raise ConversionError(f"{UID(transfer_syntax_uid).name} does not promise that nothing was lost")
    found = find_encapsulated(data, transfer_syntax_uid)
    if found is None:
        raise ConversionError("no compressed images")
    if bytes(data[found.end - len(CLOSING) : found.end]) != CLOSING:
        raise ConversionError("the pixel data is cut short")
    head, tail = bytes(data[: found.start - _HEADER_BYTES]), bytes(data[found.end :])
    _check_elements(head, tail)

    def text(tag: int) -> str:
        element = found.elements.get(tag)
        return bytes(data[element.value : element.end]).decode("latin-1").strip(" \0") if element else ""

    def number(tag: int) -> int:
        element = found.elements.get(tag)
        if element is None or element.end - element.value != 2:
            raise ConversionError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not one number")
        return int(struct.unpack_from("<H", data, element.value)[0])

    form, reason = pixel_format_of(data, found.elements, transfer_syntax_uid)
    if form is None:
        raise ConversionError(reason)
    if form.bits_allocated > 16:
        raise ConversionError(f"{form.bits_allocated} bits allocated")
    stored = number(BITS_STORED)
    if not 1 <= stored <= form.bits_allocated or number(HIGH_BIT) != stored - 1:
        raise ConversionError("Bits Allocated, Bits Stored and High Bit do not fit together")
    if any(tag in found.elements and number(tag) != 1 for tag in _OVERLAY_BITS_ALLOCATED):
        raise ConversionError("an overlay stands in unused bits of the pixel data")
    frames = text(NUMBER_OF_FRAMES) or "1"
    if not frames.isdecimal() or int(frames) != len(found.images):
        raise ConversionError(f"{len(found.images)} images; Number of Frames is {frames!r}")
    try:
        told = read_told(format_name, b"".join(bytes(data[a:b]) for a, b in found.images[0]))
    except CodecError as error:
        raise ConversionError(str(error)) from error
    native = PixelFormat(
        form.rows,
        form.columns,
        form.samples,
        form.bits_allocated,
        form.signed,
        by_plane=False,
        big_endian=False,
    )
    received = text(PHOTOMETRIC_INTERPRETATION)
    photometric = _photometric(native, received, format_name, told)
    size = native.frame_bytes * len(found.images)
    padding = size % 2
    if size + padding >= UNDEFINED:
        raise ConversionError(f"{size} bytes of pixel data do not fit a native data element")
    opening = struct.pack(
        "<HH2sHI", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF, b"OB" if native.bits_allocated == 8 else b"OW", 0,
        size + padding,
    )  # fmt: skip
    return NativeForm(
        transfer_syntax_uid,
        found.images,
        native,
        stored,
        received,
        told.transformed,
        with_pixels_told(head, photometric, native.samples, by_plane=False) + opening,
        b"\0" * padding + tail,
    )


def _check_elements(head: bytes, tail: bytes) -> None:
    """Raise ConversionError unless the elements around the pixel data can stay as they are."""
    explicit = encoding_of(EXPLICIT_VR_LITTLE_ENDIAN)
    try:
        before = [element.tag for element in iterate(head, explicit)]
        after = [element.tag for element in iterate(tail, explicit)]
    except MalformedError as error:
        raise ConversionError(f"it cannot be read: {error}") from error
    tags = [*before, PIXEL_DATA, *after]
    if any(a >= b for a, b in pairwise(tags)):
        raise ConversionError("elements out of order")
    for tag in (*_LOSSY_MARKS[1:], *_SIGNATURES, _PIXEL_DATA_PROVIDER):
        if tag in tags:
            raise ConversionError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is there")
    for element in iterate(head, explicit):
        if element.tag == _LOSSY_MARKS[0] and head[element.value : element.end].strip(b" \0") not in (
            b"",
            b"00",
        ):
            raise ConversionError("it is marked as lossy")
    if _NESTED.search(head) or _NESTED.search(tail):
        raise ConversionError("an item holds compressed pixel data")


def _photometric(form: PixelFormat, received: str, format_name: str, told: Told) -> str:
    """Return the photometric interpretation of the samples as they are decoded."""
    if form.samples == 1 and received in ("MONOCHROME1", "MONOCHROME2"):
        return received
    if form.samples == 3:
        if told.transformed and received in ("RGB", "YBR_RCT"):
            return "RGB"
        as_stored = ("RGB",) if format_name == "jpeg-xl" else ("RGB", "YBR_FULL")
        if not told.transformed and received in as_stored:
            return received
    raise ConversionError(f"{form.samples} samples per pixel in {received!r}")


def by_imagecodecs(form: NativeForm, encoded: bytes) -> NDArray[Any]:
    """Decode an image by the library that imagecodecs wraps: OpenJPEG, OpenJPH, CharLS, libjpeg-turbo, libjxl."""
    try:
        return decode_foreign(FORMATS[form.transfer_syntax_uid], encoded)
    except CodecError as error:
        raise ConversionError(str(error)) from error


def by_pydicom(form: NativeForm, encoded: bytes) -> NDArray[Any]:
    """Decode an image by pydicom and a decoder that it finds: GDCM's, or OpenJPEG for HTJ2K.

    JPEG XL has the one library: it is decoded once more.
    """
    if FORMATS[form.transfer_syntax_uid] == "jpeg-xl":
        return by_imagecodecs(form, encoded)
    pixels = form.pixel_format
    data_set = Dataset()
    data_set.Rows, data_set.Columns = pixels.rows, pixels.columns
    data_set.SamplesPerPixel = pixels.samples
    data_set.PhotometricInterpretation = form.photometric
    data_set.BitsAllocated, data_set.BitsStored = pixels.bits_allocated, form.bits_stored
    data_set.HighBit = form.bits_stored - 1
    data_set.PixelRepresentation = int(pixels.signed)
    if pixels.samples > 1:
        data_set.PlanarConfiguration = 0
    data_set.PixelData = encapsulate([encoded])
    data_set["PixelData"].is_undefined_length = True
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(form.transfer_syntax_uid)
    try:
        samples, _ = get_decoder(UID(form.transfer_syntax_uid)).as_array(data_set, raw=True)
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        raise ConversionError(f"the second decoder: {error!r}") from error
    return samples
