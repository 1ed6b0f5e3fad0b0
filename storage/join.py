"""A blob's instances put together again: shell and decoded frames become the bytes that were received."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CodecError
from dcmpress.codecs.registry import get_codec
from dcmpress.storage.blob import BlobReader, BlobSegment
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import BlobFormatError, DamagedError

DECODED_BYTES = 96 << 20
"""Decoded frames that a reader keeps for the next instance, in bytes; a group's neighbours share segments."""


class InstanceReader:
    """Gives back the data sets of one blob. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.blob = BlobReader(path)
        self._shells: OrderedDict[int, memoryview | bytes] = OrderedDict()
        self._segments: OrderedDict[int, NDArray[Any]] = OrderedDict()
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

    def load(self, s: int) -> None:
        """Decode the whole segment `s` and keep it for the instances to come.

        Raises
        ------
        DamagedError
        """
        if s not in self._segments:
            self._segments[s] = self._decode(s, None)
            while len(self._segments) > 1 and sum(a.nbytes for a in self._segments.values()) > DECODED_BYTES:
                self._segments.popitem(last=False)

    def pieces(self, number: int) -> Iterator[Buffer]:
        """Yield the bytes of an instance in order, piece by piece. They are NOT yet confirmed: see `read`.

        Raises
        ------
        DamagedError
            If a checksum of the blob does not hold or a codec cannot decode its stream.
        """
        instance = self.blob.index.instances[number]
        shell = memoryview(self._shell(instance.section))
        if instance.offset + instance.head + instance.tail > len(shell):
            raise BlobFormatError(f"{self.blob.path.name}: a shell lies outside its section")
        middle = instance.offset + instance.head
        yield shell[instance.offset : middle]
        if instance.n_frames:
            pixel_format = self.blob.index.pixel_formats[instance.pixel_format]
            for frames in self._runs(number, instance.n_frames):
                yield pixel_format.to_bytes(frames)
        yield shell[middle : middle + instance.tail]

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
        in_segment = len(self.blob.index.segments[s].frames)
        if s not in self._segments and 2 * len(positions) < in_segment:
            return self._decode(s, positions)
        self.load(s)
        self._segments.move_to_end(s)
        if positions == list(range(in_segment)):
            return self._segments[s]
        return self._segments[s][np.asarray(positions)]

    def _decode(self, s: int, positions: list[int] | None) -> NDArray[Any]:
        segment: BlobSegment = self.blob.index.segments[s]
        first = self.blob.index.instances[segment.frames[0][0]]
        pixel_format = self.blob.index.pixel_formats[first.pixel_format]
        per_frame = pixel_format.rows * pixel_format.columns * pixel_format.samples
        try:
            codec = get_codec(segment.codec, **segment.parameters)
            frames = codec.decode(
                self.blob.section(segment.section),  # type: ignore[arg-type]
                positions,
                max_pixels=per_frame * len(segment.frames),
            )
        except (CodecError, ValueError, IndexError) as error:
            raise DamagedError(f"{self.blob.path.name}: segment {s} ({segment.codec}): {error}") from error
        expected = len(segment.frames) if positions is None else len(positions)
        if len(frames) != expected or frames[0].size != per_frame:
            raise DamagedError(f"{self.blob.path.name}: segment {s} does not hold the frames it should")
        return frames

    def _shell(self, section: int) -> memoryview | bytes:
        if section not in self._shells:
            self._shells[section] = self.blob.section(section)
            while len(self._shells) > 4:
                self._shells.popitem(last=False)
        return self._shells[section]
