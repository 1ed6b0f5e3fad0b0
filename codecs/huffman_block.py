"""One block of bytes in its smallest form: stored, constant or Huffman coded.

    kind 0  stored    the bytes themselves
    kind 1  constant  the byte
    kind 2  Huffman   table, sizes of four streams (LEB128), the streams

`pack_bytes` puts the kind in front and is what codecs use whose symbols are bytes. How many bytes the block
holds is for the caller to record.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.huffman_code import (
    MAX_LENGTH,
    code_lengths,
    lookup_table,
    read_lengths,
    reversed_code_words,
    write_lengths,
)
from dcmpress.codecs.huffman_kernels import STREAMS, decode_streams, encode_streams, quarter_counts
from dcmpress.codecs.leb128 import Cursor, leb128

STORED, CONSTANT, HUFFMAN = 0, 1, 2


@dataclass(frozen=True)
class BytesView:
    """The n bytes `values[first + step * i]`: one byte plane of an array of samples."""

    values: NDArray[np.uint8]
    first: int
    step: int
    n: int

    def counts(self) -> NDArray[np.int64]:
        """Return how often each byte occurs in each quarter, shape (4, 256)."""
        counts: NDArray[np.int64] = quarter_counts(self.values, self.first, self.step, self.n)
        return counts

    def tobytes(self) -> bytes:
        """Return the bytes themselves."""
        return self.values[self.first : self.first + self.step * self.n : self.step].tobytes()


def make_lengths(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the lengths of the best code for byte counts, shape (256,)."""
    lengths: NDArray[np.uint8] = code_lengths(counts, MAX_LENGTH)
    return lengths


def stream_sizes(counts: NDArray[np.int64], lengths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the sizes in bytes of the four streams, from the counts of each quarter."""
    sizes: NDArray[np.int64] = (counts @ lengths.astype(np.int64) + 7) // 8
    return sizes


def write_streams(view: BytesView, lengths: NDArray[np.uint8], sizes: NDArray[np.int64]) -> bytes:
    """Return the four streams' sizes and the streams."""
    words = reversed_code_words(lengths)
    coded = encode_streams(view.values, view.first, view.step, view.n, words, lengths, sizes)
    return b"".join(leb128(int(size)) for size in sizes) + coded.tobytes()


def read_streams(cursor: Cursor, view: BytesView, table: NDArray[np.uint16]) -> None:
    """Read what `write_streams` wrote into `view`; raise CorruptStreamError if it does not fit."""
    sizes = [cursor.leb128() for _ in range(STREAMS)]
    begins = [cursor.skip(size) for size in sizes]
    data = np.frombuffer(cursor.data, np.uint8)[: cursor.position]
    whole = decode_streams(
        data, np.array(begins), np.array(sizes), table, view.values, view.first, view.step, view.n
    )
    if not whole:
        raise CorruptStreamError("Huffman stream does not end where it should")


def make_table(lengths: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the decoder's look-up table for a complete code."""
    table: NDArray[np.uint16] = lookup_table(lengths, MAX_LENGTH)
    return table


def pack_bytes(values: NDArray[np.uint8]) -> bytes:
    """Return the smallest block for `values`, a vector of bytes (it may be empty)."""
    view = BytesView(np.ascontiguousarray(values), 0, 1, values.size)
    counts = view.counts()
    total = counts.sum(axis=0)
    if np.count_nonzero(total) < 2:
        return bytes([CONSTANT]) + (values[:1].tobytes() or b"\0")
    lengths = make_lengths(total)
    sizes = stream_sizes(counts, lengths)
    table = write_lengths(lengths)
    if len(table) + sum(len(leb128(int(size))) for size in sizes) + int(sizes.sum()) >= values.size:
        return bytes([STORED]) + values.tobytes()
    return bytes([HUFFMAN]) + table + write_streams(view, lengths, sizes)


def unpack_bytes(cursor: Cursor, n: int) -> NDArray[np.uint8]:
    """Read a block of n bytes that `pack_bytes` wrote.

    The caller has made sure that n bytes may be allocated.
    """
    kind = cursor.byte()
    if kind == STORED:
        return np.frombuffer(cursor.take(n), np.uint8)
    if kind == CONSTANT:
        return np.full(n, cursor.byte(), np.uint8)
    if kind != HUFFMAN:
        raise CorruptStreamError(f"block of unknown kind {kind}")
    table = make_table(read_lengths(cursor))
    out: NDArray[Any] = np.empty(n, np.uint8)
    read_streams(cursor, BytesView(out, 0, 1, n), table)
    return out
