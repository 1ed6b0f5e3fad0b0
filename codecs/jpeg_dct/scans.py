"""Kernels of sequential DCT images: Huffman tables, and the coded data of a scan both ways (ITU-T T.81 C, F.1.2)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

Array = NDArray[Any]
_U = np.uint64


@njit
def fill_tables(counts: Array, symbols: Array, lookup: Array, words: Array, lengths: Array) -> bool:
    """Make the tables of a Huffman code (T.81 C.2); return whether it can be one.

    Parameters
    ----------
    counts : uint8 array, shape (16,)
        Code words of 1 to 16 bits.
    symbols : uint8 array
        In the order of their words.
    lookup : uint16 array, shape (65536,), zeros; written
        Next 16 bits -> length of the word * 256 + symbol; 0: no word.
    words, lengths : uint16 and uint8 arrays, shape (256,), zeros; written
        Symbol -> word and its length; length 0: not coded.
    """
    code = 0
    k = 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            if k >= symbols.size or code >= 1 << length:
                return False
            symbol = np.int64(symbols[k])
            first = code << (16 - length)
            for i in range(first, first + (1 << (16 - length))):
                lookup[i] = np.uint16((length << 8) | symbol)
            words[symbol] = np.uint16(code)
            lengths[symbol] = np.uint8(length)
            code += 1
            k += 1
        code <<= 1
    return True


@inline
def _signed(bits: Any, size: Any) -> Any:
    """Return the value that `size` bits stand for (T.81 tables F.1 and F.2)."""
    if size == 0:
        return np.int64(0)
    value = np.int64(bits)
    return value if value >> (size - 1) else value + 1 - (np.int64(1) << size)


@njit
def decode_scan(
    data: Array, at: int, dc: Array, ac: Array, layout: Array, mcus: Any, interval: int, coefficients: Array
) -> Any:
    """Decode the scan that begins at `data[at]`; return where its data end, or -1 if it cannot be.

    Parameters
    ----------
    data : uint8 array
        Ends with two markers, so that a marker is always met.
    dc, ac : uint16 arrays, shape (n, 65536)
        Of each component: see `fill_tables`.
    layout : int64 array, shape (n, 4)
        Of each component: number of its first block, blocks in a row, blocks of an MCU across and down.
    mcus : (int, int)
        Down and across.
    interval : int
        MCUs between restarts, or 0.
    coefficients : int16 array, shape (blocks, 64), zeros; written
        In zigzag order.
    """
    n = layout.shape[0]
    window = np.uint64(0)
    filled = np.int64(0)
    borrowed = np.int64(0)  # zeros in the window that stand for what is not there
    before = np.zeros(n, np.int64)
    count = 0
    for y in range(mcus[0]):
        for x in range(mcus[1]):
            if interval > 0 and count > 0 and count % interval == 0:
                if borrowed > filled:
                    return -1
                while not (data[at] == 0xFF and data[at + 1] != 0):
                    at += 1
                if data[at + 1] != 0xD0 + ((count // interval - 1) & 7):
                    return -1
                at += 2
                window = np.uint64(0)
                filled = np.int64(0)
                borrowed = np.int64(0)
                before[:] = 0
            count += 1
            for c in range(n):
                for j in range(layout[c, 3]):
                    for i in range(layout[c, 2]):
                        block = layout[c, 0]
                        block += (y * layout[c, 3] + j) * layout[c, 1] + x * layout[c, 2] + i
                        k = 0
                        while k < 64:
                            while filled <= 40:
                                byte = np.uint64(data[at])
                                if byte == np.uint64(0xFF):
                                    if data[at + 1] != 0:
                                        byte = np.uint64(0)
                                        borrowed += 8
                                        at -= 1
                                    else:
                                        at += 1
                                at += 1
                                window = (window << _U(8)) | byte
                                filled += 8
                            next_bits = np.int64((window >> _U(filled - 16)) & _U(0xFFFF))
                            entry = int(dc[c, next_bits] if k == 0 else ac[c, next_bits])
                            if entry == 0:
                                return -1
                            filled -= entry >> 8
                            size = entry & 15
                            run = (entry & 255) >> 4
                            filled -= size
                            bits = (window >> _U(filled)) & _U((1 << size) - 1)
                            if k == 0:
                                if run > 0:
                                    return -1
                                before[c] += _signed(bits, size)
                                if before[c] < -32768 or before[c] > 32767:
                                    return -1
                                coefficients[block, 0] = np.int16(before[c])
                                k = 1
                            elif size == 0:
                                if run == 15:
                                    k += 16
                                    if k > 63:
                                        return -1
                                elif run == 0:
                                    break
                                else:
                                    return -1
                            else:
                                k += run
                                if k > 63:
                                    return -1
                                coefficients[block, k] = np.int16(_signed(bits, size))
                                k += 1
                        if borrowed > filled + 64:
                            return -1
    if borrowed > filled:
        return -1
    while not (data[at] == 0xFF and data[at + 1] != 0):
        at += 1
    return at


@inline
def _size(value: Any) -> Any:
    size = np.int64(0)
    v = abs(value)
    while v > 0:
        size += 1
        v >>= 1
    return size


@njit
def encode_scan(
    coefficients: Array,
    dc_words: Array,
    dc_lengths: Array,
    ac_words: Array,
    ac_lengths: Array,
    layout: Array,
    mcus: Any,
    interval: int,
    ones: bool,
    out: Array,
) -> Any:
    """Write the coded data of a scan; return how many bytes, or -1 if `out` or the code does not hold them.

    Parameters
    ----------
    dc_words, dc_lengths, ac_words, ac_lengths : arrays, shape (n, 256)
        Of each component: see `fill_tables`.
    ones : bool
        Whether the last byte of an interval is filled with ones.

    The others are as for `decode_scan`.
    """
    n = layout.shape[0]
    window = np.uint64(0)
    filled = np.int64(0)
    before = np.zeros(n, np.int64)
    at = 0
    count = 0
    total = mcus[0] * mcus[1]
    for y in range(mcus[0]):
        for x in range(mcus[1]):
            for c in range(n):
                for j in range(layout[c, 3]):
                    for i in range(layout[c, 2]):
                        block = layout[c, 0]
                        block += (y * layout[c, 3] + j) * layout[c, 1] + x * layout[c, 2] + i
                        run = 0
                        last = 63
                        while last > 0 and coefficients[block, last] == 0:
                            last -= 1
                        k = 0
                        # One turn more than there are coefficients, for the end of the block.
                        while k <= last + 1 and k < 64:
                            if at + 16 > out.size:
                                return -1
                            if k == last + 1:
                                symbol = 0
                                value = np.int64(0)
                                size = np.int64(0)
                            else:
                                value = np.int64(coefficients[block, k])
                                if k == 0:
                                    dc = value
                                    value -= before[c]
                                    before[c] = dc
                                elif value == 0:
                                    run += 1
                                    k += 1
                                    continue
                                if run > 15:
                                    symbol = 0xF0
                                    value = np.int64(0)
                                    size = np.int64(0)
                                else:
                                    size = _size(value)
                                    if size > 15:
                                        return -1
                                    symbol = run << 4 | size
                            length = np.int64(dc_lengths[c, symbol] if k == 0 else ac_lengths[c, symbol])
                            if length == 0:
                                return -1
                            word = np.uint64(dc_words[c, symbol] if k == 0 else ac_words[c, symbol])
                            bits = value if value >= 0 else value + (np.int64(1) << size) - 1
                            window = (window << _U(length + size)) | (word << _U(size)) | np.uint64(bits)
                            if symbol == 0xF0 and k > 0:
                                run -= 16
                            else:
                                run = 0
                                k += 1
                            filled += length + size
                            while filled >= 8:
                                filled -= 8
                                byte = np.uint8((window >> _U(filled)) & _U(0xFF))
                                out[at] = byte
                                at += 1
                                if byte == 0xFF:
                                    out[at] = 0
                                    at += 1
            count += 1
            if count == total or (interval > 0 and count % interval == 0):
                if at + 6 > out.size:
                    return -1
                if filled > 0:
                    more = 8 - filled
                    window <<= _U(more)
                    if ones:
                        window |= _U((1 << more) - 1)
                    byte = np.uint8(window & _U(0xFF))
                    out[at] = byte
                    at += 1
                    if byte == 0xFF:
                        out[at] = 0
                        at += 1
                if count < total:
                    out[at] = 0xFF
                    out[at + 1] = np.uint8(0xD0 + ((count // interval - 1) & 7))
                    at += 2
                window = np.uint64(0)
                filled = np.int64(0)
                before[:] = 0
    return at
