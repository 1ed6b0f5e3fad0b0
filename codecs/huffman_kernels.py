"""Huffman's inner loops: bytes to and from four interleaved bit streams.

The bytes are cut in four quarters of equal length (the last may be shorter); each quarter is a bit stream of
its own, first bit lowest, padded with zeros to whole bytes. Four streams give the processor four independent
chains of look-ups, which is what makes decoding fast; one window of 64 bits holds four words of 14 bits.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

STREAMS = 4


@inline
def load_u64(data: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    """Read eight bytes, little endian (LLVM turns this into one load)."""
    return (
        np.uint64(data[at])
        | np.uint64(data[at + np.uint64(1)]) << np.uint64(8)
        | np.uint64(data[at + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[at + np.uint64(3)]) << np.uint64(24)
        | np.uint64(data[at + np.uint64(4)]) << np.uint64(32)
        | np.uint64(data[at + np.uint64(5)]) << np.uint64(40)
        | np.uint64(data[at + np.uint64(6)]) << np.uint64(48)
        | np.uint64(data[at + np.uint64(7)]) << np.uint64(56)
    )


@inline
def store_u64(data: NDArray[np.uint8], at: np.uint64, value: np.uint64) -> None:
    """Write eight bytes, little endian (LLVM turns this into one store)."""
    data[at] = np.uint8(value)
    data[at + np.uint64(1)] = np.uint8(value >> np.uint64(8))
    data[at + np.uint64(2)] = np.uint8(value >> np.uint64(16))
    data[at + np.uint64(3)] = np.uint8(value >> np.uint64(24))
    data[at + np.uint64(4)] = np.uint8(value >> np.uint64(32))
    data[at + np.uint64(5)] = np.uint8(value >> np.uint64(40))
    data[at + np.uint64(6)] = np.uint8(value >> np.uint64(48))
    data[at + np.uint64(7)] = np.uint8(value >> np.uint64(56))


@inline
def load_tail_u64(data: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    """Like `load_u64`, with zeros for bytes past the end."""
    window = np.uint64(0)
    for k in range(np.uint64(8)):
        if at + np.uint64(k) < np.uint64(data.size):
            window |= np.uint64(data[at + np.uint64(k)]) << (np.uint64(k) << np.uint64(3))
    return window


@inline
def load_window(data: NDArray[np.uint8], position: np.uint64) -> np.uint64:
    """Return the bits from bit `position` on: at least 57 of them, zeros past the end of `data`."""
    at = position >> np.uint64(3)
    if at + np.uint64(8) <= np.uint64(data.size):
        return load_u64(data, at) >> (position & np.uint64(7))
    return load_tail_u64(data, at) >> (position & np.uint64(7))


@njit
def quarter_counts(values: NDArray[np.uint8], first: int, step: int, n: int) -> NDArray[np.int64]:
    """Count the bytes `values[first + step * i]`, i < n, of each quarter.

    Returns an int64 array of shape (4, 256).
    """
    counts = np.zeros((STREAMS, 256), np.int64)
    quarter = (n + STREAMS - 1) // STREAMS
    for s in range(STREAMS):
        begin = min(s * quarter, n)
        end = min(begin + quarter, n)
        # Four tables: a run of one value would otherwise wait for its own counter each time.
        lanes = np.zeros((4, 256), np.uint32)
        i = begin
        while i + 4 <= end:
            at = first + step * i
            lanes[0, values[at]] += np.uint32(1)
            lanes[1, values[at + step]] += np.uint32(1)
            lanes[2, values[at + 2 * step]] += np.uint32(1)
            lanes[3, values[at + 3 * step]] += np.uint32(1)
            i += 4
        while i < end:
            lanes[0, values[first + step * i]] += np.uint32(1)
            i += 1
        for symbol in range(256):
            counts[s, symbol] = (
                np.int64(lanes[0, symbol])
                + np.int64(lanes[1, symbol])
                + np.int64(lanes[2, symbol])
                + np.int64(lanes[3, symbol])
            )
    return counts


@njit
def encode_streams(
    values: NDArray[np.uint8],
    first: int,
    step: int,
    n: int,
    words: NDArray[np.uint16],
    lengths: NDArray[np.uint8],
    sizes: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Write `values[first + step * i]`, i < n, as four streams of `sizes` bytes, one after the other."""
    out = np.zeros(sizes.sum() + 8, np.uint8)
    quarter = (n + STREAMS - 1) // STREAMS
    # word and length of a symbol in one look-up
    entries = np.zeros(256, np.uint32)
    for symbol in range(256):
        entries[symbol] = np.uint32(words[symbol]) | np.uint32(lengths[symbol]) << np.uint32(16)
    at = np.uint64(0)
    for s in range(STREAMS):
        begin = min(s * quarter, n)
        end = min(begin + quarter, n)
        write = at
        window = np.uint64(0)
        filled = np.uint64(0)
        i = begin
        while i + 4 <= end:
            source = first + step * i
            for k in range(4):
                entry = np.uint64(entries[values[source + k * step]])
                window |= (entry & np.uint64(0xFFFF)) << filled
                filled += entry >> np.uint64(16)
            store_u64(out, write, window)
            window >>= filled & np.uint64(0x38)
            write += filled >> np.uint64(3)
            filled &= np.uint64(7)
            i += 4
        while i < end:
            entry = np.uint64(entries[values[first + step * i]])
            window |= (entry & np.uint64(0xFFFF)) << filled
            filled += entry >> np.uint64(16)
            store_u64(out, write, window)
            window >>= filled & np.uint64(0x38)
            write += filled >> np.uint64(3)
            filled &= np.uint64(7)
            i += 1
        at += np.uint64(sizes[s])
    return out[: out.size - 8]


@njit
def decode_streams(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    table: NDArray[np.uint16],
    out: NDArray[np.uint8],
    first: int,
    step: int,
    n: int,
) -> bool:
    """Decode n bytes into `out[first + step * i]`; return whether each stream ended where it should.

    `table` has 16384 entries. Nothing is read outside `data` and nothing written outside those n bytes,
    whatever the streams hold.
    """
    quarter = (n + STREAMS - 1) // STREAMS
    mask = np.uint64(table.size - 1)
    seven = np.uint64(7)
    three = np.uint64(3)
    last_window = np.int64(data.size) - 8
    p0 = np.uint64(begins[0]) << three
    p1 = np.uint64(begins[1]) << three
    p2 = np.uint64(begins[2]) << three
    p3 = np.uint64(begins[3]) << three
    o0 = first
    o1 = first + step * quarter
    o2 = first + step * 2 * quarter
    o3 = first + step * 3 * quarter
    i = 0
    shortest = max(n - 3 * quarter, 0)
    while i + 4 <= shortest:
        farthest = max(max(p0, p1), max(p2, p3)) >> three
        if np.int64(farthest) > last_window:
            break
        w0 = load_u64(data, p0 >> three) >> (p0 & seven)
        w1 = load_u64(data, p1 >> three) >> (p1 & seven)
        w2 = load_u64(data, p2 >> three) >> (p2 & seven)
        w3 = load_u64(data, p3 >> three) >> (p3 & seven)
        for _ in range(4):
            e0 = np.uint64(table[w0 & mask])
            e1 = np.uint64(table[w1 & mask])
            e2 = np.uint64(table[w2 & mask])
            e3 = np.uint64(table[w3 & mask])
            out[o0] = np.uint8(e0)
            out[o1] = np.uint8(e1)
            out[o2] = np.uint8(e2)
            out[o3] = np.uint8(e3)
            e0 >>= np.uint64(8)
            e1 >>= np.uint64(8)
            e2 >>= np.uint64(8)
            e3 >>= np.uint64(8)
            w0 >>= e0
            w1 >>= e1
            w2 >>= e2
            w3 >>= e3
            p0 += e0
            p1 += e1
            p2 += e2
            p3 += e3
            o0 += step
            o1 += step
            o2 += step
            o3 += step
        i += 4

    positions = np.array([p0, p1, p2, p3], dtype=np.uint64)
    complete = True
    for s in range(STREAMS):
        begin = min(s * quarter, n)
        end = min(begin + quarter, n)
        position = positions[s]
        for k in range(begin + min(i, end - begin), end):
            window = load_window(data, position)
            entry = np.uint64(table[window & mask])
            out[first + step * k] = np.uint8(entry)
            position += entry >> np.uint64(8)
        used = (position + seven) >> three
        complete = complete and used == np.uint64(begins[s] + sizes[s])
    return complete
