"""What every codec must do; each codec's test file calls these."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcmpress.codecs.base import Codec
from dcmpress.codecs.errors import CodecError, TooLargeError
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.stream import HEADER_SIZE, write_stream

Array = NDArray[Any]
SHAPES: tuple[tuple[int, ...], ...] = (
    (1, 1, 1),
    (1, 1, 9),
    (1, 13, 1),
    (2, 2, 3),
    (3, 17, 33),
    (2, 40, 65),
    (1, 1, 1, 3),
    (2, 19, 23, 3),
    (2, 5, 6, 2),
)


def _walk(rng: np.random.Generator, shape: tuple[int, ...], info: Any) -> Array:
    steps = np.cumsum(np.cumsum(rng.integers(-2, 3, shape), axis=1), axis=2)
    return np.clip(steps + (info.max // 3), info.min, info.max)


CONTENTS: dict[str, Callable[[np.random.Generator, tuple[int, ...], Any], Array]] = {
    "noise": lambda rng, shape, info: rng.integers(info.min, info.max, shape, endpoint=True),
    "least": lambda rng, shape, info: np.full(shape, info.min),
    "most": lambda rng, shape, info: np.full(shape, info.max),
    "extremes": lambda rng, shape, info: rng.choice([info.min, info.max], shape),
    "walk": _walk,
    "sparse": lambda rng, shape, info: rng.choice([3, 7, info.max // 2, info.max - 1], shape),
    "spikes": lambda rng, shape, info: np.where(rng.random(shape) < 0.03, info.max, info.min),
}
"""Kinds of samples: f(rng, shape, iinfo) -> integers in the range of the type."""


def arrays(codec: Codec, shapes: Sequence[tuple[int, ...]] = SHAPES) -> Iterator[tuple[str, Array]]:
    """Yield (name, frames) over the codec's dtypes, `shapes` and all CONTENTS."""
    rng = np.random.default_rng(20261121)
    for dtype in codec.dtypes:
        info = np.iinfo(dtype)
        for shape in shapes:
            for name, make in CONTENTS.items():
                yield f"{name} {dtype} {shape}", make(rng, shape, info).astype(dtype)


def assert_same(found: Array, expected: Array, name: str = "") -> None:
    """Shape, dtype and every sample agree."""
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype.newbyteorder("="), name
    assert np.array_equal(found, expected), name


def check_round_trip(codec: Codec, shapes: Sequence[tuple[int, ...]] = SHAPES) -> None:
    """`decode(encode(x))` is x for every dtype, shape and content, and `encode` leaves x alone."""
    for name, frames in arrays(codec, shapes):
        before = frames.copy()
        assert_same(codec.decode(codec.encode(frames)), before, name)
        assert np.array_equal(frames, before), name


def check_memory_orders(codec: Codec) -> None:
    """Strides and byte order of the input make no difference to the stream."""
    rng = np.random.default_rng(7)
    for dtype in codec.dtypes:
        frames = rng.integers(0, 100, (2, 12, 15)).astype(dtype)
        plain = codec.encode(frames)
        wide = np.zeros((2, 24, 30), dtype)
        wide[:, ::2, ::2] = frames
        variants = (
            np.asfortranarray(frames),
            wide[:, ::2, ::2],
            frames[::-1].copy()[::-1],
            frames.astype(frames.dtype.newbyteorder(">")),
        )
        for variant in variants:
            assert codec.encode(variant) == plain
        frames.flags.writeable = False
        assert codec.encode(frames) == plain


def check_bad_calls(codec: Codec) -> None:
    """Frames, references and shifts of a wrong form raise ValueError."""
    good = np.zeros((2, 4, 4), codec.dtypes[0])
    for frames in (good[0], good[np.newaxis, np.newaxis], good[:0], good.astype(np.float64)):
        with pytest.raises(ValueError, match=r"\w"):
            codec.encode(frames)
    for references in ([0, -1], [-1], [-1, 1], [-2, 0]):
        with pytest.raises(ValueError, match=r"\w"):
            codec.encode(good, references)
    with pytest.raises(ValueError, match=r"\w"):
        codec.encode(good, shifts=[(0, 0)])


def check_select(codec: Codec, frames: Array, references: Sequence[int] | None = None) -> None:
    """`select` gives those frames in that order; numbers outside raise IndexError."""
    data = codec.encode(frames, references)
    n = len(frames)
    for select in ([], [0], [n - 1], [n - 1, 0, n // 2, 0], list(range(n))):
        assert_same(codec.decode(data, select), frames[select])
    for wrong in ([n], [-1]):
        with pytest.raises(IndexError):
            codec.decode(data, wrong)


def check_truncation(codec: Codec, frames: Array) -> None:
    """Every proper prefix of a stream raises CodecError."""
    data = codec.encode(frames)
    lengths = range(len(data)) if len(data) < 400 else [*range(60), *range(60, len(data), len(data) // 300)]
    for length in lengths:
        with pytest.raises(CodecError):
            codec.decode(data[:length])


def check_bit_flips(codec: Codec, frames: Array) -> None:
    """A flipped bit raises CodecError."""
    data = codec.encode(frames)
    rng = np.random.default_rng(11)
    positions = {*range(32), *rng.integers(0, len(data), 200).tolist()}
    for position in sorted(p for p in positions if p < len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(CodecError):
            codec.decode(bytes(damaged))


def check_hostile(codec: Codec, frames: Array, tries: int, rng: np.random.Generator) -> None:
    """Damaged payloads under a right checksum: CodecError, or frames of the declared form; both occur."""
    data = codec.encode(frames)
    outcomes = set()
    for _ in range(tries):
        payload = bytearray(data[HEADER_SIZE:])
        for _ in range(int(rng.integers(1, 3))):
            where = int(rng.integers(len(payload))) if rng.random() < 0.4 else int(rng.integers(60))
            payload[min(where, len(payload) - 1)] = int(rng.integers(256))
        try:
            found = codec.decode(write_stream(data[:4], data[4], frames, bytes(payload)))
        except CodecError:
            outcomes.add("error")
        else:
            outcomes.add("frames")
            assert found.shape == frames.shape
            assert found.dtype == frames.dtype
    assert outcomes == {"error", "frames"}


def check_limits(codec: Codec, frames: Array) -> None:
    """More samples than `max_pixels` are refused, just as many are not."""
    data = codec.encode(frames)
    assert_same(codec.decode(data, max_pixels=frames.size), frames)
    with pytest.raises(TooLargeError):
        codec.decode(data, max_pixels=frames.size - 1)


def check_parameters(codec: Codec) -> None:
    """Parameters go through JSON and give an equal codec back."""
    parameters = json.loads(json.dumps(codec.parameters()))
    again = get_codec(codec.codec_id, **parameters)
    assert again == codec
    assert hash(again) == hash(codec)
    with pytest.raises(ValueError, match="no_such_parameter"):
        get_codec(codec.codec_id, no_such_parameter=1)


def check_codec(codec: Codec, shapes: Sequence[tuple[int, ...]] = SHAPES) -> None:
    """All of the above, for a lossless codec."""
    rng = np.random.default_rng(3)
    frames = (np.cumsum(rng.integers(-3, 4, (5, 21, 34)), axis=2) % 100).astype(codec.dtypes[0])
    check_round_trip(codec, shapes)
    check_memory_orders(codec)
    check_bad_calls(codec)
    check_select(codec, frames)
    check_truncation(codec, frames[:2])
    check_bit_flips(codec, frames[:2])
    check_limits(codec, frames)
    check_parameters(codec)
