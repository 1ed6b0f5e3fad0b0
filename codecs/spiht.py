"""Embedded coding by set partitioning in hierarchical trees: the codecs `spiht` and `spiht-lossy`.

After Said and Pearlman, "A new, fast, and efficient image codec based on set partitioning in hierarchical
trees" (1996), with the output in groups of three bits under a Huffman code as in "Compressing DICOM images
using SPIHT with Huffman encoding" (IJERT 2012), or through Deflate as in the angiogram codec of
Somassoundaram and Subramaniam (2015). Bit-planes of all images are interleaved, so that any prefix of a
stream gives every frame, and better ones the longer it is; with the reversible 5/3 wavelet the whole stream
gives the exact frames.

Format: docs/formats/spiht.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.leb128 import leb128, zigzag
from dcmpress.codecs.spiht_image import decode_image, encode_image
from dcmpress.codecs.spiht_payload import ENTROPY, TRANSFORM, take_apart
from dcmpress.codecs.spiht_tree import default_levels
from dcmpress.codecs.stream import HEADER_SIZE, StreamHeader, read_stream, write_stream


class _Embedded(Codec):
    """What the exact and the lossy codec share."""

    magic: ClassVar[bytes]
    entropy: str

    def _payload(self, frames: NDArray[Any], wavelet: str) -> bytes:
        transform, entropy = TRANSFORM[wavelet], ENTROPY[self.entropy]
        levels = default_levels(*frames.shape[1:3])
        front = [bytes([transform, entropy, levels])]
        chunks = []
        for plane in _planes(frames):
            values = plane.astype(np.int32)
            offset = int(values.sum(dtype=np.int64)) // values.size
            n_planes, coded = encode_image(values - np.int32(offset), levels, transform, entropy)
            chunks.append(coded)
            front.append(leb128(zigzag(offset)) + leb128(n_planes) + leb128(len(coded)))
        most = max(map(len, chunks))
        planes = []
        for at in range(most):  # from the highest plane that begins a chunk
            begin = [len(c) - most + at for c in chunks]
            there = [c[k] for c, k in zip(chunks, begin, strict=True) if k >= 0]
            planes.append(b"".join(leb128(len(chunk)) + chunk for chunk in there))
        front += [leb128(len(plane)) for plane in planes]
        return b"".join(front + planes)

    def _decode(
        self, header: StreamHeader, payload: memoryview, select: Sequence[int] | None, *, prefix: bool
    ) -> NDArray[Any]:
        if header.dtype.name not in self.dtypes:
            raise CorruptStreamError(f"{self.codec_id} does not hold {header.dtype.name}")
        n_frames, rows, columns = header.shape[:3]
        samples = header.shape[3] if len(header.shape) == 4 else 1
        contents = take_apart(header, payload, prefix=prefix)
        wanted = range(n_frames) if select is None else [int(k) for k in select]
        for k in wanted:
            if not 0 <= k < n_frames:
                raise IndexError(f"frame {k} of {n_frames}")
        planes = np.zeros((len(wanted), samples, rows, columns), header.dtype)
        limits = np.iinfo(header.dtype)
        # in a prefix, images that it does not tell of stay zero
        told = wanted[: len(contents.offsets)] if select is None else wanted
        for at, k in enumerate(told):
            for s in range(samples):
                i = k * samples + s
                if i >= len(contents.offsets):
                    break
                chunks = contents.chunks[i] if contents.chunks else []
                image = np.full((rows, columns), contents.offsets[i], np.int32)
                if chunks:
                    image += decode_image(
                        rows,
                        columns,
                        contents.levels,
                        contents.transform,
                        contents.entropy,
                        chunks,
                        prefix=prefix,
                    )
                if prefix:
                    image = image.clip(limits.min, limits.max)
                elif image.min() < limits.min or image.max() > limits.max:
                    raise CorruptStreamError("a sample is out of range")
                planes[at, s] = image
        if len(header.shape) == 3:
            return planes.reshape(len(wanted), rows, columns)
        return np.ascontiguousarray(np.moveaxis(planes, 1, 3))

    def decode_prefix(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        """Decode the beginning of a stream: all frames, as good as the bytes allow.

        Parameters
        ----------
        data : bytes-like
            At least the stream's header of 24 bytes. Its checksum covers what is missing, so it is not
            checked.

        Raises
        ------
        CodecError
            If the header is not whole or not of this codec, or declares more than `max_pixels` samples.
        """
        header, payload = read_stream(data, self.magic, self.format_version, max_pixels, prefix=True)
        return self._decode(header, payload, select, prefix=True)

    def plane_ends(self, data: bytes) -> list[int]:
        """Return for each bit-plane, highest first, the length of the prefix that ends with it.

        `data` may be a prefix itself, if it holds the directory (all that comes before the first plane).
        """
        header, payload = read_stream(data, self.magic, self.format_version, 1 << 62, prefix=True)
        contents = take_apart(header, payload, prefix=True)
        ends = HEADER_SIZE + contents.plane_begin + np.cumsum(contents.plane_sizes, dtype=np.int64)
        return [int(end) for end in ends]


@dataclass(frozen=True)
class Spiht(_Embedded):
    """Lossless SPIHT on the reversible 5/3 wavelet.

    Parameters
    ----------
    entropy : {"huffman", "deflate"}
        What the bits of a plane go through.

    >>> frames = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    >>> codec = Spiht()
    >>> data = codec.encode(frames)
    >>> bool((codec.decode(data) == frames).all()), codec.decode_prefix(data[:200]).shape
    (True, (1, 64, 64))
    """

    codec_id: ClassVar[str] = "spiht"
    format_version: ClassVar[int] = 1
    magic: ClassVar[bytes] = b"DSPH"

    entropy: str = "huffman"

    def __post_init__(self) -> None:
        if self.entropy not in ENTROPY:
            raise ValueError(f"entropy must be one of {', '.join(ENTROPY)}, not {self.entropy!r}")

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
        return write_stream(self.magic, self.format_version, frames, self._payload(frames, "5/3"))

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, self.magic, self.format_version, max_pixels)
        return self._decode(header, payload, select, prefix=False)


@dataclass(frozen=True)
class SpihtLossy(_Embedded):
    """SPIHT cut at a rate: the same stream as `Spiht`'s, only its beginning.

    Parameters
    ----------
    bits_per_pixel : float or None
        Bits of the whole stream for each sample of the frames; None keeps all planes.
    wavelet : {"bior4.4", "5/3"}
    entropy : {"huffman", "deflate"}
    """

    codec_id: ClassVar[str] = "spiht-lossy"
    format_version: ClassVar[int] = 1
    lossless: ClassVar[bool] = False
    magic: ClassVar[bytes] = b"DSPL"

    bits_per_pixel: float | None = 1.0
    wavelet: str = "bior4.4"
    entropy: str = "huffman"

    def __post_init__(self) -> None:
        if self.entropy not in ENTROPY:
            raise ValueError(f"entropy must be one of {', '.join(ENTROPY)}, not {self.entropy!r}")
        if self.wavelet not in TRANSFORM:
            raise ValueError(f"wavelet must be one of {', '.join(TRANSFORM)}, not {self.wavelet!r}")
        if self.bits_per_pixel is not None and not self.bits_per_pixel > 0:
            raise ValueError("bits_per_pixel must be positive")

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
        payload = self._payload(frames, self.wavelet)
        if self.bits_per_pixel is not None:
            payload = payload[: max(int(frames.size * self.bits_per_pixel / 8) - HEADER_SIZE, 3)]
        return write_stream(self.magic, self.format_version, frames, payload)

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, self.magic, self.format_version, max_pixels)
        return self._decode(header, payload, select, prefix=True)


def _planes(frames: NDArray[Any]) -> NDArray[Any]:
    """Return every plane of every frame, shape (images, rows, columns)."""
    if frames.ndim == 3:
        return frames
    return np.moveaxis(frames, 3, 1).reshape(-1, *frames.shape[1:3])
