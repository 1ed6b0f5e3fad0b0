"""Whether frames are for the graphics core, and how, by a rough count of the bits that each way takes.

Nothing is coded for the choice. One pass over bands of the middle frame counts what three models would take: one
that predicts samples, as the forward core does; one that guesses those that follow neighbours met before, and
predicts the others; and one that guesses, and tells the others by how often they followed such neighbours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward_kernel import median_edge
from dcmpress.codecs.interframe.graphics_coder import fold, size_of
from dcmpress.codecs.interframe.palette import find_palette, put_palette, to_ranks
from dcmpress.codecs.interframe.planes import NO_TRANSFORM, RCT, Layer, components_of, find_layers
from dcmpress.codecs.jit import inline, njit

WORTH = 0.92
"""The graphics core is slower where much is not flat: it is taken if it saves this much."""
MOST_SYMBOLS = 2048
"""With more values, each is met too rarely to be learned as a symbol."""
_BANDS = 8
_BAND_ROWS = (4, 11)
"""Rows of a band that are counted, at least and at most; one above them is only looked at."""
_BAND_COLUMNS = 1024
_ENOUGH = 1 << 15
_HOPELESS = 0.97
"""After so many bits, guesses and symbols that take this much of what prediction takes are given up."""
_SLOTS = 1 << 12
_COUNTS = 1 << 15
_TIMES = 8
_SIZES = 17
"""Sizes of an error: 0 to 16 bits."""
_MOST = 1 << 10
"""Counts are halved when their sum is this."""
_LOG2 = np.array([round(math.log2(max(i, 1)) * 2**20) / 2**20 for i in range(_MOST + 1)])
"""Rounded, so that sums are exact, and the same whoever's logarithm it was: the choice is the same on every machine."""
_BACKED = 6.0
"""Times that all symbols together count before any was met."""

Array = NDArray[Any]
_U = np.uint64


@dataclass(frozen=True)
class Graphics:
    """How the graphics core codes frames."""

    palette: Array | None
    """Of colours; None: the frames have one sample per pixel."""
    layers: list[Layer]
    by_symbols: list[bool]
    """Of each layer: literals are symbols."""


@dataclass(frozen=True)
class _Sample:
    """What is looked at of frames: bands of rows, or numbers made of them."""

    bands: Array
    """From all over the frames, as one frame: (1, rows, columns...)."""
    pairs: Array
    """The same, of frames with a reference, and the same places of the references: (2, rows, columns...)."""
    rows: int
    """Of a band."""
    alone: float
    """Share of the frames that have no reference."""

    def map(self, function: Callable[[Array], Array]) -> "_Sample":
        """Return the sample of what becomes of the bands."""
        return replace(self, bands=function(self.bands), pairs=function(self.pairs))

    def bits(self, with_symbols: bool) -> Array:
        """Return roughly the bits: predicted, guessed, and, if wanted, as symbols. The samples are uint16."""
        bits = _bits_of(self.bands, self.rows, with_symbols)
        if self.pairs.size:
            among = _bits_of(self.pairs, self.rows, with_symbols) * (self.bands.size / self.pairs[0].size)
            bits += (1 - self.alone) * (among - bits)
        return bits

    def layers(self, dense: bool) -> list[Layer]:
        """Return the layers that hold all that is looked at."""
        samples = np.concatenate([self.bands[0], *self.pairs])[np.newaxis]
        return find_layers(samples, NO_TRANSFORM, np.zeros(1, np.int64), dense)

    def predicted(self) -> float:
        """Return roughly the bits in the forward core, of any samples."""
        return float(sum(self.map(layer.extract).bits(False)[0] for layer in self.layers(False)))


def choose_graphics(frames: Array, kept: Array, references: Sequence[int]) -> Graphics | None:
    """Return how frames are best coded by the graphics core; None if they are better left to the forward core.

    `kept` are the indices of the frames that are coded, `references` of each the place in `kept` of the frame it
    refers to, or -1.
    """
    sample = _sample(frames, kept, references)
    if frames.ndim == 4:
        return _choose_palette(frames, kept, sample)
    # What is looked at will do to see that nothing comes of it, as mostly.
    if _choose_literals(sample, sample.layers(True)) is None:
        return None
    return _choose_literals(sample, find_layers(frames, NO_TRANSFORM, kept, dense=True))


def _choose_literals(sample: _Sample, layers: list[Layer]) -> Graphics | None:
    """Return `choose_graphics` of frames of one component in these layers."""
    bits = [sample.map(layer.extract).bits(layer.max_value < MOST_SYMBOLS) for layer in layers]
    by_symbols = [
        layer.max_value < MOST_SYMBOLS and bool(symbols < guessed)
        for layer, (_, guessed, symbols) in zip(layers, bits, strict=True)
    ]
    taken = sum(b[2] if symbols else b[1] for b, symbols in zip(bits, by_symbols, strict=True))
    return Graphics(None, layers, by_symbols) if taken < WORTH * sum(b[0] for b in bits) else None


def _choose_palette(frames: Array, kept: Array, sample: _Sample) -> Graphics | None:
    """Return `choose_graphics` of colour frames."""
    if frames.shape[3] != 3 or frames.dtype != np.uint8:
        return None
    palette = find_palette(frames[i] for i in kept)
    if palette is None:
        return None
    table = bytearray()
    put_palette(table, palette)
    taken = sample.map(lambda bands: to_ranks(bands, palette)).bits(True)[2]
    taken += 8 * len(table) * sample.bands.size / (len(kept) * frames[0].size)
    chosen = Graphics(palette, [Layer(0, 0, 0, 16, len(palette) - 1)], [True])
    # The forward core would code green, or a mean much like it, and two differences to it. Mostly less will do to see.
    green = sample.map(lambda bands: bands[..., 1]).predicted()
    others = 0.0
    for k in (1, 2):
        if taken < WORTH * min(green + others, 3 * green):
            return chosen
        others += sample.map(partial(_component, k)).predicted()
    return chosen if taken < WORTH * min(green + others, 3 * green) else None


def _component(k: int, bands: Array) -> Array:
    """Return a component of the reversible colour transform: 1, 2 are blue and red, less green."""
    return components_of(bands, RCT)[k]


def _sample(frames: Array, kept: Array, references: Sequence[int]) -> _Sample:
    """Return bands of rows from all over the frames, 8 at most."""
    n, rows = len(kept), frames.shape[1]
    least = _BAND_ROWS[frames.ndim - 3]  # a colour is met more rarely than a grey
    band = min(max(rows * n // (16 * _BANDS), least) + 1, _BAND_ROWS[1] + 1, rows)
    count = min(_BANDS, rows // band)
    bands, before, behind = [], [], []
    for k in range(count):
        i = k * n // count
        if references[i] < 0 and i + 1 < n:
            i += 1
        # Bands of frames that follow each other are from places far apart.
        top = (rows - band) * (3 * k % count if count % 3 else k) // max(count - 1, 1)
        place = (slice(top, top + band), slice(0, _BAND_COLUMNS))
        bands.append(frames[kept[i]][place])
        if references[i] >= 0:
            before.append(bands[-1])
            behind.append(frames[kept[references[i]]][place])
    alone = np.concatenate(bands)[np.newaxis]
    pairs = np.stack([np.concatenate(before), np.concatenate(behind)]) if before else alone[:0]
    return _Sample(alone, pairs, band, sum(r < 0 for r in references) / n)


def _bits_of(planes: Array, band: int, with_symbols: bool) -> Array:
    """Return roughly the bits of a plane, and its reference if there is one: predicted, guessed, as symbols.

    They are bands of so many rows, of which the first is not counted.
    """
    n, rows, columns = planes.shape
    padded = np.zeros((2, rows, columns + 2), np.int32)
    padded[:n, :, 1:-1] = planes
    padded[:, 1:, 0] = padded[:, :-1, 1]
    padded[:, :, -1] = padded[:, :, -2]
    bits = np.zeros(3)
    _count(
        padded[0], padded[1], n > 1, band, with_symbols,
        np.zeros(_SLOTS, np.int64), np.ones((_TIMES + 2, 2), np.int64),
        np.ones((_SIZES, _SIZES), np.int64), np.full(_SIZES, _SIZES, np.int64),
        np.zeros((2, columns + 2), np.int64), np.zeros(4 * _COUNTS if with_symbols else 0, np.int32), bits,
    )  # fmt: skip
    return bits


@njit
def _count(
    padded, behind, has_reference, band, with_symbols, slots, asked, sizes, sums, errors, counts, bits
):
    """Add up the bits of all samples, learning as a decoder would.

    If neither guesses nor symbols bring anything in the first bands, these stand for all.

    `asked` counts misses and hits of guesses by how often one was right before; its last rows are for flat places
    and those like the reference.
    """
    both = 0.0
    predicted_bits = 0.0
    guessed_bits = 0.0
    symbol_bits = 0.0
    backed = _BACKED / (1 << size_of(np.int64(padded.max())))
    rows, columns = padded.shape
    done = np.int64(rows)
    for y in range(1, rows):
        if y % band == 0:
            best = min(guessed_bits, symbol_bits) if with_symbols else guessed_bits
            if predicted_bits > _ENOUGH and best > _HOPELESS * predicted_bits:
                done = np.int64(y)
                break
            continue
        here = _U(y & 1)
        above = _U((y + 1) & 1)
        for x in range(1, columns - 1):
            value = np.int64(padded[_U(y), _U(x)])
            west = np.int64(padded[_U(y), _U(x - 1)])
            north = np.int64(padded[_U(y - 1), _U(x)])
            nw = np.int64(padded[_U(y - 1), _U(x - 1)])
            ne = np.int64(padded[_U(y - 1), _U(x + 1)])
            row = np.int64(-1)
            guess = west
            p = np.int64(0)
            if has_reference:
                p = np.int64(behind[_U(y), _U(x)])
                if (
                    west == behind[_U(y), _U(x - 1)]
                    and north == behind[_U(y - 1), _U(x)]
                    and nw == behind[_U(y - 1), _U(x - 1)]
                    and ne == behind[_U(y - 1), _U(x + 1)]
                ):
                    row = np.int64(_TIMES + 1)
                    guess = p
            if row < 0 and west == north and west == nw and west == ne:
                row = np.int64(_TIMES)
            if row >= 0:
                right = np.int64(value == guess)
                both += _learn_hit(asked, row, right)
                if right:
                    errors[here, _U(x)] = 0
                    continue
            h = fold(fold(fold(fold(np.int64(7), west), north), nw), ne)
            if has_reference:
                h = fold(h, p)
            slot = _U(h & (_SLOTS - 1))
            times = slots[slot] >> 16
            kept = slots[slot] & 0xFFFF
            known = False
            right = np.int64(value == kept)
            if times > 0:
                likely = 2 * asked[_U(times), _U(1)] > asked[_U(times), _U(0)]
                cost = _learn_hit(asked, times, right)
                if likely:
                    guessed_bits += cost
                    symbol_bits += cost
                    known = right == 1
            if times == 0 or (times == 1 and not right):
                slots[slot] = 1 << 16 | value
            elif right:
                slots[slot] = min(times + 1, _TIMES - 1) << 16 | kept
            else:
                slots[slot] = (times >> 1) << 16 | kept

            median = median_edge(west, north, nw)
            predicted = median
            if has_reference:
                moved = p + median_edge(
                    west - behind[_U(y), _U(x - 1)],
                    north - behind[_U(y - 1), _U(x)],
                    nw - behind[_U(y - 1), _U(x - 1)],
                )
                predicted = (predicted + moved + 1) >> 1
            error = abs(value - predicted)
            beside = 2 * (errors[here, _U(x - 1)] + errors[above, _U(x)])
            beside += errors[above, _U(x - 1)] + errors[above, _U(x + 1)]
            errors[here, _U(x)] = error
            context = _U(min(size_of(beside >> 1), _SIZES - 1))
            size = min(size_of(error), _SIZES - 1)
            cost = _LOG2[_U(sums[context])] - _LOG2[_U(sizes[context, _U(size)])] + size
            predicted_bits += cost
            sizes[context, _U(size)] += 1
            sums[context] += 1
            if sums[context] >= _MOST:
                total = np.int64(0)
                for i in range(_SIZES):
                    sizes[context, _U(i)] = (sizes[context, _U(i)] + 1) >> 1
                    total += sizes[context, _U(i)]
                sums[context] = total
            if known:
                continue
            guessed_bits += cost
            if not with_symbols:
                continue
            a = _U(fold(fold(np.int64(3), west), value) & (_COUNTS - 1))
            b = _U(_COUNTS + (fold(fold(np.int64(5), median), value) & (_COUNTS - 1)))
            c = _U(2 * _COUNTS + (west & (_COUNTS - 1)))
            d = _U(3 * _COUNTS + (median & (_COUNTS - 1)))
            met = np.float64(counts[a]) + np.float64(counts[b]) + backed
            all_met = np.float64(counts[c]) + np.float64(counts[d]) + _BACKED
            symbol_bits += _log2(all_met) - _log2(met)
            counts[a] += 1
            counts[b] += 1
            counts[c] += 1
            counts[d] += 1
    share = np.float64(done) / np.float64(rows)
    bits[0] = (both + predicted_bits) / share
    bits[1] = (both + guessed_bits) / share
    bits[2] = (both + symbol_bits) / share


@inline
def _log2(v):
    """Return roughly the logarithm of v > 0, from its first ten bits."""
    mantissa, exponent = math.frexp(v)
    return exponent - 10 + _LOG2[_U(mantissa * _MOST)]


@inline
def _learn_hit(asked, row, right):
    """Return the bits of a decision in a row of `asked`, and learn it."""
    n = asked[_U(row), _U(0)] + asked[_U(row), _U(1)]
    cost = _LOG2[_U(n)] - _LOG2[_U(asked[_U(row), _U(right)])]
    asked[_U(row), _U(right)] += 1
    if n + 1 >= _MOST:
        asked[_U(row), _U(0)] = (asked[_U(row), _U(0)] + 1) >> 1
        asked[_U(row), _U(1)] = (asked[_U(row), _U(1)] + 1) >> 1
    return cost
