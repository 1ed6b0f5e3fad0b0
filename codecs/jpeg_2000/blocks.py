"""All code-blocks of an image: between planes of coefficients and coded bytes (ITU-T T.800 annex D)."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import njit
from dcmpress.codecs.jpeg_2000.passes import (
    BLOCK_SAMPLES,
    MOST_PLANES,
    SIDE_LIMIT,
    code_block,
    ends_segment,
)

_FLAG_WORDS = 3 * (SIDE_LIMIT + 2) + 2 * BLOCK_SAMPLES
_ROOM = 8 * BLOCK_SAMPLES + 4096
"""Bytes that a block may take, twice what noise of 31 bits does."""

COMPONENT, TOP, LEFT, ROWS, COLUMNS, BAND, PLANES = range(7)
"""Columns of the table of blocks: component, first row and column in its plane, size, 0 for bands LL and LH, 1 for
HL, 2 for HH, and bit-planes of the band (Mb)."""


@njit
def bit_planes(planes: NDArray[np.int32], blocks: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how many bit-planes of each block are not all zero."""
    found = np.zeros(len(blocks), np.int64)
    for b in range(len(blocks)):
        component, top, left = blocks[b, 0], blocks[b, 1], blocks[b, 2]
        seen = 0
        for y in range(top, top + blocks[b, 3]):
            for x in range(left, left + blocks[b, 4]):
                seen |= abs(int(np.int64(planes[component, y, x])))
        while seen:
            found[b] += 1
            seen >>= 1
    return found


@njit
def encode_blocks(
    style: int,
    planes: NDArray[np.int32],
    blocks: NDArray[np.int32],
    first_pass: NDArray[np.int64],
    ends: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> bool:
    """Write the blocks one after the other to `out`; return whether there was room.

    Parameters
    ----------
    first_pass : (n + 1,)
        Where the passes of each block begin among those of all, which are as many as its bit-planes need.
    ends
        Takes for each pass the offset in `out` behind its bytes, exact where it ends a segment.
    """
    block = np.empty(BLOCK_SAMPLES, np.uint32)
    flags = np.empty(_FLAG_WORDS, np.uint32)
    contexts = np.empty(19, np.uint8)
    buffer = np.empty(_ROOM, np.uint8)
    local = np.empty(3 * MOST_PLANES, np.int64)
    at = 0
    for b in range(len(blocks)):
        n_passes = first_pass[b + 1] - first_pass[b]
        if n_passes == 0:
            continue
        h, w = int(np.int64(blocks[b, 3])), int(np.int64(blocks[b, 4]))
        for y in range(h):
            for x in range(w):
                value = int(np.int64(planes[blocks[b, 0], blocks[b, 1] + y, blocks[b, 2] + x]))
                block[y * w + x] = np.uint32(-value | 1 << 31 if value < 0 else value)
        if not code_block(
            True,
            style,
            n_passes,
            int(np.int64(blocks[b, 5])),
            block,
            h,
            w,
            flags,
            contexts,
            buffer,
            _ROOM,
            1,
            local,
        ):
            return False
        begin = 1
        target = at
        for k in range(n_passes):
            ends[first_pass[b] + k] = target + local[k] - begin
            if ends_segment(style, k, n_passes):
                size = local[k] - begin
                if target + size > len(out):
                    return False
                out[target : target + size] = buffer[begin : begin + size]
                target += size
                begin = local[k] + 1
        at = target
    return True


@njit
def decode_blocks(
    style: int,
    body: NDArray[np.uint8],
    blocks: NDArray[np.int32],
    first_piece: NDArray[np.int64],
    pieces: NDArray[np.int64],
    planes: NDArray[np.int32],
) -> bool:
    """Read blocks into `planes`; return whether all of them have all their passes.

    Parameters
    ----------
    pieces : (m, 3)
        Passes, offset in `body`, and bytes of each contribution to a block, those of a block together.
    first_piece : (n + 1,)
        Where those of each block begin.
    """
    block = np.empty(BLOCK_SAMPLES, np.uint32)
    flags = np.empty(_FLAG_WORDS, np.uint32)
    contexts = np.empty(19, np.uint8)
    ends = np.empty(3 * MOST_PLANES, np.int64)
    most = 0
    for b in range(len(blocks)):
        size = 0
        for p in range(first_piece[b], first_piece[b + 1]):
            size += pieces[p, 2]
        most = max(most, size)
    buffer = np.empty(most + 2 * 3 * MOST_PLANES + 2, np.uint8)
    for b in range(len(blocks)):
        n_passes = 0
        for p in range(first_piece[b], first_piece[b + 1]):
            n_passes += pieces[p, 0]
        if n_passes == 0:
            continue
        if n_passes % 3 != 1 or n_passes > 3 * MOST_PLANES - 2:
            return False
        k, at = 0, 0
        for p in range(first_piece[b], first_piece[b + 1]):
            start, size = pieces[p, 1], pieces[p, 2]
            buffer[at : at + size] = body[start : start + size]
            at += size
            k += pieces[p, 0]
            if k > 0 and ends_segment(style, k - 1, n_passes):
                ends[k - 1] = at
                buffer[at : at + 2] = 0xFF
                at += 2
        h, w = int(np.int64(blocks[b, 3])), int(np.int64(blocks[b, 4]))
        block[: h * w] = 0
        code_block(
            False,
            style,
            n_passes,
            int(np.int64(blocks[b, 5])),
            block,
            h,
            w,
            flags,
            contexts,
            buffer,
            0,
            0,
            ends,
        )
        for y in range(h):
            for x in range(w):
                value = int(np.int64(block[y * w + x]))
                size = value & 0x7FFFFFFF
                planes[blocks[b, 0], blocks[b, 1] + y, blocks[b, 2] + x] = -size if value >> 31 else size
    return True
