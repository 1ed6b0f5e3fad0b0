"""One image to and from the chunks of its bit-planes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.spiht_groups import Chunks, pack_deflate, pack_groups, unpack_deflate, unpack_groups
from dcmpress.codecs.spiht_kernels import (
    decode_plane,
    encode_plane,
    initial_lists,
    set_levels,
)
from dcmpress.codecs.spiht_tree import Tree, make_tree
from dcmpress.codecs.spiht_weights import fill_intervals, unweigh, weigh
from dcmpress.codecs.wavelets import FRACTION_97, forward_53, forward_97, inverse_53, inverse_97

REVERSIBLE_53, BIOR44 = 0, 1
GROUPS, DEFLATE = 0, 1
HIGHEST_PLANES = 29

_FIRST_BITS = 256

_PACK: dict[int, Callable[[NDArray[np.uint8]], bytes]] = {GROUPS: pack_groups, DEFLATE: pack_deflate}
_UNPACK = {GROUPS: unpack_groups, DEFLATE: unpack_deflate}
_KEPT_FRACTION = 1  # fractional bits of bior4.4 coefficients that are coded


def most_bits(tree: Tree) -> int:
    """Return a bound on the bits of one plane: two for each coefficient, one for each set of either type."""
    return 3 * tree.size + 16


def _lists(tree: Tree) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Return room for LIP, LIS, LSP and their lengths, filled for the first plane."""
    lip = np.empty(tree.size, np.int32)
    lsp = np.empty(tree.size, np.int32)
    lis = np.empty(3 * max(tree.size // 4, 4 * tree.groups), np.int32)
    counts = np.zeros(4, np.int64)
    initial_lists(tree.lowest, tree.groups, lip, lis, counts)
    return lip, lis, lsp, counts


def plane_bits(vector: NDArray[np.int32], tree: Tree) -> list[NDArray[np.uint8]]:
    """Return the bits of each plane, highest first, a byte for each bit.

    Parameters
    ----------
    vector : ndarray, shape (tree.size,), int32
        Coefficients in the order of the tree.
    """
    magnitudes, negative, levels = weigh(vector, tree.lowest)
    below, far_below = set_levels(levels, tree.groups)
    lip, lis, lsp, counts = _lists(tree)
    room = np.empty(most_bits(tree), np.uint8)
    planes = []
    for plane in range(int(levels.max()) - 1, -1, -1):
        n = encode_plane(
            plane,
            magnitudes,
            negative,
            levels,
            below,
            far_below,
            tree.lowest,
            tree.groups,
            lip,
            lis,
            lsp,
            counts,
            room,
        )
        planes.append(room[:n].copy())
    return planes


def encode_image(
    image: NDArray[np.int32], levels: int, transform: int, entropy: int
) -> tuple[int, list[bytes]]:
    """Return the number of planes of `image`, shape (rows, columns), and its chunks, highest plane first.

    The last chunk holds plane 0, the one before it plane 1, and so on; the first holds all planes above its
    own as well, so many that it has at least `_FIRST_BITS` bits: of a few coarse coefficients alone a plane
    more is not always better.
    """
    tree = make_tree(*image.shape, levels, transform == REVERSIBLE_53)
    if transform == REVERSIBLE_53:
        pyramid = forward_53(image, levels)
    else:
        lost = FRACTION_97 - _KEPT_FRACTION
        pyramid = forward_97(image, levels)
        # towards zero, so that an interval's middle is where the decoder puts it
        pyramid = np.where(pyramid < 0, -(-pyramid >> lost), pyramid >> lost).astype(np.int32)
    pack = _PACK[entropy]
    planes = plane_bits(tree.gather(pyramid), tree)
    n_planes = len(planes)
    while len(planes) > 1 and planes[0].size < _FIRST_BITS:
        planes[:2] = [np.concatenate(planes[:2])]
    return n_planes, [pack(bits) for bits in planes]


def decode_image(
    rows: int, columns: int, levels: int, transform: int, entropy: int, chunks: Chunks, *, prefix: bool
) -> NDArray[np.int32]:
    """Return the image that these chunks give, shape (rows, columns), int32.

    Without `prefix` a chunk that is cut, too short or too long raises CorruptStreamError; with it, what
    there is gives the image, and damage that is met ends it.
    """
    tree = make_tree(rows, columns, levels, transform == REVERSIBLE_53)
    values = np.zeros(tree.size, np.int32)
    if chunks:
        lip, lis, lsp, counts = _lists(tree)
        for planes, chunk in chunks:
            try:
                bits, whole = _UNPACK[entropy](chunk, len(planes) * most_bits(tree))
                for plane in planes:
                    used = decode_plane(plane, values, tree.lowest, tree.groups, lip, lis, lsp, counts, bits)
                    if used < 0:
                        raise CorruptStreamError("a bit-plane ends too early")
                    bits = bits[used:]
                if bits.size or not whole:
                    raise CorruptStreamError("a bit-plane does not end where it should")
            except CorruptStreamError:
                if prefix:
                    break
                raise
    return _reconstruct(values, tree, transform)


def _reconstruct(values: NDArray[np.int32], tree: Tree, transform: int) -> NDArray[np.int32]:
    """Return the image from twice the weighted coefficients in the order of the tree, which are changed."""
    if transform == REVERSIBLE_53:
        unweigh(values, tree.lowest)
        return inverse_53(tree.scatter(values), tree.levels)
    fill_intervals(values, FRACTION_97 - _KEPT_FRACTION)
    return inverse_97(tree.scatter(values), tree.levels)
