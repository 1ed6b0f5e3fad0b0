"""A blob's instances put together again: shell and decoded frames become the bytes that were received."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.registry import get_codec
from dcmpress.storage.blob import BlobReader
from dcmpress.storage.blob_index import BlobSegment
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import BlobFormatError, DamagedError

DECODED_BYTES = 48 << 20
"""Decoded frames that a reader keeps for the next instance, in bytes; a group's neighbours share segments."""

LARGEST_HELD = 4 << 20
"""A section of shells beyond this is read piece by piece for each instance."""


class InstanceReader:
    """Gives back the data sets of one blob. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.blob = BlobReader(path)
        self._shells: OrderedDict[int, bytes] = OrderedDict()
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._places: list[dict[int, tuple[int, int]]] = [{} for _ in self.blob.index.instances]
        for s, segment in enumerate(self.blob.index.segments):
            for position, (instance, frame) in enumerate(segment.frames):
                self._places[instance][frame] = (s, position)

    def __enter__(self) -> "InstanceReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of what was decoded."""
        self._shells.clear()
        self._segments.clear()
        self.blob.close()

    def segments_of(self, number: int) -> list[int]:
        """Return the segments that hold frames of an instance."""
        return sorted({s for s, _ in self._places[number].values()})

    def instances_in(self, s: int) -> list[int]:
        """Return the instances that have frames in segment `s`."""
        return sorted({instance for instance, _ in self.blob.index.segments[s].frames})

    def load(self, s: int) -> None:
        """Keep the segment `s`, decoded as far as it is asked for, for the instances to come.

        Raises
        ------
        DamagedError
        """
        if s not in self._segments:
            self._segments[s] = self._opened(s, None)
            while len(self._segments) > 1 and sum(a.nbytes for a in self._segments.values()) > DECODED_BYTES:
                self._segments.popitem(last=False)

    def load_for(self, numbers: Sequence[int]) -> None:
        """Keep the segments that hold many frames of these instances, so that none is decoded twice.

        Raises
        ------
        DamagedError
        """
        wanted = Counter(s for number in numbers for s, _ in self._places[number].values())
        for s, n_frames in wanted.items():
            if 2 * n_frames >= len(self.blob.index.segments[s].frames):
                self.load(s)

    def forget_segments(self) -> None:
        """Drop the frames that were decoded."""
        self._segments.clear()

    def pieces(self, number: int) -> Iterator[Buffer]:
        """Yield the bytes of an instance in order, piece by piece. They are NOT yet confirmed: see `read`.

        Raises
        ------
        DamagedError
            If a checksum of the blob does not hold or a codec cannot decode its stream.
        """
        instance = self.blob.index.instances[number]
        middle = instance.offset + instance.head
        yield from self._shell(instance.section, instance.offset, middle)
        if instance.n_frames:
            pixel_format = self.blob.index.pixel_formats[instance.pixel_format]
            for frames in self._runs(number, instance.n_frames):
                yield pixel_format.to_bytes(frames)
        yield from self._shell(instance.section, middle, middle + instance.tail)

    def beginning(self, number: int, limit: int) -> bytes:
        """Return up to `limit` bytes of an instance from before its first frame. They are not confirmed.

        Raises
        ------
        DamagedError
        """
        instance = self.blob.index.instances[number]
        stop = instance.offset + min(limit, instance.head)
        return b"".join(self._shell(instance.section, instance.offset, stop))

    def read(self, number: int) -> bytes:
        """Return the data set of an instance, confirmed by its SHA-256.

        Raises
        ------
        DamagedError
            If it is not what was received: nothing is returned then.
        """
        instance = self.blob.index.instances[number]
        data = b"".join(self.pieces(number))
        if len(data) != instance.size or hashlib.sha256(data).hexdigest() != instance.sha256:
            raise DamagedError(f"{self.blob.path.name}: {instance.sop_instance_uid} is not what was received")
        return data

    def _runs(self, number: int, n_frames: int) -> Iterator[NDArray[Any]]:
        """Yield the frames of an instance in order, in runs that lie in one segment."""
        places = self._places[number]
        if len(places) != n_frames:
            raise BlobFormatError(f"{self.blob.path.name}: instance {number} lacks frames")
        frame = 0
        while frame < n_frames:
            s = places[frame][0]
            positions = []
            while frame < n_frames and places[frame][0] == s:
                positions.append(places[frame][1])
                frame += 1
            yield self._frames(s, positions)

    def _frames(self, s: int, positions: list[int]) -> NDArray[Any]:
        if s not in self._segments and 2 * len(positions) >= len(self.blob.index.segments[s].frames):
            self.load(s)
        if s in self._segments:
            self._segments.move_to_end(s)
            try:
                return self._segments[s].take(positions)
            except DamagedError:
                del self._segments[s]  # frames that refer to nothing damaged can still be had
        return self._opened(s, positions).take(range(len(positions)))

    def _opened(self, s: int, positions: list[int] | None) -> "_Segment":
        segment: BlobSegment = self.blob.index.segments[s]
        first = self.blob.index.instances[segment.frames[0][0]]
        pixel_format = self.blob.index.pixel_formats[first.pixel_format]
        n_frames = len(segment.frames) if positions is None else len(positions)
        payload = self.blob.section(segment.section)
        name = f"{self.blob.path.name}: segment {s} ({segment.codec})"
        with _damage(name):
            codec = get_codec(segment.codec, **segment.parameters)
            frames, whole = codec.decode_stepwise(
                payload, positions, max_pixels=pixel_format.frame_samples * len(segment.frames)
            )
            if frames.shape != (n_frames, *pixel_format.frame_shape) or frames.dtype.kind not in "iu":
                raise ValueError(f"it holds {frames.dtype} {frames.shape}")
        return _Segment(name, frames, whole)

    def _shell(self, section: int, start: int, stop: int) -> Iterator[Buffer]:
        if self.blob.section_sizes(section)[1] > LARGEST_HELD:
            yield from self.blob.pieces(section, start, stop)
            return
        if section not in self._shells:
            self._shells[section] = self.blob.section(section)
            while len(self._shells) > 4:
                self._shells.popitem(last=False)
        yield memoryview(self._shells[section])[start:stop]


class _Segment:
    """Frames of a segment, decoded as far as they were asked for."""

    def __init__(self, name: str, frames: NDArray[Any], whole: Iterator[int]) -> None:
        self.nbytes = frames.nbytes
        self._name = name
        self._frames = frames
        self._whole = whole
        self._ready = bytearray(len(frames))

    def take(self, positions: Sequence[int]) -> NDArray[Any]:
        """Return frames, copied only if they do not follow each other.

        Raises
        ------
        DamagedError
        """
        with _damage(self._name):
            while not all(self._ready[position] for position in positions):
                self._ready[next(self._whole)] = True
        first, n = positions[0], len(positions)
        if list(positions) == list(range(first, first + n)):
            return self._frames[first : first + n]
        return self._frames[np.asarray(positions)]


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Say of whatever goes wrong while `name` is decoded that it is damaged."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a codec from elsewhere may raise anything
        raise DamagedError(f"{name}: {error!r}") from error
