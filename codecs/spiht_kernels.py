"""The passes of SPIHT over one bit-plane, encoder and decoder side by side.

Three lists, in preallocated vectors: LIP (insignificant coefficients), LIS (insignificant sets; an entry is
twice the index of the set's root, plus one for a set of type B, which leaves out the children), LSP
(significant coefficients). A plane is a sorting pass and a refinement pass (Said and Pearlman 1996,
algorithm II). The sign bit is 1 for positive. A coefficient has no bits below its lowest plane
(`Tree.lowest`); nothing is sent for them.

`counts` holds the lengths of LIP, LIS and LSP, and of LSP before the plane.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit
from dcmpress.codecs.spiht_tree import ABSENT, first_child


@njit
def initial_lists(
    lowest: NDArray[np.uint8],
    groups: int,
    lip: NDArray[np.int32],
    lis: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Start with every low-pass coefficient in LIP and every root in LIS."""
    n_lip = 0
    n_lis = 0
    has_children = lowest.size > 4 * groups
    for index in range(4 * groups):
        if lowest[index] != ABSENT:
            lip[n_lip] = index
            n_lip += 1
        if has_children and index & 3:
            lis[n_lis] = 2 * index
            n_lis += 1
    counts[0] = n_lip
    counts[1] = n_lis
    counts[2] = 0
    counts[3] = 0


@njit
def set_levels(levels: NDArray[np.uint8], groups: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return for each index with children the largest level among all descendants, and without the children.

    Shape (max(size // 4, 4 * groups),) each; the second is 0 where there are no grandchildren.
    """
    n_parents = max(levels.size // 4, 4 * groups)
    below = np.zeros(n_parents, np.uint8)
    far_below = np.zeros(n_parents, np.uint8)
    if levels.size == 4 * groups:
        return below, far_below
    for index in range(levels.size // 4 - 1, -1, -1):
        child = first_child(index, groups)
        if child == 0:
            continue
        near = np.uint8(0)
        far = np.uint8(0)
        for k in range(child, child + 4):
            near = max(near, levels[k])
            if k < n_parents and k >= 4 * groups:
                far = max(far, below[k])
        far_below[index] = far
        below[index] = max(near, far)
    return below, far_below


@njit
def encode_plane(
    plane: int,
    magnitudes: NDArray[np.uint32],
    negative: NDArray[np.bool_],
    levels: NDArray[np.uint8],
    below: NDArray[np.uint8],
    far_below: NDArray[np.uint8],
    lowest: NDArray[np.uint8],
    groups: int,
    lip: NDArray[np.int32],
    lis: NDArray[np.int32],
    lsp: NDArray[np.int32],
    counts: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> int:
    """Write the bits of one plane, a byte for each, and return how many."""
    n = 0
    n_lip, n_lis, n_lsp = counts[0], counts[1], counts[2]
    old_lsp = n_lsp
    parents_of_parents = lowest.size // 4

    kept = 0
    for k in range(n_lip):
        index = lip[k]
        if lowest[index] > plane:  # all its bits are known to be zero
            continue
        if levels[index] > plane:
            bits[n] = 1
            bits[n + 1] = 0 if negative[index] else 1
            n += 2
            lsp[n_lsp] = index
            n_lsp += 1
        else:
            bits[n] = 0
            n += 1
            lip[kept] = index
            kept += 1
    n_lip = kept

    kept = 0
    k = 0
    while k < n_lis:
        entry = lis[k]
        k += 1
        index = entry >> 1
        child = first_child(index, groups)
        if entry & 1 == 0:
            if below[index] <= plane:
                bits[n] = 0
                n += 1
                lis[kept] = entry
                kept += 1
                continue
            bits[n] = 1
            n += 1
            for c in range(child, child + 4):
                if lowest[c] > plane:
                    continue
                if levels[c] > plane:
                    bits[n] = 1
                    bits[n + 1] = 0 if negative[c] else 1
                    n += 2
                    lsp[n_lsp] = c
                    n_lsp += 1
                else:
                    bits[n] = 0
                    n += 1
                    lip[n_lip] = c
                    n_lip += 1
            if child < parents_of_parents:
                lis[n_lis] = entry + 1
                n_lis += 1
        elif far_below[index] <= plane:
            bits[n] = 0
            n += 1
            lis[kept] = entry
            kept += 1
        else:
            bits[n] = 1
            n += 1
            for c in range(child, child + 4):
                lis[n_lis] = 2 * c
                n_lis += 1
    counts[0], counts[1], counts[2], counts[3] = n_lip, kept, n_lsp, old_lsp

    for k in range(old_lsp):
        index = lsp[k]
        if lowest[index] <= plane:
            bits[n] = (magnitudes[index] >> np.uint32(plane)) & np.uint32(1)
            n += 1
    return n


@inline
def _first_value(positive: np.uint8, plane: int, lowest: np.uint8) -> np.int32:
    """Return twice the value of a coefficient found at `plane`: mid-interval, exact at the end."""
    value = np.int32(2) << np.int32(plane)
    if lowest < plane:
        value += np.int32(1) << np.int32(plane)
    return value if positive else -value


@njit
def decode_plane(
    plane: int,
    values: NDArray[np.int32],
    lowest: NDArray[np.uint8],
    groups: int,
    lip: NDArray[np.int32],
    lis: NDArray[np.int32],
    lsp: NDArray[np.int32],
    counts: NDArray[np.int64],
    bits: NDArray[np.uint8],
) -> int:
    """Follow the bits of one plane; return how many it needs, or -1 if `bits` ended before.

    `values` gets twice each coefficient's value so far, at the middle of its interval. When the bits end
    early, what came until then is in `values`, and the lists are of no more use.
    """
    n = 0
    total = bits.size
    n_lip, n_lis, n_lsp = counts[0], counts[1], counts[2]
    old_lsp = n_lsp
    parents_of_parents = lowest.size // 4

    kept = 0
    for k in range(n_lip):
        index = lip[k]
        if lowest[index] > plane:
            continue
        if n >= total:
            return -1
        if bits[n]:
            if n + 1 >= total:
                return -1
            values[index] = _first_value(bits[n + 1], plane, lowest[index])
            n += 2
            lsp[n_lsp] = index
            n_lsp += 1
        else:
            n += 1
            lip[kept] = index
            kept += 1
    n_lip = kept

    kept = 0
    k = 0
    while k < n_lis:
        entry = lis[k]
        k += 1
        index = entry >> 1
        child = first_child(index, groups)
        if n >= total:
            return -1
        bit = bits[n]
        n += 1
        if not bit:
            lis[kept] = entry
            kept += 1
        elif entry & 1 == 0:
            for c in range(child, child + 4):
                if lowest[c] > plane:
                    continue
                if n >= total:
                    return -1
                if bits[n]:
                    if n + 1 >= total:
                        return -1
                    values[c] = _first_value(bits[n + 1], plane, lowest[c])
                    n += 2
                    lsp[n_lsp] = c
                    n_lsp += 1
                else:
                    n += 1
                    lip[n_lip] = c
                    n_lip += 1
            if child < parents_of_parents:
                lis[n_lis] = entry + 1
                n_lis += 1
        else:
            for c in range(child, child + 4):
                lis[n_lis] = 2 * c
                n_lis += 1
    counts[0], counts[1], counts[2], counts[3] = n_lip, kept, n_lsp, old_lsp

    step = np.int32(1) << np.int32(plane)
    for k in range(old_lsp):
        index = lsp[k]
        if lowest[index] > plane:
            continue
        if n >= total:
            return -1
        value = values[index]
        magnitude = abs(value)
        if bits[n]:
            magnitude += step if lowest[index] < plane else np.int32(0)
        else:
            magnitude -= step if lowest[index] < plane else np.int32(2) * step
        values[index] = magnitude if value > 0 else -magnitude
        n += 1
    return n
