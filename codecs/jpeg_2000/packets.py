"""Packets of JPEG 2000 (ITU-T T.800 annex B): headers with their tag trees, and the bytes of code-blocks."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit
from dcmpress.codecs.jpeg_2000.passes import MOST_PLANES, ends_segment

MOST_PASSES = 164
"""Of a block in one packet (T.800 table B.4)."""

_AT, _LEFT, _BYTE, _FAILED = range(4)
"""State of the bits of a header: offset of the next byte, bits left of this one, it, and whether anything failed."""

_UNKNOWN = 1 << 30


@njit
def tag_trees(parts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (first node of each part's tree, parent of each node, -1 for none); leaves come first (T.800 B.10.2)."""
    first = np.zeros(len(parts) + 1, np.int64)
    for m in range(len(parts)):
        rows, columns = parts[m, 1], parts[m, 2]
        n = rows * columns
        while rows * columns > 1:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            n += rows * columns
        first[m + 1] = first[m] + n
    parents = np.full(first[-1], -1, np.int64)
    for m in range(len(parts)):
        rows, columns = parts[m, 1], parts[m, 2]
        at = first[m]
        while rows * columns > 1:
            above = at + rows * columns
            for y in range(rows):
                for x in range(columns):
                    parents[at + y * columns + x] = above + y // 2 * ((columns + 1) // 2) + x // 2
            at = above
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return first, parents


@inline
def _get(data: NDArray[np.uint8], io: NDArray[np.int64], size: int) -> int:
    """Read bits (T.800 B.10.1)."""
    value = 0
    for _ in range(size):
        if io[_LEFT] == 0:
            io[_LEFT] = 7 if io[_BYTE] == 0xFF else 8
            if io[_AT] >= len(data):
                io[_FAILED] = 1
                return 0
            io[_BYTE] = data[io[_AT]]
            io[_AT] += 1
        io[_LEFT] -= 1
        value = value << 1 | (io[_BYTE] >> io[_LEFT] & 1)
    return value


@inline
def _put(out: NDArray[np.uint8], io: NDArray[np.int64], value: int, size: int) -> None:
    """Write bits."""
    for k in range(size - 1, -1, -1):
        io[_LEFT] -= 1
        io[_BYTE] |= (value >> k & 1) << io[_LEFT]
        if io[_LEFT] == 0:
            _put_byte(out, io)


@njit
def _put_byte(out: NDArray[np.uint8], io: NDArray[np.int64]) -> None:
    if io[_AT] >= len(out):
        io[_FAILED] = 1
        io[_AT] = 0
    out[io[_AT]] = io[_BYTE]
    io[_AT] += 1
    io[_LEFT] = 7 if io[_BYTE] == 0xFF else 8
    io[_BYTE] = 0


@inline
def _climb(leaf: int, parents: NDArray[np.int64], path: NDArray[np.int64]) -> int:
    """Write the nodes from a leaf to the root to `path`; return their number."""
    depth = 0
    node = leaf
    while node >= 0:
        path[depth] = node
        depth += 1
        node = parents[node]
    return depth


@njit
def _get_tag(
    data: NDArray[np.uint8],
    io: NDArray[np.int64],
    leaf: int,
    threshold: int,
    parents: NDArray[np.int64],
    values: NDArray[np.int64],
    lows: NDArray[np.int64],
    path: NDArray[np.int64],
) -> bool:
    """Read whether the value of a leaf is below a threshold."""
    low = 0
    for k in range(_climb(leaf, parents, path) - 1, -1, -1):
        node = path[k]
        low = max(low, lows[node])
        while low < threshold and low < values[node]:
            if _get(data, io, 1):
                values[node] = low
            else:
                low += 1
        lows[node] = low
    return values[leaf] < threshold


@njit
def _put_tag(
    out: NDArray[np.uint8],
    io: NDArray[np.int64],
    leaf: int,
    threshold: int,
    parents: NDArray[np.int64],
    values: NDArray[np.int64],
    lows: NDArray[np.int64],
    known: NDArray[np.bool_],
    path: NDArray[np.int64],
) -> None:
    """Write whether the value of a leaf is below a threshold."""
    low = 0
    for k in range(_climb(leaf, parents, path) - 1, -1, -1):
        node = path[k]
        low = max(low, lows[node])
        while low < threshold:
            if low >= values[node]:
                if not known[node]:
                    _put(out, io, 1, 1)
                    known[node] = True
                break
            _put(out, io, 0, 1)
            low += 1
        lows[node] = low


@njit
def _get_passes(data: NDArray[np.uint8], io: NDArray[np.int64]) -> int:
    """Read a number of passes (T.800 table B.4)."""
    if not _get(data, io, 1):
        return 1
    if not _get(data, io, 1):
        return 2
    n = _get(data, io, 2)
    if n < 3:
        return 3 + n
    n = _get(data, io, 5)
    if n < 31:
        return 6 + n
    return 37 + _get(data, io, 7)


@njit
def _put_passes(out: NDArray[np.uint8], io: NDArray[np.int64], n: int) -> None:
    if n == 1:
        _put(out, io, 0, 1)
    elif n == 2:
        _put(out, io, 2, 2)
    elif n < 6:
        _put(out, io, 3 << 2 | n - 3, 4)
    elif n < 37:
        _put(out, io, 15 << 5 | n - 6, 9)
    else:
        _put(out, io, 511 << 7 | n - 37, 16)


@inline
def piece_passes(style: int, done: int, left: int) -> int:
    """Return how many of the next `left` passes of a block, after `done`, are of one codeword segment."""
    n = 1
    while n < left and not ends_segment(style, done + n - 1, _UNKNOWN):
        n += 1
    return n


@inline
def _log2(value: int) -> int:
    """Return the number of bits behind the first."""
    n = 0
    while value > 1:
        value >>= 1
        n += 1
    return n


@njit
def read_packets(
    style: int,
    start_markers: bool,
    end_markers: bool,
    body: NDArray[np.uint8],
    tile_begins: NDArray[np.int64],
    packets: NDArray[np.int64],
    precincts: NDArray[np.int64],
    parts: NDArray[np.int64],
    zero_planes: NDArray[np.int64],
    passes: NDArray[np.uint8],
    pieces: NDArray[np.int64],
    headers: NDArray[np.int64],
) -> int:
    """Read the packets of all tiles; return how many pieces they have, -1 if they are not as they should be.

    More than `pieces` has room for are counted, not kept.

    Parameters
    ----------
    tile_begins
        Where the packets of each tile begin in `body`.
    packets, precincts, parts
        See `geometry.Geometry`.
    zero_planes
        Takes for each block how many of its first bit-planes are missing; one that never comes keeps what it has.
    passes
        Takes for each packet and each block in it how many passes come.
    pieces : (n, 4)
        Takes block, passes, offset and bytes of each contribution to a codeword segment, in order.
    headers : (p, 2)
        Takes where the header of each packet is, markers and all.
    """
    first_node, parents = tag_trees(parts)
    n_blocks = len(zero_planes)
    inclusion = np.full(len(parents), _UNKNOWN, np.int64)
    inclusion_low = np.zeros(len(parents), np.int64)
    missing = np.full(len(parents), _UNKNOWN, np.int64)
    missing_low = np.zeros(len(parents), np.int64)
    done = np.zeros(n_blocks, np.int64)
    bits = np.full(n_blocks, 3, np.int64)
    path = np.empty(64, np.int64)
    io = np.zeros(4, np.int64)
    at = 0
    n_pieces = contribution = 0
    tile, number = -1, 0
    for q in range(len(packets)):
        precinct, layer = packets[q, 1], packets[q, 2]
        if packets[q, 0] != tile:
            tile, number = packets[q, 0], 0
            if at != tile_begins[tile]:
                return -1
        headers[q, 0] = at
        if start_markers:
            if at + 6 > len(body) or body[at] != 0xFF or body[at + 1] != 0x91:
                return -1
            at += 6
        number += 1
        io[_AT], io[_LEFT], io[_BYTE] = at, 0, 0
        first_piece = n_pieces
        full = _get(body, io, 1)
        for m in range(precincts[precinct], precincts[precinct + 1]):
            for k in range(parts[m, 1] * parts[m, 2]):
                b = parts[m, 0] + k
                passes[contribution] = 0
                contribution += 1
                if not full:
                    continue
                leaf = first_node[m] + k
                if done[b]:
                    if not _get(body, io, 1):
                        continue
                else:
                    if not _get_tag(body, io, leaf, layer + 1, parents, inclusion, inclusion_low, path):
                        continue
                    planes = 0
                    while not _get_tag(body, io, leaf, planes + 1, parents, missing, missing_low, path):
                        planes += 1
                        if planes > 80 or io[_FAILED]:
                            return -1
                    zero_planes[b] = planes
                left = int(np.int64(_get_passes(body, io)))
                if done[b] + left > 3 * MOST_PLANES - 2:
                    return -1
                passes[contribution - 1] = left
                while _get(body, io, 1):
                    bits[b] += 1
                while left > 0:
                    n = piece_passes(style, done[b], left)
                    size = bits[b] + _log2(n)
                    if size > 32 or io[_FAILED]:
                        return -1
                    if n_pieces < len(pieces):
                        pieces[n_pieces, 0] = b
                        pieces[n_pieces, 1] = n
                        pieces[n_pieces, 3] = _get(body, io, size)
                    else:
                        _get(body, io, size)
                    n_pieces += 1
                    done[b] += n
                    left -= n
        if io[_BYTE] == 0xFF:
            io[_AT] += 1
        at = io[_AT]
        if end_markers:
            if at + 2 > len(body) or body[at] != 0xFF or body[at + 1] != 0x92:
                return -1
            at += 2
        headers[q, 1] = at
        if n_pieces > len(pieces):
            return len(pieces) + 1
        for p in range(first_piece, n_pieces):
            pieces[p, 2] = at
            at += pieces[p, 3]
        if io[_FAILED] or at > len(body):
            return -1
    return n_pieces if at == len(body) else -1


@njit
def write_packets(
    style: int,
    start_markers: bool,
    end_markers: bool,
    short: bool,
    coded: NDArray[np.uint8],
    packets: NDArray[np.int64],
    precincts: NDArray[np.int64],
    parts: NDArray[np.int64],
    zero_planes: NDArray[np.int64],
    passes: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    given: NDArray[np.uint8],
    given_sizes: NDArray[np.int64],
    tile_begins: NDArray[np.int64],
    headers: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> int:
    """Write the packets of all tiles; return their bytes, -1 if there is no room, or the pieces are others.

    Parameters
    ----------
    short
        A packet with nothing in it is one bit 0.
    coded
        What the pieces are of.
    passes
        Of each packet and each block in it.
    sizes, offsets
        Of each piece in `coded`, in the order of the packets.
    given, given_sizes
        Headers that stand instead of those that would be written, one after the other, and their sizes; 0: none.
    tile_begins, headers
        Take what `read_packets` is given, and gives, for `out`.
    """
    first_node, parents = tag_trees(parts)
    n_blocks = len(zero_planes)
    inclusion = np.full(len(parents), _UNKNOWN, np.int64)
    inclusion_low = np.zeros(len(parents), np.int64)
    inclusion_known = np.zeros(len(parents), np.bool_)
    missing = np.full(len(parents), _UNKNOWN, np.int64)
    missing_low = np.zeros(len(parents), np.int64)
    missing_known = np.zeros(len(parents), np.bool_)
    contribution = 0
    for q in range(len(packets)):
        precinct = packets[q, 1]
        for m in range(precincts[precinct], precincts[precinct + 1]):
            for k in range(parts[m, 1] * parts[m, 2]):
                leaf = first_node[m] + k
                if passes[contribution] and inclusion[leaf] == _UNKNOWN:
                    inclusion[leaf] = packets[q, 2]
                    missing[leaf] = zero_planes[parts[m, 0] + k]
                contribution += 1
    for node in range(len(parents)):  # leaves come before what is above them
        above = parents[node]
        if above >= 0:
            inclusion[above] = min(inclusion[above], inclusion[node])
            missing[above] = min(missing[above], missing[node])
    done = np.zeros(n_blocks, np.int64)
    bits = np.full(n_blocks, 3, np.int64)
    path = np.empty(64, np.int64)
    io = np.zeros(4, np.int64)
    at = 0
    piece = contribution = given_at = 0
    tile, number = -1, 0
    for q in range(len(packets)):
        precinct, layer = packets[q, 1], packets[q, 2]
        if packets[q, 0] != tile:
            tile, number = packets[q, 0], 0
            tile_begins[tile] = at
        headers[q, 0] = at
        if at + 6 > len(out):
            return -1
        if start_markers:
            out[at], out[at + 1], out[at + 2], out[at + 3] = 0xFF, 0x91, 0, 4
            out[at + 4], out[at + 5] = number >> 8 & 0xFF, number & 0xFF
            at += 6
        number += 1
        io[_AT], io[_LEFT], io[_BYTE] = at, 8, 0
        first_piece = piece
        n_blocks_here = 0
        full = not short
        for m in range(precincts[precinct], precincts[precinct + 1]):
            n_blocks_here += parts[m, 1] * parts[m, 2]
        for k in range(n_blocks_here):
            full = full or passes[contribution + k] > 0
        _put(out, io, int(np.int64(full)), 1)
        if not full:
            contribution += n_blocks_here
            n_blocks_here = 0
        for m in range(precincts[precinct], precincts[precinct + 1]):
            if n_blocks_here == 0:
                break
            for k in range(parts[m, 1] * parts[m, 2]):
                b = parts[m, 0] + k
                leaf = first_node[m] + k
                left = int(np.int64(passes[contribution]))
                contribution += 1
                if done[b]:
                    _put(out, io, int(np.int64(left > 0)), 1)
                else:
                    _put_tag(
                        out, io, leaf, layer + 1, parents, inclusion, inclusion_low, inclusion_known, path
                    )
                if left == 0:
                    continue
                if not done[b]:
                    for planes in range(zero_planes[b] + 1):
                        _put_tag(
                            out, io, leaf, planes + 1, parents, missing, missing_low, missing_known, path
                        )
                _put_passes(out, io, left)
                wanted = bits[b]
                used, rest, p = done[b], left, piece
                while rest > 0:
                    if p >= len(sizes):
                        return -1
                    n = piece_passes(style, used, rest)
                    wanted = max(wanted, _log2(sizes[p]) + 1 - _log2(n))
                    used += n
                    rest -= n
                    p += 1
                while bits[b] < wanted:
                    bits[b] += 1
                    _put(out, io, 1, 1)
                _put(out, io, 0, 1)
                while left > 0:
                    n = piece_passes(style, done[b], left)
                    _put(out, io, sizes[piece], bits[b] + _log2(n))
                    done[b] += n
                    left -= n
                    piece += 1
        if io[_LEFT] < 8:  # begun, or behind FF
            _put_byte(out, io)
        at = io[_AT]
        if at + 2 > len(out) or io[_FAILED]:
            return -1
        if end_markers:
            out[at], out[at + 1] = 0xFF, 0x92
            at += 2
        if given_sizes[q] > 0:
            size = given_sizes[q]
            at = headers[q, 0]
            if at + size > len(out):
                return -1
            out[at : at + size] = given[given_at : given_at + size]
            given_at += size
            at += size
        headers[q, 1] = at
        for p in range(first_piece, piece):
            if at + sizes[p] > len(out):
                return -1
            out[at : at + sizes[p]] = coded[offsets[p] : offsets[p] + sizes[p]]
            at += sizes[p]
    return at if piece == len(sizes) else -1
