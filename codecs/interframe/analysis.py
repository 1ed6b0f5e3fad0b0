"""What the forward encoder decides for a batch: classes, labels, contexts, tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs import ans
from dcmpress.codecs.bits import put_varint
from dcmpress.codecs.interframe import context, fit, geometry, kernels, predict
from dcmpress.codecs.interframe.batch import Batch, write_header
from dcmpress.codecs.interframe.records import N_FRAME_CONTEXTS, frame_values
from dcmpress.codecs.interframe.side import code_values
from dcmpress.codecs.interframe.window import Window

Array = NDArray[Any]

SMALL_FRAME = 1 << 15
"""Samples up to which a frame has small tiles and looks at the frames behind its reference."""
_TILES_PER_CLASS = 8
_WORST = 1 << 18
"""Residuals from here on might not fit a token; predictions by a neighbour never get there."""

_WEIGHT_TOTAL = 210
_INTRA_WEIGHTS = (56, 28, 28, 14, 14, 24, 8, 0, 0, 0)
_INTER_WEIGHTS = (32, 16, 16, 8, 8, 16, 0, 16, 8, 8)


@dataclass(frozen=True)
class Settings:
    """What an effort means to the encoder. The decoder reads all it needs from the stream."""

    tile: int
    small_tile: int
    classes: int
    row_step: int
    """Rows of a tile, of which one is looked at in fitting coefficients."""
    iterations: int
    warm_iterations: int
    """The same, where the batch before left classes to start from."""
    mode_step: int
    """Rows of a tile, of which one is looked at in choosing between a class and the other labels."""
    spatial_taps: tuple[int, ...]
    reference_taps: tuple[int, ...]
    n_extra: int
    """Frames behind the reference that small frames look at."""
    weight_step: int
    """Rows, of which one is looked at in finding the weights of the activity; 0: the usual weights."""
    coarse: int = 6
    """Of the 13 fraction bits of coefficients, those not used."""


FAST = Settings(
    tile=64,
    small_tile=32,
    classes=8,
    row_step=8,
    iterations=2,
    warm_iterations=2,
    mode_step=8,
    spatial_taps=(1, 3, 4, 5, 6, 7, 10, 11, 12),
    reference_taps=tuple(range(17, 26)),
    n_extra=0,
    weight_step=0,
)
BALANCED = Settings(
    tile=32,
    small_tile=32,
    classes=56,
    row_step=2,
    iterations=4,
    warm_iterations=2,
    mode_step=2,
    spatial_taps=tuple(range(1, predict.N_SPATIAL)),
    reference_taps=tuple(range(17, 26)),
    n_extra=2,
    weight_step=24,
)


@dataclass
class _Choice:
    """What is known of a batch so far."""

    frames: Window
    members: range
    settings: Settings
    tile: int
    n_extra: int
    shift: int
    coarse: int
    errors_shift: int
    labels: Array
    """int64 (members, tiles down, tiles across)."""
    classes: list[Array]

    def kind(self, i: int) -> int:
        """Return 1 if frame `i` has a reference, else 0."""
        return int(self.frames.references[i] >= 0)


def encode_batch(
    frames: Window, members: range, max_value: int, settings: Settings
) -> tuple[bytes, list[bytes]]:
    """Return the header of the batch of frames `members`, and the record of each."""
    small = frames.rows * frames.columns <= SMALL_FRAME
    tile = settings.small_tile if small else settings.tile
    shift = predict.coefficient_shift(max_value)
    down, across = -(-frames.rows // tile), -(-frames.columns // tile)
    choice = _Choice(
        frames,
        members,
        settings,
        tile,
        settings.n_extra if small else 0,
        shift,
        settings.coarse - (13 - shift),
        context.error_shift(max_value),
        np.zeros((len(members), down, across), np.int64),
        [np.zeros((0, predict.N_TAPS), np.int32), np.zeros((0, predict.N_TAPS), np.int32)],
    )
    for kind in (0, 1):
        users = [i for i in members if choice.kind(i) == kind]
        if users:
            _fit_classes(choice, kind, users)
    residuals, error_maps = _predict(choice)
    level = int(error_maps[0][::7].mean(dtype=np.float64))
    weights, activities, population = _activities(choice, error_maps, level)
    for i in members:
        frames.drop_errors(i)
    thresholds = _thresholds(population)
    counts, records = _entropy_code(choice.labels, residuals, activities, thresholds)
    batch = Batch(
        tile, choice.n_extra, shift, choice.coarse, choice.classes, weights, level, thresholds, counts
    )
    return write_header(batch), records


def _fit_classes(choice: _Choice, kind: int, users: list[int]) -> None:
    """Find the classes of the frames `users`, and the best class for each of their tiles."""
    frames, settings, tile = choice.frames, choice.settings, choice.tile
    taps = settings.spatial_taps
    if kind:
        behind = tuple(range(predict.N_SPATIAL + len(predict.REFERENCE_TAPS), predict.N_TAPS))
        taps += settings.reference_taps + behind[: choice.n_extra]
    line = geometry.stride(frames.columns)
    tap_frames = np.array([predict.TAPS[t][0] for t in taps], np.int64)
    tap_offsets = np.array([predict.TAPS[t][1] * line + predict.TAPS[t][2] for t in taps], np.int64)
    n_tiles = choice.labels[0].size
    grams = np.zeros((len(users) * n_tiles, fit.packed_size(len(taps))), np.float32)
    for k, i in enumerate(users):
        reference, extra = frames.planes_behind(i, choice.n_extra)
        fit.tile_grams(
            frames.pad(i), reference, extra, frames.rows, frames.columns, tile,
            min(settings.row_step, tile // 4), tap_frames, tap_offsets, grams[k * n_tiles : (k + 1) * n_tiles],
        )  # fmt: skip
        frames.turn(i)
    # Flat tiles would take classes from those with something in them; any class predicts them.
    busy = np.flatnonzero(grams[:, fit.packed_length(len(taps)) - 1])
    if len(busy) < len(grams):
        grams = grams[busy]
    n_classes = max(1, min(settings.classes, len(grams) // _TILES_PER_CLASS))
    vectors = frames.classes.get(kind)
    warm = vectors is not None and vectors.shape == (n_classes, len(taps) + 1)
    if vectors is None or not warm:
        vectors = np.zeros((n_classes, len(taps) + 1), np.float32)
    assignment = np.zeros(len(grams), np.int64)
    rounds = settings.warm_iterations if warm else settings.iterations
    fit.cluster(grams, vectors, assignment, rounds, warm)
    classes = fit.quantise(vectors, np.array(taps), choice.shift, choice.coarse)
    order = fit.similar_order(classes)
    all_labels = np.zeros(len(users) * n_tiles, np.int64)
    all_labels[busy] = np.argsort(order)[assignment]
    frames.classes[kind] = vectors[order]
    choice.classes[kind] = classes[order]
    for k, i in enumerate(users):
        labels = choice.labels[i - choice.members[0]]
        labels[...] = all_labels[k * n_tiles : (k + 1) * n_tiles].reshape(labels.shape)


def _predict(choice: _Choice) -> tuple[Array, list[Array]]:
    """Settle the labels; return the residuals, int32 (members, rows, columns), and the error maps."""
    frames = choice.frames
    residuals = np.empty((len(choice.members), frames.rows, frames.columns), np.int32)
    error_maps = []
    for k, i in enumerate(choice.members):
        kind = choice.kind(i)
        reference, extra = frames.planes_behind(i, choice.n_extra)
        current = frames.pad(i)
        errors = frames.new_errors(i)
        n_extra = choice.n_extra if kind else 0
        classes = choice.classes[kind]
        labels = choice.labels[k]
        wide = predict.is_wide(classes)
        fit.choose_modes(
            current, reference, n_extra, extra, frames.rows, frames.columns, choice.tile,
            choice.settings.mode_step, labels, classes, choice.shift, wide, fit.COST,
        )  # fmt: skip
        arguments = (
            residuals[k], errors, current, reference, n_extra, extra,
            choice.tile, labels, classes, choice.shift, wide, choice.errors_shift,
        )  # fmt: skip
        if kernels.residual_frame(*arguments) >= _WORST:
            labels[...] = predict.MEDIAN
            kernels.residual_frame(*arguments)
        frames.turn(i)
        error_maps.append(errors)
    return residuals, error_maps


def _activities(choice: _Choice, error_maps: list[Array], level: int) -> tuple[list[Array], Array, Array]:
    """Return the weights of each kind, the activities, int16 (members, rows, columns), and their counts."""
    frames = choice.frames
    weights = [_activity_weights(choice, error_maps, kind) for kind in (0, 1)]
    activities = np.empty((len(choice.members), frames.rows, frames.columns), np.int16)
    population = np.zeros(context.MAX_ACTIVITY + 1, np.int64)
    for k, i in enumerate(choice.members):
        behind = frames.errors_behind(i)
        kernels.activity_frame(
            activities[k], error_maps[k], behind, weights[choice.kind(i)], level, population
        )
    return weights, activities, population


def _activity_weights(choice: _Choice, error_maps: list[Array], kind: int) -> Array:
    """Return the weights of the activity of frames without (0) or with (1) a reference."""
    usual = np.array(_INTER_WEIGHTS if kind else _INTRA_WEIGHTS, np.uint16)
    frames, step = choice.frames, choice.settings.weight_step
    if not step:
        return usual
    matrix = np.zeros((context.N_WEIGHTS + 1, context.N_WEIGHTS + 1))
    for i, errors in zip(choice.members, error_maps, strict=True):
        if choice.kind(i) == kind:
            behind = frames.errors_behind(i)
            fit.context_equations(errors, behind, frames.rows, frames.columns, step, matrix)
    fitted = fit.fit_weights(matrix, context.WEIGHT_USES, _WEIGHT_TOTAL)
    return usual if fitted is None else fitted.astype(np.uint16)


def _thresholds(population: Array) -> Array:
    """Return N_CONTEXTS - 1 thresholds of the activity: 1, then closer together where more samples are.

    A context that holds errors of several scales loses by their ratios, so thresholds lie by the logarithm of the
    activity, with the square root of the population's density there: steps of equal population would split
    what is alike already, and leave together what is rare and far apart.
    """
    activity = np.arange(1, len(population)) + 8
    octave = np.frexp(activity)[1] - 4
    eighth = (activity >> octave) - 8
    part = 8 * octave + eighth
    counts = np.bincount(part, population[1:])
    width = np.zeros(len(counts))
    width[part] = 1 / (2 * eighth + 17)
    share = np.sqrt(counts * width) / np.maximum(counts, 1)
    cumulative = np.cumsum(population[1:] * share[part])
    total = cumulative[-1]
    n = ans.N_CONTEXTS - 1
    thresholds = np.ones(n, np.int16)
    for k in range(1, n):
        position = int(np.searchsorted(cumulative, total * k / n, side="right")) + 1
        thresholds[k] = max(thresholds[k - 1], min(position, context.MAX_ACTIVITY))
    return thresholds


def _entropy_code(
    labels: Array, residuals: Array, activities: Array, thresholds: Array
) -> tuple[Array, list[bytes]]:
    """Return the symbol counts of the batch, and the record of each frame."""
    n, rows, columns = residuals.shape
    histogram = np.zeros(ans.N_CONTEXTS * ans.SLOTS, np.int64)
    tokens = np.empty((n, rows * columns), np.uint32)
    lengths = np.empty((n, rows), np.int64)
    runs = np.empty(rows * -(-columns // kernels.BLOCK) + 1, np.int64)
    used: list[tuple[int, Array]] = []
    for k in range(n):
        n_tokens, n_runs = kernels.token_frame(
            tokens[k], lengths[k], runs, activities[k], residuals[k], thresholds, histogram
        )
        used.append((n_tokens, runs[:n_runs].copy()))
    counts = np.empty((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    ans.normalise(histogram.reshape(counts.shape), counts)

    steps = np.zeros(ans.N_CONTEXTS * ans.SLOTS, np.uint64)
    states = np.zeros((ans.N_CONTEXTS + 1) * ans.N_STATES, np.uint16)
    ans.build_encoder(counts, steps, states)
    words = np.empty((ans.N_STREAMS, rows * -(-columns // 4) * ans.MAX_SYMBOL_BITS // 32 + 4), np.uint32)
    ends = np.empty((ans.N_STREAMS, 4), np.int64)
    records = []
    for k, (n_tokens, frame_runs) in enumerate(used):
        ans.write_streams(tokens[k, :n_tokens], lengths[k], steps, states, words, ends)
        streams = ans.finish_streams(words, ends)
        records.append(_frame_record(labels[k], frame_runs, n_tokens < rows * columns, streams))
    return counts, records


def _frame_record(labels: Array, runs: Array, skipping: bool, streams: list[bytes]) -> bytes:
    lengths = np.array([len(stream) for stream in streams[:-1]], np.int64)
    values = np.empty(len(runs) + 2 * len(lengths) + labels.size + 2, np.int64)
    contexts = np.empty(len(values), np.uint16)
    n = frame_values(labels, runs, skipping, lengths, values, contexts)
    side = code_values(values[:n], contexts[:n], N_FRAME_CONTEXTS)
    out = bytearray()
    put_varint(out, len(side))
    return b"".join((out, side, *streams))
