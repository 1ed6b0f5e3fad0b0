"""Binary arithmetic coder: 48-bit low and range, 16-bit probabilities, carry into the bytes already written.

A range coder after G. N. N. Martin, "Range encoding" (1979), for two symbols, with the carry propagation
that byte-wise range coders use. The range never falls below 2^32, so a probability of 1/65536 keeps 16
significant bits and a certain decision costs 2e-5 bit.

The coder's registers are three integers that the caller keeps in local variables: `acc` (the encoder's low
end, or the decoder's offset into the range), `rng` (the range) and `pos` (the next byte). A stream is read
as if followed by zero bytes for ever; a reader never fails, it decodes garbage from a garbled stream.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward_jit import inline

_U = np.uint64
FULL_RANGE = 1 << 48
_RENORMALISE = 1 << 32
_LOW_BITS = (1 << 32) - 1


@inline
def code_bit(encode, bit, p, acc, rng, pos, buffer):
    """Encode `bit`, or decode one and ignore the argument; `p` is P(bit = 1) in 1/65536, 1 to 65535.

    Returns
    -------
    bit, acc, rng, pos : int64
        Bytes that do not fit into `buffer` are dropped but counted in `pos`.
    """
    bound = (rng >> 16) * p
    if not encode:
        bit = np.int64(acc < bound)
        if bit:
            rng = bound
        else:
            acc -= bound
            rng -= bound
    elif bit:
        rng = bound
    else:
        acc += bound
        rng -= bound
    if rng < _RENORMALISE:
        rng <<= 16
        size = np.int64(buffer.size)
        if encode:
            if acc >= FULL_RANGE:
                acc -= FULL_RANGE
                j = min(pos, size) - 1
                while j > 0 and buffer[_U(j)] == 255:
                    buffer[_U(j)] = 0
                    j -= 1
                if j >= 0:
                    buffer[_U(j)] += np.uint8(1)
            if pos + 2 <= size:
                buffer[_U(pos)] = np.uint8(acc >> 40)
                buffer[_U(pos + 1)] = np.uint8((acc >> 32) & 255)
            acc = (acc & _LOW_BITS) << 16
        else:
            acc <<= 16
            if pos + 2 <= size:
                acc |= (np.int64(buffer[_U(pos)]) << 8) | np.int64(buffer[_U(pos + 1)])
            elif pos + 1 == size:
                acc |= np.int64(buffer[_U(pos)]) << 8
        pos += 2
    return bit, acc, rng, pos


def encoder_registers() -> NDArray[np.int64]:
    """Return (acc, rng, pos) at the start of a stream."""
    return np.array([0, FULL_RANGE, 0], dtype=np.int64)


def decoder_registers(data: bytes) -> NDArray[np.int64]:
    """Return (acc, rng, pos) after the first six bytes of `data` were read."""
    return np.array([int.from_bytes(data[:6].ljust(6, b"\0"), "big"), FULL_RANGE, 6], dtype=np.int64)


def finish(buffer: NDArray[np.uint8], registers: NDArray[np.int64]) -> bytes:
    """Return the bytes of a finished encoder; trailing zero bytes are implied and left out."""
    acc, rng, pos = (int(v) for v in registers)
    # The value in [acc, acc + rng) with the most trailing zero bits needs the fewest bytes.
    for bits in range(48, -1, -1):
        value = (acc + (1 << bits) - 1) >> bits << bits
        if value < acc + rng:
            break
    stream = bytearray(buffer[:pos].tobytes())
    if value >= FULL_RANGE:
        value -= FULL_RANGE
        j = pos - 1
        while stream[j] == 255:
            stream[j] = 0
            j -= 1
        stream[j] += 1
    return bytes(stream + value.to_bytes(6, "big")).rstrip(b"\0")
