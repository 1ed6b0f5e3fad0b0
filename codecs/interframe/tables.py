"""Frames that went through look-up tables of their own, as ranks: each frame's values numbered by themselves.

Where an image of 8 or 10 bits is stretched to 16 for display, it holds some hundred or thousand values of 65536, and
the next one holds others. Numbered for all frames together the values of one stand apart again; numbered frame by
frame, the image before the stretching comes back, which a frame predicts from the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_signed, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe.planes import put_values, read_values
from dcmpress.codecs.jit import njit

_SPARSE = 0.5
"""Share of the range between their outer twentieths that the samples of a stretched frame use at most."""
_REPEATS = 8
"""Samples that a value of a stretched frame has at least, in the mean: with fewer, values are missing by chance."""
_DIFFERENT = 1.25
"""Values of all frames over those of one, at least, where each has a table of its own."""
_LOOKED_AT = 5

Array = NDArray[Any]
_U = np.uint64


@dataclass(frozen=True)
class Tables:
    """Values by rank, and which frame has which."""

    offset: int
    """Subtracted from samples first."""
    values: list[Array]
    """The value of each rank, ascending, 0 to 65535."""
    of_frame: list[int]
    """Of each frame that is coded: number of its table."""


def find_tables(frames: Array, kept: Array) -> Tables | None:
    """Return tables for those of the frames (n, rows, columns) that are coded; None if they need none of their own."""
    if frames.ndim != 3 or frames.dtype.itemsize > 2 or len(kept) < 2:
        return None
    offset = int(np.iinfo(frames.dtype).min)
    counts: list[NDArray[np.int64]] = []
    for k in np.linspace(0, len(kept) - 1, min(len(kept), _LOOKED_AT)).astype(np.int64):
        counts.append(_counts(frames[kept[k]], offset))
        if not _is_stretched(counts[-1]):
            return None
    used = [int(np.count_nonzero(count)) for count in counts]
    together = int(np.count_nonzero(np.sum(counts, axis=0)))
    if together < _DIFFERENT * np.mean(used):
        return None
    numbers: dict[bytes, int] = {}
    values: list[Array] = []
    of_frame = []
    for i in kept:
        present = _counts(frames[i], offset) > 0
        number = numbers.setdefault(np.packbits(present).tobytes(), len(values))
        if number == len(values):
            values.append(np.flatnonzero(present))
        of_frame.append(number)
    return Tables(offset, values, of_frame)


def _counts(frame: Array, offset: int) -> NDArray[np.int64]:
    counts = np.zeros(1 << 16, np.int64)
    _count(np.ascontiguousarray(frame).reshape(-1), offset, counts)
    return counts


def _is_stretched(counts: NDArray[np.int64]) -> bool:
    """Tell whether values are missing between those of a frame because a table left them out."""
    total = np.cumsum(counts)
    low, high = np.searchsorted(total, [total[-1] * 0.05, total[-1] * 0.95])
    used = int(np.count_nonzero(counts[low : high + 1]))
    samples = int(counts[low : high + 1].sum())
    return used > 2 and used < _SPARSE * (high - low + 1) and samples >= _REPEATS * used


def to_own_ranks(frames: Array, tables: Tables, numbers: Sequence[int]) -> NDArray[np.uint16]:
    """Return frames as ranks, each by the table of that number, which has all its values."""
    ranks = np.empty(frames.shape, np.uint16)
    rank_of = np.zeros(1 << 16, np.uint16)
    filled = -1
    for frame, number, target in zip(frames, numbers, ranks, strict=True):
        if number != filled:
            values = tables.values[number]
            rank_of[values] = np.arange(len(values), dtype=np.uint16)
            filled = number
        _rank(np.ascontiguousarray(frame).reshape(-1), tables.offset, rank_of, target.reshape(-1))
    return ranks


def from_own_ranks(ranks: NDArray[np.uint16], tables: Tables, number: int, out: Array) -> None:
    """Write a frame from its ranks.

    Raises
    ------
    CorruptStreamError
        If a rank has no value.
    """
    values = (tables.values[number].astype(np.int64) + tables.offset & 0xFFFF).astype(np.uint16)
    words = out.view(f"u{out.dtype.itemsize}").reshape(-1)
    if not _look_up(np.ascontiguousarray(ranks).reshape(-1), values, words):
        raise CorruptStreamError("rank beyond the table of a frame")


@njit
def _count(samples, offset, counts):
    for i in range(len(samples)):
        counts[_U(np.int64(samples[_U(i)]) - offset)] += 1


@njit
def _rank(samples, offset, rank_of, ranks):
    for i in range(len(samples)):
        ranks[_U(i)] = rank_of[_U(np.int64(samples[_U(i)]) - offset)]


@njit
def _look_up(ranks, values, out):
    """Write the values of ranks; False, and only those before, if one has none."""
    for i in range(len(ranks)):
        rank = ranks[_U(i)]
        if rank >= len(values):
            return False
        out[_U(i)] = values[_U(rank)]
    return True


def put_tables(out: bytearray, tables: Tables) -> None:
    """Append the tables, and the number of each frame's."""
    put_signed(out, tables.offset)
    put_varint(out, len(tables.values))
    for values in tables.values:
        put_values(out, values)
    for number in tables.of_frame:
        put_varint(out, number)


def read_tables(reader: ByteReader, n_frames: int, frame_samples: int) -> Tables:
    """Read what `put_tables` wrote for `n_frames` frames that are coded, each of `frame_samples` samples."""
    offset = reader.signed(1 << 15)
    values = []
    for _ in range(reader.varint(n_frames)):
        table = read_values(reader, frame_samples)
        if table is None:
            raise CorruptStreamError("a frame's table of no values")
        values.append(table)
    if not values:
        raise CorruptStreamError("no tables")
    return Tables(offset, values, [reader.varint(len(values) - 1) for _ in range(n_frames)])
