"""Run-length coding of residuals into byte tokens, and the choice of what follows: Huffman or Golomb-Rice.

A residual is an unsigned number z (0: as predicted; signed ones are zigzag mapped first). With v = z + 1:

- v < 128: token v, no extra bits.
- v >= 128: with m = floor(log2 v), token 128 + 4 (m - 7) + the two bits after the leading one; the m - 2 bits
  that remain are *extra bits*, written as they are.
- a run of r zeros, when runs are on: r in bijective base 2, least significant digit first, with token 1
  for the digit 1 and token 0 for the digit 2. A lone zero is thus token 1, with runs or without.

Tokens are bytes, so `huffman_block` codes them; run-length and Huffman is what the fluoroscopy paper (Arif et
al.) calls R.Huff and the thresholded wavelets of Dhawale et al. use, Huffman alone what they call HM.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.golomb_rice import rice_decode, rice_encode
from dcmpress.codecs.huffman_block import make_lengths, pack_bytes, unpack_bytes
from dcmpress.codecs.huffman_kernels import load_window
from dcmpress.codecs.jit import inline, njit
from dcmpress.codecs.leb128 import Cursor, leb128

HUFFMAN, RUN_LENGTH, RICE = 0, 1, 2
"""First byte of packed residuals: Huffman alone, run-length and Huffman, Golomb-Rice."""

LARGEST = 2**32 - 2
"""The largest residual that can be coded."""


@inline
def token_of(v: np.uint64) -> tuple[np.uint8, np.uint64]:
    """Return token and number of extra bits for v >= 1."""
    if v < np.uint64(128):
        return np.uint8(v), np.uint64(0)
    m = np.uint64(7)
    while v >> (m + np.uint64(1)):
        m += np.uint64(1)
    sub = (v >> (m - np.uint64(2))) & np.uint64(3)
    return np.uint8(np.uint64(128) + (m - np.uint64(7)) * np.uint64(4) + sub), m - np.uint64(2)


@njit
def token_counts(residuals: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often each token occurs without runs and with runs, each of shape (256,)."""
    plain = np.zeros(256, np.int64)
    digits = np.zeros(2, np.int64)
    run = 0
    for i in range(residuals.size):
        z = residuals[i]
        if z == np.uint32(0):
            run += 1
            continue
        plain[1] += run
        while run > 0:
            digits[run & 1] += 1
            run = (run - 1) >> 1
        token, _ = token_of(np.uint64(z) + np.uint64(1))
        plain[token] += 1
    plain[1] += run
    while run > 0:
        digits[run & 1] += 1
        run = (run - 1) >> 1
    with_runs = plain.copy()
    with_runs[0] = digits[0]
    with_runs[1] = digits[1]
    return plain, with_runs


@njit
def write_tokens(
    residuals: NDArray[np.uint32], runs: bool, extra_bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return tokens and extra bits (packed, first bit lowest) of uint32 residuals <= `LARGEST`.

    `extra_bits` is how many extra bits there will be (`count_extra_bits`).
    """
    tokens = np.empty(residuals.size, np.uint8)
    extra = np.zeros((extra_bits + 7) // 8, np.uint8)
    count = 0
    at = 0
    window = np.uint64(0)
    filled = np.uint64(0)
    run = 0
    for i in range(residuals.size):
        z = residuals[i]
        if runs and z == np.uint32(0):
            run += 1
            continue
        while run > 0:
            tokens[count] = np.uint8(run & 1)
            count += 1
            run = (run - 1) >> 1
        v = np.uint64(z) + np.uint64(1)
        token, more = token_of(v)
        tokens[count] = token
        count += 1
        if more:
            window |= (v & ((np.uint64(1) << more) - np.uint64(1))) << filled
            filled += more
            while filled >= np.uint64(8):
                extra[at] = np.uint8(window)
                at += 1
                window >>= np.uint64(8)
                filled -= np.uint64(8)
    while run > 0:
        tokens[count] = np.uint8(run & 1)
        count += 1
        run = (run - 1) >> 1
    if filled:
        extra[at] = np.uint8(window)
    return tokens[:count], extra


@njit
def read_tokens(
    tokens: NDArray[np.uint8], extra: NDArray[np.uint8], runs: bool, residuals: NDArray[np.uint32]
) -> bool:
    """Undo `write_tokens`; return whether the tokens give exactly `residuals.size` residuals."""
    n = residuals.size
    count = 0
    position = np.uint64(0)
    i = 0
    while i < tokens.size:
        token = tokens[i]
        if runs and token < np.uint8(2):
            run = 0
            weight = 1
            while i < tokens.size and tokens[i] < np.uint8(2):
                run += weight * (2 - int(tokens[i]))
                if run > n - count:
                    return False
                weight <<= 1
                i += 1
            for _ in range(run):
                residuals[count] = np.uint32(0)
                count += 1
            continue
        if count == n or token == np.uint8(0):
            return False
        if token < np.uint8(128):
            residuals[count] = np.uint32(token) - np.uint32(1)
        else:
            m = np.uint64(7) + (np.uint64(token) - np.uint64(128)) // np.uint64(4)
            if m > np.uint64(31):
                return False
            more = m - np.uint64(2)
            window = load_window(extra, position)
            v = ((np.uint64(4) | (np.uint64(token) & np.uint64(3))) << more) | (
                window & ((np.uint64(1) << more) - np.uint64(1))
            )
            position += more
            residuals[count] = np.uint32(v - np.uint64(1))
        count += 1
        i += 1
    return count == n and (position + np.uint64(7)) >> np.uint64(3) == np.uint64(extra.size)


_EXTRA_BITS = np.maximum((np.arange(256, dtype=np.int64) - 128) // 4 + 5, 0)
_EXTRA_BITS[:128] = 0


def count_extra_bits(counts: NDArray[np.int64]) -> int:
    """Return how many extra bits go with tokens of these counts, shape (256,)."""
    return int(counts @ _EXTRA_BITS)


def coded_bits(counts: NDArray[np.int64]) -> int:
    """Return the bits that a Huffman code for these tokens takes, with the extra bits, without the table."""
    return int(counts @ make_lengths(counts).astype(np.int64)) + count_extra_bits(counts)


@inline
def _log2(value: int) -> int:
    """Return floor(256 log2(value)) for 0 < value < 2**40, in integers, so that every machine chooses alike."""
    whole = 0
    while value >> (whole + 1):
        whole += 1
    x = (value << 16) >> whole
    log = whole
    for _ in range(8):
        x = (x * x) >> 16
        log <<= 1
        if x >= 1 << 17:
            x >>= 1
            log |= 1
    return log


@njit
def estimated_bits(counts: NDArray[np.int64]) -> int:
    """Return about the bits of a Huffman code for these counts.

    A symbol that is more than half of what is left takes one bit and half of the code space; the others take
    the logarithm of their share.
    """
    left = counts.copy()
    total = int(left.sum())
    bits = 0
    while True:
        commonest = int(left.argmax())
        if 2 * left[commonest] <= total or left[commonest] == total:
            break
        bits += total << 8
        total -= int(left[commonest])
        left[commonest] = 0
    if total > 0:
        log_total = _log2(total)
        for symbol in range(left.size):
            if left[symbol] > 0:
                bits += left[symbol] * (log_total - _log2(left[symbol]))
    return bits >> 8


def cheapest_tokens(residuals: NDArray[np.uint32]) -> tuple[int, int]:
    """Return (bits, coder) for Huffman with or without runs, whichever takes fewer bits, estimated."""
    plain, with_runs = token_counts(residuals)
    extra = count_extra_bits(plain)
    bits, coder = min((int(estimated_bits(with_runs)), RUN_LENGTH), (int(estimated_bits(plain)), HUFFMAN))
    return bits + extra, coder


def pack_residuals(residuals: NDArray[np.uint32], coder: int) -> bytes:
    """Return uint32 residuals <= `LARGEST`, shape (n,), packed by `coder`."""
    if coder == RICE:
        coded = rice_encode(residuals)
        return bytes([coder]) + leb128(len(coded)) + coded
    has_extra = residuals.size > 0 and int(residuals.max()) >= 127
    extra_bits = count_extra_bits(token_counts(residuals)[0]) if has_extra else 0
    tokens, extra = write_tokens(residuals, coder == RUN_LENGTH, extra_bits)
    return bytes([coder]) + leb128(tokens.size) + pack_bytes(tokens) + leb128(extra.size) + extra.tobytes()


def unpack_residuals(cursor: Cursor, n: int) -> NDArray[np.uint32]:
    """Read n residuals that `pack_residuals` wrote; the caller has made sure that n may be allocated."""
    coder = cursor.byte()
    if coder == RICE:
        return rice_decode(np.frombuffer(cursor.take(cursor.leb128()), np.uint8), n)
    if coder not in (HUFFMAN, RUN_LENGTH):
        raise CorruptStreamError(f"residuals of unknown coder {coder}")
    n_tokens = cursor.leb128()
    if n_tokens > n:
        raise CorruptStreamError("more tokens than residuals")
    tokens = unpack_bytes(cursor, n_tokens)
    extra = np.frombuffer(cursor.take(cursor.leb128()), np.uint8)
    residuals = np.empty(n, np.uint32)
    if not read_tokens(tokens, extra, coder == RUN_LENGTH, residuals):
        raise CorruptStreamError("tokens do not give the residuals announced")
    return residuals
