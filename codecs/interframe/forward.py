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
from dcmpress.codecs.interframe.labels import N_LABEL_CONTEXTS, label_values, read_labels
from dcmpress.codecs.interframe.side import SideReader, SideWriter

Array = NDArray[Any]

BATCH_SAMPLES = 200_000
MAX_TILE = 256
_NO_PLANE = np.zeros(0, np.int32)
_NO_ERRORS = np.zeros(0, np.uint16)

# Contexts of the side information of a batch header, and of a frame.
_MISC, _COEFFICIENT, _COUNT = 0, 1, 1 + predict.N_TAPS
_N_BATCH_CONTEXTS = _COUNT + 16
_LENGTH, _RUN, _LABEL = 1, 2, 3
_N_FRAME_CONTEXTS = _LABEL + N_LABEL_CONTEXTS

_INTRA_WEIGHTS = (56, 28, 28, 14, 14, 24, 8, 0, 0, 0)
_INTER_WEIGHTS = (32, 16, 16, 8, 8, 16, 0, 16, 8, 8)


@dataclass(frozen=True)
class Settings:
    """What an effort means to the encoder. The decoder reads all it needs from the stream."""

    tile: int
    classes: int
    row_step: int
    iterations: int
    mode_step: int
    spatial_taps: tuple[int, ...]
    reference_taps: tuple[int, ...]
    n_extra: int
    hold: int
    """Batches after the first that keep its classes."""


_NEAR = (1, 3, 4, 5, 6, 7, 10, 11, 12)
_WIDE = tuple(range(1, predict.N_SPATIAL))
FAST = Settings(32, 6, 8, 3, 8, _NEAR, tuple(range(17, 26)), 0, 0)
BALANCED = Settings(32, 12, 4, 6, 4, _WIDE, tuple(range(17, 30)), 1, 0)


@dataclass
class _Batch:
    """The parameters that the frames of a batch share."""

    tile: int
    n_extra: int
    shift: int
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
        self.reference = np.empty(self.size, np.int32)
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
        geometry.pad_reference(self.planes[j], self.reference, dy, dx)
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
    errors_shift = context.error_shift(max_value)
    n_extra = settings.n_extra if any(frames.references[i] >= 0 for i in members) else 0
    tile = settings.tile
    down, across = -(-rows // tile), -(-columns // tile)
    n_tiles = down * across
    line = geometry.stride(columns)

    current = np.empty(frames.size, np.int32)
    labels = np.zeros((len(members), down, across), np.int64)
    classes = [np.zeros((0, predict.N_TAPS), np.int32), np.zeros((0, predict.N_TAPS), np.int32)]
    for kind in (0, 1):
        users = [i for i in members if (frames.references[i] >= 0) == bool(kind)]
        if not users:
            continue
        taps = settings.spatial_taps
        if kind:
            taps += settings.reference_taps + tuple(
                range(predict.N_SPATIAL + len(predict.REFERENCE_TAPS), predict.N_TAPS)
            )[:n_extra]
        tap_frames = np.array([predict.TAPS[t][0] for t in taps], np.int64)
        tap_offsets = np.array([predict.TAPS[t][1] * line + predict.TAPS[t][2] for t in taps], np.int64)
        grams = np.empty((len(users) * n_tiles, len(taps) + 1, len(taps) + 1), np.float32)
        for k, i in enumerate(users):
            reference, extra = frames.planes_behind(i, n_extra)
            geometry.pad_current(frames.planes[i], current)
            fit.tile_grams(
                current, reference, extra, rows, columns, tile, settings.row_step,
                tap_frames, tap_offsets, grams[k * n_tiles : (k + 1) * n_tiles],
            )  # fmt: skip
        n_classes = max(1, min(settings.classes, len(users) * n_tiles // 8))
        vectors = np.zeros((n_classes, len(taps) + 1), np.float32)
        assignment = np.zeros(len(grams), np.int64)
        fit.cluster(grams, vectors, assignment, settings.iterations, False)
        classes[kind] = fit.quantise(vectors, np.array(taps), shift)
        for k, i in enumerate(users):
            chosen = assignment[k * n_tiles : (k + 1) * n_tiles]
            labels[i - members[0]] = chosen.reshape(down, across)

    residuals = np.empty((len(members), rows, columns), np.int32)
    error_maps = []
    for k, i in enumerate(members):
        kind = int(frames.references[i] >= 0)
        reference, extra = frames.planes_behind(i, n_extra)
        geometry.pad_current(frames.planes[i], current)
        errors = frames.new_errors(i)
        arguments = (
            residuals[k], errors, current, reference, n_extra if kind else 0, extra,
            tile, labels[k], classes[kind], shift, errors_shift,
        )  # fmt: skip
        worst = kernels.residual_frame(*arguments)
        changed = fit.choose_modes(
            current, reference, residuals[k], rows, columns, tile, settings.mode_step, labels[k], fit.COST
        )
        if worst >= 1 << 18:
            labels[k] = predict.MEDIAN
            changed = 1
        if changed:
            kernels.residual_frame(*arguments)
        error_maps.append(errors)

    level = int(error_maps[0][::7].mean(dtype=np.float64)) if error_maps else 0
    weights = [np.array(_INTRA_WEIGHTS, np.int32), np.array(_INTER_WEIGHTS, np.int32)]
    activities = np.empty((len(members), rows, columns), np.uint16)
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
    batch = _Batch(tile, n_extra, shift, classes, weights, level, thresholds, counts)

    steps = np.zeros(ans.N_CONTEXTS * ans.SLOTS, np.uint64)
    states = np.zeros((ans.N_CONTEXTS + 1) * ans.N_STATES, np.uint16)
    ans.build_encoder(counts, steps, states)
    words = np.empty((ans.N_STREAMS, ((rows * (columns + 3) // 4 + rows) * ans.MAX_SYMBOL_BITS) // 32 + 4), np.uint32)
    ends = np.empty((ans.N_STREAMS, 4), np.int64)
    records = []
    for k in range(len(members)):
        n_tokens, frame_runs = used[k]
        ans.write_streams(tokens[k, :n_tokens], lengths[k], steps, states, words, ends)
        streams = ans.finish_streams(words, ends)
        records.append(_frame_record(labels[k], frame_runs, n_tokens < rows * columns, streams))
    return _batch_header(batch), records


def _quantiles(population: Array) -> Array:
    """Return N_CONTEXTS - 1 thresholds: 1, then steps of equal population above it."""
    cumulative = np.cumsum(population[1:])
    total = int(cumulative[-1])
    n = ans.N_CONTEXTS - 1
    thresholds = np.ones(n, np.int32)
    for k in range(1, n):
        position = int(np.searchsorted(cumulative, total * k // n, side="right")) + 1
        thresholds[k] = max(thresholds[k - 1], min(position, context.MAX_ACTIVITY))
    return thresholds


def _batch_header(batch: _Batch) -> bytes:
    side = SideWriter(_N_BATCH_CONTEXTS)
    side.put(np.array([batch.tile - 1, batch.n_extra, batch.level]), _MISC)
    for classes, weights in zip(batch.classes, batch.weights, strict=True):
        side.put(len(classes), _MISC)
        if len(classes):
            side.put(weights, _MISC)
            tap = _COEFFICIENT + np.arange(1, predict.N_TAPS)
            for previous, vector in zip([np.zeros(predict.N_TAPS, np.int32), *classes], classes, strict=False):
                side.put_signed((vector - previous)[1:], tap)
    side.put(np.diff(batch.thresholds, prepend=0), _MISC)
    for counts in batch.counts:
        last = int(np.flatnonzero(counts)[-1])
        side.put(last, _MISC)
        side.put(counts[: last + 1], _count_contexts(counts[: last + 1]))
    return side.finish()


def _count_contexts(counts: Array) -> Array:
    """Return the context of each count: the bit length of the one before it."""
    before = np.concatenate(([0], counts[:-1]))
    return _COUNT + np.frexp(before.astype(np.float64))[1].clip(0, 15)


def _read_batch(data: memoryview, max_value: int) -> _Batch:
    side = SideReader(data, _N_BATCH_CONTEXTS)
    tile = side.one(_MISC) + 1
    n_extra = side.one(_MISC)
    level = side.one(_MISC)
    if tile > MAX_TILE or n_extra > predict.MAX_EXTRA or level > context.MAX_ERROR:
        raise CorruptStreamError("impossible batch parameters")
    shift = predict.coefficient_shift(max_value)
    all_classes, all_weights = [], []
    for _ in range(2):
        n_classes = side.one(_MISC)
        if n_classes > predict.MAX_CLASSES:
            raise CorruptStreamError(f"{n_classes} classes")
        classes = np.zeros((n_classes, predict.N_TAPS), np.int32)
        weights = np.zeros(context.N_WEIGHTS, np.int32)
        if n_classes:
            weights = side.take(context.N_WEIGHTS, _MISC).astype(np.int32)
            if weights.max() > 255:
                raise CorruptStreamError("impossible activity weight")
            tap = _COEFFICIENT + np.arange(1, predict.N_TAPS)
            differences = [side.take_signed(predict.N_TAPS - 1, tap) for _ in range(n_classes)]
            classes[:, 1:] = np.cumsum(differences, axis=0)
            classes[:, 0] = (1 << shift) - classes[:, 1:].sum(axis=1)
        all_classes.append(classes)
        all_weights.append(weights)
    thresholds = np.cumsum(side.take(ans.N_CONTEXTS - 1, _MISC)).astype(np.int32)
    counts = np.zeros((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    for row in counts:
        last = side.one(_MISC)
        if last >= ans.N_SYMBOLS:
            raise CorruptStreamError(f"symbol {last}")
        before = 0
        for symbol in range(last + 1):
            before = row[symbol] = side.one(_COUNT + min(int(before).bit_length(), 15))
    if (counts.sum(axis=1) != ans.N_STATES).any():
        raise CorruptStreamError("symbol counts do not fill their table")
    return _Batch(tile, n_extra, shift, all_classes, all_weights, level, thresholds, counts)


def _frame_record(labels: Array, runs: Array, skipping: bool, streams: list[bytes]) -> bytes:
    side = SideWriter(_N_FRAME_CONTEXTS)
    side.put(int(skipping), 0)
    if skipping:
        side.put(len(runs), 0)
        side.put(runs, _RUN)
    previous = 0
    for stream in streams[:-1]:
        high, low = divmod(len(stream), 1 << 12)
        side.put_signed(high - (previous >> 12), _LENGTH)
        side.put(low, 0)
        previous = len(stream)
    values = np.empty(labels.size, np.int64)
    contexts = np.empty(labels.size, np.uint16)
    label_values(labels, _LABEL, values, contexts)
    side.put(values, contexts)
    coded = side.finish()
    out = bytearray()
    put_varint(out, len(coded))
    return bytes(out) + coded + b"".join(streams)


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
    current = np.zeros(frames.size, np.int32)
    for b, (first, end) in enumerate(zip(starts, starts[1:], strict=False)):
        members = [i for i in range(first, end) if i in needed]
        if not members:
            continue
        batch = _read_batch(headers[b], max_value)
        table = np.empty(ans.N_CONTEXTS * ans.N_STATES, np.uint32)
        ans.build_decoder(batch.counts, table)
        for i in members:
            decoded[i] = _decode_frame(frames, i, batch, table, records[i], current, max_value)
            frames.drop_errors(i)
    return decoded


def _decode_frame(
    frames: _Frames, i: int, batch: _Batch, table: Array, record: memoryview, current: Array, max_value: int
) -> Array:
    rows, columns = frames.rows, frames.columns
    kind = int(frames.references[i] >= 0)
    tile = batch.tile
    reader = ByteReader(record)
    side = SideReader(reader.take(reader.varint(len(record))), _N_FRAME_CONTEXTS)
    skipping = side.one(0)
    runs = np.zeros(0, np.int64)
    if skipping:
        n_runs = side.one(0)
        if n_runs > rows * -(-columns // kernels.BLOCK):
            raise CorruptStreamError(f"{n_runs} runs")
        runs = side.take(n_runs, _RUN)
    lengths = []
    previous = 0
    for _ in range(ans.N_STREAMS - 1):
        high = (previous >> 12) + int(side.take_signed(1, _LENGTH)[0])
        previous = (high << 12) + side.one(0)
        lengths.append(previous)
    streams = reader.take(reader.left)
    starts = np.cumsum([0, *lengths, len(streams) - sum(lengths)])
    if (np.diff(starts) < 2).any():
        raise CorruptStreamError("stream lengths do not fit their frame")
    labels = np.zeros((-(-rows // tile), -(-columns // tile)), np.int64)
    read_labels(labels, _LABEL, side.probabilities, side.state, side.data)
    n_classes = len(batch.classes[kind])
    valid = (labels >= 0) & (labels < n_classes) | (labels == predict.MEDIAN)
    if kind:
        valid |= labels == predict.COPY
    if not valid.all():
        raise CorruptStreamError("label without coefficients")

    buffer = np.empty(len(streams) + ans.slack_bytes(columns), np.uint8)
    buffer[: len(streams)] = as_bytes(streams)
    buffer[len(streams) :] = 0
    reference, extra = frames.planes_behind(i, batch.n_extra if kind else 0)
    reference_errors = frames.errors_behind(i)
    exact = kernels.decode_frame(
        current, frames.new_errors(i), rows, columns, reference, reference_errors,
        batch.n_extra if kind else 0, extra, tile, labels, batch.classes[kind], batch.shift,
        context.error_shift(max_value), batch.weights[kind], batch.level, batch.thresholds, table,
        ans.SYMBOL_BASE, buffer, starts, runs, bool(skipping),
    )  # fmt: skip
    plane = np.empty((rows, columns), np.uint16)
    if not geometry.unpad(current, plane, max_value) or not exact:
        raise CorruptStreamError("frame does not decode: the stream is damaged")
    return plane
