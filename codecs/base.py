"""The contract that every codec keeps: frames in, bytes out, the same frames back.

A codec is a value: a frozen dataclass whose fields are its parameters. `parameters()` goes through JSON
and `get_codec(codec_id, **parameters)` gives an equal codec back. The `codec_id` names a family of byte
formats; the stream itself carries the format version, and a decoder reads every version ever published.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 30
"""Samples that `Codec.decode` is ready to allocate unless the caller says otherwise."""


class Codec(ABC):
    """Base of all codecs; subclasses are frozen dataclasses."""

    codec_id: ClassVar[str]
    """Name in the registry, in `config.yaml` and in a blob's index. Never changes meaning."""
    format_version: ClassVar[int]
    """Version of the byte format that `encode` writes."""
    lossless: ClassVar[bool] = True
    """Whether `decode(encode(frames))` equals `frames` in every sample."""
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16")
    """Names of the NumPy dtypes that `encode` takes."""
    uses_references: ClassVar[bool] = False
    """Whether `references` make a difference to `encode`."""

    @abstractmethod
    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        """Encode frames into one self-contained stream.

        Parameters
        ----------
        frames : ndarray, shape (n, rows, columns) or (n, rows, columns, samples)
            One of `dtypes`, any memory order; not modified. No axis may be empty.
        references : sequence of n ints, optional
            `references[i] < i` is the frame that predicts frame i, -1 for none.
            None leaves the choice to the codec.
        shifts : sequence of n (dy, dx), optional
            Whole pixels: frame i looks like its reference moved down by dy and right by dx.

        Raises
        ------
        ValueError
            If the shape, dtype, references or shifts are not of this form.
        """

    @abstractmethod
    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        """Decode a stream that `encode` wrote, in any published format version.

        Parameters
        ----------
        data : bytes-like
        select : sequence of frame numbers, optional
            The frames wanted, in the order wanted; decodes only what they need.
        max_pixels : int
            The most samples (frames x rows x columns x samples) that may be allocated.

        Returns
        -------
        ndarray
            Shape and dtype as given to `encode`, with `len(select)` frames if `select` is given.

        Raises
        ------
        CodecError
            If `data` is truncated, damaged, of another codec, too new, or too large.
        IndexError
            If `select` names a frame that the stream does not hold.
        """

    def decode_stepwise(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> tuple[NDArray[Any], Iterator[int]]:
        """Begin to decode what `decode` does, for a caller who has use for a frame before the last one is done.

        Returns
        -------
        frames : ndarray
            As `decode` returns it. What is in a frame means nothing until the frame is whole.
        whole : iterator of int
            Decodes when it is asked for the next; yields the place in `frames` of each frame that has become
            whole, each place once, and raises what `decode` would.
        """
        frames = self.decode(data, select, max_pixels=max_pixels)
        return frames, iter(range(len(frames)))

    def frame_offsets(self, data: bytes) -> list[int] | None:
        """Return where in a stream each frame's own bytes begin, or None if frames are not kept apart."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Return what `get_codec(self.codec_id, **parameters)` needs to give an equal codec back."""
        return asdict(self)  # type: ignore[call-overload]


def decoded(frames: NDArray[Any], whole: Iterator[int]) -> NDArray[Any]:
    """Return the frames that `decode_stepwise` has begun to decode when all are whole."""
    for _ in whole:
        pass
    return frames


def check_frames(codec: Codec, frames: NDArray[Any]) -> NDArray[Any]:
    """Return `frames` C-contiguous in native byte order, or raise ValueError if `codec` cannot take them."""
    if frames.ndim not in (3, 4):
        raise ValueError(f"frames must have 3 or 4 axes, not {frames.ndim}")
    if 0 in frames.shape:
        raise ValueError(f"frames must not have an empty axis: {frames.shape}")
    if frames.dtype.name not in codec.dtypes:
        raise ValueError(f"{codec.codec_id} takes {', '.join(codec.dtypes)}, not {frames.dtype.name}")
    return np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))


def check_references(references: Sequence[int] | None, n_frames: int) -> list[int] | None:
    """Return `references` as a list of `n_frames` ints with -1 <= r < i, or raise ValueError."""
    if references is None:
        return None
    checked = [int(r) for r in references]
    if len(checked) != n_frames:
        raise ValueError(f"{len(checked)} references for {n_frames} frames")
    for i, r in enumerate(checked):
        if not -1 <= r < i:
            raise ValueError(f"frame {i} cannot be predicted from frame {r}")
    return checked


def check_shifts(shifts: Sequence[tuple[int, int]] | None, n_frames: int) -> list[tuple[int, int]] | None:
    """Return `shifts` as a list of `n_frames` (dy, dx), or raise ValueError."""
    if shifts is None:
        return None
    checked = [(int(dy), int(dx)) for dy, dx in shifts]
    if len(checked) != n_frames:
        raise ValueError(f"{len(checked)} shifts for {n_frames} frames")
    return checked
