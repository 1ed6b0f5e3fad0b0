"""The arithmetic coder of JPEG 2000 (ITU-T T.800 annex C), both ways, and the raw bits of its bypass mode.

The coder's state is (a, c, ct, at): the registers A and C, the shifts left before a byte is moved, and an offset in
the buffer, the standard's BP. It is handed from call to call, so that it stays in the processor's registers.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

_QE = (
    "5601 3401 1801 0AC1 0521 0221 5601 5401 4801 3801 3001 2401 1C01 1601 5601 5401 5101 4801 3801 3401 3001 2801 "
    "2401 2201 1C01 1801 1601 1401 1201 1101 0AC1 09C1 08A1 0521 0441 02A1 0221 0141 0111 0085 0049 0025 0015 0009 "
    "0005 0001 5601"
)
_NMPS = (
    "1 2 3 4 5 38 7 8 9 10 11 12 13 29 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 "
    "41 42 43 44 45 45 46"
)
_NLPS = (
    "1 6 9 12 29 33 6 14 14 14 17 18 20 21 14 14 15 16 17 18 19 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 "
    "37 38 39 40 41 42 43 46"
)
_SWITCHED = (0, 6, 14)

# T.800 table C.2, with the more probable symbol as bit 0 of the state.
QE = np.repeat(np.array([int(value, 16) for value in _QE.split()], np.int64), 2)
_next = np.repeat(np.array(_NMPS.split(), np.int64), 2) * 2
NEXT_MPS = (_next + np.arange(94) % 2).astype(np.uint8)
_next = np.repeat(np.array(_NLPS.split(), np.int64), 2) * 2
NEXT_LPS = (_next + (np.arange(94) % 2 ^ np.isin(np.arange(94) // 2, _SWITCHED))).astype(np.uint8)

State = tuple[int, int, int, int]


@njit
def byte_out(buffer: NDArray[np.uint8], limit: int, c: int, at: int) -> tuple[int, int, int]:
    """Move a byte from C (T.800 C.2.7); return (c, ct, at). At `limit - 1` it stays: what follows is no good."""
    stuffed = buffer[at] == 0xFF
    if not stuffed and c & 0x8000000:
        buffer[at] += np.uint8(1)
        c &= 0x7FFFFFF
        stuffed = buffer[at] == 0xFF
    if at < limit - 1:
        at += 1
    if stuffed:
        buffer[at] = np.uint8(c >> 20 & 0xFF)
        return c & 0xFFFFF, 7, at
    buffer[at] = np.uint8(c >> 19 & 0xFF)
    return c & 0x7FFFF, 8, at


@inline
def _byte_in(buffer: NDArray[np.uint8], c: int, at: int) -> tuple[int, int, int]:
    """Move a byte to C (T.800 C.3.4), of a buffer that ends with a marker; return (c, ct, at)."""
    if buffer[at] != 0xFF:
        at += 1
        return c + (int(np.int64(buffer[at])) << 8), 8, at
    if buffer[at + 1] > 0x8F:
        return c + 0xFF00, 8, at
    at += 1
    return c + (int(np.int64(buffer[at])) << 9), 7, at


@inline
def start_reading(buffer: NDArray[np.uint8], at: int) -> State:
    """Return the state of a decoder (T.800 C.3.5)."""
    c, ct, at = _byte_in(buffer, int(np.int64(buffer[at])) << 16, at)
    return 0x8000, c << 7, ct - 7, at


@inline
def code(
    writing: bool,
    bit: int,
    context: int,
    contexts: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    limit: int,
    a: int,
    c: int,
    ct: int,
    at: int,
) -> tuple[int, int, int, int, int]:
    """Write `bit` in a context, or read it (T.800 C.2.2, C.3.2); return it and the state."""
    state = contexts[context]
    qe = QE[state]
    a -= qe
    if writing:
        if bit == state & 1:
            if a & 0x8000:
                return bit, a, c + qe, ct, at
            if a < qe:
                a = qe
            else:
                c += qe
            contexts[context] = NEXT_MPS[state]
        else:
            if a < qe:
                c += qe
            else:
                a = qe
            contexts[context] = NEXT_LPS[state]
        while True:
            a <<= 1
            c <<= 1
            ct -= 1
            if ct == 0:
                c, ct, at = byte_out(buffer, limit, c, at)
            if a & 0x8000:
                return bit, a, c, ct, at
    bit = int(np.int64(state & 1))
    if c >> 16 < qe:
        if a < qe:
            contexts[context] = NEXT_MPS[state]
        else:
            bit ^= 1
            contexts[context] = NEXT_LPS[state]
        a = qe
    else:
        c -= qe << 16
        if a & 0x8000:
            return bit, a, c, ct, at
        if a < qe:
            bit ^= 1
            contexts[context] = NEXT_LPS[state]
        else:
            contexts[context] = NEXT_MPS[state]
    while True:
        if ct == 0:
            c, ct, at = _byte_in(buffer, c, at)
        a <<= 1
        c <<= 1
        ct -= 1
        if a & 0x8000:
            return bit, a, c, ct, at


@njit
def finish(predictable: bool, buffer: NDArray[np.uint8], limit: int, a: int, c: int, ct: int, at: int) -> int:
    """End a segment; return the offset behind it.

    As T.800 C.2.9 says, without a last byte FF; `predictable`: as D.4.2 does.
    """
    if predictable:
        k = 12 - ct
        while k > 0:
            c <<= ct
            c, ct, at = byte_out(buffer, limit, c, at)
            k -= ct
        if buffer[at] != 0xFF:
            c, ct, at = byte_out(buffer, limit, c, at)
        return at
    above = c + a
    c |= 0xFFFF
    if c >= above:
        c -= 0x8000
    c, ct, at = byte_out(buffer, limit, c << ct, at)
    c, ct, at = byte_out(buffer, limit, c << ct, at)
    return at if buffer[at] == 0xFF else at + 1


@inline
def code_raw(
    writing: bool, bit: int, buffer: NDArray[np.uint8], limit: int, c: int, ct: int, at: int
) -> tuple[int, int, int, int]:
    """Write a bit as it is, or read it (T.800 D.6); return it and (c, ct, at)."""
    if writing:
        ct -= 1
        c |= bit << ct
        if ct == 0:
            buffer[at] = np.uint8(c)
            ct = 7 if c == 0xFF else 8
            if at < limit - 1:
                at += 1
            c = 0
        return bit, c, ct, at
    if ct == 0:
        ct = 8
        if c == 0xFF:
            if buffer[at] <= 0x8F:
                c = int(np.int64(buffer[at]))
                at += 1
                ct = 7
        else:
            c = int(np.int64(buffer[at]))
            at += 1
    ct -= 1
    return c >> ct & 1, c, ct, at


@njit
def finish_raw(predictable: bool, buffer: NDArray[np.uint8], begin: int, c: int, ct: int, at: int) -> int:
    """End a segment of raw bits, as OpenJPEG does: filled with 0101..., without a last FF; return the offset behind."""
    after_ff = at > begin and buffer[at - 1] == 0xFF
    if ct < 7 or (ct == 7 and (predictable or not after_ff)):
        fill = 0
        while ct > 0:
            ct -= 1
            c |= fill << ct
            fill ^= 1
        buffer[at] = np.uint8(c)
        return at if c == 0xFF else at + 1
    if predictable:
        return at
    if ct == 7:
        return at - 1
    if at > begin + 1 and buffer[at - 1] == 0x7F and buffer[at - 2] == 0xFF:
        return at - 2
    return at
