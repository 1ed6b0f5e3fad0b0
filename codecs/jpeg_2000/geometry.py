"""Where everything in an image is: tiles, bands, precincts and code-blocks, and the packets' order (T.800 annex B)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_2000.headers import Parameters

MOST_PARTS = 1 << 15
MOST_BLOCKS = 1 << 18
MOST_CONTRIBUTIONS = 1 << 20
"""Limits of what one image may have: bands of precincts; code-blocks; these, or packets, times layers."""

Rectangle = tuple[int, int, int, int]
"""Top, left, bottom, right."""


@dataclass(frozen=True)
class Geometry:
    """What follows from the main header."""

    blocks: NDArray[np.int32]
    """(n, 7): see `blocks`."""
    parts: NDArray[np.int64]
    """(m, 3): of each band of a precinct the first code-block, and how many there are in a column and in a row."""
    precincts: NDArray[np.int64]
    """(k + 1,): where the bands of each precinct begin."""
    packets: NDArray[np.int64]
    """(p, 3): tile, precinct, layer, in the order of the code-stream."""
    tiles: tuple[tuple[Rectangle, NDArray[np.int64]], ...]
    """Place of each tile in the image, and the bounds of its resolutions, the highest first."""


class _Collected:
    """Tables while they grow."""

    def __init__(self) -> None:
        self.blocks: list[NDArray[np.int32]] = []
        self.parts: list[tuple[int, int, int]] = []
        self.precincts: list[int] = [0]
        self.keys: list[tuple[int, ...]] = []
        """Of each precinct: tile, component, resolution, row and column on the reference grid, number."""
        self.n_blocks = 0

    def add_part(self, blocks: NDArray[np.int32], rows: int, columns: int) -> None:
        self.parts.append((self.n_blocks, rows, columns))
        self.blocks.append(blocks)
        self.n_blocks += len(blocks)


def _ceil_shift(value: int, shift: int) -> int:
    return -(-value >> shift)


@lru_cache(maxsize=4)
def geometry(p: Parameters) -> Geometry:
    """Return what follows from the main header.

    Raises
    ------
    CorruptStreamError
        If that is more than the limits.
    """
    top, left, bottom, right = p.area
    down = range(p.tile_origin[0], bottom, p.tile_size[0])
    across = range(p.tile_origin[1], right, p.tile_size[1])
    n_bands = (3 * p.levels + 1) * len(p.precisions)
    if len(down) * len(across) > min(65535, MOST_PARTS // n_bands):
        raise CorruptStreamError("too many tiles")
    collected = _Collected()
    tiles: list[tuple[Rectangle, NDArray[np.int64]]] = []
    for y in down:
        for x in across:
            tile = max(y, top), max(x, left), min(y + p.tile_size[0], bottom), min(x + p.tile_size[1], right)
            bounds = np.array(
                [[_ceil_shift(value, level) for value in tile] for level in range(p.levels + 1)], np.int64
            )
            place = tile[0] - top, tile[1] - left, tile[2] - top, tile[3] - left
            for component in range(len(p.precisions)):
                for resolution in range(p.levels + 1):
                    _add_precincts(collected, p, len(tiles), component, resolution, tile, place, bounds)
            tiles.append((place, bounds))
    if collected.n_blocks > MOST_BLOCKS or len(collected.keys) * p.layers > MOST_CONTRIBUTIONS:
        raise CorruptStreamError("too many code-blocks or packets")
    if collected.n_blocks * p.layers > MOST_CONTRIBUTIONS:
        raise CorruptStreamError("too many layers of too many code-blocks")
    return Geometry(
        np.concatenate([np.empty((0, 7), np.int32), *collected.blocks]),
        np.array(collected.parts, np.int64).reshape(-1, 3),
        np.array(collected.precincts, np.int64),
        _packets(np.array(collected.keys, np.int64).reshape(-1, 6), p),
        tuple(tiles),
    )


def _add_precincts(
    collected: _Collected,
    p: Parameters,
    tile_number: int,
    component: int,
    resolution: int,
    tile: Rectangle,
    place: Rectangle,
    bounds: NDArray[np.int64],
) -> None:
    """Add the precincts of one resolution of a component of a tile (T.800 B.6)."""
    level = p.levels - resolution
    high, wide = p.precinct_exponents[resolution]
    top, left, bottom, right = (int(value) for value in bounds[level])
    if top == bottom or left == right:
        return
    rows = range(top >> high, _ceil_shift(bottom, high))
    columns = range(left >> wide, _ceil_shift(right, wide))
    bands = _bands(p, resolution, tile, place, bounds)
    if len(collected.parts) + len(rows) * len(columns) * len(bands) > MOST_PARTS:
        raise CorruptStreamError("too many precincts")
    in_band = int(resolution > 0)
    for number, (row, column) in enumerate((row, column) for row in rows for column in columns):
        for kind, planes, area, offset in bands:
            _add_part(
                collected,
                p,
                component,
                kind,
                planes,
                area,
                offset,
                row,
                high - in_band,
                column,
                wide - in_band,
            )
        collected.precincts.append(len(collected.parts))
        at = max(tile[0], row << high + level), max(tile[1], column << wide + level)
        collected.keys.append((tile_number, component, resolution, *at, number))


def _bands(
    p: Parameters, resolution: int, tile: Rectangle, place: Rectangle, bounds: NDArray[np.int64]
) -> list[tuple[int, int, Rectangle, tuple[int, int]]]:
    """Return (kind of context, bit-planes, area, place in the plane of its first coefficient) of each band (B.5)."""
    level = p.levels - resolution
    if resolution == 0:
        area = tuple(int(value) for value in bounds[level])
        return [(0, p.planes[0], area, (place[0], place[1]))]  # type: ignore[list-item]
    lower = bounds[level + 1]
    low = int(lower[2] - lower[0]), int(lower[3] - lower[1])
    found = []
    for k, (down, across) in enumerate(((0, 1), (1, 0), (1, 1))):
        half = 1 << level
        area = tuple(
            _ceil_shift(value - half * odd, level + 1)
            for value, odd in zip(tile, (down, across) * 2, strict=True)
        )
        offset = place[0] + down * low[0], place[1] + across * low[1]
        found.append(((1, 0, 2)[k], p.planes[3 * resolution - 2 + k], area, offset))
    return found  # type: ignore[return-value]


def _add_part(
    collected: _Collected,
    p: Parameters,
    component: int,
    kind: int,
    planes: int,
    area: Rectangle,
    offset: tuple[int, int],
    row: int,
    high: int,
    column: int,
    wide: int,
) -> None:
    """Add what of a band is in a precinct: its code-blocks (T.800 B.7)."""
    top, left = max(area[0], row << high), max(area[1], column << wide)
    bottom, right = min(area[2], row + 1 << high), min(area[3], column + 1 << wide)
    if top >= bottom or left >= right:
        collected.add_part(np.empty((0, 7), np.int32), 0, 0)
        return
    down, across = min(p.block_exponents[0], high), min(p.block_exponents[1], wide)
    y = np.arange(top >> down, _ceil_shift(bottom, down) + 1) << down
    x = np.arange(left >> across, _ceil_shift(right, across) + 1) << across
    y[0], y[-1], x[0], x[-1] = top, bottom, left, right
    rows, columns = len(y) - 1, len(x) - 1
    if collected.n_blocks + rows * columns > MOST_BLOCKS:
        raise CorruptStreamError("too many code-blocks")
    blocks = np.empty((rows, columns, 7), np.int32)
    blocks[..., 0] = component
    blocks[..., 1] = (y[:-1] - area[0] + offset[0])[:, np.newaxis]
    blocks[..., 2] = x[:-1] - area[1] + offset[1]
    blocks[..., 3] = np.diff(y)[:, np.newaxis]
    blocks[..., 4] = np.diff(x)
    blocks[..., 5:] = kind, planes
    collected.add_part(blocks.reshape(-1, 7), rows, columns)


def _packets(keys: NDArray[np.int64], p: Parameters) -> NDArray[np.int64]:
    """Return the packets in their order (T.800 B.12)."""
    tile, component, resolution, y, x, number = keys.repeat(p.layers, axis=0).T
    precinct = np.arange(len(keys)).repeat(p.layers)
    layer = np.tile(np.arange(p.layers), len(keys))
    order = (
        (layer, resolution, component, number),
        (resolution, layer, component, number),
        (resolution, y, x, component, number, layer),
        (y, x, component, resolution, number, layer),
        (component, y, x, resolution, number, layer),
    )[p.progression]
    return np.stack([tile, precinct, layer], axis=1)[np.lexsort((*order[::-1], tile))]
