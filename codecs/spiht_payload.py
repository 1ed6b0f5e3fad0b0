"""The payload of a SPIHT stream taken apart: directory and chunks, of a whole stream or of a prefix."""

from dataclasses import dataclass

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.leb128 import Cursor, unzigzag
from dcmpress.codecs.spiht_image import BIOR44, DEFLATE, GROUPS, HIGHEST_PLANES, REVERSIBLE_53
from dcmpress.codecs.spiht_tree import default_levels
from dcmpress.codecs.stream import StreamHeader

ENTROPY = {"huffman": GROUPS, "deflate": DEFLATE}
TRANSFORM = {"5/3": REVERSIBLE_53, "bior4.4": BIOR44}

_SMALL_CHUNK = 2048
"""A cut chunk is left out below this size in bytes: a few coarse coefficients, each halfway refined, may
be worse than none; of many, the errors average out."""


@dataclass
class Contents:
    """A payload taken apart; of a prefix, as far as it goes."""

    transform: int
    entropy: int
    levels: int
    offsets: list[int]
    """Of the images that the payload tells of: in a prefix, maybe not all."""
    n_planes: list[int]
    n_chunks: list[int]
    plane_sizes: list[int]
    chunks: list[list[tuple[range, memoryview]]]
    """Of each image; empty if the payload ends before the first chunk."""
    plane_begin: int = 0


def take_apart(header: StreamHeader, payload: memoryview, *, prefix: bool) -> Contents:
    """Find the chunks of every image; with `prefix` stop where the payload ends.

    Raises CorruptStreamError if something is wrong, unless `prefix`, where that is the end.
    """
    n_images = header.n_samples // (header.shape[1] * header.shape[2])
    contents = Contents(REVERSIBLE_53, GROUPS, 0, [], [], [], [], [])
    cursor = Cursor(payload)
    try:
        contents.transform, contents.entropy, contents.levels = cursor.byte(), cursor.byte(), cursor.byte()
        _check_kinds(header, contents)
        if cursor.remaining < 3 * n_images and not prefix:
            raise CorruptStreamError("stream is shorter than its directory")
        for _ in range(n_images):
            offset = unzigzag(cursor.leb128())
            n_planes, n_chunks = cursor.leb128(), cursor.leb128()
            if n_planes > HIGHEST_PLANES or n_chunks > n_planes or abs(offset) > 1 << 16:
                raise CorruptStreamError("impossible number of planes or offset")
            if n_planes and not n_chunks:
                raise CorruptStreamError("planes without a chunk")
            contents.offsets.append(offset)
            contents.n_planes.append(n_planes)
            contents.n_chunks.append(n_chunks)
        most = max(contents.n_chunks)
        contents.plane_sizes = [cursor.leb128() for _ in range(most)]
        contents.plane_begin = cursor.position
        contents.chunks = [[] for _ in range(n_images)]
        for plane in range(most - 1, -1, -1):
            begin = cursor.position
            for i in range(n_images):
                if contents.n_chunks[i] > plane:
                    top = contents.n_planes[i] if contents.n_chunks[i] == plane + 1 else plane + 1
                    planes = range(top - 1, plane - 1, -1)
                    size = cursor.leb128()
                    if prefix and size > cursor.remaining:
                        if size >= _SMALL_CHUNK:
                            contents.chunks[i].append((planes, cursor.take(cursor.remaining)))
                        raise CorruptStreamError("the rest is missing")
                    contents.chunks[i].append((planes, cursor.take(size)))
            if cursor.position - begin != contents.plane_sizes[most - 1 - plane]:
                raise CorruptStreamError("a bit-plane is not where its directory says")
        cursor.finish()
    except CorruptStreamError:
        if not prefix:
            raise
    _check_kinds(header, contents)
    return contents


def _check_kinds(header: StreamHeader, contents: Contents) -> None:
    """Raise CorruptStreamError unless transform, entropy coder and levels are such as `encode` writes."""
    known = contents.transform in TRANSFORM.values() and contents.entropy in ENTROPY.values()
    if not known or contents.levels > default_levels(*header.shape[1:3]):
        raise CorruptStreamError("unknown transform, entropy coder or number of levels")
