"""The coefficients of many JPEG images as one stream.

    stream := number of groups; for each: images, bytes; then the bytes of each group

Numbers are varints. The images of a group have one layout, which stands in their headers and not here; each is
predicted from the two before it. A group is what must be decoded from its start to get at its last image.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError, TooLargeError
from dcmpress.codecs.interframe.binary_coder import decoder_registers, encoder_registers, finish
from dcmpress.codecs.jpeg_dct.image import Jpeg, Layout, layout_of, put_together
from dcmpress.codecs.jpeg_dct.model import Model, code_component

GROUP_BYTES = 1 << 20
"""A group ends once its images, as they were received, have so many bytes."""

BLOCKS_PER_BYTE = 4
"""No JPEG image holds more: a block takes two words of at least one bit."""

START_COST = 1 << 15
"""What it costs to start a group, for each component, in coefficients: its model is made anew."""

_WORST_BITS = 12
"""What a decision can take: see `mixing`."""

Array = NDArray[Any]


class _Coder:
    """Codes the images of one group, one after the other."""

    def __init__(self, layout: Layout, registers: NDArray[np.int64], buffer: NDArray[np.uint8]) -> None:
        self.layout = layout
        self.registers = registers
        self.buffer = buffer
        self._model = Model(len(layout.blocks))
        self._before: list[Array] = []
        """The last two images, the last one first."""
        # Of the image at hand and the one before, by turns.
        self._lasts = [
            [np.zeros((down + 1, across + 1), np.uint8) for down, across in layout.blocks] for _ in range(2)
        ]

    def code(self, encode: bool, coefficients: Array, steps: NDArray[np.int64]) -> None:
        """Code the coefficients of the next image, or fill them in; they are looked at for two images more."""
        first = not self._before
        before, earlier = (coefficients, coefficients) if first else (self._before[0], self._before[-1])
        model = self._model
        own = slice(0, 0)
        for k, (rows, columns) in enumerate(self.layout.blocks):
            has_other = k > 0 and self.layout.blocks[k - 1] == (rows, columns)
            other, own = own, slice(self.layout.start(k), self.layout.start(k) + rows * columns)
            code_component(
                encode,
                coefficients[own],
                coefficients[other if has_other else own],
                has_other,
                steps[k],
                before[own],
                earlier[own],
                not first,
                rows,
                columns,
                self._lasts[0][k],
                self._lasts[1][k],
                model.chances[k],
                model.weights[k],
                model.contexts,
                model.state,
                self.registers,
                self.buffer,
            )
        self._lasts.reverse()
        self._before = [coefficients, *self._before[:1]]


class CoefficientWriter:
    """Takes images as they come and writes their stream."""

    def __init__(self) -> None:
        self.images = 0
        self.cost = 0
        """Of decoding all of them; see `restore`."""
        self._groups: list[tuple[int, bytes]] = []
        self._coder: _Coder | None = None
        self._images = 0
        self._bytes = 0

    def add(self, jpeg: Jpeg, size: int) -> None:
        """Add an image, of `size` bytes as received. Its coefficients must not be changed later."""
        coefficients = jpeg.coefficients
        if self._coder is not None and (self._coder.layout != jpeg.layout or self._bytes >= GROUP_BYTES):
            self._end_group()
        if self._coder is None:
            self._coder = _Coder(jpeg.layout, encoder_registers(), np.zeros(0, np.uint8))
            self.cost += len(jpeg.layout.blocks) * START_COST
        coder = self._coder
        needed = int(coder.registers[2]) + _worst(coefficients)
        if needed > coder.buffer.size:
            coder.buffer = np.concatenate([coder.buffer, np.zeros(needed, np.uint8)])
        coder.code(True, coefficients, jpeg.steps)
        self.images += 1
        self.cost += coefficients.size
        self._images += 1
        self._bytes += size

    def finish(self) -> bytes:
        """Return the stream, or no bytes if there is no image."""
        if self._coder is not None:
            self._end_group()
        if not self._groups:
            return b""
        out = bytearray()
        put_varint(out, len(self._groups))
        for images, data in self._groups:
            put_varint(out, images)
            put_varint(out, len(data))
        return bytes(out) + b"".join(data for _, data in self._groups)

    def _end_group(self) -> None:
        assert self._coder is not None
        self._groups.append((self._images, finish(self._coder.buffer, self._coder.registers)))
        self._coder = None
        self._images = self._bytes = 0


def _worst(coefficients: Array) -> int:
    """Return how many bytes no image with these coefficients exceeds."""
    decisions = 128 * len(coefficients) + 2 * int(np.minimum(np.abs(coefficients.astype(np.int32)), 64).sum())
    return decisions * _WORST_BITS // 8 + 64


@dataclass
class _Group:
    first: int
    data: memoryview
    chosen: list[int] = field(default_factory=list)
    """Numbers of images, ascending."""

    @property
    def decoded(self) -> range:
        """Numbers of the images that must be decoded for the chosen ones."""
        return range(self.first, self.chosen[-1] + 1)


def restore(
    data: memoryview, recipes: Sequence[bytes], sizes: Sequence[int], chosen: Iterable[int], limit: int
) -> list[bytes]:
    """Return the bytes of some of the images of a stream.

    Parameters
    ----------
    data
        The stream.
    recipes, sizes
        Of all its images.
    chosen
        Numbers of images, ascending.
    limit
        Coefficients that all images may have that must be decoded: the chosen ones, and those before them in their
        groups. Each group counts as `START_COST` for each component besides.

    Raises
    ------
    CorruptStreamError, TooLargeError
    """
    groups = _groups(data, len(recipes))
    k = 0
    for number in chosen:
        while k + 1 < len(groups) and groups[k + 1].first <= number:
            k += 1
        groups[k].chosen.append(number)
    asked = [group for group in groups if group.chosen]
    cost = sum(_cost(group, recipes) for group in asked)
    if cost > limit:
        raise TooLargeError(f"images of {cost} coefficients; {limit} are allowed")
    workers = min(len(asked), os.cpu_count() or 1)
    if workers < 2:
        parts = [_restore_group(group, recipes, sizes) for group in asked]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda group: _restore_group(group, recipes, sizes), asked))
    return [image for part in parts for image in part]


def _groups(data: memoryview, n_images: int) -> list[_Group]:
    reader = ByteReader(data)
    counted = [(reader.varint(), reader.varint()) for _ in range(reader.varint(n_images))]
    groups = []
    first = 0
    for images, size in counted:
        groups.append(_Group(first, reader.take(size)))
        first += images
        if images == 0:
            raise CorruptStreamError("a group without images")
    if first != n_images or reader.left:
        raise CorruptStreamError(f"coefficients of {first} images instead of {n_images}")
    return groups


def _cost(group: _Group, recipes: Sequence[bytes]) -> int:
    layout, _ = layout_of(recipes[group.first])
    return 64 * layout.total * len(group.decoded) + len(layout.blocks) * START_COST


def _restore_group(group: _Group, recipes: Sequence[bytes], sizes: Sequence[int]) -> list[bytes]:
    layout, _ = layout_of(recipes[group.first])
    if layout.total > BLOCKS_PER_BYTE * min(sizes[number] for number in group.decoded):
        raise CorruptStreamError("more blocks than an image has bytes for")
    # The kernel is compiled for arrays that can be written, which those over bytes cannot.
    buffer = np.frombuffer(bytearray(group.data), np.uint8)
    coder = _Coder(layout, decoder_registers(bytes(group.data[:6])), buffer)
    wanted = set(group.chosen)
    spare = [np.empty((layout.total, 64), np.int16) for _ in group.decoded[:3]]
    out = []
    for number in group.decoded:
        coefficients = spare[(number - group.first) % 3]
        own, steps = layout_of(recipes[number])
        if own != layout:
            raise CorruptStreamError("a group of several layouts")
        coder.code(False, coefficients, steps)
        if number in wanted:
            out.append(put_together(layout, coefficients, recipes[number], sizes[number]))
    return out
