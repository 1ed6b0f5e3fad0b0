"""Codeword segments as another encoder ended and divided them.

Passes are counted through all code-blocks. `ends` has for each pass the offset in the coded bytes behind its own:
exact where a segment ends, and about where a pass ends within one. `last` tells which passes end a segment.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import njit
from dcmpress.codecs.jpeg_2000.passes import ends_segment

LONGEST = 255
"""Bytes at the end of a segment that may differ."""


@njit
def last_passes(style: int, first_pass: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each pass whether it ends a codeword segment; those of block b begin at `first_pass[b]`."""
    last = np.empty(first_pass[-1], np.bool_)
    for b in range(len(first_pass) - 1):
        n_passes = first_pass[b + 1] - first_pass[b]
        for k in range(n_passes):
            last[first_pass[b] + k] = ends_segment(style, k, n_passes)
    return last


@njit
def compare(
    last: NDArray[np.bool_],
    ours: NDArray[np.uint8],
    our_ends: NDArray[np.int64],
    theirs: NDArray[np.uint8],
    their_ends: NDArray[np.int64],
    removed: NDArray[np.uint8],
    inserted: NDArray[np.uint8],
    bytes_inserted: NDArray[np.uint8],
) -> int:
    """Tell for each segment how many bytes to remove from its end and insert there; return the number of all inserted.

    -1 if they are more than `bytes_inserted` has room for, or in one segment more than `LONGEST`.
    """
    at = their_at = total = s = 0
    for k in range(len(last)):
        if not last[k]:
            continue
        end, their_end = our_ends[k], their_ends[k]
        while at < end and their_at < their_end and ours[at] == theirs[their_at]:
            at += 1
            their_at += 1
        more, n = end - at, their_end - their_at
        if more > LONGEST or n > LONGEST or total + n > len(bytes_inserted):
            return -1
        removed[s], inserted[s] = more, n
        bytes_inserted[total : total + n] = theirs[their_at:their_end]
        total += n
        s += 1
        at, their_at = end, their_end
    return total


@njit
def correct(
    last: NDArray[np.bool_],
    ours: NDArray[np.uint8],
    our_ends: NDArray[np.int64],
    removed: NDArray[np.uint8],
    inserted: NDArray[np.uint8],
    bytes_inserted: NDArray[np.uint8],
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> int:
    """Undo `compare`: write the segments of theirs to `out`, and their `ends`; return the bytes, or -1.

    The ends of passes within a segment move along with it. `out` has room for all of `ours` and of `bytes_inserted`.
    """
    at = target = taken = s = 0
    for k in range(len(last)):
        if not last[k]:
            ends[k] = our_ends[k] - at + target
            continue
        size = our_ends[k] - at - removed[s]
        n = int(np.int64(inserted[s]))
        if size < 0 or taken + n > len(bytes_inserted):
            return -1
        out[target : target + size] = ours[at : at + size]
        target += size
        out[target : target + n] = bytes_inserted[taken : taken + n]
        target += n
        taken += n
        at = our_ends[k]
        ends[k] = target
        s += 1
    return target if taken == len(bytes_inserted) else -1


@njit
def cut(
    first_pass: NDArray[np.int64],
    last: NDArray[np.bool_],
    ends: NDArray[np.int64],
    packets: NDArray[np.int64],
    precincts: NDArray[np.int64],
    parts: NDArray[np.int64],
    passes: NDArray[np.uint8],
    cuts: NDArray[np.int8],
    sizes: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> int:
    """Cut segments into the pieces that come in each packet; return their number, -1 if they do not fit.

    Parameters
    ----------
    packets, precincts, parts
        See `geometry.Geometry`.
    passes
        Of each packet and each block in it.
    cuts
        For each piece that does not end a segment, in order: how much further than `ends` says it goes.
    sizes, offsets
        Take those of each piece.
    """
    n_blocks = len(first_pass) - 1
    done = first_pass[:-1].copy()
    reached = np.zeros(n_blocks, np.int64)
    for b in range(n_blocks):
        if first_pass[b] > 0:
            reached[b] = ends[first_pass[b] - 1]
    piece = n_cuts = contribution = 0
    for q in range(len(packets)):
        for m in range(precincts[packets[q, 1]], precincts[packets[q, 1] + 1]):
            for b in range(parts[m, 0], parts[m, 0] + parts[m, 1] * parts[m, 2]):
                stop = done[b] + passes[contribution]
                contribution += 1
                if stop > first_pass[b + 1]:
                    return -1
                while done[b] < stop:
                    k = done[b]
                    while k + 1 < stop and not last[k]:
                        k += 1
                    end = ends[k]
                    if not last[k]:
                        if n_cuts >= len(cuts):
                            return -1
                        end += cuts[n_cuts]
                        n_cuts += 1
                    if piece >= len(sizes) or not reached[b] <= end <= ends[first_pass[b + 1] - 1]:
                        return -1
                    sizes[piece], offsets[piece] = end - reached[b], reached[b]
                    reached[b] = end
                    done[b] = k + 1
                    piece += 1
    for b in range(n_blocks):
        if done[b] != first_pass[b + 1]:
            return -1
    return piece if n_cuts == len(cuts) else -1
