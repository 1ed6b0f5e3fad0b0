"""The backward-adaptive core of `interframe`: planes of 16-bit samples to bytes and back.

Encoder and decoder run the same kernel and learn the same things as they go; no predictor is transmitted.
The format and the algorithm are in `docs/codec-dense.md`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import backward_filters as filters
from dcmpress.codecs.interframe import backward_kernel as kernel
from dcmpress.codecs.interframe import binary_coder
from dcmpress.codecs.interframe.backward_guess import samples_recur
from dcmpress.codecs.interframe.backward_levels import choose_levels, read_levels
from dcmpress.codecs.interframe.backward_model import Model, PlaneMemory

TRIAL_SIZE = 64
"""Rows and columns of the part on which guesses are tried, where a trial is needed."""
REVISION = 2
"""What is written; 1 is read for ever."""


def encode_planes(
    planes: NDArray[np.uint16],
    max_value: int,
    references: Sequence[int] | None = None,
    *,
    revision: int = REVISION,
) -> bytes:
    """Encode planes in coding order; their number, shape, references and the revision are not recorded.

    Parameters
    ----------
    planes : ndarray, shape (n, rows, columns), uint16; not modified
    max_value : int
        No sample is larger; at most 65535.
    references : sequence of n ints, optional
        `references[i] < i` is the plane that predicts plane i, -1 for none; None: the previous one.
    revision : {1, 2}
        Of the format.

    Raises
    ------
    ValueError
        If the references are not of this form or a sample is above `max_value`.
    """
    checked = _checked_references(references, len(planes))
    if not 0 <= max_value <= 65535 or (planes.size and int(planes.max()) > max_value):
        raise ValueError(f"samples must be 0 to {max_value}, and {max_value} at most 65535")
    guesses = revision > 1 and _worth_guessing(planes, max_value, checked)
    return _encode(planes, max_value, checked, revision, guesses)


def _worth_guessing(planes: NDArray[np.uint16], max_value: int, references: list[int]) -> bool:
    """Return whether guesses at whole samples pay, by the middle plane."""
    middle = len(planes) // 2
    if not planes.size or not samples_recur(planes[middle]):
        return False
    if references[middle] < 0:
        return True
    # The reference may say it all without guesses: try.
    _, rows, columns = planes.shape
    top, left = max(0, (rows - TRIAL_SIZE) // 2), max(0, (columns - TRIAL_SIZE) // 2)
    part = planes[[references[middle], middle], top : top + TRIAL_SIZE, left : left + TRIAL_SIZE]
    with_guesses, without = (len(_encode(part, max_value, [-1, 0], REVISION, g)) for g in (True, False))
    return with_guesses < without


def _encode(
    planes: NDArray[np.uint16], max_value: int, references: list[int], revision: int, guesses: bool
) -> bytes:
    levels = choose_levels(planes, max_value)
    level_of, _ = read_levels(levels, max_value)
    head = levels if revision == 1 else bytes([guesses]) + levels
    capacity = planes.size * 5 // 2 + 4096
    while True:
        buffer = np.zeros(capacity, np.uint8)
        registers = binary_coder.encoder_registers()
        _run(True, planes, max_value, level_of, references, buffer, registers, revision, guesses)
        if registers[2] <= capacity:
            return head + binary_coder.finish(buffer, registers)
        # Noise can take more than the buffer has; the kernel has counted how much.
        capacity = int(registers[2])


def decode_planes(
    data: bytes,
    shape: tuple[int, int, int],
    max_value: int,
    references: Sequence[int] | None = None,
    upto: int | None = None,
    *,
    revision: int = REVISION,
) -> NDArray[np.uint16]:
    """Decode planes 0 to `upto` - 1 (None: all); the other arguments as for `encode_planes`.

    A damaged stream gives planes of arbitrary samples: the caller keeps a checksum.

    Returns
    -------
    ndarray, shape (upto, rows, columns), uint16

    Raises
    ------
    CorruptStreamError
        If what `data` starts with, flags and table of intensity contexts, is cut off or impossible.
    ValueError
        If the references are not of the form that `encode_planes` takes, or `max_value` is impossible.
    """
    n, rows, columns = shape
    checked = _checked_references(references, n)
    if not 0 <= max_value <= 65535:
        raise ValueError(f"the largest sample must be 0 to 65535, not {max_value}")
    guesses = False
    if revision > 1:
        if not data or data[0] > 1:
            raise CorruptStreamError("the flags of the dense core are missing or unknown")
        guesses = bool(data[0])
        data = data[1:]
    level_of, start = read_levels(data, max_value)
    planes = np.zeros((n if upto is None else min(upto, n), rows, columns), np.uint16)
    buffer = np.frombuffer(bytearray(data[start:]), np.uint8)
    registers = binary_coder.decoder_registers(bytes(data[start : start + 6]))
    _run(False, planes, max_value, level_of, checked, buffer, registers, revision, guesses)
    return planes


def _run(
    encode: bool,
    planes: NDArray[np.uint16],
    max_value: int,
    level_of: NDArray[np.int32],
    references: Sequence[int],
    buffer: NDArray[np.uint8],
    registers: NDArray[np.int64],
    revision: int,
    guesses: bool,
) -> None:
    n, rows, columns = planes.shape
    model = Model(columns, level_of, guesses)
    last_use = _last_uses(references[:n])
    kept: dict[int, PlaneMemory] = {}
    for i in range(n):
        current = PlaneMemory(rows, columns)
        if encode:
            current.inside[...] = planes[i]
        r = references[i]
        # Without a reference the kernel wants arrays all the same; it makes nothing of what is in them.
        reference = kept[r] if r >= 0 else current
        second = kept[references[r]] if r >= 0 and references[r] >= 0 else reference
        model.lines[:] = 0
        kernel.code_plane(
            encode, revision > 1, guesses, current.samples, reference.samples, second.samples, r >= 0,
            current.residual, reference.residual, current.final, reference.final,
            rows, columns, max_value, filters.TAPS,
            *model.predictor(r >= 0), *model.learned, *model.guesses, *model.scratch, model.lines, buffer, registers,
        )  # fmt: skip
        if not encode:
            planes[i] = current.inside
        kept[i] = current
        for j in [j for j in kept if last_use[j] <= i]:
            del kept[j]


def _last_uses(references: Sequence[int]) -> list[int]:
    """Return for each plane the last plane that looks at it, as reference or as reference's reference."""
    last = list(range(len(references)))
    for i, r in enumerate(references):
        if r >= 0:
            last[r] = i
            if references[r] >= 0:
                last[references[r]] = i
    return last


def _checked_references(references: Sequence[int] | None, n: int) -> list[int]:
    if references is None:
        return list(range(-1, n - 1))
    checked = [int(r) for r in references]
    if len(checked) != n or any(not -1 <= r < i for i, r in enumerate(checked)):
        raise ValueError("references must name an earlier plane, or -1, for every plane")
    return checked
