"""Which colour transform is used, for the dense effort also a palette, by a rough count of the bits that each takes.

For `dense` the count comes from a model like the backward core's, but made of counts alone: coding a part of a small
image with the core, once for each way, would take longer than coding the image. Where the neighbours of a sample are
all equal, it asks whether this goes on. Else it guesses the sample that followed the same neighbours before, as often
as such guesses are right. Else it codes the error of the median edge detector by its number of bits, in the context of
the errors beside it. For the forward core, which has no guesses, the second step is left out.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.palette import find_palette, put_palette, to_ranks
from dcmpress.codecs.interframe.planes import (
    DIFFERENCES,
    NO_TRANSFORM,
    RCT,
    components_of,
    find_layers,
)
from dcmpress.codecs.jit import njit

_BANDS = 8
_BAND_ROWS = 12
_BAND_COLUMNS = 1024
_SLOTS = 1 << 14
_TIMES = 8
_SIZES = 17
"""Sizes of an error: 0 to 16 bits."""
_MOST = 1 << 10
"""Counts are halved when their sum is this."""
_LOG2 = np.array([round(math.log2(max(i, 1)) * 2**20) / 2**20 for i in range(_MOST + 1)])
"""Rounded, so that sums are exact, and the same whoever's logarithm it was."""

Array = NDArray[Any]
_U = np.uint64


def choose_colours(frames: Array, kept: Array) -> tuple[int, Array | None]:
    """Return the transform for frames (n, rows, columns, 3) of at most 16 bits, and their palette if that is better.

    This is for the backward core. `kept` are the indices of the frames that are coded. One of them is looked at, in
    part.
    """
    sample = _bands(frames[kept[len(kept) // 2]])
    bits = _bits_by_transform(sample, dense=True)
    transform = min(bits, key=lambda way: bits[way])
    palette = find_palette(frames[i] for i in kept) if frames.dtype == np.uint8 else None
    if palette is None:
        return transform, None
    saved = bits[transform] - _bits_of(to_ranks(sample, palette), dense=True)
    table = bytearray()
    if saved > 0:
        put_palette(table, palette)
    if saved * len(kept) * frames[0].size <= 8 * len(table) * sample.size:
        return transform, None
    return NO_TRANSFORM, palette


def choose_transform(frames: Array, kept: Array) -> int:
    """Return the transform for the forward core; frames and `kept` as for `choose_colours`."""
    bits = _bits_by_transform(_bands(frames[kept[len(kept) // 2]]), dense=False)
    return min(bits, key=lambda way: bits[way])


def _bits_by_transform(sample: Array, dense: bool) -> dict[int, float]:
    """Return roughly the bits of a frame (1, rows, columns, 3) under each transform."""
    plain = components_of(sample, NO_TRANSFORM)
    coded = components_of(sample, RCT)
    red, green, blue, luma, u, v = (_bits_of(component, dense) for component in (*plain, *coded))
    return {NO_TRANSFORM: red + green + blue, RCT: luma + u + v, DIFFERENCES: green + u + v}


def _bands(frame: Array) -> Array:
    """Return bands of 12 rows from all over a frame, 8 at most, as one frame (1, rows, columns, samples)."""
    rows = len(frame)
    tops = np.linspace(0, max(0, rows - _BAND_ROWS), min(_BANDS, -(-rows // _BAND_ROWS))).astype(np.int64)
    chosen = np.unique(tops[:, np.newaxis] + np.arange(min(rows, _BAND_ROWS)))
    return np.ascontiguousarray(frame[np.newaxis, chosen, :_BAND_COLUMNS])


def _bits_of(component: Array, dense: bool) -> float:
    """Return roughly the bits that a component (1, rows, columns) takes, numbered by rank where its effort does so."""
    layers = find_layers(component, NO_TRANSFORM, np.zeros(1, np.int64), dense=dense)
    return sum(estimated_bits(layer.extract(component)[0], guesses=dense) for layer in layers)


def estimated_bits(plane: NDArray[np.uint16], guesses: bool = True) -> float:
    """Return roughly the bits that a plane (rows, columns) takes, with or without guesses from equal neighbours."""
    rows, columns = plane.shape
    padded = np.zeros((rows + 1, columns + 2), np.int32)
    padded[1:, 1:-1] = plane
    padded[1:, 0] = padded[:-1, 1]  # left and right of a row is what is above its ends
    padded[1:, -1] = padded[:-1, -2]
    asked = np.ones((_TIMES + 1, 2), np.int64)
    sizes = np.ones((_SIZES, _SIZES), np.int64)
    sums = np.full(_SIZES, _SIZES, np.int64)
    slots = np.zeros(_SLOTS, np.int64)
    return float(_bits(padded, slots, asked, sizes, sums, np.zeros((2, columns + 2), np.int64), guesses))


@njit
def _size_of(v):
    size = np.int64(0)
    while v > 0:
        v >>= 1
        size += 1
    return size


@njit
def _bits(padded, slots, asked, sizes, sums, errors, guesses):
    """Add up the bits of all samples, learning as a decoder would.

    `asked` counts misses and hits of guesses by how often one was right before; its last row is for flat places.
    """
    bits = 0.0
    rows, columns = padded.shape
    for y in range(1, rows):
        for x in range(1, columns - 1):
            value = np.int64(padded[_U(y), _U(x)])
            west = np.int64(padded[_U(y), _U(x - 1)])
            north = np.int64(padded[_U(y - 1), _U(x)])
            nw = np.int64(padded[_U(y - 1), _U(x - 1)])
            ne = np.int64(padded[_U(y - 1), _U(x + 1)])
            here = _U(y & 1)
            above = _U((y + 1) & 1)
            errors[here, _U(x)] = 0
            slot = np.int64(-1)
            guess = west
            row = np.int64(_TIMES)
            flat = west == north and west == nw and west == ne
            if not flat and guesses:
                h = np.int64(7)
                for v in (west, north, nw, ne):
                    h = ((h ^ v) * 0x7FEB352D) & 0xFFFFFFFF
                    h ^= h >> 15
                slot = h & (_SLOTS - 1)
                row = slots[_U(slot)] >> 16
                guess = slots[_U(slot)] & 0xFFFF
            right = value == guess
            known = False
            if flat or guesses:
                n = asked[_U(row), _U(0)] + asked[_U(row), _U(1)]
                if flat or (row > 0 and 5 * asked[_U(row), _U(1)] > n):
                    bits += _LOG2[_U(n)] - _LOG2[_U(asked[_U(row), _U(right)])]
                    known = right
                asked[_U(row), _U(right)] += 1
                if n + 1 >= _MOST:
                    asked[_U(row), _U(0)] = (asked[_U(row), _U(0)] + 1) >> 1
                    asked[_U(row), _U(1)] = (asked[_U(row), _U(1)] + 1) >> 1
            if slot >= 0:
                times = row
                if not right:
                    times >>= 1
                elif times < _TIMES - 1:
                    times += 1
                if times == 0 or row == 0:
                    times = np.int64(1)
                    guess = value
                slots[_U(slot)] = times << 16 | guess
            if known:
                continue
            predicted = min(max(west + north - nw, min(west, north)), max(west, north))
            error = abs(value - predicted)
            beside = errors[here, _U(x - 1)] + errors[above, _U(x)]
            beside = 2 * beside + errors[above, _U(x - 1)] + errors[above, _U(x + 1)]
            context = min(_size_of(beside >> 1), _SIZES - 1)
            size = _size_of(error)
            bits += _LOG2[_U(sums[_U(context)])] - _LOG2[_U(sizes[_U(context), _U(size)])] + size
            sizes[_U(context), _U(size)] += 1
            sums[_U(context)] += 1
            if sums[_U(context)] >= _MOST:
                total = np.int64(0)
                for i in range(_SIZES):
                    sizes[_U(context), _U(i)] = (sizes[_U(context), _U(i)] + 1) >> 1
                    total += sizes[_U(context), _U(i)]
                sums[_U(context)] = total
            errors[here, _U(x)] = error
    return bits
