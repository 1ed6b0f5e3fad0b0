"""A plane's bits as bytes: in groups of three with a Huffman code for the eight symbols, or through Deflate.

The first is the method of "Compressing DICOM images using SPIHT with Huffman encoding" (IJERT 1(5), 2012):
two bits say how many bits are left over, then come the words of the groups, then what is left over.

Any beginning of the bytes gives a beginning of the bits.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.huffman_code import code_lengths, is_complete, lookup_table, reversed_code_words
from dcmpress.codecs.huffman_kernels import load_window, store_u64
from dcmpress.codecs.jit import njit
from dcmpress.codecs.leb128 import Cursor, leb128

LONGEST = 7
PAPER_BOOK = {0b111: "00", 0b000: "01", 0b100: "11", 0b101: "101", 0b010: "1001"}
"""The paper's own code book for its example; it is not optimal."""


def group_symbols(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the values of the whole groups of three bits, first bit highest."""
    whole = bits[: bits.size // 3 * 3].reshape(-1, 3)
    symbols: NDArray[np.uint8] = whole[:, 0] * np.uint8(4) + whole[:, 1] * np.uint8(2) + whole[:, 2]
    return symbols


def huffman_book(symbols: NDArray[np.uint8]) -> dict[int, str]:
    """Return an optimal code for these symbols as text, symbol -> word."""
    counts = np.bincount(symbols, minlength=8).astype(np.int64)
    lengths = code_lengths(counts, LONGEST)
    words = reversed_code_words(lengths)
    return {s: f"{words[s]:0{lengths[s]}b}"[::-1] for s in range(8) if lengths[s]}


def encode_with_book(bits: str, book: dict[int, str]) -> str:
    """Return the paper's output for a text of 0 and 1: remainder count, words, remainder."""
    whole = len(bits) // 3 * 3
    words = [book[int(bits[k : k + 3], 2)] for k in range(0, whole, 3)]
    return f"{len(bits) - whole:02b}" + "".join(words) + bits[whole:]


def decode_with_book(coded: str, book: dict[int, str]) -> str:
    """Undo `encode_with_book`."""
    symbol_of = {word: symbol for symbol, word in book.items()}
    left_over = int(coded[:2], 2)
    end = len(coded) - left_over
    bits, word = "", ""
    for bit in coded[2:end]:
        word += bit
        if word in symbol_of:
            bits += f"{symbol_of[word]:03b}"
            word = ""
    if word:
        raise CorruptStreamError("groups end within a word")
    return bits + coded[end:]


@njit
def _write_groups(
    bits: NDArray[np.uint8], lengths: NDArray[np.uint8], words: NDArray[np.uint16], n_groups: int, size: int
) -> NDArray[np.uint8]:
    out = np.zeros(size + 8, np.uint8)
    left_over = bits.size - 3 * n_groups
    window = np.uint64(left_over)
    filled = np.uint64(2)
    for symbol in range(8):
        window |= np.uint64(lengths[symbol]) << filled
        filled += np.uint64(3)
    at = np.uint64(0)
    for k in range(n_groups):
        symbol = bits[3 * k] * 4 + bits[3 * k + 1] * 2 + bits[3 * k + 2]
        window |= np.uint64(words[symbol]) << filled
        filled += np.uint64(lengths[symbol])
        if filled >= np.uint64(32):
            store_u64(out, at, window)
            at += np.uint64(4)
            window >>= np.uint64(32)
            filled -= np.uint64(32)
    for k in range(3 * n_groups, bits.size):
        window |= np.uint64(bits[k]) << filled
        filled += np.uint64(1)
    store_u64(out, at, window)
    return out[:size]


@njit
def _read_groups(
    data: NDArray[np.uint8], table: NDArray[np.uint16], bits: NDArray[np.uint8], n_groups: int
) -> int:
    """Fill `bits`, group by group and then the remainder; return how many whole bits of it `data` held."""
    position = np.uint64(26)
    end = np.uint64(data.size) * np.uint64(8)
    k = 0
    while k < n_groups:
        window = load_window(data, position)
        for _ in range(min(8, n_groups - k)):
            entry = np.uint64(table[window & np.uint64(127)])
            length = entry >> np.uint64(8)
            position += length
            if position > end:
                return 3 * k
            window >>= length
            symbol = np.uint8(entry)
            bits[3 * k] = symbol >> np.uint8(2)
            bits[3 * k + 1] = (symbol >> np.uint8(1)) & np.uint8(1)
            bits[3 * k + 2] = symbol & np.uint8(1)
            k += 1
    for n in range(3 * n_groups, bits.size):
        if position >= end:
            return n
        bits[n] = np.uint8(load_window(data, position) & np.uint64(1))
        position += np.uint64(1)
    return bits.size


@njit
def _count_groups(bits: NDArray[np.uint8], n_groups: int) -> NDArray[np.int64]:
    counts = np.zeros(8, np.int64)
    for k in range(n_groups):
        counts[bits[3 * k] * 4 + bits[3 * k + 1] * 2 + bits[3 * k + 2]] += 1
    return counts


def pack_groups(bits: NDArray[np.uint8]) -> bytes:
    """Return the chunk for `bits` (a byte for each): groups, remainder count, table, words, remainder."""
    n_groups = bits.size // 3
    counts = _count_groups(bits, n_groups)
    alone = np.count_nonzero(counts) < 2  # a complete code has two words at least
    lengths = code_lengths(counts + (np.arange(8) < 2) * alone, LONGEST)
    total = 26 + int(counts @ lengths.astype(np.int64)) + bits.size - 3 * n_groups
    coded = _write_groups(bits, lengths, reversed_code_words(lengths), n_groups, (total + 7) // 8)
    return leb128(n_groups) + coded.tobytes()


def pack_deflate(bits: NDArray[np.uint8]) -> bytes:
    """Return the chunk for `bits`: their number and, first bit highest, a raw Deflate stream (RFC 1951)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return leb128(bits.size) + packer.compress(np.packbits(bits).tobytes()) + packer.flush()


def unpack_groups(chunk: memoryview, most: int) -> tuple[NDArray[np.uint8], bool]:
    """Return the bits of a chunk or of its beginning, and whether they are all.

    `most` is the largest number of bits that the plane can have; more is refused before memory is touched.
    """
    cursor = Cursor(chunk)
    n_groups = cursor.leb128()
    data = np.frombuffer(cursor.take(cursor.remaining), np.uint8)
    if 3 * n_groups > most:
        raise CorruptStreamError("more bits than the plane can have")
    if data.size < 4:  # the table is cut
        return np.zeros(0, np.uint8), False
    front = int.from_bytes(data[:4].tobytes(), "little")
    left_over = front & 3
    lengths = np.array([(front >> (2 + 3 * s)) & 7 for s in range(8)], np.uint8)
    if left_over == 3 or not is_complete(lengths, LONGEST):
        raise CorruptStreamError("impossible table of groups")
    bits = np.empty(3 * n_groups + left_over, np.uint8)
    n = int(_read_groups(data, lookup_table(lengths, LONGEST), bits, n_groups))
    return bits[:n], n == bits.size


def unpack_deflate(chunk: memoryview, most: int) -> tuple[NDArray[np.uint8], bool]:
    """Like `unpack_groups`, for `pack_deflate`."""
    cursor = Cursor(chunk)
    n_bits = cursor.leb128()
    if n_bits > most:
        raise CorruptStreamError("more bits than the plane can have")
    unpacker = zlib.decompressobj(-15)
    n_bytes = (n_bits + 7) // 8
    try:
        content = unpacker.decompress(cursor.take(cursor.remaining), n_bytes) if n_bytes else b""
    except zlib.error as error:
        raise CorruptStreamError(f"Deflate stream: {error}") from None
    bits = np.unpackbits(np.frombuffer(content, np.uint8))[:n_bits]
    return bits, bits.size == n_bits


Chunks = Sequence[tuple[range, memoryview]]
"""Planes and the chunk that holds them, from the highest plane down."""
