"""What arrives compressed, made smaller: its bytes as rows for the codec `reconstruct`.

The value of encapsulated pixel data is of any length, and the frames of a blob's segment are all of one shape.
So the value is cut into rows of equal length, as many as it has; the few bytes after the last row stay in the
shell. Of instances whose images have one geometry the rows, and in the codec the samples, stand in one segment,
so that the frames of a series predict each other whatever their transfer syntax.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jpeg_dct.stream import CoefficientWriter
from dcmpress.codecs.reconstruct import Reconstruct, TakenJpeg, take_jpeg_apart
from dcmpress.codecs.reconstruct_directory import Image, Piece
from dcmpress.codecs.restorable import take_apart
from dcmpress.storage.encapsulated import Encapsulated, Fragments
from dcmpress.storage.encoded import Encoded, described
from dcmpress.storage.grouping import group_frames
from dcmpress.storage.source import Source
from dcmpress.storage.split import PixelFormat, Split

_PREFIX = "1.2.840.10008.1.2."
_JPEG = frozenset({f"{_PREFIX}4.{n}" for n in (50, 51, 53, 55)})
"""Transfer syntaxes whose images are JPEG with a discrete cosine transform."""

_FORMATS = {
    f"{_PREFIX}5": "rle",
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (57, 70)], "jpeg-lossless"),
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (80, 81)], "jpeg-ls"),
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (90, 91)], "jpeg-2000"),
}
"""Transfer syntax -> format of `dcmpress.codecs.restorable`."""

LONGEST_ROW = 65535
ENTRY_BYTES = 16
"""What one more row in the index is taken to cost: half a byte, and a microsecond whenever the blob is opened."""


@dataclass(frozen=True)
class SegmentLimits:
    """What bounds a segment; see `CompressJob`."""

    segment_bytes: int
    max_chain: int
    min_correlation: float


@dataclass(frozen=True)
class RowSegment:
    """A segment whose frames are rows of bytes."""

    pixel_format: PixelFormat
    rows: NDArray[np.uint8]
    """(n, 1, row length)"""
    places: list[tuple[int, int]]
    """(source, row) of each."""
    encoded: Encoded
    outdone: bool
    """Zstandard makes the bytes smaller than what the images become."""
    problem: str
    """Why images could not be taken apart, or ""."""


class _Taken(NamedTuple):
    """One image taken apart: with samples, unless it is a JPEG image with a discrete cosine transform."""

    image: Image
    samples: NDArray[Any] | None
    jpeg: TakenJpeg | None = None


_TakeApart = Callable[[bytes], _Taken | None]


@dataclass(frozen=True)
class _Member:
    """A source whose images are taken apart."""

    number: int
    source: Source
    encapsulated: Encapsulated
    decoded: int
    """Bytes of the samples of one image; 0 if it has a stream of its own."""

    @property
    def size(self) -> int:
        """Bytes of the value that is cut into rows."""
        return self.encapsulated.end - self.encapsulated.start

    def image(self, k: int) -> bytes:
        """Return image k as it was received."""
        return b"".join(self.source.read(start, stop) for start, stop in self.encapsulated.images[k])


class _Part(NamedTuple):
    """Rows of a member."""

    member: _Member
    first: int
    stop: int


def reconstructing(name: str, parameters: Mapping[str, Any]) -> Reconstruct:
    """Return the codec of what arrives compressed, beside the codec that a rule names.

    Raises
    ------
    ValueError
        If that is none, or lossy.
    """
    own = name == Reconstruct.codec_id
    codec = Reconstruct(**parameters) if own else Reconstruct(name, dict(parameters))
    codec.samples_codec()
    return codec


def reconstructed_segments(
    sources: Sequence[Source], codec: Reconstruct, limits: SegmentLimits
) -> Iterator[RowSegment]:
    """Yield segments of rows for those sources whose images can be made smaller, and set their `split`.

    Parameters
    ----------
    sources
        Of one blob, in coding order.
    """
    dtypes = codec.samples_codec().dtypes
    jpegs: list[_Member] = []
    groups: dict[_Kind, list[_Member]] = {}
    for number, source in enumerate(sources):
        images, syntax = source.encapsulated, source.entry.meta.transfer_syntax_uid
        if images is None:
            continue
        if syntax in _JPEG:
            member = _Member(number, source, images, 0)
            if _begins_well(member, _take_jpeg_apart):
                jpegs.append(member)
        elif syntax in _FORMATS and source.image_format is not None:
            kind = _kind(_FORMATS[syntax], source.image_format)
            member = _Member(number, source, images, source.image_format.frame_bytes)
            if kind.dtype in dtypes and _begins_well(member, kind.take_apart):
                groups.setdefault(kind, []).append(member)
    # Images of one size predict each other only where they stand side by side.
    jpegs.sort(key=_geometry)
    if jpegs:
        yield from _segments(jpegs, _take_jpeg_apart, codec, limits)
    for kind, members in groups.items():
        yield from _segments(members, kind.take_apart, codec, limits)


def _begins_well(member: _Member, take_apart: _TakeApart) -> bool:
    """Tell whether the first image of a member can be taken apart: then the others can be, as a rule."""
    taken, _ = _taken(member, 0, take_apart)
    return taken is not None


def _taken(member: _Member, k: int, take_apart: _TakeApart) -> tuple[_Taken | None, str]:
    """Take image k of a member apart; return also what went wrong that should not, or ""."""
    data = member.image(k)
    try:
        return take_apart(data), ""
    except Exception as error:  # whatever a library or a hostile image does, its bytes are kept
        return None, f"image {k + 1} of an instance cannot be taken apart: {error!r}"


def _geometry(member: _Member) -> tuple[int, ...]:
    image_format = member.source.image_format
    return () if image_format is None else image_format.frame_shape


class _Kind(NamedTuple):
    """Images whose samples can stand in one stream."""

    format_name: str
    shape: tuple[int, ...]
    dtype: str

    def take_apart(self, data: bytes) -> _Taken | None:
        """Take an image apart, if it is of this kind and comes back."""
        taken = take_apart(self.format_name, data, self.shape, np.dtype(self.dtype))
        return None if taken is None else _Taken(*taken)


def _kind(format_name: str, image_format: PixelFormat) -> _Kind:
    return _Kind(format_name, image_format.frame_shape, image_format.dtype.newbyteorder("=").name)


def _take_jpeg_apart(data: bytes) -> _Taken | None:
    taken = take_jpeg_apart(data)
    return None if taken is None else _Taken(taken.image, None, taken)


def row_length(sizes: Sequence[int]) -> int:
    """Return the length of rows into which values of these sizes are best cut.

    What is left over is kept as it is, and every row costs an entry in the index.
    """
    values = np.asarray(sizes, np.int64)
    typical = int(values.mean())
    near = int(np.sqrt(ENTRY_BYTES * typical)) + 1
    fewest = max(1, -(-typical // LONGEST_ROW))
    candidates = {typical // k for k in range(fewest, fewest + 64)} | {near * k // 16 for k in range(4, 65)}
    best, lowest = 0, 1 << 62
    for length in sorted(candidates, reverse=True):
        if 1 <= length <= LONGEST_ROW:
            cost = int((values % length + ENTRY_BYTES * (values // length)).sum())
            if cost < lowest:
                best, lowest = length, cost
    return best


def _segments(
    members: list[_Member], take_apart: _TakeApart, codec: Reconstruct, limits: SegmentLimits
) -> Iterator[RowSegment]:
    length = row_length([member.size for member in members])
    pixel_format = PixelFormat(1, length, 1, 8, signed=False, by_plane=False, big_endian=False)
    members = [member for member in members if member.size >= length]
    for member in members:
        member.source.split = Split(pixel_format, member.encapsulated.start, member.size // length, {})
    for parts in _divided(members, length, limits.segment_bytes):
        yield _segment(parts, pixel_format, take_apart, codec, limits)


def _divided(members: list[_Member], length: int, segment_bytes: int) -> list[list[_Part]]:
    """Divide the rows of members into segments of about equal weight, where an image ends if possible."""
    weights = [
        max(member.decoded, sum(stop - start for start, stop in image))
        for member in members
        for image in member.encapsulated.images
    ]
    n_segments = max(1, -(-sum(weights) // segment_bytes))
    middles = np.cumsum(weights) - np.asarray(weights) // 2
    of_image = np.minimum(middles * n_segments // max(1, sum(weights)), n_segments - 1)
    segments: list[list[_Part]] = [[] for _ in range(n_segments)]
    i = 0
    for member in members:
        images = member.encapsulated.images
        n_rows = member.size // length
        first = 0
        for k, image in enumerate(images):
            last = k + 1 == len(images)
            if last or of_image[i + k + 1] != of_image[i + k]:
                ends = image[-1][1] - member.encapsulated.start
                stop = n_rows if last else min(n_rows, ends // length)
                if stop > first:
                    segments[of_image[i + k]].append(_Part(member, first, stop))
                    first = stop
        i += len(images)
    return [parts for parts in segments if parts]


def _segment(
    parts: list[_Part],
    pixel_format: PixelFormat,
    take_apart: _TakeApart,
    codec: Reconstruct,
    limits: SegmentLimits,
) -> RowSegment:
    length = pixel_format.columns
    rows = np.concatenate([_rows(part, length) for part in parts])
    places = [(part.member.number, row) for part in parts for row in range(part.first, part.stop)]
    problem = ""
    payload: bytes | None = None
    try:
        payload, problem = _encode(parts, rows, take_apart, codec, limits)
    except Exception as error:  # whatever a codec does, the store goes on
        problem = f"{codec.codec_id} failed: {error!r}"
    # Frames of a still scene may hold the very same bytes, which no image format sees.
    plain = codec.encode_images(rows, (), ())
    outdone = payload is not None and len(plain) <= len(payload)
    if payload is None or outdone:
        payload = plain
    return RowSegment(pixel_format, rows, places, described(codec, payload), outdone, problem)


def _rows(part: _Part, length: int) -> NDArray[np.uint8]:
    start = part.member.encapsulated.start
    data = part.member.source.read(start + part.first * length, start + part.stop * length)
    return np.frombuffer(data, np.uint8).reshape(-1, 1, length)


def _encode(
    parts: list[_Part],
    rows: NDArray[np.uint8],
    take_apart: _TakeApart,
    codec: Reconstruct,
    limits: SegmentLimits,
) -> tuple[bytes | None, str]:
    """Return the stream of a segment, or None if no image in it can be taken apart; and the first problem, or ""."""
    problem = ""
    images: list[Image] = []
    pieces: list[Piece] = []
    samples: list[NDArray[Any]] = []
    coefficients = CoefficientWriter()
    at = 0
    for member, first, stop in parts:
        window = range(first * rows.shape[2], stop * rows.shape[2])
        for k, fragments in enumerate(member.encapsulated.images):
            standing = list(_pieces(fragments, member.encapsulated.start, window))
            if not standing:
                continue
            taken, failed = _taken(member, k, take_apart)
            problem = problem or failed
            if taken is None:
                continue
            pieces += [
                Piece(at + begin - window.start, len(images), start, n) for begin, start, n in standing
            ]
            images.append(taken.image)
            if taken.jpeg is not None:
                taken.jpeg.add_to(coefficients)
            if taken.samples is not None:
                samples.append(taken.samples)
        at += len(window)
    if not images:
        return None, problem
    if not samples:
        return codec.encode_images(rows, images, pieces, coefficients=coefficients), problem
    frames = np.stack(samples)
    group = group_frames(frames, max_chain=limits.max_chain, min_correlation=limits.min_correlation)
    shifts = group.shifts if any(map(any, group.shifts)) else None
    return codec.encode_images(rows, images, pieces, frames, group.references, shifts), problem


def _pieces(fragments: Fragments, origin: int, window: range) -> Iterator[tuple[int, int, int]]:
    """Yield (offset in the value, offset in the image, bytes) of what of an image lies in a window."""
    passed = 0
    for start, stop in fragments:
        begin, end = max(start - origin, window.start), min(stop - origin, window.stop)
        if end > begin:
            yield begin, passed + begin - (start - origin), end - begin
        passed += stop - start
