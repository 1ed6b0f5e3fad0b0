"""What the frames of a batch share, as the bytes of a batch header."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs import ans
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import context, predict
from dcmpress.codecs.interframe.records import N_COUNT_CONTEXTS, count_values, read_counts
from dcmpress.codecs.interframe.side import SideReader, SideWriter

Array = NDArray[Any]

BATCH_SAMPLES = 1_000_000
MAX_TILE = 256
MAX_COARSE = 8
_MISC, _COEFFICIENT, _COUNT = 0, 1, 1 + predict.N_TAPS
_N_CONTEXTS = _COUNT + N_COUNT_CONTEXTS


@dataclass
class Batch:
    """The parameters that the frames of a batch share."""

    tile: int
    n_extra: int
    shift: int
    coarse: int
    classes: list[Array]
    """Without a reference, with one: int32 (classes, N_TAPS); empty if no frame needs it."""
    weights: list[Array]
    level: int
    thresholds: Array
    counts: Array

    def __post_init__(self) -> None:
        self.wide = [predict.is_wide(classes) for classes in self.classes]


def batch_starts(n: int, samples: int) -> list[int]:
    """Return the first frame of each batch, and `n`, for `n` frames of `samples` samples."""
    size = max(1, -(-BATCH_SAMPLES // samples))
    count = max(1, n // size)
    return [n * k // count for k in range(count)] + [n]


def write_header(batch: Batch) -> bytes:
    """Return the header of a batch."""
    side = SideWriter(_N_CONTEXTS)
    side.put(np.array([batch.tile - 1, batch.n_extra, batch.level, batch.coarse]), _MISC)
    for classes, weights in zip(batch.classes, batch.weights, strict=True):
        side.put(len(classes), _MISC)
        if len(classes):
            side.put(weights, _MISC)
            tap = _COEFFICIENT + np.arange(1, predict.N_TAPS)
            steps = np.diff(classes[:, 1:] >> batch.coarse, axis=0, prepend=0)
            side.put_signed(steps.reshape(-1), np.tile(tap, len(classes)))
    side.put(np.diff(batch.thresholds, prepend=0), _MISC)
    values = np.empty(batch.counts.size + ans.N_CONTEXTS, np.int64)
    contexts = np.empty(len(values), np.uint16)
    n = count_values(batch.counts, _COUNT, values, contexts)
    side.put(values[:n], contexts[:n])
    return side.finish()


def read_header(data: memoryview, max_value: int) -> Batch:
    """Read what `write_header` wrote; CorruptStreamError if a field is out of its range."""
    side = SideReader(data, _N_CONTEXTS)
    tile = side.one(_MISC) + 1
    n_extra = side.one(_MISC)
    level = side.one(_MISC)
    coarse = side.one(_MISC)
    if tile > MAX_TILE or n_extra > predict.MAX_EXTRA or level > context.MAX_ERROR or coarse > MAX_COARSE:
        raise CorruptStreamError("impossible batch parameters")
    shift = predict.coefficient_shift(max_value)
    all_classes, all_weights = [], []
    for _ in range(2):
        n_classes = side.one(_MISC)
        if n_classes > predict.MAX_CLASSES:
            raise CorruptStreamError(f"{n_classes} classes")
        classes = np.zeros((n_classes, predict.N_TAPS), np.int32)
        weights = np.zeros(context.N_WEIGHTS, np.uint16)
        if n_classes:
            weights = side.take(context.N_WEIGHTS, _MISC)
            if int(weights @ context.WEIGHT_USES) > context.MAX_WEIGHT_SUM:
                raise CorruptStreamError("impossible activity weight")
            weights = weights.astype(np.uint16)
            tap = _COEFFICIENT + np.arange(1, predict.N_TAPS)
            steps = side.take_signed(n_classes * (predict.N_TAPS - 1), np.tile(tap, n_classes))
            classes[:, 1:] = np.cumsum(steps.reshape(n_classes, -1), axis=0) << coarse
            classes[:, 0] = (1 << shift) - classes[:, 1:].sum(axis=1)
        all_classes.append(classes)
        all_weights.append(weights)
    thresholds = np.cumsum(side.take(ans.N_CONTEXTS - 1, _MISC)).clip(0, 1 << 14).astype(np.int16)
    counts = np.zeros((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    if not read_counts(counts, ans.N_SYMBOLS, _COUNT, side.probabilities, side.state, side.data):
        raise CorruptStreamError("symbol out of range")
    if (counts.sum(axis=1) != ans.N_STATES).any():
        raise CorruptStreamError("symbol counts do not fill their table")
    return Batch(tile, n_extra, shift, coarse, all_classes, all_weights, level, thresholds, counts)
