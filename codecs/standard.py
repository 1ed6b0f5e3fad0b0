"""The standard codecs, through their libraries, behind this room's contract.

Every frame, or every sample of a frame that is not one of 1 or 3, becomes one stream of the library, so any
frame is decoded alone. Payload, after the header of `dcmpress.codecs.stream`:

    signed varint   offset that was subtracted (the least sample of a signed type, else 0)
    varint...       length of each piece
    ...             the pieces: frame by frame; in it sample by sample, if the samples are apart; in it tiles of
                    at most 65,535 x 65,535 samples, row by row
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.bits import ByteReader, put_signed, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.stream import read_stream, write_stream

_MAX_SIDE = 65_535
_UNSIGNED: dict[int, Any] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}

Array = NDArray[Any]


class LibraryCodec(Codec):
    """A codec that hands single images to a library."""

    magic: ClassVar[bytes]
    format_version: ClassVar[int] = 1
    takes_colour: ClassVar[bool] = True
    """Whether the library codes three samples together."""

    @abstractmethod
    def encode_image(self, image: Array) -> bytes:
        """Encode one image, unsigned, (rows, columns) or (rows, columns, 3), C-contiguous."""

    @abstractmethod
    def decode_image(self, data: Any, image: Array) -> None:
        """Decode into `image`, or raise any exception."""

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        frames = check_frames(self, frames)
        check_references(references, len(frames))
        check_shifts(shifts, len(frames))
        unsigned = _UNSIGNED[frames.dtype.itemsize]
        offset = int(frames.min()) if frames.dtype.kind == "i" else 0
        pieces = []
        for frame in frames:
            # Modulo 2^bits, so the difference is right whatever the signs.
            shifted = frame.astype(unsigned) - unsigned.type(offset % (1 << 8 * unsigned.itemsize))
            pieces += [self.encode_image(np.ascontiguousarray(tile)) for tile in self._tiles(shifted)]
        out = bytearray()
        put_signed(out, offset)
        for piece in pieces:
            put_varint(out, len(piece))
        return write_stream(self.magic, self.format_version, frames, bytes(out) + b"".join(pieces))

    def _tiles(self, frame: Array) -> Iterator[Array]:
        if frame.ndim == 2 or (frame.shape[2] == 3 and self.takes_colour):
            images = [frame]
        else:
            images = [frame[..., k] for k in range(frame.shape[2])]
        for image in images:
            for top in range(0, image.shape[0], _MAX_SIDE):
                for left in range(0, image.shape[1], _MAX_SIDE):
                    yield image[top : top + _MAX_SIDE, left : left + _MAX_SIDE]

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, self.magic, self.format_version, max_pixels)
        if header.dtype.name not in self.dtypes:
            raise CorruptStreamError(f"{self.codec_id} does not hold {header.dtype.name}")
        n = header.shape[0]
        wanted = range(n) if select is None else [int(i) for i in select]
        for i in wanted:
            if not 0 <= i < n:
                raise IndexError(f"no frame {i} in a stream of {n}")
        unsigned = _UNSIGNED[header.dtype.itemsize]
        reader = ByteReader(payload)
        offset = reader.signed(1 << 31)
        blank = np.empty(header.shape[1:], unsigned)
        per_frame = sum(1 for _ in self._tiles(blank))
        if n * per_frame > reader.left:
            raise CorruptStreamError("fewer bytes than pieces")
        lengths = [reader.varint(1 << 40) for _ in range(n * per_frame)]
        pieces = [reader.take(length) for length in lengths]
        out = np.empty((len(wanted), *header.shape[1:]), header.dtype)
        for target, i in zip(out, wanted, strict=True):
            for k, tile in enumerate(self._tiles(blank)):
                image = np.empty(tile.shape, unsigned)
                try:
                    self.decode_image(pieces[i * per_frame + k], image)
                except Exception as error:  # each library has its own exceptions
                    raise CorruptStreamError(f"{self.codec_id}: {error}") from error
                tile[...] = image
            target[...] = (blank + unsigned.type(offset % (1 << 8 * unsigned.itemsize))).view(header.dtype)
        return out


def _check_shape(decoded: Array, image: Array) -> None:
    if decoded.dtype != image.dtype or decoded.size != image.size:
        raise CorruptStreamError(f"image is {decoded.dtype.name} {decoded.shape}, not {image.dtype.name}")
    image[...] = decoded.reshape(image.shape)


@dataclass(frozen=True)
class JpegLsCodec(LibraryCodec):
    """JPEG-LS lossless (ITU-T T.87), through CharLS."""

    codec_id: ClassVar[str] = "jpeg-ls"
    magic: ClassVar[bytes] = b"DCLS"
    takes_colour: ClassVar[bool] = False

    def encode_image(self, image: Array) -> bytes:
        return bytes(imagecodecs.jpegls_encode(image))

    def decode_image(self, data: Any, image: Array) -> None:
        _check_shape(imagecodecs.jpegls_decode(data, out=image), image)


@dataclass(frozen=True)
class Jpeg2000Codec(LibraryCodec):
    """JPEG 2000 reversible (ITU-T T.800), through OpenJPEG.

    No 32-bit samples: OpenJPEG returns other ones without an error.
    """

    codec_id: ClassVar[str] = "jpeg-2000"
    magic: ClassVar[bytes] = b"DC2K"

    def encode_image(self, image: Array) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(image, level=0, reversible=True, numthreads=1))

    def decode_image(self, data: Any, image: Array) -> None:
        _check_shape(imagecodecs.jpeg2k_decode(data, out=image, numthreads=1), image)


@dataclass(frozen=True)
class HtJpeg2000Codec(LibraryCodec):
    """High-throughput JPEG 2000 reversible (ITU-T T.814), through OpenJPH."""

    codec_id: ClassVar[str] = "htj2k"
    magic: ClassVar[bytes] = b"DCHT"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "uint32", "int32")

    def encode_image(self, image: Array) -> bytes:
        return bytes(imagecodecs.htj2k_encode(image, reversible=True))

    def decode_image(self, data: Any, image: Array) -> None:
        _check_shape(imagecodecs.htj2k_decode(data, out=image), image)


@dataclass(frozen=True)
class JpegXlCodec(LibraryCodec):
    """JPEG XL modular lossless (ISO/IEC 18181-1), through libjxl.

    Parameters
    ----------
    effort : int, 1 to 9
        Of libjxl: higher is smaller and slower.
    """

    effort: int = 7

    codec_id: ClassVar[str] = "jpeg-xl"
    magic: ClassVar[bytes] = b"DCXL"

    def __post_init__(self) -> None:
        if not 1 <= self.effort <= 9:
            raise ValueError(f"effort must be 1 to 9, not {self.effort}")

    def encode_image(self, image: Array) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(image, lossless=True, effort=self.effort, numthreads=1))

    def decode_image(self, data: Any, image: Array) -> None:
        _check_shape(imagecodecs.jpegxl_decode(data, out=image, numthreads=1), image)


class _ByteCodec(LibraryCodec):
    """A codec of bytes, which takes any samples."""

    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "uint32", "int32")

    @abstractmethod
    def encode_bytes(self, data: bytes) -> bytes:
        """Encode bytes."""

    @abstractmethod
    def decode_bytes(self, data: Any, size: int) -> bytes:
        """Decode `size` bytes, or raise any exception."""

    shuffled: ClassVar[bool] = False

    def encode_image(self, image: Array) -> bytes:
        return self.encode_bytes(_shuffle(image) if self.shuffled else _little(image))

    def decode_image(self, data: Any, image: Array) -> None:
        _fill(image, self.decode_bytes(data, image.nbytes), self.shuffled)


def _little(image: Array) -> bytes:
    return image.astype(image.dtype.newbyteorder("<"), copy=False).tobytes()


def _shuffle(image: Array) -> bytes:
    return np.frombuffer(_little(image), np.uint8).reshape(-1, image.dtype.itemsize).T.tobytes()


def _fill(image: Array, data: bytes, shuffled: bool) -> None:
    if len(data) != image.nbytes:
        raise CorruptStreamError(f"{len(data)} bytes for an image of {image.nbytes}")
    raw = np.frombuffer(data, np.uint8)
    if shuffled:
        raw = np.ascontiguousarray(raw.reshape(image.dtype.itemsize, -1).T).reshape(-1)
    image[...] = raw.view(image.dtype.newbyteorder("<")).reshape(image.shape)


@dataclass(frozen=True)
class ZstdCodec(_ByteCodec):
    """Zstandard (RFC 8878). Each piece starts with a byte: 1 if its bytes are shuffled, else 0.

    Parameters
    ----------
    level : int, 1 to 22
    shuffle : bool
        Put all low bytes of an image first, then the higher ones. `decode` takes either.
    """

    level: int = 9
    shuffle: bool = True

    codec_id: ClassVar[str] = "zstd"
    magic: ClassVar[bytes] = b"DCZS"

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22:
            raise ValueError(f"level must be 1 to 22, not {self.level}")

    def encode_image(self, image: Array) -> bytes:
        data = _shuffle(image) if self.shuffle else _little(image)
        return bytes([self.shuffle]) + self.encode_bytes(data)

    def decode_image(self, data: Any, image: Array) -> None:
        found = self.decode_bytes(data[1:], image.nbytes)
        if data[0] > 1:
            raise CorruptStreamError(f"shuffle byte {data[0]}")
        _fill(image, found, bool(data[0]))

    def encode_bytes(self, data: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=self.level, write_content_size=True).compress(data)

    def decode_bytes(self, data: Any, size: int) -> bytes:
        if zstandard.frame_content_size(data) != size:
            raise CorruptStreamError("zstd frame of another size")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)


@dataclass(frozen=True)
class RleCodec(_ByteCodec):
    """PackBits runs over the bytes of each significance apart, as in DICOM RLE (PS3.5, annex G)."""

    codec_id: ClassVar[str] = "rle"
    magic: ClassVar[bytes] = b"DCRL"

    shuffled: ClassVar[bool] = True

    def encode_bytes(self, data: bytes) -> bytes:
        return bytes(imagecodecs.packbits_encode(data))

    def decode_bytes(self, data: Any, size: int) -> bytes:
        return bytes(imagecodecs.packbits_decode(data, out=size))


@dataclass(frozen=True)
class StoreCodec(_ByteCodec):
    """The samples as they are."""

    codec_id: ClassVar[str] = "store"
    magic: ClassVar[bytes] = b"DCST"

    def encode_bytes(self, data: bytes) -> bytes:
        return data

    def decode_bytes(self, data: Any, size: int) -> bytes:
        return bytes(data)
