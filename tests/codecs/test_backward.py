"""The backward-adaptive core: exact, deterministic, and unharmed by any bytes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import backward_tables, binary_coder
from dcmpress.codecs.interframe.backward import decode_planes, encode_planes
from dcmpress.codecs.interframe.backward_levels import choose_levels, read_levels

DATA = Path(__file__).parents[1] / "data"
Planes = NDArray[np.uint16]


def planes_of(values: object) -> Planes:
    return np.asarray(values).astype(np.uint16)


def scene(n: int, rows: int, columns: int, top: int = 4095, seed: int = 5) -> Planes:
    """A smooth scene that moves and is noisy, made with integers only: the same on every machine."""
    state = np.uint64(seed)
    noise = np.empty(n * rows * columns, np.int64)
    for i in range(noise.size):
        state = np.uint64((int(state) * 6364136223846793005 + 1442695040888963407) % 2**64)
        noise[i] = (int(state) >> 33) % 9 - 4
    k, y, x = np.indices((n, rows, columns))
    shape = ((x - 3 * k) * (x - 3 * k) + 2 * y * y) * 7 // (rows + columns) + 40 * ((x // 9 + y // 7) % 3)
    return planes_of(np.clip(shape + noise.reshape(shape.shape), 0, top))


def screen(n: int, rows: int, columns: int, seed: int = 3) -> Planes:
    """Lines of text in letters of 6 x 8 samples, with grey edges, beside a scene of noise; the text never moves."""
    state = seed
    choices = []
    for _ in range(8 * 48 + rows * columns):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        choices.append(state >> 33)
    letters = np.array(choices[: 8 * 48]).reshape(8, 8, 6) % 6 * 40
    planes = scene(n, rows, columns, top=255, seed=seed)
    for y in range(rows):
        for x in range(columns * 3 // 4):
            letter = letters[choices[8 * 48 + y // 8 * columns + x // 6] % 8]
            planes[:, y, x] = letter[y % 8, x % 6] if y // 8 % 2 else 17
    return planes


def round_trip(planes: Planes, max_value: int, references: list[int] | None = None) -> bytes:
    before = planes.copy()
    data = encode_planes(planes, max_value, references)
    np.testing.assert_array_equal(planes, before)
    old = encode_planes(planes, max_value, references, revision=1)
    np.testing.assert_array_equal(decode_planes(old, planes.shape, max_value, references, revision=1), planes)
    np.testing.assert_array_equal(decode_planes(data, planes.shape, max_value, references), planes)
    return data


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (3, 1, 1), (2, 5, 3), (4, 17, 33), (1, 2, 700)]
)
@pytest.mark.parametrize("max_value", [0, 1, 200, 65535])
def test_noise_of_any_shape_comes_back(shape: tuple[int, int, int], max_value: int) -> None:
    rng = np.random.default_rng(3)
    round_trip(planes_of(rng.integers(0, max_value + 1, shape)), max_value)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_planes_come_back(data: st.DataObject) -> None:
    n, rows, columns = (data.draw(st.integers(1, limit)) for limit in (4, 12, 20))
    max_value = data.draw(st.sampled_from([1, 7, 255, 1000, 4095, 65535]))
    levels = data.draw(st.lists(st.integers(0, max_value), min_size=1, max_size=5))
    seed = data.draw(st.integers(0, 2**32 - 1))
    references = [data.draw(st.integers(-1, i - 1)) for i in range(n)]
    rng = np.random.default_rng(seed)
    planes = planes_of(rng.choice(levels, (n, rows, columns)))
    planes[rng.random(planes.shape) < 0.1] = rng.integers(0, max_value + 1)
    round_trip(planes, max_value, references)


@pytest.mark.parametrize(("value", "limit"), [(0, 8), (65535, 8), (777, 180)])
def test_constant_planes_cost_next_to_nothing(value: int, limit: int) -> None:
    assert len(round_trip(np.full((3, 64, 64), value, np.uint16), 65535)) <= limit


def test_full_range_noise_hardly_expands() -> None:
    rng = np.random.default_rng(8)
    planes = planes_of(rng.integers(0, 65536, (1, 96, 96)))
    assert len(round_trip(planes, 65535)) < 1.03 * planes.nbytes


def test_checkerboard_of_extremes_is_learned() -> None:
    planes = planes_of(np.indices((64, 64)).sum(0)[None] % 2 * 65535)
    assert len(round_trip(planes, 65535)) < 400


def test_text_on_a_screen_is_remembered() -> None:
    planes = screen(1, 160, 200)
    data = round_trip(planes, 255)
    assert data[0] == 1
    assert len(data) < 0.8 * len(encode_planes(planes, 255, revision=1))


def test_noise_is_not_guessed() -> None:
    assert encode_planes(scene(2, 64, 64), 4095)[0] == 0


def test_text_that_changes_between_frames_comes_back() -> None:
    planes = screen(3, 96, 120)
    planes[1:, 8:32, :60] = screen(2, 24, 80, seed=4)[:, :, :60]
    data = round_trip(planes, 255)
    assert data[0] == 1
    assert len(data) < len(encode_planes(planes, 255, revision=1))


def test_an_echo_nine_samples_to_the_west_is_heard() -> None:
    rng = np.random.default_rng(14)
    rows = rng.normal(0, 9, (1, 96, 309))
    for x in range(9, 309):
        rows[:, :, x] += 0.9 * rows[:, :, x - 9]
    planes = planes_of(np.round(1000 + rows[:, :, 9:]))
    assert len(round_trip(planes, 2000)) < 0.97 * len(encode_planes(planes, 2000, revision=1))


def test_isolated_spikes_do_not_spoil_a_flat_background() -> None:
    rng = np.random.default_rng(9)
    planes = np.zeros((1, 128, 128), np.uint16)
    planes[rng.random(planes.shape) < 0.01] = 65535
    # 1 % salt holds 0.081 bit a sample; a codec whose filters follow the outliers needs several bits.
    assert len(round_trip(planes, 65535)) * 8 < 0.45 * planes.size


def test_output_larger_than_the_first_buffer() -> None:
    rng = np.random.default_rng(10)
    # The model learns that nothing happens; then everything does.
    planes = np.zeros((4, 64, 64), np.uint16)
    planes[-1] = rng.integers(0, 2, (64, 64)) * 65535
    planes[-1, ::2] = rng.integers(0, 65536, (32, 64))
    round_trip(planes, 65535)


def test_a_repeated_plane_is_nearly_free() -> None:
    first = scene(1, 40, 64)
    once = len(round_trip(first, 4095))
    assert len(round_trip(np.repeat(first, 6, axis=0), 4095)) < once * 1.15


def test_references_may_skip_and_restart() -> None:
    planes = scene(7, 24, 32)
    for references in ([-1, 0, 0, 1, -1, 2, 4], [-1] * 7, [-1, 0, 0, 0, 0, 0, 0]):
        round_trip(planes, 4095, references)


def test_a_reference_pays() -> None:
    planes = np.repeat(scene(1, 48, 48), 3, axis=0)
    planes[1:] += planes_of(np.random.default_rng(2).integers(0, 2, (2, 48, 48)))
    assert len(encode_planes(planes, 4096)) < 0.6 * len(encode_planes(planes, 4096, [-1, -1, -1]))


def test_the_default_reference_is_the_plane_before() -> None:
    planes = scene(3, 16, 16)
    assert encode_planes(planes, 4095) == encode_planes(planes, 4095, [-1, 0, 1])


def test_decoding_only_the_first_planes() -> None:
    planes = scene(4, 20, 24)
    data = encode_planes(planes, 4095)
    for upto in (0, 1, 3, 4):
        np.testing.assert_array_equal(decode_planes(data, planes.shape, 4095, upto=upto), planes[:upto])


@pytest.mark.parametrize("references", [[0, 0], [-1, 1], [-1, -2], [-1]])
def test_impossible_references_are_refused(references: list[int]) -> None:
    planes = np.zeros((2, 3, 3), np.uint16)
    with pytest.raises(ValueError, match="references"):
        encode_planes(planes, 1, references)
    with pytest.raises(ValueError, match="references"):
        decode_planes(b"", (2, 3, 3), 1, references)


def test_samples_above_the_largest_are_refused() -> None:
    with pytest.raises(ValueError, match="samples"):
        encode_planes(np.full((1, 2, 2), 9, np.uint16), 8)


def golden_cases() -> dict[str, tuple[Planes, int, list[int] | None]]:
    wide = scene(2, 40, 56)
    return {
        "series": (scene(4, 48, 64), 4095, None),
        "intra": (scene(1, 96, 96), 4095, None),
        "tree": (scene(5, 24, 24, seed=6), 4095, [-1, 0, 0, 2, -1]),
        "full-range": (planes_of(wide.astype(np.int64) * 61 % 65536), 65535, None),
        "bytes": (scene(3, 56, 72, top=255), 255, None),
        "one": (planes_of([[[3]]]), 7, None),
    }


GOLDEN = [(1, name) for name in golden_cases()] + [
    (2, name) for name in [*golden_cases(), "screen", "screens"]
]


@pytest.mark.parametrize(("revision", "name"), GOLDEN)
def test_published_streams_decode_and_are_written_again(revision: int, name: str) -> None:
    cases = golden_cases() | {
        "screen": (screen(1, 96, 128), 255, None),
        "screens": (screen(3, 72, 96), 255, [-1, 0, 0]),
    }
    planes, max_value, references = cases[name]
    golden = (DATA / (f"dense-{name}.bin" if revision == 1 else f"dense-2-{name}.bin")).read_bytes()
    decoded = decode_planes(golden, planes.shape, max_value, references, revision=revision)
    np.testing.assert_array_equal(decoded, planes)
    assert encode_planes(planes, max_value, references, revision=revision) == golden


@pytest.mark.parametrize(("planes", "max_value"), [(scene(2, 16, 20), 4095), (screen(1, 40, 60), 255)])
def test_every_cut_and_every_changed_byte_decodes_to_something(planes: Planes, max_value: int) -> None:
    data = encode_planes(planes, max_value)
    for size in range(2, len(data), 7):
        assert decode_planes(data[:size], planes.shape, max_value).max() <= max_value
    for position in range(2, len(data), 5):
        changed = bytearray(data)
        changed[position] ^= 0x55
        assert decode_planes(bytes(changed), planes.shape, max_value).max() <= max_value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([b"", b"\0\0", b"\1\0"]),
    st.binary(max_size=300),
    st.integers(0, 65535),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2]),
)
def test_any_bytes_decode_to_the_declared_shape(
    head: bytes, rest: bytes, max_value: int, rows: int, columns: int, revision: int
) -> None:
    data = head + rest
    try:
        planes = decode_planes(data, (3, rows, columns), max_value, [-1, 0, 0], revision=revision)
    except CorruptStreamError:
        assert data[:revision] not in (b"\0", b"\0\0", b"\1\0")
        return
    assert planes.shape == (3, rows, columns)
    assert planes.max() <= max_value


def test_a_damaged_table_of_contexts_is_refused() -> None:
    for data in (b"\x05", b"\x20" + bytes(31), b"\xff" * 40):
        with pytest.raises(CorruptStreamError):
            decode_planes(data, (1, 4, 4), 255, revision=1)
        with pytest.raises(CorruptStreamError):
            decode_planes(b"\0" + data, (1, 4, 4), 255)


def test_unknown_flags_are_refused() -> None:
    for data in (b"", b"\2\0", b"\x20" + bytes(60)):
        with pytest.raises(CorruptStreamError, match="flags"):
            decode_planes(data, (1, 4, 4), 255)


def test_intensity_contexts_follow_the_histogram() -> None:
    rng = np.random.default_rng(4)
    planes = planes_of(rng.integers(1000, 1100, (1, 128, 128)))
    planes[0, 0, 0] = 4000
    level_of, size = read_levels(choose_levels(planes, 4095), 4095)
    assert size == 33
    assert level_of.shape == (4096,)
    assert (np.diff(level_of) >= 0).all()
    assert level_of[1099] - level_of[1000] >= 5
    assert level_of[900] - level_of[0] <= 1


def test_the_binary_coder_carries_through_a_run_of_255() -> None:
    buffer = np.full(12, 255, np.uint8)
    buffer[0] = 7
    registers = np.array([binary_coder.FULL_RANGE, 1 << 40, 12], np.int64)
    assert binary_coder.finish(buffer, registers) == b"\x08"


def test_the_shortest_end_of_a_stream_is_inside_the_range() -> None:
    rng = np.random.default_rng(12)
    for _ in range(200):
        acc, size = int(rng.integers(0, 1 << 48)), int(rng.integers(1 << 32, 1 << 47))
        tail = binary_coder.finish(np.zeros(2, np.uint8), np.array([acc, size, 2], np.int64))
        value = int.from_bytes(tail.ljust(8, b"\0"), "big")
        assert acc <= value < acc + size


def test_the_frozen_tables_have_not_changed() -> None:
    tables = ("SQUASH", "QUANTILE", "RATIO_CLASS", "RECIPROCAL", "CLASS_ERROR", "INITIAL_WEIGHTS")
    digest = hashlib.sha256()
    for name in tables:
        digest.update(getattr(backward_tables, name).astype("<f4").tobytes())
    assert digest.hexdigest() == "1b6ed96495f3ae064739be2fcaa74d8e0da6321efb15f00371ead3fc1d892e8a"


def test_the_squash_table_is_the_logistic_function() -> None:
    x = (np.arange(4096) - 2048) / 128
    np.testing.assert_allclose(backward_tables.SQUASH, np.clip(65536 / (1 + np.exp(-x)), 1, 65535), atol=0.51)
