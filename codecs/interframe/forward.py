"""The forward-adaptive core: the encoder fits predictors and sends them, the decoder is simple and fast.

A sequence of planes is cut into batches of at least BATCH_SAMPLES samples. A batch has one set of coefficient
classes for its frames without a reference and one for those with, one set of context thresholds and weights,
and one set of entropy tables. A frame has its own labels and four streams, found through an index: a frame
is decoded by decoding only the frames it refers to.

    varint        batches are implied by the geometry; varint length of each batch's header
    ...           varint length of each frame
    ...           batch headers, then frames
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs import ans
from dcmpress.codecs.bits import ByteReader, as_bytes, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import context, fit, geometry, kernels, predict
from dcmpress.codecs.interframe.records import (
    N_COUNT_CONTEXTS,
    N_FRAME_CONTEXTS,
    count_values,
    frame_values,
    read_counts,
    read_frame,
    valid_labels,
)
from dcmpress.codecs.interframe.side import SideReader, SideWriter, code_values

Array = NDArray[Any]

BATCH_SAMPLES = 1_000_000
MAX_TILE = 256
WEIGHT_TOTAL = 210
SMALL_FRAME = 1 << 15
_NO_PLANE = np.zeros(0, np.int32)
_NO_ERRORS = np.zeros(0, np.uint16)

# Contexts of the side information of a batch header, and of a frame.
_MISC, _COEFFICIENT, _COUNT = 0, 1, 1 + predict.N_TAPS
_N_BATCH_CONTEXTS = _COUNT + N_COUNT_CONTEXTS

_INTRA_WEIGHTS = (56, 28, 28, 14, 14, 24, 8, 0, 0, 0)
_INTER_WEIGHTS = (32, 16, 16, 8, 8, 16, 0, 16, 8, 8)


@dataclass(frozen=True)
class Settings:
    """What an effort means to the encoder. The decoder reads all it needs from the stream."""

    tile: int
    small_tile: int
    classes: int
    row_step: int
    iterations: int
    mode_step: int
    spatial_taps: tuple[int, ...]
    reference_taps: tuple[int, ...]
    n_extra: int
    learn_every: int
    """Tiles, of which one is looked at in finding the classes."""
    coarse: int
    """Fraction bits of coefficients not used."""
    weight_step: int
    """Rows, of which one is looked at in finding the weights of the activity; 0: the usual weights."""


_NEAR = (1, 3, 4, 5, 6, 7, 10, 11, 12)
_WIDE = tuple(range(1, predict.N_SPATIAL))
FAST = Settings(64, 32, 8, 16, 3, 8, _NEAR, tuple(range(17, 26)), 0, 1, 6, 0)
BALANCED = Settings(32, 32, 24, 4, 5, 4, _WIDE, tuple(range(17, 30)), 1, 1, 6, 16)


@dataclass
class _Batch:
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


def batch_starts(n: int, samples: int) -> list[int]:
    """Return the first frame of each batch, and `n`, for `n` frames of `samples` samples."""
    size = max(1, -(-BATCH_SAMPLES // samples))
    count = max(1, n // size)
    return [n * k // count for k in range(count)] + [n]


class _Frames:
    """Padded frames and error maps that later frames still need."""

    def __init__(
        self, planes: Array, references: Sequence[int], shifts: Sequence[tuple[int, int]] | None
    ) -> None:
        self.planes = planes
        self.references = references
        self.shifts = shifts
        _, self.rows, self.columns = planes.shape
        self.size = geometry.padded_size(self.rows, self.columns)
        self.errors: dict[int, Array] = {}
        self.last_use = {r: i for i, r in enumerate(references) if r >= 0}
        self.current = np.zeros(self.size, np.int32)
        self.reference = np.zeros(self.size, np.int32)
        self.inside = -1
        """Number of the frame that `reference` holds, unmoved."""
        self.extra = np.empty((predict.MAX_EXTRA, self.size), np.int32)
        self._spare: list[Array] = []

    def new_errors(self, i: int) -> Array:
        """Return an error map for frame `i`, kept until its last user is done."""
        errors = self._spare.pop() if self._spare else np.empty(self.size, np.uint16)
        errors[:] = 0
        self.errors[i] = errors
        return errors

    def drop_errors(self, i: int) -> None:
        """Frame `i` is done: forget the maps that no later frame needs."""
        reference = self.references[i]
        for j in (i, reference):
            if j >= 0 and self.last_use.get(j, -1) <= i and j in self.errors:
                self._spare.append(self.errors.pop(j))

    def pad(self, i: int) -> Array:
        """Return frame `i`, padded, in `current`."""
        geometry.pad_current(self.planes[i], self.current)
        return self.current

    def turn(self, i: int) -> None:
        """Frame `i` in `current` is done; keep it as the likely next reference."""
        if self.last_use.get(i, -1) > i:
            geometry.repeat_edges(self.current, self.rows, self.columns)
            self.current, self.reference = self.reference, self.current
            self.inside = i

    def errors_behind(self, i: int) -> Array:
        """Return the error map of the reference of frame `i`, moved with it."""
        j = self.references[i]
        if j < 0:
            return _NO_ERRORS
        errors = self.errors[j]
        dy, dx = self.shifts[i] if self.shifts else (0, 0)
        if dy or dx:
            moved = np.empty_like(errors)
            geometry.move_errors(errors, moved, self.rows, self.columns, dy, dx)
            errors = moved
        return errors

    def planes_behind(self, i: int, n_extra: int) -> tuple[Array, Array]:
        """Return the padded reference of frame `i` and the `n_extra` frames behind it."""
        j = self.references[i]
        if j < 0:
            return _NO_PLANE, self.extra
        dy, dx = self.shifts[i] if self.shifts else (0, 0)
        if j != self.inside or dy or dx:
            geometry.pad_reference(self.planes[j], self.reference, dy, dx)
            self.inside = -1 if dy or dx else j
        for k in range(n_extra):
            if self.references[j] >= 0:
                if self.shifts:
                    dy, dx = dy + self.shifts[j][0], dx + self.shifts[j][1]
                j = self.references[j]
            geometry.pad_reference(self.planes[j], self.extra[k], dy, dx)
        return self.reference, self.extra


def encode_planes(
    planes: Array,
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    settings: Settings,
) -> bytes:
    """Encode planes, uint16 (n, rows, columns) with values up to `max_value`, into bytes."""
    n, rows, columns = planes.shape
    frames = _Frames(planes, references, shifts)
    starts = batch_starts(n, rows * columns)
    headers: list[bytes] = []
    records: list[bytes] = []
    for first, end in zip(starts, starts[1:], strict=False):
        header, batch_records = _encode_batch(frames, range(first, end), max_value, settings)
        headers.append(header)
        records.extend(batch_records)
    out = bytearray()
    for header in headers:
        put_varint(out, len(header))
    for record in records:
        put_varint(out, len(record))
    return bytes(out) + b"".join(headers) + b"".join(records)


def _encode_batch(
    frames: _Frames, members: range, max_value: int, settings: Settings
) -> tuple[bytes, list[bytes]]:
    rows, columns = frames.rows, frames.columns
    shift = predict.coefficient_shift(max_value)
    coarse = settings.coarse - (13 - shift)
    errors_shift = context.error_shift(max_value)
    n_extra = settings.n_extra if any(frames.references[i] >= 0 for i in members) else 0
    tile = settings.tile if rows * columns > SMALL_FRAME else settings.small_tile
    down, across = -(-rows // tile), -(-columns // tile)
    n_tiles = down * across
    line = geometry.stride(columns)

    labels = np.zeros((len(members), down, across), np.int64)
    classes = [np.zeros((0, predict.N_TAPS), np.int32), np.zeros((0, predict.N_TAPS), np.int32)]
    for kind in (0, 1):
        users = [i for i in members if (frames.references[i] >= 0) == bool(kind)]
        if not users:
            continue
        taps = settings.spatial_taps
        if kind:
            taps += (
                settings.reference_taps
                + tuple(range(predict.N_SPATIAL + len(predict.REFERENCE_TAPS), predict.N_TAPS))[:n_extra]
            )
        tap_frames = np.array([predict.TAPS[t][0] for t in taps], np.int64)
        tap_offsets = np.array([predict.TAPS[t][1] * line + predict.TAPS[t][2] for t in taps], np.int64)
        grams = np.zeros((len(users) * n_tiles, fit.packed_size(len(taps))), np.float32)
        for k, i in enumerate(users):
            reference, extra = frames.planes_behind(i, n_extra)
            fit.tile_grams(
                frames.pad(i), reference, extra, rows, columns, tile, settings.row_step,
                tap_frames, tap_offsets, grams[k * n_tiles : (k + 1) * n_tiles],
            )  # fmt: skip
            frames.turn(i)
        n_classes = max(1, min(settings.classes, len(users) * n_tiles // 8))
        vectors = np.zeros((n_classes, len(taps) + 1), np.float32)
        assignment = np.zeros(len(grams), np.int64)
        fit.cluster(grams, vectors, assignment, settings.iterations, settings.learn_every)
        classes[kind] = fit.quantise(vectors, np.array(taps), shift, coarse)
        for k, i in enumerate(users):
            chosen = assignment[k * n_tiles : (k + 1) * n_tiles]
            labels[i - members[0]] = chosen.reshape(down, across)

    residuals = np.empty((len(members), rows, columns), np.int32)
    error_maps = []
    for k, i in enumerate(members):
        kind = int(frames.references[i] >= 0)
        reference, extra = frames.planes_behind(i, n_extra)
        current = frames.pad(i)
        errors = frames.new_errors(i)
        extras = n_extra if kind else 0
        wide = predict.is_wide(classes[kind])
        fit.choose_modes(
            current, reference, extras, extra, rows, columns, tile, settings.mode_step,
            labels[k], classes[kind], shift, wide, fit.COST,
        )  # fmt: skip
        arguments = (
            residuals[k], errors, current, reference, extras, extra,
            tile, labels[k], classes[kind], shift, wide, errors_shift,
        )  # fmt: skip
        if kernels.residual_frame(*arguments) >= 1 << 18:
            labels[k] = predict.MEDIAN
            kernels.residual_frame(*arguments)
        frames.turn(i)
        error_maps.append(errors)

    level = int(error_maps[0][::7].mean(dtype=np.float64)) if error_maps else 0
    weights = [
        _activity_weights(frames, members, error_maps, kind, settings.weight_step) for kind in (0, 1)
    ]
    activities = np.empty((len(members), rows, columns), np.int16)
    population = np.zeros(context.MAX_ACTIVITY + 1, np.int64)
    for k, i in enumerate(members):
        kind = int(frames.references[i] >= 0)
        reference_errors = frames.errors_behind(i)
        kernels.activity_frame(
            activities[k], error_maps[k], reference_errors, weights[kind], level, population
        )
    for i in members:
        frames.drop_errors(i)
    thresholds = _quantiles(population)

    histogram = np.zeros(ans.N_CONTEXTS * ans.SLOTS, np.int64)
    blocks = rows * -(-columns // kernels.BLOCK) + 1
    tokens = np.empty((len(members), rows * columns), np.uint32)
    lengths = np.empty((len(members), rows), np.int64)
    runs = np.empty(blocks, np.int64)
    used: list[tuple[int, Array]] = []
    for k in range(len(members)):
        n_tokens, n_runs = kernels.token_frame(
            tokens[k], lengths[k], runs, activities[k], residuals[k], thresholds, histogram
        )
        used.append((n_tokens, runs[:n_runs].copy()))
    counts = np.empty((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    ans.normalise(histogram.reshape(ans.N_CONTEXTS, ans.SLOTS), counts)
    batch = _Batch(tile, n_extra, shift, coarse, classes, weights, level, thresholds, counts)

    steps = np.zeros(ans.N_CONTEXTS * ans.SLOTS, np.uint64)
    states = np.zeros((ans.N_CONTEXTS + 1) * ans.N_STATES, np.uint16)
    ans.build_encoder(counts, steps, states)
    words = np.empty(
        (ans.N_STREAMS, ((rows * (columns + 3) // 4 + rows) * ans.MAX_SYMBOL_BITS) // 32 + 4), np.uint32
    )
    ends = np.empty((ans.N_STREAMS, 4), np.int64)
    records = []
    for k in range(len(members)):
        n_tokens, frame_runs = used[k]
        ans.write_streams(tokens[k, :n_tokens], lengths[k], steps, states, words, ends)
        streams = ans.finish_streams(words, ends)
        records.append(_frame_record(labels[k], frame_runs, n_tokens < rows * columns, streams))
    return _batch_header(batch), records


def _activity_weights(
    frames: _Frames, members: range, error_maps: list[Array], kind: int, step: int
) -> Array:
    """Return the weights of the activity of frames without (0) or with (1) a reference."""
    usual = np.array(_INTER_WEIGHTS if kind else _INTRA_WEIGHTS, np.uint16)
    if not step:
        return usual
    matrix = np.zeros((context.N_WEIGHTS + 1, context.N_WEIGHTS + 1))
    for i, errors in zip(members, error_maps, strict=True):
        if (frames.references[i] >= 0) == bool(kind):
            behind = frames.errors_behind(i)
            fit.context_equations(errors, behind, frames.rows, frames.columns, step, matrix)
    fitted = fit.fit_weights(matrix, context.WEIGHT_USES, WEIGHT_TOTAL)
    return usual if fitted is None else fitted.astype(np.uint16)


def _quantiles(population: Array) -> Array:
    """Return N_CONTEXTS - 1 thresholds: 1, then steps of equal population above it."""
    cumulative = np.cumsum(population[1:])
    total = int(cumulative[-1])
    n = ans.N_CONTEXTS - 1
    thresholds = np.ones(n, np.int16)
    for k in range(1, n):
        position = int(np.searchsorted(cumulative, total * k // n, side="right")) + 1
        thresholds[k] = max(thresholds[k - 1], min(position, context.MAX_ACTIVITY))
    return thresholds


def _batch_header(batch: _Batch) -> bytes:
    side = SideWriter(_N_BATCH_CONTEXTS)
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


def _read_batch(data: memoryview, max_value: int) -> _Batch:
    side = SideReader(data, _N_BATCH_CONTEXTS)
    tile = side.one(_MISC) + 1
    n_extra = side.one(_MISC)
    level = side.one(_MISC)
    coarse = side.one(_MISC)
    if tile > MAX_TILE or n_extra > predict.MAX_EXTRA or level > context.MAX_ERROR or coarse > 8:
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
    return _Batch(tile, n_extra, shift, coarse, all_classes, all_weights, level, thresholds, counts)


def _frame_record(labels: Array, runs: Array, skipping: bool, streams: list[bytes]) -> bytes:
    lengths = np.array([len(stream) for stream in streams[:-1]], np.int64)
    values = np.empty(len(runs) + 2 * len(lengths) + labels.size + 2, np.int64)
    contexts = np.empty(len(values), np.uint16)
    n = frame_values(labels, runs, skipping, lengths, values, contexts)
    side = code_values(values[:n], contexts[:n], N_FRAME_CONTEXTS)
    out = bytearray()
    put_varint(out, len(side))
    return b"".join((out, side, *streams))


def decode_planes(
    data: memoryview | bytes,
    n: int,
    rows: int,
    columns: int,
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    select: Sequence[int],
) -> dict[int, Array]:
    """Decode the planes in `select`, and those they refer to; return them all by number.

    Raises
    ------
    CorruptStreamError
        If `data` was not written by `encode_planes` for this geometry.
    """
    reader = ByteReader(data)
    starts = batch_starts(n, rows * columns)
    header_lengths = [reader.varint(1 << 32) for _ in starts[1:]]
    record_lengths = [reader.varint(1 << 32) for _ in range(n)]
    headers = [reader.take(length) for length in header_lengths]
    records = [reader.take(length) for length in record_lengths]

    needed: set[int] = set()
    for i in select:
        while i >= 0 and i not in needed:
            needed.add(i)
            i = references[i]
    wanted = [r if i in needed else -1 for i, r in enumerate(references)]
    decoded: dict[int, Array] = {}
    frames = _Frames(np.empty((0, rows, columns), np.uint16), wanted, shifts)
    frames.planes = decoded  # type: ignore[assignment]
    for b, (first, end) in enumerate(zip(starts, starts[1:], strict=False)):
        members = [i for i in range(first, end) if i in needed]
        if not members:
            continue
        batch = _read_batch(headers[b], max_value)
        table = np.empty(ans.N_CONTEXTS * ans.N_STATES, np.uint32)
        ans.build_decoder(batch.counts, table)
        for i in members:
            decoded[i] = _decode_frame(frames, i, batch, table, records[i], max_value)
            frames.drop_errors(i)
            frames.turn(i)
    return decoded


def _decode_frame(
    frames: _Frames, i: int, batch: _Batch, table: Array, record: memoryview, max_value: int
) -> Array:
    rows, columns = frames.rows, frames.columns
    kind = int(frames.references[i] >= 0)
    tile = batch.tile
    reader = ByteReader(record)
    side = SideReader(reader.take(reader.varint(len(record))), N_FRAME_CONTEXTS)
    labels = np.empty((-(-rows // tile), -(-columns // tile)), np.int64)
    runs = np.empty(rows * -(-columns // kernels.BLOCK), np.int64)
    lengths = np.zeros(ans.N_STREAMS + 1, np.int64)
    n_runs = read_frame(labels, runs, lengths[1:-1], side.probabilities, side.state, side.data)
    streams = reader.take(reader.left)
    lengths[-1] = len(streams) - lengths[:-1].sum()
    if n_runs < -1 or lengths[1:].min() < 2:
        raise CorruptStreamError("frame record does not fit its frame")
    starts = np.cumsum(lengths)
    n_classes = len(batch.classes[kind])
    if not valid_labels(labels, n_classes, predict.COPY if kind else predict.MEDIAN, predict.NORTH):
        raise CorruptStreamError("label without coefficients")

    buffer = np.empty(len(streams) + ans.slack_bytes(columns), np.uint8)
    buffer[: len(streams)] = as_bytes(streams)
    buffer[len(streams) :] = 0
    reference, extra = frames.planes_behind(i, batch.n_extra if kind else 0)
    reference_errors = frames.errors_behind(i)
    current = frames.current
    exact = kernels.decode_frame(
        current, frames.new_errors(i), rows, columns, reference, reference_errors,
        batch.n_extra if kind else 0, extra, tile, labels, batch.classes[kind], batch.shift,
        predict.is_wide(batch.classes[kind]), context.error_shift(max_value), batch.weights[kind], batch.level, batch.thresholds, table,
        ans.SYMBOL_BASE, buffer, starts, runs[: max(n_runs, 0)], n_runs >= 0,
    )  # fmt: skip
    plane = np.empty((rows, columns), np.uint16)
    if not geometry.unpad(current, plane, max_value) or not exact:
        raise CorruptStreamError("frame does not decode: the stream is damaged")
    return plane
