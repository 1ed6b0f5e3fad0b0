"""Parts of the forward core: what its encoder decides, and how its decoder reads a record."""

import numpy as np
import pytest

from dcmpress.codecs import ans
from dcmpress.codecs.interframe import context, fit, geometry, predict, records
from dcmpress.codecs.interframe.analysis import _thresholds
from dcmpress.codecs.interframe.side import code_values

FIRST, LAST = predict.COPY, predict.NORTH


def test_grams_are_sums_over_the_rows_looked_at() -> None:
    rng = np.random.default_rng(4)
    rows, columns, tile, step = 20, 37, 16, 3
    plane = rng.integers(0, 900, (rows, columns)).astype(np.uint16)
    plane[:16, 15:32] = 5
    current = np.zeros(geometry.padded_size(rows, columns), np.int32)
    geometry.pad_current(plane, current)
    line = geometry.stride(columns)
    taps = (1, 3, 5, 10)
    offsets = np.array([predict.TAPS[t][1] * line + predict.TAPS[t][2] for t in taps], np.int64)
    grams = np.zeros((6, fit.packed_size(len(taps))), np.float32)
    fit.tile_grams(
        current, np.zeros(0, np.int32), np.zeros((0, 0), np.int32), rows, columns, tile, step,
        np.zeros(len(taps), np.int64), offsets, grams,
    )  # fmt: skip
    for k in range(6):
        ty, tx = divmod(k, 3)
        places = [
            (geometry.ABOVE + y) * line + geometry.SIDE + x
            for j in range(6)
            for y in [ty * tile + j * step + j % step]
            if 1 <= y < min(ty * tile + tile, rows)
            for x in range(tx * tile, min(tx * tile + tile, columns))
        ]
        at = np.array(places)
        n, nw, ne = current[at - line], current[at - line - 1], current[at - line + 1]
        g = abs(n - current[at - 1]) + abs(nw - n) + abs(ne - n) + abs(current[at - 2 * line] - n)
        mean = np.float32(1) + np.float32(2) * np.float32(g.sum()) / np.float32(len(at))
        weight = np.float32(1024) / (mean + g.astype(np.float32))
        vectors = np.stack([current[at + o] - current[at - 1] for o in (*offsets, 0)]).astype(np.float32)
        vectors = np.clip((vectors * weight).astype(np.int32), -1447, 1447).astype(np.int64)
        sums = (vectors @ vectors.T)[np.tril_indices(len(taps) + 1)]
        if k == 1:
            sums[:] = 0  # flat
        assert np.array_equal(grams[k, : len(sums)], sums.astype(np.float32))
        assert not grams[k, len(sums) :].any()


@pytest.mark.parametrize("where", [[], [1], [context.MAX_ACTIVITY], [3, 4, 5, 2000], range(1, 600)], ids=len)
def test_thresholds_rise_from_1_within_the_range(where: list[int]) -> None:
    population = np.zeros(context.MAX_ACTIVITY + 1, np.int64)
    population[0] = 10_000
    population[list(where)] = 50
    found = _thresholds(population)
    assert found.shape == (ans.N_CONTEXTS - 1,)
    assert found[0] == 1
    assert (np.diff(found) >= 0).all()
    assert found[-1] <= context.MAX_ACTIVITY


def test_thresholds_are_steps_of_the_logarithm_for_a_level_population_of_it() -> None:
    population = np.zeros(context.MAX_ACTIVITY + 1, np.int64)
    population[1:] = 1_000_000 // (np.arange(1, len(population)) + 8)
    steps = np.diff(np.log2(_thresholds(population) + 8.0))
    assert steps.max() < 1.3 * steps.min()


def _record(runs: list[int], lengths: list[int], labels: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    grid = np.array(labels, np.int64)
    values = np.empty(len(runs) + 2 * len(lengths) + grid.size + 2, np.int64)
    contexts = np.empty(len(values), np.uint16)
    n = records.frame_values(
        grid, np.array(runs, np.int64), True, np.array(lengths, np.int64), values, contexts
    )
    data = code_values(values[:n], contexts[:n], records.N_FRAME_CONTEXTS)
    return np.frombuffer(data, np.uint8), grid


@pytest.mark.parametrize(
    ("runs", "lengths", "labels", "expected"),
    [
        ([3, 0, 9], [5000, 2, 700], [[0, 1], [FIRST, LAST]], 3),
        ([], [2, 2, 2], [[6, 6], [6, 6]], 0),
        ([1] * 9, [2, 2, 2], [[0, 0], [0, 0]], records.BAD_RUNS),
        ([], [5000, 1, 2], [[0, 0], [0, 0]], records.BAD_STREAM),
        ([], [4000, 3000, 2999], [[0, 0], [0, 0]], records.BAD_STREAM),
        ([], [2, 2, 2], [[0, 7], [0, 0]], records.BAD_LABEL),
        ([], [2, 2, 2], [[0, 0], [0, LAST + 1]], records.BAD_LABEL),
    ],
)
def test_a_record_is_read_or_refused(
    runs: list[int], lengths: list[int], labels: list[list[int]], expected: int
) -> None:
    data, grid = _record(runs, lengths, labels)
    found, room = np.zeros_like(grid), np.zeros(8, np.int64)
    starts = np.zeros(ans.N_STREAMS + 1, np.int64)
    assert records.read_frame(data, 10_000, found, room, starts, 7, FIRST, LAST) == expected
    if expected >= 0:
        assert np.array_equal(found, grid)
        assert room[: len(runs)].tolist() == runs
        assert np.diff(starts).tolist() == [*lengths, 10_000 - sum(lengths)]
