"""What the graphics core codes with: adaptive chances, and numbers and symbols made of decisions under them.

A chance is an int32: in the upper 22 bits P(bit = 1) in 1/2^22, in the lower 5 how often it has learned, at most 30.
It moves fast at first and by 1/32 of the way in the end.
"""

import numpy as np

from dcmpress.codecs.interframe.backward_jit import inline
from dcmpress.codecs.interframe.binary_coder import code_bit

_U = np.uint64
RATES = np.array([655360 // (10 * n + 16) for n in range(31)], np.int64)
"""Share of the way, in 1/65536, that a chance moves when it has learned n times."""
EVEN = 1 << 26
"""What every chance starts with."""
LEAST = 24
"""No decision is taken for surer than this, in 1/65536."""
GROUP = 16
"""Chances of a group: 4 bits of a symbol. The first is not used."""
GROUPS = 1 << 13
"""Groups of a table of symbols."""
NUMBER = 64
"""Chances of a number: 32 for its length, 32 for its second bit."""
LONGEST = 17
"""Bits of the longest number, plus one, below its first."""
_HALF = 1 << 15


@inline
def fold(h, v):
    """Add `v` to a hash of 32 bits."""
    h = ((h ^ v) * np.int64(0x2C1B3C6D)) & np.int64(0xFFFFFFFF)
    return h ^ (h >> 15)


@inline
def size_of(v):
    """Bits of a number >= 0."""
    n = np.int64(0)
    while v > 0:
        v >>= 1
        n += 1
    return n


@inline
def _learn(chances, i, chance, bit, rates):
    n = chance & 31
    p = chance >> 5
    p += (((bit << 22) - p) * rates[_U(n)]) >> 16
    chances[_U(i)] = np.int32(p << 5 | min(n + 1, 30))


@inline
def code(encode, bit, chances, i, rates, acc, rng, pos, buffer):
    """Code a decision under chance `i`, and learn from it; arguments and results as of `code_bit`."""
    chance = np.int64(chances[_U(i)])
    p = min(max(chance >> 11, LEAST), 65536 - LEAST)
    bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buffer)
    _learn(chances, i, chance, bit, rates)
    return bit, acc, rng, pos


@inline
def code_by_two(encode, bit, chances, i, j, rates, acc, rng, pos, buffer):
    """Code a decision under the mean of the chances `i` and `j`, and learn from it."""
    one = np.int64(chances[_U(i)])
    other = np.int64(chances[_U(j)])
    p = min(max(((one >> 5) + (other >> 5)) >> 7, LEAST), 65536 - LEAST)
    bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buffer)
    _learn(chances, i, one, bit, rates)
    _learn(chances, j, other, bit, rates)
    return bit, acc, rng, pos


@inline
def code_number(encode, v, chances, base, rates, acc, rng, pos, buffer):
    """Code v, 0 to 2^17 - 1, as the Elias gamma code of v + 1 under the chances from `base` on."""
    n = size_of(v + 1) - 1 if encode else np.int64(0)
    k = np.int64(0)
    while k < LONGEST:
        bit, acc, rng, pos = code(encode, np.int64(k < n), chances, base + k, rates, acc, rng, pos, buffer)
        if not bit:
            break
        k += 1
    found = np.int64(1)
    if k > 0:
        bit = ((v + 1) >> (k - 1)) & 1
        bit, acc, rng, pos = code(encode, bit, chances, base + NUMBER // 2 + k, rates, acc, rng, pos, buffer)
        found = 2 + bit
        low, acc, rng, pos = code_low_bits(encode, v + 1, k - 1, acc, rng, pos, buffer)
        found = found << (k - 1) | low
    return found - 1, acc, rng, pos


@inline
def code_low_bits(encode, v, n, acc, rng, pos, buffer):
    """Code the lowest `n` bits of v, each as likely 0 as 1."""
    found = np.int64(0)
    while n > 0:
        n -= 1
        bit, acc, rng, pos = code_bit(encode, (v >> n) & 1, _HALF, acc, rng, pos, buffer)
        found = 2 * found + bit
    return found, acc, rng, pos


@inline
def code_symbol(encode, v, n_bits, symbols, one, other, rates, acc, rng, pos, buffer):
    """Code the `n_bits` bits of v, highest first, under the mean of two chances; `one` and `other` are their contexts.

    `symbols` are two tables of chances, 2 x GROUPS x GROUP.
    """
    found = np.int64(0)
    left = n_bits
    node = np.int64(0)
    i = np.int64(0)
    j = np.int64(0)
    while left > 0:
        if node == 0 or node >= GROUP:
            prefix = found | 1 << (n_bits - left)
            i = (fold(fold(17, one), prefix) & (GROUPS - 1)) * GROUP
            j = (GROUPS + (fold(fold(19, other), prefix) & (GROUPS - 1))) * GROUP
            node = np.int64(1)
        left -= 1
        bit = (v >> left) & 1
        bit, acc, rng, pos = code_by_two(
            encode, bit, symbols, i + node, j + node, rates, acc, rng, pos, buffer
        )
        found = 2 * found + bit
        node = 2 * node + bit
    return found, acc, rng, pos
