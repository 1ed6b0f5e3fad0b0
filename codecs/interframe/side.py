"""Side information: small integers under an adaptive binary range coder.

Labels, coefficients, symbol counts and run lengths take a few percent of a stream, so they are coded
densely rather than fast. The coder is the binary range coder of LZMA (G. N. N. Martin, "Range encoding",
1979; I. Pavlov, LZMA specification): 32-bit range, 11-bit probabilities that move by 1/16 of the way.

A value v >= 0 under context c is binarised as Exp-Golomb: n = bit length of v in unary (each of its bits
under a probability of (c, position)), then the n - 1 bits below the leading one, of which the first two
are under a probability of (c, n, bits so far) and the others are equiprobable.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

MAX_BITS = 20
"""Longest value: 20 bits."""
_SLOTS = (MAX_BITS + 1) * 5
_HALF = 1024

Array = NDArray[Any]


@inline
def _encode_bit(state: Array, out: Array, probabilities: Array, slot: Any, bit: Any) -> None:
    # state: low, range, cache, cache_size, position
    if slot >= 0:
        p = np.int64(probabilities[slot])
        bound = (state[1] >> 11) * p
        if bit == 0:
            state[1] = bound
            probabilities[slot] = p + ((2048 - p) >> 4)
        else:
            state[0] += bound
            state[1] -= bound
            probabilities[slot] = p - (p >> 4)
    else:
        state[1] >>= 1
        if bit != 0:
            state[0] += state[1]
    while state[1] < 1 << 24:
        state[1] <<= 8
        _shift_low(state, out)


@inline
def _shift_low(state: Array, out: Array) -> None:
    if state[0] < 0xFF000000 or state[0] >= 1 << 32:
        carry = state[0] >> 32
        while state[3] > 0:
            out[state[4]] = (state[2] + carry) & 0xFF
            state[4] += 1
            state[2] = 0xFF
            state[3] -= 1
        state[2] = (state[0] >> 24) & 0xFF
    state[3] += 1
    state[0] = (state[0] & 0xFFFFFF) << 8


@njit
def _encode(values: Array, contexts: Array, probabilities: Array, state: Array, out: Array) -> None:
    for i in range(len(values)):
        v = values[i]
        base = np.int64(contexts[i]) * _SLOTS
        n = 0
        while v >> n:
            n += 1
        for k in range(n):
            _encode_bit(state, out, probabilities, base + k, 1)
        if n < MAX_BITS:
            _encode_bit(state, out, probabilities, base + n, 0)
        if n < 2:
            continue
        bit = (v >> (n - 2)) & 1
        slot = base + MAX_BITS + 1 + 4 * n - 8
        _encode_bit(state, out, probabilities, slot, bit)
        if n > 2:
            second = (v >> (n - 3)) & 1
            _encode_bit(state, out, probabilities, slot + 1 + bit, second)
            for k in range(n - 4, -1, -1):
                _encode_bit(state, out, probabilities, -1, (v >> k) & 1)


@njit
def _flush(state: Array, out: Array) -> None:
    for _ in range(5):
        _shift_low(state, out)


@inline
def _decode_bit(state: Array, data: Array, probabilities: Array, slot: Any) -> Any:
    # state: code, range, position
    if slot >= 0:
        p = np.int64(probabilities[slot])
        bound = (state[1] >> 11) * p
        if state[0] < bound:
            state[1] = bound
            probabilities[slot] = p + ((2048 - p) >> 4)
            bit = 0
        else:
            state[0] -= bound
            state[1] -= bound
            probabilities[slot] = p - (p >> 4)
            bit = 1
    else:
        state[1] >>= 1
        if state[0] >= state[1]:
            state[0] -= state[1]
            bit = 1
        else:
            bit = 0
    while state[1] < 1 << 24:
        state[1] <<= 8
        byte = np.int64(0)
        if state[2] < len(data):
            byte = np.int64(data[state[2]])
        state[2] += 1
        state[0] = (state[0] << 8) | byte
    return bit


@njit
def open_values(data: Array, n_contexts: int) -> Any:
    """Return (probabilities, state) for `decode_values` at the start of coded bytes, uint8; there may be none."""
    probabilities = np.full(n_contexts * _SLOTS, _HALF, np.int16)
    state = np.array([0, 0xFFFFFFFF, 4], np.int64)
    for k in range(4):
        state[0] = state[0] << 8 | (np.int64(data[k]) if k < len(data) else 0)
    return probabilities, state


@njit
def decode_values(values: Array, contexts: Array, probabilities: Array, state: Array, data: Array) -> None:
    """Decode `len(values)` values; for kernels whose contexts depend on what they have read."""
    for i in range(len(values)):
        base = np.int64(contexts[i]) * _SLOTS
        n = 0
        while n < MAX_BITS and _decode_bit(state, data, probabilities, base + n):
            n += 1
        v = np.int64(1 if n > 0 else 0)
        if n >= 2:
            slot = base + MAX_BITS + 1 + 4 * n - 8
            bit = _decode_bit(state, data, probabilities, slot)
            v = 2 + bit
            if n > 2:
                v = 2 * v + _decode_bit(state, data, probabilities, slot + 1 + bit)
                for _ in range(n - 3):
                    v = 2 * v + _decode_bit(state, data, probabilities, -1)
        values[i] = v


class SideWriter:
    """Collects values, then codes them all in one call."""

    def __init__(self, n_contexts: int) -> None:
        self._n_contexts = n_contexts
        self._values: list[Array] = []
        self._contexts: list[Array] = []

    def put(self, values: Array | int, contexts: Array | int) -> None:
        """Add values, 0 <= v < 2^20, each under its context (or all under one)."""
        block = np.atleast_1d(np.asarray(values, np.int64))
        self._values.append(block)
        self._contexts.append(np.broadcast_to(np.asarray(contexts, np.uint16), block.shape))

    def put_signed(self, values: Array | int, contexts: Array | int) -> None:
        """Like `put` for values of either sign: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
        block = np.asarray(values, np.int64)
        self.put(np.where(block < 0, -2 * block - 1, 2 * block), contexts)

    def finish(self) -> bytes:
        """Return the coded bytes."""
        return code_values(np.concatenate(self._values), np.concatenate(self._contexts), self._n_contexts)


def code_values(values: Array, contexts: Array, n_contexts: int) -> bytes:
    """Code values, int64, each under its context; a reader sees zeros past the end, so none are kept there."""
    out = np.empty(32 * len(values) + 16, np.uint8)
    state = np.array([0, 0xFFFFFFFF, 0, 1, 0], np.int64)
    _encode(values, contexts, np.full(n_contexts * _SLOTS, _HALF, np.int16), state, out)
    _flush(state, out)
    return out[1 : state[4]].tobytes().rstrip(b"\0")


class SideReader:
    """Reads the values back, in any cut into calls. Damaged data give wrong values, never an error."""

    def __init__(self, data: memoryview | bytes, n_contexts: int) -> None:
        self.data = np.frombuffer(data, np.uint8)
        self.probabilities, self.state = open_values(self.data, n_contexts)

    def take(self, n_values: int, contexts: Array | int) -> Array:
        """Return the next values, int64, each under its context (or all under one)."""
        values = np.empty(n_values, np.int64)
        spread = np.ascontiguousarray(np.broadcast_to(np.asarray(contexts, np.uint16), values.shape))
        decode_values(values, spread, self.probabilities, self.state, self.data)
        return values

    def one(self, context: int) -> int:
        """Return the next value."""
        return int(self.take(1, context)[0])

    def take_signed(self, n_values: int, contexts: Array | int) -> Array:
        """Return the next values of either sign."""
        values = self.take(n_values, contexts)
        return np.where(values & 1, -(values + 1 >> 1), values >> 1)
