"""Kernels of lossless JPEG: Huffman tables, and the coded data of a scan both ways (ITU-T T.81 C, F.2.2.3, H)."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

_U8 = np.uint64(8)
_U16 = np.uint64(16)
_READY = np.uint64(32)
"""Bits that one difference may take: a word of 16 and 16 more."""


@njit
def fill_tables(
    counts: NDArray[np.uint8],
    symbols: NDArray[np.uint8],
    lookup: NDArray[np.uint16],
    words: NDArray[np.uint32],
    lengths: NDArray[np.uint8],
) -> bool:
    """Make the tables of a Huffman code (T.81 C.2); return whether it can be one.

    Parameters
    ----------
    counts, shape (16,)
        Code words of 1 to 16 bits.
    symbols
        In the order of their words, each the number of bits of a difference (T.81 table H.2).
    lookup, shape (65536,), zeros
        Next 16 bits -> length of the word * 256 + symbol; 0: no word.
    words, lengths, shape (65536,), zeros
        Difference modulo 65536 -> word with the bits that follow it, and their number; 0: not coded.
    """
    code = 0
    k = 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            if k >= symbols.size or code >= 1 << length:
                return False
            symbol = np.int64(symbols[k])
            if symbol > 16:
                return False
            first = code << (16 - length)
            for i in range(first, first + (1 << (16 - length))):
                lookup[i] = np.uint16((length << 8) | symbol)
            if symbol == 0:
                words[0] = np.uint32(code)
                lengths[0] = np.uint8(length)
            elif symbol == 16:
                words[32768] = np.uint32(code)
                lengths[32768] = np.uint8(length)
            else:
                half = 1 << (symbol - 1)
                for bits in range(1 << symbol):
                    difference = bits if bits >= half else bits - (1 << symbol) + 1
                    words[difference & 0xFFFF] = np.uint32((code << symbol) | bits)
                    lengths[difference & 0xFFFF] = np.uint8(length + symbol)
            code += 1
            k += 1
        code <<= 1
    return True


@inline
def _predicted(predictor: int, a: np.int64, b: np.int64, c: np.int64) -> np.int64:
    """Return the prediction from left, upper and upper left neighbour (T.81 table H.1)."""
    if predictor == 1:
        return a
    if predictor == 2:
        return b
    if predictor == 3:
        return c
    if predictor == 4:
        return a + b - c
    if predictor == 5:
        return a + ((b - c) >> 1)
    if predictor == 6:
        return b + ((a - c) >> 1)
    return (a + b) >> 1


@inline
def _prediction(
    samples: NDArray[np.uint16], y: int, i: int, n: int, top: int, predictor: int, first: int
) -> np.int64:
    """Return the prediction of sample i of row y, with n samples to a pixel; row `top` has none above it."""
    if y == top:
        return np.int64(first) if i < n else np.int64(samples[y, i - n])
    b = np.int64(samples[y - 1, i])
    if i < n:
        return b
    return _predicted(predictor, np.int64(samples[y, i - n]), b, np.int64(samples[y - 1, i - n]))


@njit
def decode_scan(
    data: NDArray[np.uint8],
    at: int,
    lookups: NDArray[np.uint16],
    predictor: int,
    first: int,
    restart_rows: int,
    samples: NDArray[np.uint16],
) -> int:
    """Decode the scan that begins at `data[at]` into `samples`; return where its data end, or -1 if it cannot be.

    Parameters
    ----------
    data
        Ends with two markers, so that a marker is always met.
    lookups, shape (n, 65536)
        See `fill_tables`.
    samples, shape (rows, columns * n)
        Modulo 65536, and as they are coded: not shifted by the point transform.
    """
    n = lookups.shape[0]
    rows, width = samples.shape
    window = np.uint64(0)
    filled = np.uint64(0)
    borrowed = np.uint64(0)  # zeros in the window that stand for what is not there
    top = 0
    for y in range(rows):
        if restart_rows > 0 and y > 0 and y % restart_rows == 0:
            if borrowed > filled:
                return -1
            while not (data[at] == 0xFF and data[at + 1] != 0):
                at += 1
            if data[at + 1] != 0xD0 + ((y // restart_rows - 1) & 7):
                return -1
            at += 2
            top = y
            window = np.uint64(0)
            filled = np.uint64(0)
            borrowed = np.uint64(0)
        component = 0
        for i in range(width):
            while filled <= _READY:
                byte = np.uint64(data[at])
                if byte == np.uint64(0xFF):
                    if data[at + 1] != 0:
                        byte = np.uint64(0)
                        borrowed += _U8
                        at -= 1
                    else:
                        at += 1
                at += 1
                window = (window << _U8) | byte
                filled += _U8
            entry = lookups[component, (window >> (filled - _U16)) & np.uint64(0xFFFF)]
            if entry == 0:
                return -1
            filled -= np.uint64(entry >> 8)
            size = np.uint64(entry & 0xFF)
            difference = np.int64(0)
            if size == _U16:
                difference = np.int64(32768)
            elif size > np.uint64(0):
                filled -= size
                difference = np.int64((window >> filled) & ((np.uint64(1) << size) - np.uint64(1)))
                if difference < 1 << (np.int64(size) - 1):
                    difference += 1 - (1 << np.int64(size))
            prediction = _prediction(samples, y, i, n, top, predictor, first)
            samples[y, i] = np.uint16((prediction + difference) & 0xFFFF)
            component += 1
            if component == n:
                component = 0
        if borrowed > filled + np.uint64(64):
            return -1
    if borrowed > filled:
        return -1
    while not (data[at] == 0xFF and data[at + 1] != 0):
        at += 1
    return at


@njit
def encode_scan(
    samples: NDArray[np.uint16],
    words: NDArray[np.uint32],
    lengths: NDArray[np.uint8],
    predictor: int,
    first: int,
    restart_rows: int,
    ones: bool,
    out: NDArray[np.uint8],
) -> int:
    """Write the coded data of a scan; return how many bytes, or -1 if `out` or the code does not hold them.

    Parameters
    ----------
    words, lengths, shape (n, 65536)
        See `fill_tables`.
    ones
        Whether the last byte of an interval is filled with ones.
    """
    n = words.shape[0]
    rows, width = samples.shape
    window = np.uint64(0)
    filled = np.uint64(0)
    at = 0
    top = 0
    for y in range(rows + 1):
        if y == rows or (restart_rows > 0 and y > 0 and y % restart_rows == 0):
            if at + 4 > out.size:
                return -1
            if filled > np.uint64(0):
                more = _U8 - filled
                window <<= more
                if ones:
                    window |= (np.uint64(1) << more) - np.uint64(1)
                byte = np.uint8(window & np.uint64(0xFF))
                out[at] = byte
                at += 1
                if byte == 0xFF:
                    out[at] = 0
                    at += 1
            if y == rows:
                break
            out[at] = 0xFF
            out[at + 1] = np.uint8(0xD0 + ((y // restart_rows - 1) & 7))
            at += 2
            top = y
            window = np.uint64(0)
            filled = np.uint64(0)
        component = 0
        for i in range(width):
            prediction = _prediction(samples, y, i, n, top, predictor, first)
            difference = (np.int64(samples[y, i]) - prediction) & 0xFFFF
            length = np.uint64(lengths[component, difference])
            if length == np.uint64(0) or at + 10 > out.size:
                return -1
            window = (window << length) | np.uint64(words[component, difference])
            filled += length
            while filled >= _U8:
                filled -= _U8
                byte = np.uint8((window >> filled) & np.uint64(0xFF))
                out[at] = byte
                at += 1
                if byte == 0xFF:
                    out[at] = 0
                    at += 1
            component += 1
            if component == n:
                component = 0
    return at
