"""Reversible JPEG 2000 images (ITU-T T.800) taken apart and put together again.

Samples and headers give the coefficients, and these, pass by pass, the bytes of the code-blocks. What the standard
leaves to an encoder is in the recipe where it is not as usual: which passes come in which layer and where these are
cut, how a codeword segment ends, and packet headers that could be shorter.

    recipe := flags; main header; tile-parts; [passes, cuts]; [ends of segments]; [packet headers]; bytes behind

`docs/formats/reconstruct.md` has it byte by byte. Only images with all their bit-planes are taken apart.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_2000.geometry import geometry
from dcmpress.codecs.jpeg_2000.headers import EOC, SOT, check_tile_part_header, read_main_header
from dcmpress.codecs.jpeg_2000.samples import to_frame, to_planes
from dcmpress.codecs.jpeg_2000.tiles import choices_of, packets_of, put_choices, read_choices

_REST = 0
"""Size of a tile-part that holds what the earlier ones leave of its tile; other sizes are one more than they are."""

Array = NDArray[Any]


def take_apart(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, list[bytes]] | None:
    """Return (frame, recipes to try); see `restorable`."""
    p, at = read_main_header(data)
    if p.shape != shape or dtype.itemsize > 2 or max(p.precisions) > 8 * dtype.itemsize:
        return None
    g = geometry(p)
    main, tile_parts = data[:at], []
    while data[at : at + 2] == SOT:
        tile, psot, begin = check_tile_part_header(data, at)
        end = at + psot if psot else data.rfind(EOC)
        if tile >= len(g.tiles) or not begin <= end <= len(data):
            return None
        tile_parts.append((tile, psot > 0, data[at:begin], data[begin:end]))
        at = end
    bodies = [b"".join(body for t, _, _, body in tile_parts if t == tile) for tile in range(len(g.tiles))]
    found = choices_of(p, g, bodies)
    if found is None:
        return None
    planes, choices = found
    last = {tile: number for number, (tile, *_) in enumerate(tile_parts)}
    recipe = bytearray()
    put_varint(recipe, len(main))
    recipe += main
    put_varint(recipe, len(tile_parts))
    for number, (tile, with_size, header, body) in enumerate(tile_parts):
        recipe.append(with_size)
        put_varint(recipe, len(header))
        recipe += header[:6] + bytes(4) + header[10:]
        put_varint(recipe, _REST if number == last[tile] else len(body) + 1)
    put_choices(recipe, choices)
    return to_frame(planes, p, g, dtype), [bytes(recipe) + data[at:]]


def put_together(frame: Array, recipe: bytes) -> bytes:
    """Return the bytes of the image; see `restorable`."""
    reader = ByteReader(recipe)
    main = bytes(reader.take(reader.varint()))
    p, size = read_main_header(main + SOT)
    if size != len(main) or p.shape != frame.shape or frame.dtype.itemsize > 2:
        raise CorruptStreamError("JPEG 2000: the recipe is for other samples")
    g = geometry(p)
    tile_parts = []
    for _ in range(reader.varint(reader.left)):
        with_size, header = reader.byte(), bytes(reader.take(reader.varint()))
        tile, _, end = check_tile_part_header(header, 0)
        if end != len(header) or with_size > 1 or tile >= len(g.tiles):
            raise CorruptStreamError("JPEG 2000: an impossible tile-part")
        tile_parts.append((tile, with_size, header, reader.varint(1 << 32)))
    bodies = packets_of(p, g, to_planes(frame, p, g), lambda coded: read_choices(reader, p, g, coded))
    used = [0] * len(bodies)
    out = [main]
    for tile, with_size, header, coded_size in tile_parts:
        begin = used[tile]
        end = len(bodies[tile]) if coded_size == _REST else begin + coded_size - 1
        used[tile] = end
        psot = len(header) + end - begin if with_size else 0
        out += [header[:6], psot.to_bytes(4, "big"), header[10:], bodies[tile][begin:end]]
    if used != [len(body) for body in bodies]:
        raise CorruptStreamError("JPEG 2000: tile-parts that do not hold the packets")
    return b"".join(out) + bytes(reader.take(reader.left))
