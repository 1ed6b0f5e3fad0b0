"""Frame preparation: samples of any type to planes of small unsigned integers, and back.

A frame's samples go through a reversible colour transform (three samples only), which gives one component per
sample. A component less its least value is one layer, or, if it needs more than 16 bits or has flags in high
bits, a low and a high layer. A layer whose values leave many numbers unused is packed: values become ranks.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_signed, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe.side import SideReader, SideWriter
from dcmpress.codecs.jit import njit

NO_TRANSFORM, RCT, DIFFERENCES = 0, 1, 2
"""Colour: none; the reversible transform of JPEG 2000 (T.800, G.2); G, B - G, R - G."""
PACK_BELOW = 0.7
"""Values are packed if they use less than this share of their range."""
PACK_BELOW_DENSE = 0.97
"""The same for a coder that learns what is worth learning of a value by itself, if the range is short."""
_SHORT_RANGE = 4096

_MARKED_AT_ONCE = 1 << 17
_CHANGES_OF_FLAGS = 16
"""Flags differ between neighbours in one sample of so many at most: around an overlay's letters."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """Some bits of a component, as unsigned integers up to `max_value`."""

    component: int
    offset: int
    """Subtracted from the component first."""
    shift: int
    bits: int
    """Bits kept after the shift."""
    max_value: int
    values: Array | None = field(default=None, compare=False)
    """Packed: the value of each rank, ascending."""

    def extract(self, component: Array) -> Array:
        """Return this layer of a component, as uint16."""
        ranks = _NO_TABLE
        if self.values is not None:
            ranks = np.zeros(int(self.values[-1]) + 1, np.uint16)
            ranks[self.values] = np.arange(len(self.values), dtype=np.uint16)
        layer = np.empty(component.shape, np.uint16)
        flat = np.ascontiguousarray(component).reshape(-1)
        _extract(flat, self.offset, self.shift, (1 << self.bits) - 1, ranks, layer.reshape(-1))
        return layer

    def restore(self, layer: Array) -> Array:
        """Return what this layer adds to its component, without the offset: uint16, or int64 if shifted."""
        if self.values is not None:
            mapped = np.empty(layer.shape, np.uint16)
            _look_up(layer.reshape(-1), self.values.astype(np.uint16), mapped.reshape(-1))
            layer = mapped
        return layer.astype(np.int64) << self.shift if self.shift else layer

    def write(self, layer: Array, out: Array) -> None:
        """Write the samples of a component that is this layer alone, not shifted, of up to 16 bits.

        Parameters
        ----------
        layer : uint16 array
        out : uint8 or uint16 array, C-contiguous, of the same shape
        """
        if self.values is None:
            np.add(layer, np.uint16(self.offset & 0xFFFF), out=out, casting="unsafe")
        else:
            _look_up(layer.reshape(-1), self._samples, out.reshape(-1))

    @cached_property
    def _samples(self) -> Array:
        """The low 16 bits of the sample of each rank."""
        assert self.values is not None
        samples: Array = (self.values.astype(np.int64) + self.offset & 0xFFFF).astype(np.uint16)
        return samples


_NO_TABLE = np.zeros(0, np.uint16)


@njit
def _extract(values: Array, offset: int, shift: int, mask: int, ranks: Array, out: Array) -> None:
    if len(ranks) > 0:
        for i in range(len(values)):
            out[np.uint64(i)] = ranks[np.uint64(((np.int64(values[np.uint64(i)]) - offset) >> shift) & mask)]
    else:
        for i in range(len(values)):
            out[np.uint64(i)] = np.uint16(((np.int64(values[np.uint64(i)]) - offset) >> shift) & mask)


@njit
def _look_up(layer: Array, table: Array, out: Array) -> None:
    for i in range(len(layer)):
        out[np.uint64(i)] = table[np.uint64(layer[np.uint64(i)])]


@njit
def _mark(values: Array, least: int, shift: int, mask: int, present: Array) -> None:
    for i in range(len(values)):
        present[np.uint64(((np.int64(values[np.uint64(i)]) - least) >> shift) & mask)] = True


def components_of(frames: Array, transform: int) -> list[Array]:
    """Return the components of frames, (n, rows, columns) or (n, rows, columns, samples)."""
    if frames.ndim == 3:
        return [frames]
    samples: list[Any] = [frames[..., k] for k in range(frames.shape[3])]
    if transform == NO_TRANSFORM:
        return samples
    red: Any
    green: Any
    blue: Any
    red, green, blue = (s.astype(np.int32 if s.dtype.itemsize < 4 else np.int64) for s in samples)
    if transform == RCT:
        return [(red + 2 * green + blue) >> 2, blue - green, red - green]
    return [green, blue - green, red - green]


def frames_from(components: list[Array], transform: int, out: Array) -> None:
    """Write frames from their components, the inverse of `components_of`."""
    if out.ndim == 3:
        out[...] = components[0].astype(out.dtype)
        return
    if transform != NO_TRANSFORM:
        first, u, v = (c.astype(np.int64) for c in components)
        green = first - ((u + v) >> 2) if transform == RCT else first
        components = [v + green, green, u + green]
    for k, component in enumerate(components):
        out[..., k] = component.astype(out.dtype)


def find_layers(frames: Array, transform: int, index: Array, dense: bool = False) -> list[Layer]:
    """Return the layers that hold all components of `frames[index]`, for the dense effort or the others."""
    layers: list[Layer] = []
    n_components = 1 if frames.ndim == 3 else frames.shape[3]
    chunks = np.array_split(index, max(1, min(len(index), len(index) * frames[0].size >> 22)))
    for c in range(n_components):
        least, most = 1 << 62, -(1 << 62)
        for chunk in chunks:
            component = components_of(_frames_at(frames, chunk), transform)[c]
            least = min(least, int(component.min()))
            most = max(most, int(component.max()))
        span = most - least
        if span >= 1 << 16:
            layers.append(_layer(frames, chunks, transform, c, least, 0, 16))
            layers.append(_layer(frames, chunks, transform, c, least, 16, 17))
            continue
        share = PACK_BELOW_DENSE if dense and span < _SHORT_RANGE else PACK_BELOW
        whole = _layer(frames, chunks, transform, c, least, 0, 16, span, share)
        if whole.values is None:
            layers.append(whole)
            continue
        flag_bit = _flag_bit(whole)
        if flag_bit:
            middle = chunks[len(chunks) // 2][:1]
            component = components_of(frames[middle], transform)[c]
            if _restless(np.ascontiguousarray(component[0]), least, flag_bit):
                flag_bit = 0
        if flag_bit:
            layers.append(_layer(frames, chunks, transform, c, least, 0, flag_bit))
            layers.append(_layer(frames, chunks, transform, c, least, flag_bit, 16))
        else:
            layers.append(whole)
    return [_packed(layer, dense) for layer in layers]


def _frames_at(frames: Array, chunk: Array) -> Array:
    """Return `frames[chunk]`, without a copy where the frames follow each other."""
    first, end = int(chunk[0]), int(chunk[-1]) + 1
    return frames[first:end] if end - first == len(chunk) else frames[chunk]


def _layer(
    frames: Array,
    chunks: list[Array],
    transform: int,
    component: int,
    least: int,
    shift: int,
    bits: int,
    span: int = 1 << 17,
    share: float = PACK_BELOW,
) -> Layer:
    """Return the layer with the values that it has.

    Or, for a whole component with values up to `span`, without them once there are too many for ranks to pay:
    then there is no flag bit either.
    """
    enough = share * (span + 1)
    present = np.zeros(1 << 16, np.bool_)
    mask = min((1 << bits) - 1, 0xFFFF)
    for chunk in chunks:
        samples = components_of(_frames_at(frames, chunk), transform)[component]
        flat = np.ascontiguousarray(samples).reshape(-1)
        for start in range(0, len(flat), _MARKED_AT_ONCE):
            _mark(flat[start : start + _MARKED_AT_ONCE], least, shift, mask, present)
            if np.count_nonzero(present) >= enough:
                return Layer(component, least, shift, bits, span)
    values = np.flatnonzero(present)
    return Layer(component, least, shift, bits, int(values[-1]), values)


def _packed(layer: Layer, dense: bool) -> Layer:
    """Return the layer with ranks for values if that pays, else with no table."""
    values = layer.values
    if values is None:
        return layer
    share = PACK_BELOW_DENSE if dense and layer.max_value < _SHORT_RANGE else PACK_BELOW
    if len(values) < share * (layer.max_value + 1):
        return Layer(layer.component, layer.offset, layer.shift, layer.bits, len(values) - 1, values)
    return Layer(layer.component, layer.offset, layer.shift, layer.bits, layer.max_value)


def _flag_bit(layer: Layer) -> int:
    """Return the bit from which on a component holds flags (an overlay, say), or 0 if it holds none."""
    assert layer.values is not None
    values = layer.values
    if len(values) < 32:
        return 0
    gaps = np.diff(values)
    widest = int(np.argmax(gaps))
    bit = int(values[widest]).bit_length()
    above = values[widest + 1 :]
    if int(gaps[widest]) * 2 < int(values[-1]) or bit >= int(values[-1]).bit_length() or len(above) < 4:
        return 0
    return bit


@njit
def _restless(component: Array, least: int, bit: int) -> bool:
    """Tell whether the bits from `bit` on, often other than in the sample before, are those of numbers, not flags.

    Two layers then cost more than one: both jump wherever a number crosses a multiple of 2^bit.
    """
    rows, columns = component.shape
    changes = 0
    for y in range(rows):
        for x in range(1, columns):
            before = (np.int64(component[y, np.uint64(x - 1)]) - least) >> bit
            changes += before != (np.int64(component[y, np.uint64(x)]) - least) >> bit
    return changes * _CHANGES_OF_FLAGS > component.size


def put_layers(out: bytearray, layers: list[Layer]) -> None:
    """Append the description of the layers."""
    put_varint(out, len(layers))
    for layer in layers:
        put_varint(out, layer.component)
        put_signed(out, layer.offset)
        put_varint(out, layer.shift)
        put_varint(out, layer.bits)
        put_varint(out, layer.max_value)
        if layer.values is None:
            put_varint(out, 0)
        else:
            put_values(out, layer.values)


def put_values(out: bytearray, values: Array) -> None:
    """Append a table of values, ascending, 0 to 65535: runs of them that follow each other."""
    edges = np.flatnonzero(np.diff(values) != 1) + 1
    firsts = values[np.concatenate(([0], edges))]
    lasts = values[np.concatenate((edges, [len(values)])) - 1]
    side = SideWriter(2)
    gaps = firsts - np.concatenate(([-1], lasts[:-1])) - 1
    side.put(np.stack([gaps, lasts - firsts], axis=1).reshape(-1), np.tile([0, 1], len(gaps)))
    table = side.finish()
    put_varint(out, len(gaps))
    put_varint(out, len(table))
    out += table


def read_values(reader: ByteReader, most: int) -> Array | None:
    """Read what `put_values` wrote, `most` values at most; None if there is a 0 instead of a table."""
    n_runs = reader.varint(1 << 15)
    if not n_runs:
        return None
    side = SideReader(reader.take(reader.varint(1 << 18)), 2)
    if n_runs > most:
        raise CorruptStreamError("a table of more values than there are samples")
    gaps, more = side.take(2 * n_runs, np.tile([0, 1], n_runs)).reshape(-1, 2).T
    n_values = int(more.sum()) + n_runs
    if n_values > most:
        raise CorruptStreamError("a table of more values than there are samples")
    if n_values + int(gaps.sum()) > 1 << 16:
        raise CorruptStreamError("table of values is too long")
    return (np.arange(n_values) + np.repeat(np.cumsum(gaps), more + 1)).astype(np.uint16)


def read_layers(reader: ByteReader, n_components: int, n_samples: int) -> list[Layer]:
    """Read what `put_layers` wrote of so many components, each of `n_samples` samples."""
    layers = []
    for _ in range(reader.varint(2 * n_components)):
        component = reader.varint(n_components - 1)
        offset = reader.signed(1 << 33)
        shift = reader.varint(32)
        bits = reader.varint(17)
        max_value = reader.varint(0xFFFF)
        values = read_values(reader, n_samples)
        if values is not None and len(values) != max_value + 1:
            raise CorruptStreamError("table of values does not fit its layer")
        layers.append(Layer(component, offset, shift, bits, max_value, values))
    if {layer.component for layer in layers} != set(range(n_components)):
        raise CorruptStreamError("component without a layer")
    return layers
