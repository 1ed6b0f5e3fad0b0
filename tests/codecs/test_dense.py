"""The effort `dense` in its container: revisions, palettes, references."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import codec as container
from dcmpress.codecs.interframe import palette
from dcmpress.codecs.interframe.codec import InterframeCodec
from dcmpress.codecs.stream import HEADER_SIZE, write_stream
from tests.codecs import checks

Array = NDArray[Any]
DENSE = InterframeCodec("dense")
DATA = Path(__file__).resolve().parents[1] / "data"


def coloured_screen(n: int = 2, rows: int = 64, columns: int = 96) -> Array:
    """Grey speckle under a bar of colours and coloured letters, uint8, with integers only."""
    state = 11
    values = np.empty(n * rows * columns, np.int64)
    for i in range(values.size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values[i] = state >> 40
    grey = values.reshape(n, rows, columns) % 24 + np.arange(columns)
    frames = np.repeat(grey[..., np.newaxis], 3, axis=3)
    ramp = np.arange(rows) * 255 // (rows - 1)
    frames[:, :, -8:] = np.stack([ramp, ramp // 3, 255 - ramp], axis=1)[:, np.newaxis]
    letters = values[:64].reshape(8, 8) % 3
    frames[:, :16, :48] = np.array([[0, 0, 0], [250, 200, 0], [90, 80, 0]])[np.tile(letters, (2, 6))]
    return frames.astype(np.uint8)


def test_it_keeps_the_contract() -> None:
    shapes = ((1, 1, 1), (3, 17, 33), (1, 1, 1, 3), (2, 19, 23, 3), (2, 5, 6, 2))
    checks.check_round_trip(DENSE, shapes)


@pytest.mark.parametrize("name", ["chain", "colours"])
def test_streams_of_version_1_are_read(name: str) -> None:
    digests = {
        "chain": "acbc04f65013b5fdbbbe34cff3f5d6d8cba7e59a4d78352730f8642b3494401b",
        "colours": "c1e39d0b79af2ac4f78a59f291a98c49cc46c287a77c63de603e95a454d02354",
    }
    data = (DATA / f"interframe-v1-dense-{name}.bin").read_bytes()
    assert data[4] == 1
    frames = DENSE.decode(data)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == digests[name]


def test_published_palette_stream_is_read_and_written_again() -> None:
    golden = (DATA / "interframe-v2-palette.bin").read_bytes()
    checks.assert_same(DENSE.decode(golden), coloured_screen())
    assert DENSE.encode(coloured_screen()) == golden


def test_few_colours_are_coded_once() -> None:
    frames = coloured_screen()
    data = DENSE.encode(frames)
    grey = DENSE.encode(frames[..., 1])
    assert data[4] == 2
    assert len(data) < 1.1 * len(grey) + 300
    checks.assert_same(DENSE.decode(data, [1]), frames[[1]])


def test_many_colours_are_no_palette() -> None:
    rng = np.random.default_rng(5)
    assert palette.find_palette(rng.integers(0, 256, (1, 80, 80, 3))) is None
    frames = rng.integers(0, 256, (1, 40, 40, 3)).astype(np.uint8)
    checks.assert_same(DENSE.decode(DENSE.encode(frames)), frames)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=40))
def test_any_palette_comes_back(colours: list[tuple[int, int, int]]) -> None:
    frames = np.array(colours, np.uint8).reshape(1, 1, -1, 3)
    found = palette.find_palette(frames)
    assert found is not None
    out = bytearray()
    palette.put_palette(out, found)
    again = palette.read_palette(ByteReader(bytes(out)))
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(palette.from_ranks(palette.to_ranks(frames, found), again), frames)


def test_greys_are_ranked_by_brightness() -> None:
    frames = np.array([[[[200, 10, 10], [90, 90, 90], [0, 0, 0], [92, 90, 89], [255, 255, 255]]]], np.uint8)
    found = palette.find_palette(frames)
    assert found is not None
    assert found.tolist() == [[0, 0, 0], [90, 90, 90], [92, 90, 89], [255, 255, 255], [200, 10, 10]]


def test_ranks_beyond_the_palette_are_refused() -> None:
    with pytest.raises(CorruptStreamError, match="palette"):
        palette.from_ranks(np.array([[[2]]], np.uint16), np.zeros((2, 3), np.int64))


def test_impossible_palettes_are_refused() -> None:
    steep = bytearray()
    palette.put_palette(steep, np.array([[0, 0, 0], [0, 300, 0]]))
    for table in (b"\0\0", bytes(steep)):
        with pytest.raises(CorruptStreamError, match="impossible palette"):
            palette.read_palette(ByteReader(table))


def test_what_version_2_added_is_refused_in_version_1() -> None:
    frames = coloured_screen()
    payload = DENSE.encode(frames)[HEADER_SIZE:]
    with pytest.raises(CorruptStreamError, match="core"):
        DENSE.decode(write_stream(container.MAGIC, 1, frames, payload))
    old = (DATA / "interframe-v1-dense-colours.bin").read_bytes()
    shown = DENSE.decode(old)
    with_palette = bytearray(old[HEADER_SIZE:])
    assert with_palette[4] in (0, 1, 2)  # core, flags, two references, then the transform
    with_palette[4] = 3
    with pytest.raises(CorruptStreamError, match="transform"):
        DENSE.decode(write_stream(container.MAGIC, 1, shown, bytes(with_palette)))


def test_a_palette_needs_bytes() -> None:
    frames = coloured_screen()
    payload = DENSE.encode(frames)[HEADER_SIZE:]
    with pytest.raises(CorruptStreamError, match="not bytes"):
        DENSE.decode(write_stream(container.MAGIC, 2, frames.astype(np.uint16), payload))


def test_frames_without_reference_stand_only_where_a_section_starts() -> None:
    """Inside one they would cost bytes and save no time: a section is decoded from its start."""
    scene = np.random.default_rng(8).integers(0, 200, (24, 24)).astype(np.uint8)
    frames = scene + np.arange(40, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    cut = [i - 1 if i % 16 else -1 for i in range(40)]
    data = DENSE.encode(frames)
    checks.assert_same(DENSE.decode(data, [39]), frames[[39]])
    assert len(data) < 0.8 * len(DENSE.encode(frames, cut))


def test_a_comb_of_values_is_packed() -> None:
    rng = np.random.default_rng(21)
    walk = np.cumsum(rng.integers(-2, 3, (1, 64, 80)), axis=2) + 60
    comb = np.clip(walk, 0, 200) * 5 // 4  # every fifth value never occurs
    frames = comb.astype(np.uint8)
    data = DENSE.encode(frames)
    checks.assert_same(DENSE.decode(data), frames)
    assert len(data) < 1.01 * len(DENSE.encode(np.clip(walk, 0, 200).astype(np.uint8))) + 40


def test_hostile_streams_raise_or_decode() -> None:
    checks.check_hostile(DENSE, coloured_screen(2, 32, 64), 150, np.random.default_rng(77))
