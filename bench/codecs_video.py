"""Lossless video codecs as peers: FFV1 and x265, through PyAV (FFmpeg).

All frames of a series are one stream, coded by one thread. The container is the barest there is (lengths and
packets), so that sizes compare with those of the image codecs.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import av
import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames
from dcmpress.codecs.errors import CorruptStreamError

av.logging.set_level(av.logging.ERROR)

_HEAD = struct.Struct("<IHHHiBBI")
"""Frames, rows, columns, packets, least sample, dtype, depth, bytes of extradata."""
_DTYPES = ("uint8", "int8", "uint16", "int16")


@dataclass(frozen=True)
class VideoCodec(Codec):
    """Frames of grey samples as one lossless video stream.

    Samples are coded less their least one, in the shallowest pixel format that holds them.
    """

    format_version: ClassVar[int] = 1
    dtypes: ClassVar[tuple[str, ...]] = _DTYPES
    depths: ClassVar[tuple[int, ...]]
    """Bits of the grey pixel formats that the codec takes."""
    encoder: ClassVar[str]
    decoder: ClassVar[str]

    def _options(self, n_frames: int) -> dict[str, str]:
        raise NotImplementedError

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        """Encode frames of shape (n, rows, columns); raise ValueError if no pixel format holds them."""
        frames = check_frames(self, frames)
        if frames.ndim != 3:
            raise ValueError(f"{self.codec_id} takes grey frames")
        least, most = int(frames.min()), int(frames.max())
        fitting = [depth for depth in self.depths if most - least < 1 << depth]
        if not fitting:
            raise ValueError(f"{self.codec_id} takes {self.depths[-1]} bits at most")
        depth = fitting[0]
        n, rows, columns = frames.shape
        context: Any = av.CodecContext.create(self.encoder, "w")
        context.width, context.height, context.pix_fmt = columns, rows, _pixel_format(depth)
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)
        context.thread_count = 1
        context.gop_size = n
        context.options = self._options(n)
        samples = np.uint8 if depth == 8 else np.uint16
        packets: list[bytes] = []
        for i, frame in enumerate(frames):
            picture = _picture((frame.astype(np.int32) - least).astype(samples), depth)
            picture.pts = i
            packets += map(bytes, context.encode(picture))
        packets += map(bytes, context.encode(None))
        extra = context.extradata or b""
        head = _HEAD.pack(
            n, rows, columns, len(packets), least, _DTYPES.index(frames.dtype.name), depth, len(extra)
        )
        lengths = struct.pack(f"<{len(packets)}I", *map(len, packets))
        return b"".join([head, lengths, extra, *packets])

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        """Decode what `encode` wrote; these are trusted streams, so there are few checks."""
        n, rows, columns, n_packets, least, dtype, depth, n_extra = _HEAD.unpack_from(data)
        lengths = struct.unpack_from(f"<{n_packets}I", data, _HEAD.size)
        at = _HEAD.size + 4 * n_packets
        context: Any = av.CodecContext.create(self.decoder, "r")
        context.extradata = data[at : at + n_extra]
        context.width, context.height, context.pix_fmt = columns, rows, _pixel_format(depth)
        context.thread_count = 1
        at += n_extra
        pictures: list[NDArray[Any]] = []
        for length in lengths:
            packet = av.Packet(data[at : at + length])
            pictures += map(_samples, context.decode(packet))
            at += length
        pictures += map(_samples, context.decode(None))
        if len(pictures) != n:
            raise CorruptStreamError(f"{len(pictures)} frames instead of {n}")
        chosen: Iterable[int] = range(n) if select is None else select
        return np.stack([(pictures[i].astype(np.int32) + least).astype(_DTYPES[dtype]) for i in chosen])


@dataclass(frozen=True)
class Ffv1(VideoCodec):
    """FFV1 version 3 (RFC 9043): range coder, the large context model, states kept from frame to frame."""

    codec_id: ClassVar[str] = "ffv1"
    depths: ClassVar[tuple[int, ...]] = (8, 10, 12, 14, 16)
    encoder: ClassVar[str] = "ffv1"
    decoder: ClassVar[str] = "ffv1"

    def _options(self, n_frames: int) -> dict[str, str]:
        return {"level": "3", "coder": "range_def", "context": "1", "slicecrc": "0"}


@dataclass(frozen=True)
class X265Lossless(VideoCodec):
    """HEVC in its lossless mode, by x265."""

    preset: str = "medium"

    codec_id: ClassVar[str] = "x265"
    depths: ClassVar[tuple[int, ...]] = (8, 10, 12)
    encoder: ClassVar[str] = "libx265"
    decoder: ClassVar[str] = "hevc"

    def _options(self, n_frames: int) -> dict[str, str]:
        private = "lossless=1:pools=none:frame-threads=1:wpp=0:info=0:log-level=none"
        return {"preset": self.preset, "x265-params": f"{private}:keyint={n_frames}:min-keyint={n_frames}"}


def _pixel_format(depth: int) -> str:
    return "gray" if depth == 8 else f"gray{depth}le"


def _plane(picture: Any, dtype: type) -> NDArray[Any]:
    plane = picture.planes[0]
    padded: NDArray[Any] = np.frombuffer(plane, dtype).reshape(plane.height, -1)
    return padded[:, : plane.width]


def _picture(samples: NDArray[Any], depth: int) -> Any:
    rows, columns = samples.shape
    picture = av.VideoFrame(columns, rows, _pixel_format(depth))
    _plane(picture, samples.dtype.type)[:] = samples
    return picture


def _samples(picture: Any) -> NDArray[Any]:
    """Return a copy of a picture's samples: the buffer goes back to the decoder."""
    return _plane(picture, np.uint8 if picture.format.name == "gray" else np.uint16).copy()
