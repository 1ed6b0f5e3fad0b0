"""The backward-adaptive core of `interframe`: planes of 16-bit samples to bytes and back.

Encoder and decoder run the same kernel and learn the same things as they go; no model is transmitted.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import backward_filters as filters
from dcmpress.codecs.interframe import backward_kernel as kernel
from dcmpress.codecs.interframe import binary_coder
from dcmpress.codecs.interframe.backward_lanes import CLASSES
from dcmpress.codecs.interframe.backward_mixer import COUNT_START, STEPS
from dcmpress.codecs.interframe.backward_tables import INITIAL_WEIGHTS, SQUASH
from dcmpress.codecs.interframe.backward_vector import LANES

PAD = kernel.PAD
MIN_FOR_LEVELS = 8192


class _Model:
    """Everything that adapts, and the scratch arrays of the kernel."""

    def __init__(self, columns: int, level_of: NDArray[np.int32]) -> None:
        self.covariance = np.zeros((2, filters.TAPS * filters.TAPS))
        self.samples = np.zeros((2, filters.BATCH * filters.TAPS))
        self.fill = np.zeros((2, 2), np.int64)
        self.w_ols = np.zeros((2, filters.TAPS), np.float32)
        self.w_ols[:, 3] = 0.5
        self.w_pixel = np.zeros((2, filters.TAPS), np.float32)
        self.w_residual = np.zeros((2, filters.TAPS), np.float32)
        mean = np.empty((CLASSES, LANES), np.float32)
        mean[:] = class_errors()[:, None]
        weights = INITIAL_WEIGHTS << 8
        apm = SQUASH[np.minimum(np.arange(STEPS) * 64 + 1024, 4095)].astype(np.int32) << 14 | COUNT_START
        self.learned = (
            np.zeros(16 * 27, np.int32),
            mean.ravel(),
            np.zeros(CLASSES * LANES, np.float32),
            np.repeat(weights, kernel.QA, axis=0).ravel(),
            np.repeat(weights, kernel.QB, axis=0).ravel(),
            np.repeat(weights, kernel.LEVELS, axis=0).ravel(),
            np.full(kernel.NODES * kernel.QA * 3, 21845, np.int32),
            np.tile(apm, kernel.VALUES + 1),
            np.tile(apm, kernel.NODES * kernel.LEVELS),
            np.zeros(kernel.FLAT_CONTEXTS, np.int32),
            level_of,
        )
        self.scratch = (
            np.zeros(filters.TAPS * filters.TAPS),
            np.zeros(filters.TAPS, np.float32),
            np.zeros(filters.TAPS, np.float32),
            np.zeros(6 * LANES, np.float32),
            np.zeros(LANES, np.int32),
            np.zeros(LANES, np.int32),
        )
        self.lines = np.zeros(3 * (columns + 4) * LANES, np.int32)


def class_errors() -> NDArray[np.float32]:
    """Mean |error| that a class starts with: 2^(c / 5 - 2) levels, in 1/16 level."""
    # 2^(i / 5) as literals: libm does not give the same last bit everywhere.
    fifths = np.array([1.0, 1.148698354997035, 1.3195079107728942, 1.515716566510398, 1.7411011265922482])
    return np.array([4.0 * fifths[c % 5] * 2.0 ** (c // 5) for c in range(CLASSES)], np.float32)


CELLS = 256
"""Intensities are told apart in this many steps."""


def _choose_levels(planes: NDArray[np.uint16], max_value: int) -> bytes:
    """Return where a new intensity context begins: a count of bytes, and one bit for each cell.

    Contexts are dense where samples are many: each holds about the same sum of square roots of counts.
    """
    if planes.size < MIN_FOR_LEVELS:
        return b"\0"
    counts = np.bincount(planes.ravel(), minlength=max_value + 1)
    cells = np.zeros(CELLS, np.int64)
    np.add.at(cells, np.arange(max_value + 1) * CELLS // (max_value + 1), counts[: max_value + 1])
    roots = np.array([math.isqrt(int(c) << 16) for c in cells], dtype=np.int64)
    ends = np.cumsum(roots)
    middle = ends - roots // 2
    level = np.minimum(middle * kernel.LEVELS // max(int(ends[-1]), 1), kernel.LEVELS - 1)
    starts = np.diff(level, prepend=0) != 0
    return bytes([CELLS // 8]) + np.packbits(starts).tobytes()


def _read_levels(data: bytes, max_value: int) -> tuple[NDArray[np.int32], int]:
    """Return the intensity context of every sample value, and the bytes read."""
    cell = np.arange(max_value + 1) * CELLS // (max_value + 1)
    size = data[0] if data else 0
    if size == 0:
        return (cell * kernel.LEVELS // CELLS // 4).astype(np.int32), min(len(data), 1)
    if size != CELLS // 8 or len(data) < 1 + size:
        raise CorruptStreamError("the table of intensity contexts is damaged")
    starts = np.unpackbits(np.frombuffer(data, np.uint8, size, 1))
    return np.minimum(np.cumsum(starts), kernel.LEVELS - 1)[cell].astype(np.int32), 1 + size


class _Plane:
    """A padded plane and what later planes want to know about it."""

    def __init__(self, rows: int, columns: int) -> None:
        size = (rows + 2 * PAD) * (columns + 2 * PAD)
        self.samples = np.zeros(size, np.int32)
        self.residual = np.zeros(size, np.int32)
        self.final = np.zeros(size, np.int32)
        self.view = self.samples.reshape(rows + 2 * PAD, columns + 2 * PAD)[PAD:-PAD, PAD:-PAD]


def _last_uses(references: Sequence[int]) -> list[int]:
    """Return for each plane the last plane that looks at it (itself, if none)."""
    last = list(range(len(references)))
    for i, r in enumerate(references):
        if r >= 0:
            last[r] = i
            if references[r] >= 0:
                last[references[r]] = i
    return last


def _run(
    encode: bool,
    planes: NDArray[np.uint16],
    columns: int,
    max_value: int,
    level_of: NDArray[np.int32],
    references: Sequence[int],
    buffer: NDArray[np.uint8],
    registers: NDArray[np.int64],
) -> None:
    n, rows = planes.shape[:2]
    model = _Model(columns, level_of)
    last = _last_uses(references[:n])
    kept: dict[int, _Plane] = {}
    empty = _Plane(rows, columns)
    for i in range(n):
        current = _Plane(rows, columns)
        if encode:
            current.view[...] = planes[i]
        r = references[i]
        has_reference = r >= 0
        reference = kept[r] if has_reference else empty
        second = kept[references[r]] if has_reference and references[r] >= 0 else reference
        k = int(has_reference)
        model.lines[:] = 0
        kernel.code_plane(
            encode, current.samples, reference.samples, second.samples, has_reference,
            current.residual, reference.residual, current.final, reference.final,
            rows, columns, max_value, filters.TAPS,
            model.covariance[k], model.samples[k], model.fill[k], model.w_ols[k], model.w_pixel[k],
            model.w_residual[k], *model.learned, *model.scratch, model.lines, buffer, registers,
        )  # fmt: skip
        if not encode:
            planes[i] = current.view
        kept[i] = current
        for j in [j for j in kept if last[j] <= i]:
            del kept[j]


def _checked_references(references: Sequence[int] | None, n: int) -> list[int]:
    if references is None:
        return list(range(-1, n - 1))
    checked = [int(r) for r in references]
    if len(checked) != n or any(not -1 <= r < i for i, r in enumerate(checked)):
        raise ValueError("references must name an earlier plane, or -1, for every plane")
    return checked


def encode_planes(
    planes: NDArray[np.uint16], max_value: int, references: Sequence[int] | None = None
) -> bytes:
    """Encode planes in coding order; nothing of their number or shape is recorded.

    Parameters
    ----------
    planes : ndarray, shape (n, rows, columns), uint16; not modified
    max_value : int
        No sample is larger; at most 65535.
    references : sequence of n ints, optional
        `references[i] < i` is the plane that predicts plane i, -1 for none; None: the previous one.

    Raises
    ------
    ValueError
        If the references are not of this form or a sample is above `max_value`.
    """
    n, rows, columns = planes.shape
    references = _checked_references(references, n)
    if not 0 <= max_value <= 65535 or (planes.size and int(planes.max()) > max_value):
        raise ValueError(f"samples must be 0 to {max_value}, and {max_value} at most 65535")
    levels = _choose_levels(planes, max_value)
    level_of, _ = _read_levels(levels, max_value)
    capacity = planes.size * 5 // 2 + 4096
    while True:
        buffer = np.zeros(capacity, np.uint8)
        registers = binary_coder.encoder_registers()
        _run(True, planes, columns, max_value, level_of, references, buffer, registers)
        if registers[2] <= capacity:
            return levels + binary_coder.finish(buffer, registers)
        capacity = int(registers[2]) + 64


def decode_planes(
    data: bytes,
    shape: tuple[int, int, int],
    max_value: int,
    references: Sequence[int] | None = None,
    upto: int | None = None,
) -> NDArray[np.uint16]:
    """Decode planes 0 to `upto` - 1 (None: all); the other arguments as for `encode_planes`.

    A damaged stream gives planes of arbitrary samples: the caller keeps a checksum.

    Returns
    -------
    ndarray, shape (upto, rows, columns), uint16

    Raises
    ------
    CorruptStreamError
        If `max_value` is impossible.
    """
    n, rows, columns = shape
    references = _checked_references(references, n)
    if not 0 <= max_value <= 65535:
        raise CorruptStreamError(f"impossible largest sample {max_value}")
    planes = np.zeros((n if upto is None else min(upto, n), rows, columns), np.uint16)
    level_of, start = _read_levels(data, max_value)
    buffer = np.frombuffer(bytearray(data[start:]), np.uint8)
    registers = binary_coder.decoder_registers(bytes(data[start : start + 6]))
    _run(False, planes, columns, max_value, level_of, references, buffer, registers)
    return planes
