"""The graphics core of `interframe`: planes that repeat themselves exactly, to bytes and back.

Screens, burnt-in text, drawings, dose reports, 3-D renderings on black, palette indices. Encoder and decoder run the
same kernel and learn the same things as they go. The format and the algorithm are in `docs/codec-graphics.md`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import binary_coder, graphics_coder
from dcmpress.codecs.interframe import graphics_kernel as kernel

Array = NDArray[Any]


def encode_planes(
    planes: Array,
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    by_symbols: bool,
) -> bytes:
    """Encode planes, uint16 (n, rows, columns) with values up to `max_value`, into bytes.

    `by_symbols`: literals are coded as symbols, as suits palette indices, or as errors of a prediction.
    """
    capacity = planes.size // 2 + 4096
    while True:
        buffer = np.zeros(capacity, np.uint8)
        registers = binary_coder.encoder_registers()
        for _ in _run(planes, planes.shape, max_value, references, shifts, by_symbols, buffer, registers):
            pass
        if registers[2] <= capacity:
            return bytes([by_symbols]) + binary_coder.finish(buffer, registers)
        # Noise can take more than the buffer has; the kernel has counted how much.
        capacity = int(registers[2])


def decode_planes(
    data: bytes,
    shape: tuple[int, int, int],
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    select: Sequence[int],
) -> Iterator[tuple[int, Array]]:
    """Decode the planes in `select`, ascending, and all before the last of them; yield (number, plane) in order.

    A plane, uint16 (rows, columns), is valid until the next one is asked for. A damaged stream gives planes of
    arbitrary samples up to `max_value`: the caller keeps a checksum.

    Raises
    ------
    CorruptStreamError
        If `data` does not start as it must.
    """
    if not data or data[0] > 1:
        raise CorruptStreamError("the flag of the graphics core is missing or unknown")
    buffer = np.frombuffer(bytearray(data[1:]), np.uint8)
    registers = binary_coder.decoder_registers(data[1:7])
    upto = (select[-1] + 1, *shape[1:])
    wanted = set(select)
    for i, plane in _run(None, upto, max_value, references, shifts, bool(data[0]), buffer, registers):
        if i in wanted:
            yield i, plane


def _run(
    planes: Array | None,
    shape: tuple[int, int, int],
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    by_symbols: bool,
    buffer: NDArray[np.uint8],
    registers: NDArray[np.int64],
) -> Iterator[tuple[int, Array]]:
    """Encode the planes, or decode as many if there are none; yield (number, plane) of each."""
    n, rows, columns = shape
    size = (rows + 2 * kernel.PAD, columns + 2 * kernel.PAD)
    slots = np.zeros(2 * kernel.SLOTS, np.int32)
    hits = np.full(2 * kernel.TIMES, kernel.HIT, np.int64)
    chances = np.full(kernel.CHANCES, graphics_coder.EVEN, np.int32)
    n_symbols = 2 * graphics_coder.GROUPS * graphics_coder.GROUP if by_symbols else 0
    symbols = np.full(n_symbols, graphics_coder.EVEN, np.int32)
    biases = np.zeros(kernel.BIASES, np.int32)
    last_use = list(range(n))
    for i, r in enumerate(references[:n]):
        if r >= 0:
            last_use[r] = i
    kept: dict[int, Array] = {}
    spare: list[Array] = []
    for i in range(n):
        current = spare.pop() if spare else np.empty(size, np.uint16)
        reference = current
        r = references[i]
        if r >= 0:
            reference = kept[r]
            if shifts and shifts[i] != (0, 0):
                reference = _moved(reference, *shifts[i])
        current[: kernel.PAD] = reference[: kernel.PAD] if r >= 0 else 0
        inside = current[kernel.PAD : -kernel.PAD, kernel.PAD : -kernel.PAD]
        if planes is not None:
            inside[...] = planes[i]
        kernel.code_plane(
            planes is not None, by_symbols, current.reshape(-1), reference.reshape(-1), r >= 0,
            rows, columns, max_value, slots, hits, chances, symbols, biases,
            np.zeros((2, columns + 2), np.uint16), graphics_coder.RATES, buffer, registers,
        )  # fmt: skip
        yield i, inside
        kernel.surround(current.reshape(-1), rows, columns)
        kept[i] = current
        for j in [j for j in kept if last_use[j] <= i]:
            spare.append(kept.pop(j))


def _moved(reference: Array, dy: int, dx: int) -> Array:
    """Return a padded plane with what is in it moved down by `dy` and right by `dx`; edges repeat."""
    inside = reference[kernel.PAD : -kernel.PAD, kernel.PAD : -kernel.PAD]
    rows, columns = inside.shape
    y = np.clip(np.arange(-kernel.PAD, rows + kernel.PAD) - dy, 0, rows - 1)
    x = np.clip(np.arange(-kernel.PAD, columns + kernel.PAD) - dx, 0, columns - 1)
    moved: Array = inside[y[:, np.newaxis], x]
    return moved
