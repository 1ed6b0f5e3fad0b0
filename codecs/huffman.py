"""Huffman coding of bytes, the codec `huffman`.

After "Analysis of DICOM image compression alternative using Huffman coding" (Rahmat et al., J. Healthcare
Engineering 2019): byte frequencies, a prefix code, a table in the stream, look-up decoding. Differences: the
code is canonical and limited to 14 bits, four streams are interleaved, samples wider than a byte are coded
byte plane by byte plane with a code for each, and a plane that would grow is stored.

Format: docs/formats/huffman.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.huffman_block import (
    CONSTANT,
    HUFFMAN,
    STORED,
    BytesView,
    make_lengths,
    make_table,
    read_streams,
    stream_sizes,
    write_streams,
)
from dcmpress.codecs.huffman_code import read_lengths, write_lengths
from dcmpress.codecs.leb128 import Cursor, leb128
from dcmpress.codecs.stream import read_stream, write_stream

MAGIC = b"DHUF"
_MAX_TABLES = 254  # a segment's kind is a byte: stored, constant, or 2 + the number of its table


@dataclass(frozen=True)
class Huffman(Codec):
    """Order-0 Huffman coding, one segment for each byte plane of each frame.

    >>> import numpy as np
    >>> text = np.frombuffer(b"she sells sea shells by the sea shore" * 4, np.uint8).reshape(1, 1, -1)
    >>> data = Huffman().encode(text)
    >>> len(data), bytes(Huffman().decode(data)) == bytes(text)
    (153, True)
    """

    codec_id: ClassVar[str] = "huffman"
    format_version: ClassVar[int] = 1
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "uint32", "int32")

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
        planes = _byte_planes(_as_bytes(frames), frames[0].size, frames.itemsize)
        counts = np.array([plane.counts() for plane in planes])

        shared = _shared_lengths(counts, frames.itemsize)
        tables = _Tables()
        directory, segments = [], []
        for i, plane in enumerate(planes):
            kind, segment = _smallest_segment(plane, counts[i], shared[i % frames.itemsize], tables)
            directory.append(kind)
            segments.append(segment)

        payload = [bytes([len(tables.stored)]), *tables.stored]
        for kind, segment in zip(directory, segments, strict=True):
            payload.append(bytes([kind]))
            if kind >= HUFFMAN:
                payload.append(leb128(len(segment)))
        payload.extend(segments)
        return write_stream(MAGIC, self.format_version, frames, b"".join(payload))

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        itemsize = header.dtype.itemsize
        n_frames = header.shape[0]
        plane_size = header.n_samples // n_frames
        cursor = Cursor(payload)
        tables = [make_table(read_lengths(cursor)) for _ in range(cursor.byte())]
        if cursor.remaining < n_frames * itemsize:
            raise CorruptStreamError("stream is shorter than its directory")
        kinds, sizes = [], []
        for _ in range(n_frames * itemsize):
            kind = cursor.byte()
            if kind >= HUFFMAN + len(tables):
                raise CorruptStreamError(f"segment of unknown kind {kind}")
            kinds.append(kind)
            sizes.append({STORED: plane_size, CONSTANT: 1}[kind] if kind < HUFFMAN else cursor.leb128())
        begins = [cursor.skip(size) for size in sizes]
        cursor.finish()

        wanted = range(n_frames) if select is None else [_frame_number(k, n_frames) for k in select]
        frames = np.empty((len(wanted), *header.shape[1:]), header.dtype)
        planes = _byte_planes(_as_bytes(frames), plane_size, itemsize)
        for i, plane in enumerate(planes):
            k = wanted[i // itemsize] * itemsize + i % itemsize
            segment = payload[begins[k] : begins[k] + sizes[k]]
            if kinds[k] >= HUFFMAN:
                segment_cursor = Cursor(segment)
                read_streams(segment_cursor, plane, tables[kinds[k] - HUFFMAN])
                segment_cursor.finish()
            else:  # one byte is broadcast
                plane.values[plane.first : plane.first + plane.step * plane.n : plane.step] = np.frombuffer(
                    segment, np.uint8
                )
        return frames


class _Tables:
    """The tables that go into the stream, each stored once."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def cost(self, table: bytes) -> int:
        """Return the bytes that using `table` adds to the stream."""
        return 0 if table in self.stored else len(table)

    def number(self, table: bytes) -> int:
        """Return the number of `table`, which is added if it is new."""
        if table not in self.stored:
            self.stored.append(table)
        return self.stored.index(table)


def _smallest_segment(
    plane: BytesView, counts: NDArray[np.int64], shared: NDArray[np.uint8], tables: _Tables
) -> tuple[int, bytes]:
    """Return the kind and the bytes of a segment: constant, stored, with the shared or a table of its own."""
    total = counts.sum(axis=0)
    if np.count_nonzero(total) == 1:
        return CONSTANT, bytes([int(total.argmax())])
    lengths = shared
    if len(tables.stored) < _MAX_TABLES - 4:  # room for the shared table of each byte position
        own = make_lengths(total)
        # the shared table will be paid for by others
        if tables.cost(write_lengths(own)) + _coded_size(counts, own) < _coded_size(counts, shared):
            lengths = own
    size = tables.cost(write_lengths(lengths)) + _coded_size(counts, lengths)
    if size >= plane.n:
        return STORED, plane.tobytes()
    kind = HUFFMAN + tables.number(write_lengths(lengths))
    return kind, write_streams(plane, lengths, stream_sizes(counts, lengths))


def _coded_size(counts: NDArray[np.int64], lengths: NDArray[np.uint8]) -> int:
    sizes = stream_sizes(counts, lengths)
    return int(sizes.sum()) + sum(len(leb128(int(size))) for size in sizes)


def _frame_number(k: int, n_frames: int) -> int:
    if not 0 <= k < n_frames:
        raise IndexError(f"frame {k} of {n_frames}")
    return int(k)


def _as_bytes(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a flat view of the samples' bytes, in the machine's order."""
    return frames.reshape(-1).view(np.uint8)


def _byte_planes(flat: NDArray[np.uint8], plane_size: int, itemsize: int) -> list[BytesView]:
    """Return the byte planes of each frame, least significant first."""
    little = np.little_endian
    return [
        BytesView(flat, begin + (k if little else itemsize - 1 - k), itemsize, plane_size)
        for begin in range(0, flat.size, plane_size * itemsize)
        for k in range(itemsize)
    ]


def _shared_lengths(counts: NDArray[np.int64], itemsize: int) -> list[NDArray[np.uint8]]:
    """Return for each byte position the code that serves all frames together."""
    return [make_lengths(counts[k::itemsize].sum(axis=(0, 1))) for k in range(itemsize)]
