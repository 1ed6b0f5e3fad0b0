"""Prefix codes: lengths from counts, canonical code words, the stored table and the look-up table.

Lengths come from the package-merge algorithm (Larmore and Hirschberg, "A fast algorithm for optimal
length-limited Huffman codes", J. ACM 37, 1990): no prefix code with words of at most `MAX_LENGTH` bits is
shorter. Words are canonical (shorter first, then by symbol), so the lengths alone describe the code.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jit import njit
from dcmpress.codecs.leb128 import Cursor

MAX_LENGTH = 14
"""Longest code word: four fit in one window of 64 bits, and the look-up table (32 KiB) in the first cache."""

SYMBOLS = 256


@njit
def code_lengths(counts: NDArray[np.int64], limit: int) -> NDArray[np.uint8]:
    """Return the lengths of an optimal prefix code with words of at most `limit` bits.

    Parameters
    ----------
    counts : ndarray, shape (symbols,), int64
        How often each symbol occurs; at most 2**limit of them are not zero.
    limit : int

    Returns
    -------
    ndarray, shape (symbols,), uint8
        0 where the count is 0; a lone symbol gets length 1.
    """
    lengths = np.zeros(counts.size, np.uint8)
    used = np.flatnonzero(counts)
    n = used.size
    if n < 2:
        lengths[used] = 1
        return lengths
    order = used[np.argsort(counts[used], kind="mergesort")]
    leaves = counts[order]

    # Row by row: merge the leaves with pairs of the row before. Only "leaf or pair" has to be remembered.
    is_leaf = np.zeros((limit, 2 * n), np.bool_)
    previous = np.zeros(2 * n, np.int64)
    current = np.zeros(2 * n, np.int64)
    size = 0
    for row in range(limit):
        pairs = size // 2
        leaf = 0
        pair = 0
        size = n + pairs
        for k in range(size):
            if pair == pairs or (leaf < n and leaves[leaf] <= previous[2 * pair] + previous[2 * pair + 1]):
                current[k] = leaves[leaf]
                is_leaf[row, k] = True
                leaf += 1
            else:
                current[k] = previous[2 * pair] + previous[2 * pair + 1]
                is_leaf[row, k] = False
                pair += 1
        previous, current = current, previous

    # The first 2n - 2 items of the last row make the code: each time a leaf is met, its word grows.
    wanted = 2 * n - 2
    for row in range(limit - 1, -1, -1):
        leaf = 0
        for k in range(wanted):
            if is_leaf[row, k]:
                lengths[order[leaf]] += 1
                leaf += 1
        wanted = 2 * (wanted - leaf)
    return lengths


@njit
def reversed_code_words(lengths: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the canonical code words, first bit lowest, for lengths of at most 16 bits."""
    words = np.zeros(lengths.size, np.uint16)
    word = 0
    for length in range(1, 17):
        word <<= 1
        for symbol in range(lengths.size):
            if lengths[symbol] == length:
                turned = 0
                for bit in range(length):
                    turned |= ((word >> bit) & 1) << (length - 1 - bit)
                words[symbol] = turned
                word += 1
    return words


@njit
def lookup_table(lengths: NDArray[np.uint8], index_bits: int) -> NDArray[np.uint16]:
    """Return for every `index_bits` next bits: symbol + 256 * length of its word.

    `lengths` must describe a complete code with words of at most `index_bits` bits.
    """
    table = np.zeros(1 << index_bits, np.uint16)
    words = reversed_code_words(lengths)
    for symbol in range(lengths.size):
        length = int(lengths[symbol])
        if length:
            for index in range(int(words[symbol]), 1 << index_bits, 1 << length):
                table[index] = symbol | length << 8
    return table


def is_complete(lengths: NDArray[np.uint8], limit: int = MAX_LENGTH) -> bool:
    """Tell whether words of these lengths fill the code space exactly (Kraft's sum is 1)."""
    used = lengths[lengths > 0].astype(np.int64)
    return bool(used.size) and int(used.max()) <= limit and int((1 << (limit - used)).sum()) == 1 << limit


def write_lengths(lengths: NDArray[np.uint8]) -> bytes:
    """Return the stored table: the last symbol in use, then one nibble for each symbol up to it."""
    last = int(np.flatnonzero(lengths)[-1])
    nibbles = np.zeros((last + 2) // 2 * 2, np.uint8)
    nibbles[: last + 1] = lengths[: last + 1]
    return bytes([last]) + (nibbles[0::2] | nibbles[1::2] << 4).tobytes()


def read_lengths(cursor: Cursor) -> NDArray[np.uint8]:
    """Read what `write_lengths` wrote; raise CorruptStreamError unless it describes a complete code."""
    last = cursor.byte()
    packed: NDArray[Any] = np.frombuffer(cursor.take((last + 2) // 2), np.uint8)
    lengths = np.zeros(SYMBOLS, np.uint8)
    lengths[0 : last + 1 : 2] = packed & 15
    lengths[1 : last + 1 : 2] = (packed >> 4)[: (last + 1) // 2]
    if not is_complete(lengths):
        raise CorruptStreamError("table does not describe a complete prefix code")
    return lengths
