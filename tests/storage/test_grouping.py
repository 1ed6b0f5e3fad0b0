"""Order, correlation, references and shifts, on real series and on made ones."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcmpress.storage.elements import encoding_of, find_pixel_data
from dcmpress.storage.grouping import (
    GRID,
    FramePosition,
    Group,
    coding_order,
    correlation,
    find_shift,
    fingerprint,
    group_frames,
    slice_location,
)
from dcmpress.storage.position import frame_positions
from dcmpress.storage.split import split
from tests.corpus_files import corpus, data_set, series_files
from tests.storage.objects import encoded, image, picture


def frames_of(group: str, most: int = 40) -> tuple[NDArray[Any], list[FramePosition]]:
    """Return frames and positions of a corpus group (or, without the corpus, of made images)."""
    frames: list[NDArray[Any]] = []
    positions: list[FramePosition] = []
    if corpus() is None:
        for number in range(8):
            data = encoded(image(number + 1, picture(seed=number)))
            _take(data, "1.2.840.10008.1.2.1", frames, positions)
    else:
        for path in series_files(group):
            meta, data = data_set(path)
            _take(data, meta.transfer_syntax_uid, frames, positions)
            if len(frames) >= most:
                break
    shape = frames[0].shape
    kept = [k for k, frame in enumerate(frames) if frame.shape == shape][:most]
    return np.stack([frames[k] for k in kept]), [positions[k] for k in kept]


def _take(data: bytes, syntax: str, frames: list[NDArray[Any]], positions: list[FramePosition]) -> None:
    found, _ = split(data, syntax)
    if found is None:
        return
    arrival = len(positions)
    positions += frame_positions(data, found.elements, found.n_frames, arrival)
    frames += list(found.pixel_format.to_frames(data[found.start : found.end]))


def chain_lengths(references: list[int]) -> list[int]:
    lengths: list[int] = []
    for reference in references:
        lengths.append(1 if reference < 0 else lengths[reference] + 1)
    return lengths


def check(group: Group, n: int, max_chain: int) -> None:
    assert len(group.references) == len(group.shifts) == len(group.correlations) == n
    assert all(-1 <= reference < i for i, reference in enumerate(group.references))
    assert max(chain_lengths(group.references)) <= max_chain
    for reference, shift, value in zip(group.references, group.shifts, group.correlations, strict=True):
        if reference < 0:
            assert (shift, value) == ((0, 0), 0.0)


REAL = ["MR-heart-cine-MF", "US-EPIQ-cine", "CT-LIDC0314-thin", "MR-GE-fMRI"]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("max_chain", [1, 2, 3, 16])
def test_real_series(name: str, max_chain: int) -> None:
    frames, positions = frames_of(name)
    ordered = frames[coding_order(positions)]
    group = group_frames(ordered, max_chain=max_chain)
    check(group, len(ordered), max_chain)
    if max_chain == 1:
        assert group.references == [-1] * len(ordered)
    elif corpus() is not None:
        assert sum(reference < 0 for reference in group.references) < len(ordered) / 2
        followers = [value for value in group.correlations if value]
        assert np.median(followers) > 0.7


@pytest.mark.parametrize("name", REAL)
def test_a_reference_is_the_best_correlated_candidate(name: str) -> None:
    frames, positions = frames_of(name, most=10)
    ordered = frames[coding_order(positions)]
    group = group_frames(ordered, max_chain=100)
    for i in range(1, min(9, len(ordered))):
        if group.references[i] >= 0 and group.shifts[i] == (0, 0):
            values = [correlation(grid(ordered[k]), grid(ordered[i])) for k in range(i)]
            assert values[group.references[i]] == pytest.approx(max(values), abs=2e-4)
            assert group.correlations[i] == pytest.approx(values[group.references[i]], abs=1e-4)


def grid(frame: NDArray[Any]) -> NDArray[Any]:
    return frame[:: -(-frame.shape[0] // GRID), :: -(-frame.shape[1] // GRID)]


@pytest.mark.parametrize("name", ["CT-LIDC0314-thin", "MR-GE-fMRI"])
def test_the_order_does_not_depend_on_arrival(name: str) -> None:
    _, positions = frames_of(name)
    expected = [positions[i] for i in coding_order(positions)]
    rng = np.random.default_rng(3)
    for _ in range(5):
        shuffled = [positions[i] for i in rng.permutation(len(positions))]
        again = [shuffled[i] for i in coding_order(shuffled)]
        assert [(p.location, p.time, p.instance_number) for p in again] == [
            (p.location, p.time, p.instance_number) for p in expected
        ]


def test_order_is_by_place_then_time() -> None:
    positions = [
        FramePosition(2.0, 1.0, 1),
        FramePosition(1.0, 2.0, 2),
        FramePosition(1.0, 1.0, 3),
        FramePosition(None, None, None, arrival=7),
        FramePosition(1.0, 1.0, 2, frame_number=1),
        FramePosition(1.0, 1.0, 2, frame_number=0),
    ]
    assert coding_order(positions) == [3, 5, 4, 2, 1, 0]


def test_location_is_along_the_normal() -> None:
    assert slice_location([1, 0, 0, 0, 1, 0], [10, 20, 30]) == 30
    assert slice_location([0, 1, 0, 0, 0, -1], [10, 20, 30]) == -10
    tilted = [1, 0, 0, 0, 0.8, 0.6]
    assert slice_location(tilted, [0, 0, 5]) == pytest.approx(4.0)
    for bad in ([1, 0, 0], [0] * 6, [1, 0, 0, 1, 0, 0], [float("nan")] * 6):
        assert slice_location(bad, [0, 0, 1]) is None


def test_positions_of_numbers_that_are_none() -> None:
    for attributes in (
        {"ImagePositionPatient": ["0", "0", "1e999"]},
        {"SliceLocation": "1e999"},
        {"TemporalPositionIdentifier": "0"},
    ):
        data = encoded(image(**attributes))
        before, _ = find_pixel_data(data, encoding_of("1.2.840.10008.1.2.1"))
        (position,) = frame_positions(data, before, 1, 0)
        for number in (position.location, position.time):
            assert number is None or np.isfinite(number)


@pytest.mark.parametrize(("dy", "dx"), [(3, -5), (-8, 0), (0, 7), (12, 11)])
def test_a_shift_is_found(dy: int, dx: int) -> None:
    frames, _ = frames_of("CT-LIDC0314-thin", most=1)
    still = frames[0] if min(frames[0].shape) > 100 else picture(200, 220)[0]
    moved = np.roll(still, (dy, dx), (0, 1))
    assert find_shift(still, moved) == (dy, dx)


def test_a_frame_that_correlates_after_a_shift_only() -> None:
    rng = np.random.default_rng(8)
    coarse = rng.normal(0, 300, (40, 44))
    still = (2000 + np.kron(coarse, np.ones((4, 4)))).astype(np.uint16)
    moved = np.roll(still, (9, -14), (0, 1))
    group = group_frames([still, moved])
    assert group.references == [-1, 0]
    assert group.shifts == [(0, 0), (9, -14)]
    assert group.correlations[1] > 0.95
    unlike = rng.normal(2000, 300, still.shape).astype(np.uint16)
    assert group_frames([still, unlike]).references == [-1, -1]


def test_a_shift_beyond_a_quarter_is_not_believed() -> None:
    rng = np.random.default_rng(8)
    still = (2000 + np.kron(rng.normal(0, 300, (40, 40)), np.ones((4, 4)))).astype(np.uint16)
    group = group_frames([still, np.roll(still, (60, 0), (0, 1))])
    assert group.shifts == [(0, 0), (0, 0)]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.97, 1.1])
def test_frames_below_the_least_correlation_stand_alone(threshold: float) -> None:
    rng = np.random.default_rng(4)
    base = picture(48, 48)[0].astype(float)
    frames = [(base + rng.normal(0, 60 * k, base.shape)).clip(0, 4095).astype(np.uint16) for k in range(9)]
    group = group_frames(frames, min_correlation=threshold)
    for reference, value in zip(group.references, group.correlations, strict=True):
        assert reference < 0 or value >= threshold
    if threshold > 1:
        assert group.references == [-1] * 9


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (70, 130), (16, 16, 3)])
def test_constant_and_odd_frames(shape: tuple[int, ...]) -> None:
    frames = [np.full(shape, value, np.int16) for value in (0, 0, 7, -3)]
    check(group_frames(frames), 4, 16)
    assert group_frames(frames).references == [-1] * 4
    assert not fingerprint(frames[2]).any()
    assert fingerprint(frames[2]).size <= GRID * GRID * (shape[2] if len(shape) == 3 else 1)
    assert correlation(frames[0], frames[1]) == 0.0


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        x, y = rng.integers(0, 4096, (2, 50, 60)).astype(np.uint16)
        assert correlation(x, x // 2 + y) == pytest.approx(np.corrcoef(x.ravel(), (x // 2 + y).ravel())[0, 1])
    wide = np.array([[0, 65535], [65535, 0]], np.uint16)
    assert correlation(wide, wide) == pytest.approx(1.0)
    assert correlation(wide, 65535 - wide) == pytest.approx(-1.0)


def test_the_nearest_of_equals() -> None:
    frame = picture(32, 32)[0]
    assert group_frames([frame] * 5, max_chain=16).references == [-1, 0, 1, 2, 3]
