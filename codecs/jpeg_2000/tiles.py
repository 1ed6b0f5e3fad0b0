"""The packets of a JPEG 2000 image's tiles: from coefficients, and from what its encoder was free to choose."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, as_bytes, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_2000.blocks import PLANES, bit_planes, decode_blocks, encode_blocks
from dcmpress.codecs.jpeg_2000.geometry import Geometry
from dcmpress.codecs.jpeg_2000.headers import Parameters
from dcmpress.codecs.jpeg_2000.packets import read_packets, write_packets
from dcmpress.codecs.jpeg_2000.passes import MOST_PLANES
from dcmpress.codecs.jpeg_2000.segments import compare, correct, cut, last_passes

_FLAGS = _PASSES, _ENDS, _SHORT, _HEADERS = 1, 2, 4, 8
"""Flags: passes and cuts are given; ends of segments are; an empty packet is one bit; packet headers are given."""


def _nothing() -> NDArray[np.uint8]:
    return np.empty(0, np.uint8)


@dataclass
class Choices:
    """What an encoder was free in."""

    short: bool = False
    """A packet with nothing in it is one bit 0."""
    passes: NDArray[np.uint8] = field(default_factory=_nothing)
    """Of each packet and each block in it; empty: the first packet of a block has all."""
    cuts: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    """See `segments.cut`."""
    removed: NDArray[np.uint8] = field(default_factory=_nothing)
    inserted: NDArray[np.uint8] = field(default_factory=_nothing)
    bytes_inserted: NDArray[np.uint8] = field(default_factory=_nothing)
    """See `segments.compare`; empty: nothing."""
    headers: list[tuple[int, bytes]] = field(default_factory=list)
    """Number of a packet, and its header where it is not as we write it."""


@dataclass
class Coded:
    """All code-blocks as they are in a code-stream, one after the other; see `segments`."""

    zero_planes: NDArray[np.int64]
    """Of each block: how many of its band's bit-planes it does not have."""
    first_pass: NDArray[np.int64]
    last: NDArray[np.bool_]
    data: NDArray[np.uint8]
    ends: NDArray[np.int64]


def choices_of(p: Parameters, g: Geometry, bodies: list[bytes]) -> tuple[NDArray[np.int32], Choices] | None:
    """Return the coefficients in the packets of each tile, and what is particular there; None if it cannot be told."""
    body = np.frombuffer(b"".join(bodies), np.uint8)
    zero_planes = np.full(len(g.blocks), -1, np.int64)
    passes = np.empty(_contributions(g), np.uint8)
    headers = np.empty((len(g.packets), 2), np.int64)
    pieces = _pieces(p, g, bodies, zero_planes, passes, headers)
    if pieces is None:
        return None
    by_block = np.argsort(pieces[:, 0], kind="stable")
    sorted_pieces = np.ascontiguousarray(pieces[by_block])
    first_piece = np.searchsorted(sorted_pieces[:, 0], np.arange(len(g.blocks) + 1))
    planes = np.zeros((len(p.precisions), *p.shape[:2]), np.int32)
    if not decode_blocks(p.style, body, g.blocks, first_piece, sorted_pieces[:, 1:], planes):
        return None
    coded = _encoded(p, g, planes)
    seen = zero_planes >= 0
    stop = np.cumsum(sorted_pieces[:, 1])
    if (
        not np.array_equal(np.concatenate([[0], stop])[first_piece], coded.first_pass)
        or (coded.zero_planes[seen] != zero_planes[seen]).any()
    ):
        return None
    theirs = [body[start : start + size] for start, size in sorted_pieces[:, 2:].tolist()]
    ends = np.zeros(len(coded.ends), np.int64)
    ends[stop - 1] = np.cumsum(sorted_pieces[:, 3])
    choices = Choices(passes=passes)
    if not _compare(coded, np.concatenate([_nothing(), *theirs]), ends, choices):
        return None
    last_pass = np.empty(len(pieces), np.int64)
    last_pass[by_block] = stop - 1
    last_pass = last_pass[~coded.last[last_pass]]
    coded = _corrected(coded, choices)
    cuts = ends[last_pass] - coded.ends[last_pass]
    if (abs(cuts) > 127).any():
        return None
    choices.cuts = cuts.astype(np.int8)
    _note_headers(p, g, coded, choices, body, headers)
    return planes, choices


def packets_of(
    p: Parameters, g: Geometry, planes: NDArray[np.int32], choose: Callable[[Coded], Choices]
) -> list[bytes]:
    """Return the packets of each tile.

    Raises
    ------
    CorruptStreamError
    """
    coded = _encoded(p, g, planes)
    choices = choose(coded)
    out, begins, _ = _written(p, g, _corrected(coded, choices), choices)
    return [out[begin:end].tobytes() for begin, end in itertools.pairwise(begins)]


def put_choices(out: bytearray, choices: Choices) -> None:
    """Append choices to a recipe."""
    given = (len(choices.passes), len(choices.removed), choices.short, len(choices.headers))
    out.append(sum(flag * bool(is_given) for flag, is_given in zip(_FLAGS, given, strict=True)))
    if len(choices.passes):
        put_varint(out, len(choices.cuts))
        out += choices.passes.tobytes() + choices.cuts.tobytes()
    if len(choices.removed):
        put_varint(out, len(choices.bytes_inserted))
        for values in (choices.removed, choices.inserted, choices.bytes_inserted):
            out += values.tobytes()
    if choices.headers:
        put_varint(out, len(choices.headers))
        before = 0
        for number, header in choices.headers:
            put_varint(out, number - before)
            put_varint(out, len(header))
            out += header
            before = number


def read_choices(reader: ByteReader, p: Parameters, g: Geometry, coded: Coded) -> Choices:
    """Read what `put_choices` wrote.

    Raises
    ------
    CorruptStreamError
    """
    flags = reader.byte()
    if flags >= 2 * _HEADERS:
        raise CorruptStreamError("JPEG 2000: unknown flags")
    choices = Choices(short=bool(flags & _SHORT))
    if flags & _PASSES:
        n_cuts = reader.varint(reader.left)
        choices.passes = as_bytes(reader.take(_contributions(g)))
        choices.cuts = as_bytes(reader.take(n_cuts)).view(np.int8)
    if flags & _ENDS:
        n_bytes, n_segments = reader.varint(reader.left), int(coded.last.sum())
        choices.removed = as_bytes(reader.take(n_segments))
        choices.inserted = as_bytes(reader.take(n_segments))
        choices.bytes_inserted = as_bytes(reader.take(n_bytes))
    if flags & _HEADERS:
        number = 0
        for _ in range(reader.varint(reader.left)):
            number += reader.varint(len(g.packets))
            choices.headers.append((number, bytes(reader.take(reader.varint()))))
        if number >= len(g.packets):
            raise CorruptStreamError("JPEG 2000: a header of no packet")
    return choices


def _blocks_of(g: Geometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each precinct its first block and how many it has; those of its bands follow each other."""
    first = np.concatenate([g.parts[:, 0], [len(g.blocks)]])[g.precincts]
    return first[:-1], np.diff(first)


def _contributions(g: Geometry) -> int:
    """Return how many blocks all packets have."""
    return int(_blocks_of(g)[1][g.packets[:, 1]].sum())


def _usual_passes(g: Geometry, first_pass: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return `Choices.passes` where the first packet of a block has all of them."""
    first, n = (values[g.packets[:, 1]] for values in _blocks_of(g))
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    passes = np.diff(first_pass)[np.repeat(first, n) + within]
    return (passes * (np.repeat(g.packets[:, 2], n) == 0)).astype(np.uint8)


def _pieces(
    p: Parameters,
    g: Geometry,
    bodies: list[bytes],
    zero_planes: NDArray[np.int64],
    passes: NDArray[np.uint8],
    headers: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """Read packets; return the table of pieces, and fill the others: see `packets.read_packets`."""
    body = np.frombuffer(b"".join(bodies), np.uint8)
    begins = np.cumsum([0, *map(len, bodies)])
    room = 4 * len(g.blocks) + 64
    while True:
        pieces = np.empty((room, 4), np.int64)
        n = read_packets(
            p.style, p.start_markers, p.end_markers, body, begins, g.packets, g.precincts, g.parts,
            zero_planes, passes, pieces, headers,
        )  # fmt: skip
        if n <= room:
            return None if n < 0 else pieces[:n]
        room *= 4


def _encoded(p: Parameters, g: Geometry, planes: NDArray[np.int32]) -> Coded:
    """Write the blocks of coefficients.

    Raises
    ------
    CorruptStreamError
        If they do not fit the bands.
    """
    found = bit_planes(planes, g.blocks)
    zero_planes = g.blocks[:, PLANES] - found
    if (zero_planes < 0).any() or (found > MOST_PLANES).any():
        raise CorruptStreamError("JPEG 2000: coefficients beyond their bit-planes")
    first_pass = np.concatenate([[0], np.cumsum(np.maximum(3 * found - 2, 0))])
    ends = np.zeros(first_pass[-1], np.int64)
    out = np.empty(4 * planes.size + 64 * len(g.blocks) + 4096, np.uint8)
    if not encode_blocks(p.style, planes, g.blocks, first_pass, ends, out):
        raise CorruptStreamError("JPEG 2000: code-blocks of more bytes than coefficients can take")
    return Coded(zero_planes, first_pass, last_passes(p.style, first_pass), out, ends)


def _compare(coded: Coded, theirs: NDArray[np.uint8], ends: NDArray[np.int64], choices: Choices) -> bool:
    """Note how segments end; return whether they differ in their ends only."""
    n = int(coded.last.sum())
    removed, inserted = np.empty(n, np.uint8), np.empty(n, np.uint8)
    bytes_inserted = np.empty(8 * n + 256, np.uint8)
    n_bytes = compare(coded.last, coded.data, coded.ends, theirs, ends, removed, inserted, bytes_inserted)
    if n_bytes < 0:
        return False
    if removed.any() or n_bytes:
        choices.removed, choices.inserted = removed, inserted
        choices.bytes_inserted = bytes_inserted[:n_bytes]
    return True


def _corrected(coded: Coded, choices: Choices) -> Coded:
    """Return the blocks with their segments' ends as they are to be."""
    if not len(choices.removed):
        return coded
    size = int(coded.ends[-1]) if len(coded.ends) else 0
    data = np.empty(size + len(choices.bytes_inserted), np.uint8)
    ends = np.empty(len(coded.ends), np.int64)
    if (
        correct(
            coded.last, coded.data, coded.ends, choices.removed, choices.inserted, choices.bytes_inserted,
            data, ends,
        )
        < 0
    ):  # fmt: skip
        raise CorruptStreamError("JPEG 2000: ends of other segments")
    return Coded(coded.zero_planes, coded.first_pass, coded.last, data, ends)


def _written(
    p: Parameters, g: Geometry, coded: Coded, choices: Choices
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return all packets, where those of each tile begin and the last end, and where the header of each packet is."""
    passes = choices.passes if len(choices.passes) else _usual_passes(g, coded.first_pass)
    room = int(np.count_nonzero(passes)) + len(coded.ends)
    sizes, offsets = np.empty(room, np.int64), np.empty(room, np.int64)
    n = cut(
        coded.first_pass, coded.last, coded.ends, g.packets, g.precincts, g.parts, passes, choices.cuts,
        sizes, offsets,
    )  # fmt: skip
    if n < 0:
        raise CorruptStreamError("JPEG 2000: passes of other code-blocks")
    given_sizes = np.zeros(len(g.packets), np.int64)
    for number, header in choices.headers:
        given_sizes[number] = len(header)
    given = np.frombuffer(b"".join(header for _, header in choices.headers), np.uint8)
    if given_sizes.sum() != len(given):
        raise CorruptStreamError("JPEG 2000: two headers of one packet")
    begins = np.full(len(g.tiles) + 1, -1, np.int64)
    headers = np.empty((len(g.packets), 2), np.int64)
    bytes_coded = int(coded.ends[-1]) if len(coded.ends) else 0
    # A block takes a few bytes of a header at first, and for each piece at most five, or its own length in bits.
    out = np.empty(bytes_coded + len(given) + 8 * n + 8 * len(passes) + 16 * len(g.packets) + 4096, np.uint8)
    end = write_packets(
        p.style, p.start_markers, p.end_markers, choices.short, coded.data, g.packets, g.precincts, g.parts,
        coded.zero_planes, passes, sizes[:n], offsets[:n], given, given_sizes, begins, headers, out,
    )  # fmt: skip
    if end < 0:
        raise CorruptStreamError("JPEG 2000: packets of more bytes than they can take")
    begins[-1] = end
    for tile in range(len(g.tiles) - 1, -1, -1):  # one without packets
        if begins[tile] < 0:
            begins[tile] = begins[tile + 1]
    return out[:end], begins, headers


def _note_headers(
    p: Parameters,
    g: Geometry,
    coded: Coded,
    choices: Choices,
    body: NDArray[np.uint8],
    headers: NDArray[np.int64],
) -> None:
    """Note the packet headers in `body` that are not as we write them, and passes that are not as usual."""
    if np.array_equal(choices.passes, _usual_passes(g, coded.first_pass)):
        choices.passes = _nothing()
    best: list[tuple[int, bytes]] | None = None
    for short in (False, True):
        choices.short = short
        out, _, ours = _written(p, g, coded, choices)
        if np.array_equal(out, body):
            return
        differing = []
        for number, (begin, end) in enumerate(headers.tolist()):
            header = body[begin:end].tobytes()
            if header != out[slice(*ours[number])].tobytes():
                differing.append((number, header))
        if best is None or len(differing) < len(best):
            best, kept = differing, short
    choices.headers, choices.short = best or [], kept
