"""Fluoroscopy runs by correlation groups, region of interest, difference, run-length and Huffman.

After Arif et al., "Lossless compression of pharynx and esophagus fluoroscopy medical images by correlation
and combination of run-length and Huffman coding" (2014). The images are classified by their correlation with
the first image of each group; what fits no group is "shifted". Beyond the paper: every pixel is kept, inside
the region and outside; each image takes the cheapest of group reference, previous image, either moved by
whole pixels, or none; the difference may be predicted from its neighbours; Golomb-Rice competes with the two
coders of the paper.

Format: docs/formats/fluoroscopy.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.fluoroscopy_kernels import (
    correlation,
    image_of,
    profile_shift,
    profiles,
    residuals_of,
)
from dcmpress.codecs.fluoroscopy_region import Region, find_region
from dcmpress.codecs.golomb_rice import rice_bits
from dcmpress.codecs.leb128 import Cursor, leb128, unzigzag, zigzag
from dcmpress.codecs.runlength import (
    RICE,
    cheapest_tokens,
    pack_residuals,
    unpack_residuals,
)
from dcmpress.codecs.stream import read_stream, write_stream

MAGIC = b"DFLU"
_REFERENCE, _SPATIAL, _SHIFT = 1, 2, 4
_REACH = 15  # pixels of movement looked for
_SAMPLE_ROWS = 16  # rows on which the ways to predict an image are compared


@dataclass(frozen=True)
class Prediction:
    """How one image is predicted."""

    reference: int = -1
    """Number of the image it differs from, -1 for none."""
    spatial: bool = False
    dy: int = 0
    dx: int = 0


@dataclass(frozen=True)
class Fluoroscopy(Codec):
    """Differences against the best of a few references, in groups of correlated images.

    Parameters
    ----------
    min_correlation : float
        An image joins the group whose reference it resembles most if their coefficient is at least this.
    max_groups : int
        How many groups an examination may have; what fits none goes to the shifted group.
    max_chain : int
        How many other images must be decoded before any one image, at most.
    """

    codec_id: ClassVar[str] = "fluoroscopy"
    format_version: ClassVar[int] = 1
    uses_references: ClassVar[bool] = True

    min_correlation: float = 0.6
    max_groups: int = 3
    max_chain: int = 16

    def __post_init__(self) -> None:
        if not -1 <= self.min_correlation <= 1:
            raise ValueError(f"min_correlation must be from -1 to 1, not {self.min_correlation}")
        if self.max_groups < 1 or self.max_chain < 0:
            raise ValueError("max_groups must be at least 1, max_chain at least 0")

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        frames = check_frames(self, frames)
        given = check_references(references, len(frames))
        moved = check_shifts(shifts, len(frames))
        images = _to_images(frames)
        bits = frames.itemsize * 8
        samples = len(images) // len(frames)
        groups = None if given is not None else self.classify(images[::samples])
        movement = _Movement(images)
        depth = [0] * len(images)
        directory, segments = [], []
        for i, image in enumerate(images):
            frame = i // samples
            if given is not None:
                numbers = [given[frame]]
            elif groups is not None:
                numbers = list(dict.fromkeys((groups[frame], frame - 1)))
            candidates = [Prediction(n * samples + i % samples) for n in numbers if n >= 0]
            if given is None:
                candidates = [c for c in candidates if depth[c.reference] < self.max_chain]
            asked = moved[frame] if moved is not None else None
            region = find_region(image)
            spans = region.spans(image.shape[0])
            best, coder = _best_prediction(images, i, candidates, asked, movement, bits, spans)
            if best.reference >= 0:
                depth[i] = depth[best.reference] + 1
            reference = images[max(best.reference, 0)]
            residuals = residuals_of(
                image, reference, best.reference >= 0, best.dy, best.dx, best.spatial, bits, spans, 1
            )
            segment = _write_prediction(best) + region.tobytes(*image.shape)
            segment += pack_residuals(residuals, coder)
            distance = (i - best.reference) // samples if best.reference >= 0 else 0
            directory.append(leb128(distance) + leb128(len(segment)))
            segments.append(segment)
        return write_stream(MAGIC, self.format_version, frames, b"".join(directory + segments))

    def classify(self, images: NDArray[np.uint16]) -> list[int]:
        """Return for each image the first image of its group (section A); -1: it is one, or is shifted.

        Parameters
        ----------
        images : ndarray, shape (n, rows, columns), uint16
        """
        step = max(1, min(images.shape[1:]) // 64)
        firsts: list[int] = []
        group_of = []
        for i, image in enumerate(images):
            likeness = [(correlation(image, images[first], step), -first) for first in firsts]
            best, first = max(likeness, default=(-1.0, 0))
            if best >= self.min_correlation:
                group_of.append(-first)
            else:
                group_of.append(-1)
                if len(firsts) < self.max_groups:
                    firsts.append(i)
        return group_of

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        if header.dtype.name not in self.dtypes:
            raise CorruptStreamError(f"{self.codec_id} does not hold {header.dtype.name}")
        n_frames, rows, columns = header.shape[:3]
        samples = header.shape[3] if len(header.shape) == 4 else 1
        bits = header.dtype.itemsize * 8
        cursor = Cursor(payload)
        if cursor.remaining < 2 * n_frames * samples:
            raise CorruptStreamError("stream is shorter than its directory")
        reference_of, sizes = [], []
        for i in range(n_frames * samples):
            distance = cursor.leb128() * samples
            if distance > i:
                raise CorruptStreamError(f"image {i} refers to one before the first")
            reference_of.append(i - distance if distance else -1)
            sizes.append(cursor.leb128())
        begins = [cursor.skip(size) for size in sizes]
        cursor.finish()

        wanted = list(range(n_frames)) if select is None else [int(k) for k in select]
        for k in wanted:
            if not 0 <= k < n_frames:
                raise IndexError(f"frame {k} of {n_frames}")
        needed = _with_references([k * samples + s for k in wanted for s in range(samples)], reference_of)
        slot = {number: at for at, number in enumerate(needed)}
        images = np.empty((len(needed), rows, columns), np.uint16)
        for at, i in enumerate(needed):  # a reference comes before those that refer to it
            segment = Cursor(payload[begins[i] : begins[i] + sizes[i]])
            spatial, dy, dx = _read_prediction(segment, reference_of[i] >= 0)
            region = Region.read(segment, rows, columns, (1 << bits) - 1)
            spans = region.spans(rows)
            region.fill_outside(images[at], spans)
            residuals = unpack_residuals(segment, int((spans[:, 1] - spans[:, 0]).sum()))
            segment.finish()
            has_reference = reference_of[i] >= 0
            reference = images[slot[reference_of[i]]] if has_reference else images[at]
            if not image_of(residuals, images[at], reference, has_reference, dy, dx, spatial, bits, spans):
                raise CorruptStreamError("residual out of range")
        chosen = [slot[k * samples + s] for k in wanted for s in range(samples)]
        if chosen != list(range(len(images))):
            images = images[chosen]
        return _to_frames(images, header.dtype, (len(wanted), *header.shape[1:]))


def _to_images(frames: NDArray[Any]) -> NDArray[np.uint16]:
    """Return every plane of every frame as uint16, signed values moved up so that their order stays."""
    if frames.ndim == 4:
        frames = np.moveaxis(frames, 3, 1).reshape(-1, *frames.shape[1:3])
    unsigned = np.ascontiguousarray(frames).view(f"uint{8 * frames.itemsize}")
    if np.iinfo(frames.dtype).min:
        unsigned = unsigned ^ unsigned.dtype.type(1 << (8 * frames.itemsize - 1))
    return unsigned.astype(np.uint16, copy=False)


def _to_frames(images: NDArray[np.uint16], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Undo `_to_images`."""
    unsigned = images.astype(f"uint{8 * dtype.itemsize}", copy=False)
    if np.iinfo(dtype).min:
        unsigned ^= unsigned.dtype.type(1 << (8 * dtype.itemsize - 1))
    values = unsigned.view(dtype)
    if len(shape) == 3:
        return values.reshape(shape)
    planes = values.reshape(shape[0], shape[3], shape[1], shape[2])
    return np.ascontiguousarray(np.moveaxis(planes, 1, 3))


def _best_prediction(
    images: NDArray[np.uint16],
    i: int,
    candidates: list[Prediction],
    asked: tuple[int, int] | None,
    movement: "_Movement",
    bits: int,
    spans: NDArray[np.int32],
) -> tuple[Prediction, int]:
    """Return the prediction whose residuals, on some rows, take the fewest bits, and the coder for them."""
    image = images[i]
    step = max(1, image.shape[0] // _SAMPLE_ROWS)

    def sample(p: Prediction) -> NDArray[np.uint32]:
        reference = images[max(p.reference, 0)]
        residuals: NDArray[np.uint32] = residuals_of(
            image, reference, p.reference >= 0, p.dy, p.dx, p.spatial, bits, spans, step
        )
        return residuals

    def cost(p: Prediction) -> tuple[int, int]:
        return cheapest_tokens(sample(p))

    tried = {p: cost(p) for p in (Prediction(), Prediction(spatial=True), *candidates)}
    if candidates:
        nearest = min(candidates, key=lambda p: tried[p])
        dy, dx = asked if asked is not None else movement.between(i, nearest.reference)
        variants = [(True, 0, 0), (False, dy, dx), (True, dy, dx)]
        tried |= {p: cost(p) for p in {Prediction(nearest.reference, *v): None for v in variants}}
    best = min(tried, key=lambda p: tried[p])
    token_bits, coder = tried[best]
    return best, RICE if rice_bits(sample(best)) < token_bits else coder


class _Movement:
    """By how many pixels images look moved, from the sums of their rows and columns."""

    def __init__(self, images: NDArray[np.uint16]) -> None:
        self._images = images
        self._profiles: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def between(self, i: int, reference: int) -> tuple[int, int]:
        """Return by how many pixels image i looks moved down and right against `reference`."""
        for number in (i, reference):
            if number not in self._profiles:
                self._profiles[number] = profiles(self._images[number])
        pairs = zip(self._profiles[i], self._profiles[reference], strict=True)
        dy, dx = (int(profile_shift(current, other, _REACH)) for current, other in pairs)
        return dy, dx


def _write_prediction(prediction: Prediction) -> bytes:
    shifted = prediction.reference >= 0 and (prediction.dy, prediction.dx) != (0, 0)
    flags = _SPATIAL * prediction.spatial + _REFERENCE * (prediction.reference >= 0) + _SHIFT * shifted
    if not shifted:
        return bytes([flags])
    return bytes([flags]) + leb128(zigzag(prediction.dy)) + leb128(zigzag(prediction.dx))


def _read_prediction(cursor: Cursor, has_reference: bool) -> tuple[bool, int, int]:
    flags = cursor.byte()
    if flags > _REFERENCE + _SPATIAL + _SHIFT or bool(flags & _REFERENCE) != has_reference:
        raise CorruptStreamError(f"impossible flags {flags}")
    if not flags & _SHIFT:
        return bool(flags & _SPATIAL), 0, 0
    dy, dx = unzigzag(cursor.leb128()), unzigzag(cursor.leb128())
    if not has_reference or max(abs(dy), abs(dx)) >= 1 << 32:
        raise CorruptStreamError("impossible shift")
    return bool(flags & _SPATIAL), dy, dx


def _with_references(wanted: list[int], reference_of: list[int]) -> list[int]:
    """Return the images of `wanted` and all that they refer to, in ascending order, each once."""
    needed = set()
    for i in wanted:
        while i >= 0 and i not in needed:
            needed.add(i)
            i = reference_of[i]
    return sorted(needed)
