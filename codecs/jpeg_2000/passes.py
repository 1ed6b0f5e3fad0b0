"""Code-blocks of JPEG 2000 (ITU-T T.800 annex D): quantized coefficients and bytes, both ways in one kernel.

A block is a run of uint32: magnitudes, and signs as bit 31. The flags of a column of four of them, a stripe's share,
are one word: bits 3 r + c tell whether the coefficient in row r - 1 of the stripe, column c - 1 from this one, is
significant; 18 + r the sign in row r - 1; 24 + k that coefficient k has been refined; 28 + k that it has been
visited in this bit-plane. The words have a border of one all around.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline
from dcmpress.codecs.jpeg_2000.mq import code, code_raw, finish, finish_raw, start_reading

BYPASS, RESET, TERMINATE_ALL, CAUSAL, PREDICTABLE, SYMBOLS = 1, 2, 4, 8, 16, 32
"""Bits of a code-block style (T.800 table A.19)."""

SIDE_LIMIT = 1024
BLOCK_SAMPLES = 4096
MOST_PLANES = 31

_SIGN_CONTEXT, _REFINEMENT, _RUN, _UNIFORM = 9, 14, 17, 18
_NEIGHBOURS = 0x1EF
_STRIPE = 0x3FFFF


def _zero_contexts() -> NDArray[np.uint8]:
    """Return T.800 table D.1: for bands LL and LH, HL, HH the context of each state of the eight neighbours."""
    table = np.zeros((3, 512), np.uint8)
    for near in range(512):
        nw, n, ne, w, _, e, sw, s, se = (near >> i & 1 for i in range(9))
        d = nw + ne + sw + se
        for band, (h, v) in enumerate(((w + e, n + s), (n + s, w + e))):
            if h == 2:
                found = 8
            elif h == 1:
                found = 7 if v else 6 if d else 5
            else:
                found = 2 + v if v else min(d, 2)
            table[band, near] = found
        both = w + e + n + s
        table[2, near] = 8 if d >= 3 else 6 + min(both, 1) if d == 2 else 3 * d + min(both, 2)
    return table


def _sign_contexts() -> NDArray[np.uint8]:
    """Return T.800 tables D.2, D.3: context, and in bit 7 the symbol for "plus".

    The index has the significance of N, W, E, S in bits 1, 3, 5, 7, and below each its sign.
    """
    table = np.zeros(256, np.uint8)
    for index in range(256):
        n, w, e, s = ((index >> i + 1 & 1) * (1 - 2 * (index >> i & 1)) for i in (0, 2, 4, 6))
        h, v = (max(-1, min(1, value)) for value in (w + e, n + s))
        turned = h < 0 or (h == 0 and v < 0)
        if turned:
            h, v = -h, -v
        table[index] = _SIGN_CONTEXT + (3 + v if h else v) + 128 * turned
    return table


_ZERO = _zero_contexts().reshape(-1)
_SIGN = _sign_contexts()
_FIRST_STATES = np.zeros(19, np.uint8)
_FIRST_STATES[[0, _RUN, _UNIFORM]] = 2 * np.array([4, 3, 46])  # T.800 table D.7


@inline
def ends_segment(style: int, k: int, n_passes: int) -> bool:
    """Tell whether pass k of a block is the last of a codeword segment (T.800 table D.9)."""
    if k == n_passes - 1 or style & TERMINATE_ALL:
        return True
    return style & BYPASS != 0 and k >= 9 and k % 3 != 1


@inline
def _mark(flags: NDArray[np.uint32], at: int, stride: int, k: int, sign: int, causal: bool) -> None:
    """Note that coefficient k of a column is significant."""
    flags[at - 1] |= np.uint32(1 << (5 + 3 * k))
    flags[at] |= np.uint32(1 << (4 + 3 * k) | sign << (19 + k))
    flags[at + 1] |= np.uint32(1 << (3 + 3 * k))
    if k == 0 and not causal:
        north = at - stride
        flags[north - 1] |= np.uint32(1 << 17)
        flags[north] |= np.uint32(1 << 16 | sign << 23)
        flags[north + 1] |= np.uint32(1 << 15)
    if k == 3:
        south = at + stride
        flags[south - 1] |= np.uint32(1 << 2)
        flags[south] |= np.uint32(1 << 1 | sign << 18)
        flags[south + 1] |= np.uint32(1)


@inline
def _sign_context(flags: NDArray[np.uint32], f: int, at: int, k: int) -> int:
    west, east = int(np.int64(flags[at - 1])), int(np.int64(flags[at + 1]))
    index = (
        (f >> (3 * k) & 0xAA)
        | (f >> (18 + k) & 1)
        | (west >> (19 + k) & 1) << 2
        | (east >> (19 + k) & 1) << 4
        | (f >> (20 + k) & 1) << 6
    )
    return int(np.int64(_SIGN[index]))


@inline
def _significance(
    writing: bool, raw: bool, causal: bool, plane: int, band: int, block: NDArray[np.uint32], h: int, w: int,
    flags: NDArray[np.uint32], contexts: NDArray[np.uint8], buffer: NDArray[np.uint8], limit: int,
    a: int, c: int, ct: int, at: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Code the significance propagation pass (T.800 D.3.1)."""
    stride = w + 2
    for top in range(0, h, 4):
        n = min(4, h - top)
        for x in range(w):
            i = (top // 4 + 1) * stride + x + 1
            f = int(np.int64(flags[i]))
            if f & _STRIPE == 0:
                continue
            for k in range(n):
                near = f >> (3 * k)
                if near & 0x10 or not near & _NEIGHBOURS:
                    continue
                j = (top + k) * w + x
                bit = int(np.int64(block[j])) >> plane & 1
                if raw:
                    bit, c, ct, at = code_raw(writing, bit, buffer, limit, c, ct, at)
                else:
                    zero = _ZERO[512 * band + (near & _NEIGHBOURS)]
                    bit, a, c, ct, at = code(writing, bit, zero, contexts, buffer, limit, a, c, ct, at)
                if bit:
                    sign = int(np.int64(block[j])) >> 31
                    if raw:
                        sign, c, ct, at = code_raw(writing, sign, buffer, limit, c, ct, at)
                    else:
                        found = _sign_context(flags, f, i, k)
                        turn = found >> 7
                        sign, a, c, ct, at = code(
                            writing, sign ^ turn, found & 127, contexts, buffer, limit, a, c, ct, at
                        )
                        sign ^= turn
                    if not writing:
                        block[j] = np.uint32(1 << plane | sign << 31)
                    _mark(flags, i, stride, k, sign, causal)
                f = int(np.int64(flags[i])) | 1 << (28 + k)
                flags[i] = np.uint32(f)
    return a, c, ct, at


@inline
def _refinement(
    writing: bool, raw: bool, plane: int, block: NDArray[np.uint32], h: int, w: int,
    flags: NDArray[np.uint32], contexts: NDArray[np.uint8], buffer: NDArray[np.uint8], limit: int,
    a: int, c: int, ct: int, at: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Code the magnitude refinement pass (T.800 D.3.3)."""
    for top in range(0, h, 4):
        n = min(4, h - top)
        for x in range(w):
            i = (top // 4 + 1) * (w + 2) + x + 1
            f = int(np.int64(flags[i]))
            if f & 0x2490 == 0:
                continue
            for k in range(n):
                near = f >> (3 * k)
                if not near & 0x10 or f >> (28 + k) & 1:
                    continue
                j = (top + k) * w + x
                bit = int(np.int64(block[j])) >> plane & 1
                if raw:
                    bit, c, ct, at = code_raw(writing, bit, buffer, limit, c, ct, at)
                else:
                    context = _REFINEMENT
                    if f >> (24 + k) & 1:
                        context = _REFINEMENT + 2
                    elif near & _NEIGHBOURS:
                        context = _REFINEMENT + 1
                    bit, a, c, ct, at = code(writing, bit, context, contexts, buffer, limit, a, c, ct, at)
                if not writing:
                    block[j] |= np.uint32(bit << plane)
                f |= 1 << (24 + k)
            flags[i] = np.uint32(f)
    return a, c, ct, at


@inline
def _cleanup(
    writing: bool, causal: bool, plane: int, band: int, block: NDArray[np.uint32], h: int, w: int,
    flags: NDArray[np.uint32], contexts: NDArray[np.uint8], buffer: NDArray[np.uint8], limit: int,
    a: int, c: int, ct: int, at: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Code the cleanup pass (T.800 D.3.4), and forget what was visited."""
    stride = w + 2
    for top in range(0, h, 4):
        n = min(4, h - top)
        for x in range(w):
            i = (top // 4 + 1) * stride + x + 1
            f = int(np.int64(flags[i]))
            first = 0
            found_first = False
            if f == 0 and n == 4:
                if writing:
                    while first < 4 and not int(np.int64(block[(top + first) * w + x])) >> plane & 1:
                        first += 1
                bit, a, c, ct, at = code(
                    writing, int(np.int64(first < 4)), _RUN, contexts, buffer, limit, a, c, ct, at
                )
                if not bit:
                    continue
                high, a, c, ct, at = code(
                    writing, first >> 1, _UNIFORM, contexts, buffer, limit, a, c, ct, at
                )
                low, a, c, ct, at = code(writing, first & 1, _UNIFORM, contexts, buffer, limit, a, c, ct, at)
                first = high << 1 | low
                found_first = True
            for k in range(first, n):
                near = f >> (3 * k)
                if near & 0x10 or f >> (28 + k) & 1:
                    continue
                j = (top + k) * w + x
                bit = 1
                if found_first:
                    found_first = False
                else:
                    zero = _ZERO[512 * band + (near & _NEIGHBOURS)]
                    bit = int(np.int64(block[j])) >> plane & 1
                    bit, a, c, ct, at = code(writing, bit, zero, contexts, buffer, limit, a, c, ct, at)
                if bit:
                    found = _sign_context(flags, f, i, k)
                    turn = found >> 7
                    sign = int(np.int64(block[j])) >> 31
                    sign, a, c, ct, at = code(
                        writing, sign ^ turn, found & 127, contexts, buffer, limit, a, c, ct, at
                    )
                    sign ^= turn
                    if not writing:
                        block[j] = np.uint32(1 << plane | sign << 31)
                    _mark(flags, i, stride, k, sign, causal)
                    f = int(np.int64(flags[i]))
            flags[i] = np.uint32(f & 0xFFFFFFF)
    return a, c, ct, at


@inline
def _symbols(
    writing: bool, contexts: NDArray[np.uint8], buffer: NDArray[np.uint8], limit: int,
    a: int, c: int, ct: int, at: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Code the segmentation symbol (T.800 D.5)."""
    for k in range(4):
        _, a, c, ct, at = code(
            writing, int(np.int64(1 - (k & 1))), _UNIFORM, contexts, buffer, limit, a, c, ct, at
        )
    return a, c, ct, at


@inline
def code_block(
    writing: bool, style: int, n_passes: int, band: int, block: NDArray[np.uint32], h: int, w: int,
    flags: NDArray[np.uint32], contexts: NDArray[np.uint8], buffer: NDArray[np.uint8], limit: int,
    begin: int, ends: NDArray[np.int64],
) -> bool:  # fmt: skip
    """Write a block, or read it; return whether there was room.

    `ends` has for each pass the offset in `buffer` behind what it wrote: exact if it ends a segment, and that is
    what reading needs. A segment begins one byte behind the last; reading, two behind.
    """
    causal = style & CAUSAL != 0
    predictable = style & PREDICTABLE != 0
    plane = (n_passes + 2) // 3 - 1
    flags[: (w + 2) * ((h + 3) // 4 + 2)] = 0
    contexts[:] = _FIRST_STATES
    a, c, ct, at = 0, 0, 0, 0
    fresh = True
    for k in range(n_passes):
        kind = k % 3
        raw = style & BYPASS != 0 and k >= 10 and kind != 0
        if fresh:
            if raw:
                a, c, ct, at = 0, 0, 8 if writing else 0, begin
            elif writing:
                buffer[begin - 1] = 0
                a, c, ct, at = 0x8000, 0, 12, begin - 1
            else:
                a, c, ct, at = start_reading(buffer, begin)
        if kind == 1:
            plane -= 1
            a, c, ct, at = _significance(
                writing, raw, causal, plane, band, block, h, w, flags, contexts, buffer, limit, a, c, ct, at
            )
        elif kind == 2:
            a, c, ct, at = _refinement(
                writing, raw, plane, block, h, w, flags, contexts, buffer, limit, a, c, ct, at
            )
        else:
            a, c, ct, at = _cleanup(
                writing, causal, plane, band, block, h, w, flags, contexts, buffer, limit, a, c, ct, at
            )
            if style & SYMBOLS:
                a, c, ct, at = _symbols(writing, contexts, buffer, limit, a, c, ct, at)
        fresh = ends_segment(style, k, n_passes)
        if writing:
            if raw:
                ends[k] = finish_raw(predictable, buffer, begin, c, ct, at) if fresh else at
            else:
                ends[k] = finish(predictable, buffer, limit, a, c, ct, at) if fresh else at + 1
            if ends[k] > limit - 8:
                return False
        if fresh:
            begin = ends[k] + 1 if writing else ends[k] + 2
        if style & RESET:
            contexts[:] = _FIRST_STATES
    return True
