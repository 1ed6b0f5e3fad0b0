"""Golomb-Rice coding of unsigned residuals, with the parameter chosen for each block of 256.

A residual z is its quotient z >> k in unary (ones, then a zero) and its k low bits. A quotient of 32 or more
is 32 ones and then all 32 bits of z. Each block starts with k in five bits. Bits fill each byte from the
lowest.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.huffman_kernels import load_window, store_u64
from dcmpress.codecs.jit import inline, njit

BLOCK = 256
_ESCAPE = 32


@inline
def _bits(z: np.uint32, k: int) -> int:
    quotient = int(z) >> k
    return quotient + 1 + k if quotient < _ESCAPE else _ESCAPE + 32


@njit
def _parameters(residuals: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], int]:
    """Return k for each block and the bits that all blocks take."""
    n_blocks = (residuals.size + BLOCK - 1) // BLOCK
    parameters = np.zeros(n_blocks, np.uint8)
    total = 0
    for block in range(n_blocks):
        begin = block * BLOCK
        end = min(begin + BLOCK, residuals.size)
        mean = 0
        for i in range(begin, end):
            mean += int(residuals[i])
        mean //= end - begin
        guess = 0
        while mean >> (guess + 1) and guess < 30:
            guess += 1
        best = -1
        for k in range(max(guess - 1, 0), guess + 2):
            bits = 0
            for i in range(begin, end):
                bits += _bits(residuals[i], k)
            if best < 0 or bits < best:
                best = bits
                parameters[block] = k
        total += best + 5
    return parameters, total


@njit
def _write(residuals: NDArray[np.uint32], parameters: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    out = np.zeros((bits + 7) // 8 + 16, np.uint8)
    at = np.uint64(0)
    window = np.uint64(0)
    filled = np.uint64(0)
    for block in range(parameters.size):
        k = np.uint64(parameters[block])
        window |= k << filled
        filled += np.uint64(5)
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, residuals.size)):
            z = np.uint64(residuals[i])
            quotient = z >> k
            # at most 7 bits wait in the window; flush between unary part and low bits
            if quotient < np.uint64(_ESCAPE):
                window |= ((np.uint64(1) << quotient) - np.uint64(1)) << filled
                filled += quotient + np.uint64(1)
                low, count = z & ((np.uint64(1) << k) - np.uint64(1)), k
            else:
                window |= ((np.uint64(1) << np.uint64(_ESCAPE)) - np.uint64(1)) << filled
                filled += np.uint64(_ESCAPE)
                low, count = z, np.uint64(32)
            store_u64(out, at, window)
            at += filled >> np.uint64(3)
            window >>= filled & np.uint64(0x38)
            filled &= np.uint64(7)
            window |= low << filled
            filled += count
            store_u64(out, at, window)
            at += filled >> np.uint64(3)
            window >>= filled & np.uint64(0x38)
            filled &= np.uint64(7)
    if filled:
        out[at] = np.uint8(window)
    return out[: (bits + 7) // 8]


@njit
def _read(data: NDArray[np.uint8], residuals: NDArray[np.uint32]) -> bool:
    position = np.uint64(0)
    end = np.uint64(data.size) << np.uint64(3)
    k = np.uint64(0)
    for i in range(residuals.size):
        if i % BLOCK == 0:
            window = load_window(data, position)
            k = window & np.uint64(31)
            position += np.uint64(5)
        if position >= end:
            return False
        window = load_window(data, position)
        quotient = np.uint64(0)
        while quotient < np.uint64(_ESCAPE) and window & np.uint64(1):
            window >>= np.uint64(1)
            quotient += np.uint64(1)
        if quotient == np.uint64(_ESCAPE):
            position += quotient
            window = load_window(data, position)
            residuals[i] = np.uint32(window)
            position += np.uint64(32)
        else:
            position += quotient + np.uint64(1)
            window >>= np.uint64(1)
            if quotient + k > np.uint64(56):
                window = load_window(data, position)
            residuals[i] = np.uint32((quotient << k) | (window & ((np.uint64(1) << k) - np.uint64(1))))
            position += k
    return (position + np.uint64(7)) >> np.uint64(3) == np.uint64(data.size)


def rice_bits(residuals: NDArray[np.uint32]) -> int:
    """Return the bits that `rice_encode` takes."""
    return int(_parameters(residuals)[1])


def rice_encode(residuals: NDArray[np.uint32]) -> bytes:
    """Return the bit stream for residuals of shape (n,), uint32."""
    parameters, bits = _parameters(residuals)
    coded: bytes = _write(residuals, parameters, bits).tobytes()
    return coded


def rice_decode(data: NDArray[np.uint8], n: int) -> NDArray[np.uint32]:
    """Return n residuals; raise CorruptStreamError if `data` does not end with the last of them."""
    residuals = np.empty(n, np.uint32)
    if not _read(data, residuals):
        raise CorruptStreamError("Golomb-Rice stream does not end where it should")
    return residuals
