"""The smallest of several codecs, found by trial on a few frames.

Payload, after the header of `dcmpress.codecs.stream`: one byte, the length of a codec's name; the name; that
codec's own stream. The choice is a matter of the encoder alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts, decoded
from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.stream import read_stream, write_stream

MAGIC = b"DCAU"
TRIAL_SAMPLES = 1 << 21
"""Frames are tried until there are so many samples."""

RELATIVE_COST = {
    "store": 0.1,
    "htj2k": 0.5,
    "interframe/fast": 0.9,
    "rle": 1.0,
    "zstd": 1.0,
    "jpeg-ls": 1.0,
    "interframe/balanced": 1.7,
    "jpeg-xl/3": 3.0,
    "jpeg-2000": 5.0,
    "interframe/dense": 18.0,
    "jpeg-xl/7": 28.0,
    "jpeg-xl/9": 100.0,
}
"""Encoding time of each candidate in units of JPEG-LS's, rounded from the medians of `python -m bench.codecs` (store,
rle and zstd level 9: measured on thin CT). Screens and colour ultrasound, which interframe's graphics core takes, need
3 to 7 at fast and balanced, 14 to 34 at dense. A table and not a clock, so that the same frames give the same bytes
on every machine."""


@dataclass(frozen=True)
class AutoCodec(Codec):
    """Tries `candidates` on some of the frames and takes the smallest.

    Parameters
    ----------
    budget : float
        Encoding time allowed, in units of that of JPEG-LS; see `RELATIVE_COST`. The trials take as long as
        encoding TRIAL_SAMPLES samples with each candidate, once.
    candidates : sequence of str
        Keys of `RELATIVE_COST`.
    """

    budget: float = 4.0
    candidates: tuple[str, ...] = ("interframe/balanced", "interframe/fast", "jpeg-ls", "zstd", "store")

    codec_id: ClassVar[str] = "auto"
    format_version: ClassVar[int] = 1
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
    uses_references: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        for candidate in self.candidates:
            if candidate not in RELATIVE_COST:
                raise ValueError(f"no candidate {candidate!r}; there are: {', '.join(RELATIVE_COST)}")
        if not self._affordable():
            raise ValueError(f"no candidate within a budget of {self.budget}")

    def _affordable(self) -> list[str]:
        return [c for c in self.candidates if RELATIVE_COST[c] <= self.budget]

    def choose(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> Codec:
        """Return the codec that codes the first frames, up to TRIAL_SAMPLES samples, into the fewest bytes."""
        n = max(1, min(len(frames), TRIAL_SAMPLES // frames[0].size))
        usable = [c for c in map(_candidate, self._affordable()) if frames.dtype.name in c.dtypes]
        if not usable:
            raise ValueError(f"no candidate takes {frames.dtype.name}")
        if len(usable) == 1:
            return usable[0]
        first_shifts = None if shifts is None else shifts[:n]
        first_references = None if references is None else references[:n]
        sizes = [len(c.encode(frames[:n], first_references, shifts=first_shifts)) for c in usable]
        return usable[int(np.argmin(sizes))]

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        frames = check_frames(self, frames)
        checked = check_references(references, len(frames))
        moved = check_shifts(shifts, len(frames))
        codec = self.choose(frames, checked, moved)
        name = codec.codec_id.encode()
        payload = bytes([len(name)]) + name + codec.encode(frames, checked, shifts=moved)
        return write_stream(MAGIC, self.format_version, frames, payload)

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        return decoded(*self.decode_stepwise(data, select, max_pixels=max_pixels))

    def decode_stepwise(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> tuple[NDArray[Any], Iterator[int]]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        inside, stream = _open(payload)
        frames, whole = get_codec(inside).decode_stepwise(stream, select, max_pixels=max_pixels)  # type: ignore[arg-type]
        if frames.dtype != header.dtype or frames.shape[1:] != header.shape[1:]:
            raise CorruptStreamError("inner stream holds other frames than its header says")
        return frames, whole

    @staticmethod
    def codec_inside(data: bytes) -> str:
        """Return the name of the codec that an `auto` stream used."""
        _, payload = read_stream(data, MAGIC, AutoCodec.format_version, 1 << 62)
        return _open(payload)[0]


def _candidate(name: str) -> Codec:
    codec_id, _, effort = name.partition("/")
    if not effort:
        return get_codec(codec_id)
    return get_codec(codec_id, effort=int(effort) if effort.isdigit() else effort)


def _open(payload: memoryview) -> tuple[str, memoryview]:
    reader = ByteReader(payload)
    name = bytes(reader.take(reader.byte())).decode("ascii", "replace")
    if name == AutoCodec.codec_id or name not in {c.partition("/")[0] for c in RELATIVE_COST}:
        raise CorruptStreamError(f"codec {name!r} inside")
    return name, reader.take(reader.left)
