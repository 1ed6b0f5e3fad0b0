"""Frames that went through look-up tables of their own: ranks by frame in the container of `interframe`."""

import hashlib
import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.interframe.codec import InterframeCodec
from dcmpress.codecs.interframe.tables import find_tables
from tests.codecs import checks, interframe_reference
from tests.corpus_files import GOLDEN
from tests.fuzz.codecs import damaged, tried, with_checksum

Array = NDArray[Any]
EFFORTS = ("fast", "balanced", "dense")


def scene(n: int = 6, rows: int = 60, columns: int = 80, levels: int = 200) -> NDArray[np.uint16]:
    """Return frames of a scene that changes little, of up to so many levels."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:rows, :columns]
    still = (0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 7)) * levels
    return np.clip(still + rng.normal(0, 2, (n, rows, columns)), 0, levels - 1).astype(np.uint16)


def stretched(frames: Array, dtype: str = "uint16", tables: int = 1 << 30, seed: int = 0) -> Array:
    """Return frames of 16 bits, each through a table that keeps the order; of so many tables, by turns."""
    rng = np.random.default_rng(seed)
    made = [
        np.sort(rng.choice(1 << 16, int(frames.max()) + 1, replace=False))
        for _ in range(min(tables, len(frames)))
    ]
    values = np.stack([made[k % len(made)][frame] for k, frame in enumerate(frames)])
    return (values + np.iinfo(dtype).min).astype(dtype)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_stretched_frames_take_little_more_than_before_they_were(effort: str, dtype: str) -> None:
    codec = InterframeCodec(effort)
    plain = scene()
    frames = stretched(plain, dtype)
    stream = codec.encode(frames)
    checks.assert_same(codec.decode(stream), frames)
    checks.assert_same(codec.decode(stream, [4, 0, 4]), frames[[4, 0, 4]])
    tables = sum(len(np.unique(frame)) for frame in frames) * 2
    assert len(stream) < len(codec.encode(plain)) + tables
    assert stream[4] == 3


def test_references_shifts_and_twins() -> None:
    frames = stretched(scene(8))
    frames[5] = frames[2]
    frames[7] = frames[0]
    codec = InterframeCodec()
    stream = codec.encode(frames, [-1, 0, 0, 2, -1, 4, 5, 6], shifts=[(0, k) for k in range(8)])
    checks.assert_same(codec.decode(stream), frames)
    checks.assert_same(codec.decode(stream, [7, 5]), frames[[7, 5]])


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_stretched_screens_are_for_the_graphics_core(effort: str) -> None:
    """Letters on black that change places, so that the ranks repeat themselves exactly."""
    rng = np.random.default_rng(6)
    letters = np.pad(rng.integers(0, 40, (6, 8, 8)), ((0, 0), (1, 1), (1, 1)))
    places = rng.integers(0, 6, (4, 6, 8))
    plain = letters[places].transpose(0, 1, 3, 2, 4).reshape(4, 60, 80).astype(np.uint16)
    frames = stretched(plain[[0, 1, 2, 0, 3]], "int16")
    frames[3] = frames[0]
    codec = InterframeCodec(effort)
    stream = codec.encode(frames, [-1, 0, 1, -1, 3], shifts=[(0, 0), (0, 0), (1, -2), (0, 0), (3, 0)])
    assert (stream[4], stream[24]) == (3, 4)
    for decode in (codec.decode, interframe_reference.decode):
        checks.assert_same(decode(stream), frames)
    checks.assert_same(codec.decode(stream, [4, 3, 3, 1]), frames[[4, 3, 3, 1]])


def test_large_frames_in_stripes() -> None:
    plain = scene(2, 2100, 2050)
    frames = stretched(plain)
    codec = InterframeCodec("fast")
    checks.assert_same(codec.decode(codec.encode(frames)), frames)


def test_frames_that_share_a_table_share_it() -> None:
    frames = stretched(scene(9), tables=3)
    tables = find_tables(frames, np.arange(9))
    assert tables is not None
    assert len(tables.values) >= 3
    for k, number in enumerate(tables.of_frame):
        np.testing.assert_array_equal(tables.values[number], np.unique(frames[k]))


def test_one_table_for_all_is_left_to_the_layers() -> None:
    frames = stretched(scene(20, 120, 160), tables=1)
    assert find_tables(frames, np.arange(20)) is None
    assert InterframeCodec().encode(frames)[4] == 1


NATURAL = {
    "noise of 16 bits": np.random.default_rng(1).integers(0, 1 << 16, (4, 100, 100)).astype(np.uint16),
    "noise of 12 bits": np.random.default_rng(1).integers(0, 1 << 12, (4, 100, 100)).astype(np.uint16),
    "a scene": scene(),
    "two values": (scene() > 100).astype(np.uint16) * 60000,
    "colour": np.stack([stretched(scene())] * 3, axis=-1),
    "32 bits": stretched(scene()).astype(np.int32),
    "one frame": stretched(scene(1)),
}


@pytest.mark.parametrize("name", NATURAL)
def test_other_frames_have_no_tables_of_their_own(name: str) -> None:
    assert find_tables(NATURAL[name], np.arange(len(NATURAL[name]))) is None


def test_lies_about_tables_are_refused() -> None:
    frames = stretched(scene(3, 24, 30, 60))
    stream = bytearray(InterframeCodec().encode(frames))
    assert stream[26] == 4  # core, flags, then the transform
    for version in (1, 2):
        old = bytearray(stream)
        old[4] = version
        with pytest.raises(CorruptStreamError, match="transform"):
            InterframeCodec().decode(with_checksum(bytes(old)))
    colour = bytearray(stream)
    colour[6:8] = (3).to_bytes(2, "little")
    with pytest.raises(CorruptStreamError):
        InterframeCodec().decode(with_checksum(bytes(colour)))


@pytest.mark.parametrize("effort", EFFORTS)
def test_damage_raises_codec_errors_only(effort: str) -> None:
    codec = InterframeCodec(effort)
    stream = codec.encode(stretched(scene(3, 24, 30, 40)))
    chooser = random.Random(2)
    for _ in range(150):
        outcome = tried(codec, damaged(stream, stream, chooser), None)
        assert outcome in ("decoded", "refused"), outcome


def test_a_table_longer_than_a_frame_is_refused() -> None:
    frames = stretched(scene(3, 24, 30, 40))
    stream = bytearray(InterframeCodec().encode(frames))
    stream[12:16] = (1).to_bytes(4, "little")  # rows
    stream[16:20] = (4).to_bytes(4, "little")  # columns
    with pytest.raises(CodecError, match="than there are samples"):
        InterframeCodec().decode(with_checksum(bytes(stream)))


GOLDEN_STREAM = GOLDEN / "interframe-v3-tables.bin"
FRAMES = "5119e9c9cff2114df3386db29bbec18e1028fde3b1baef18ea40644607f40d12"


def test_published_stream() -> None:
    data = GOLDEN_STREAM.read_bytes()
    for frames in (InterframeCodec().decode(data), interframe_reference.decode(data)):
        little = frames.astype(frames.dtype.newbyteorder("<"))
        assert hashlib.sha256(little.tobytes()).hexdigest() == FRAMES
