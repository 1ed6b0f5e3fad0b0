"""Checks that every codec of the literature passes; each test file calls them with its codec."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.base import Codec
from dcmpress.codecs.errors import CodecError, TooLargeError
from dcmpress.codecs.stream import HEADER_SIZE

EDGES = [(1, 1), (1, 2), (2, 1), (1, 17), (17, 1), (2, 2), (3, 3), (5, 7), (8, 8), (16, 33), (31, 64)]


@st.composite
def frames_of(draw: st.DrawFn, dtypes: tuple[str, ...], largest: int = 40) -> NDArray[Any]:
    """Draw frames: constant, noise of any width, extremes, ramps, sparse; with or without a samples axis."""
    dtype: np.dtype[Any] = np.dtype(draw(st.sampled_from(dtypes)))
    n = draw(st.integers(1, 3))
    rows, columns = draw(
        st.one_of(st.sampled_from(EDGES), st.tuples(st.integers(1, largest), st.integers(1, largest)))
    )
    samples = draw(st.sampled_from([(), (), (), (1,), (3,)]))
    shape = (n, rows, columns, *samples)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = draw(st.sampled_from(["constant", "noise", "narrow", "extremes", "ramp", "sparse"]))
    if kind == "constant":
        return np.full(shape, draw(st.sampled_from([lowest, 0, highest])), dtype)
    if kind == "noise":
        return rng.integers(lowest, highest, shape, dtype, endpoint=True)
    if kind == "narrow":
        return rng.integers(0, 9, shape).astype(dtype)
    if kind == "extremes":
        return rng.choice(np.array([lowest, highest], dtype), shape)
    if kind == "ramp":
        return (np.arange(np.prod(shape)).reshape(shape) * draw(st.integers(1, 7))).astype(dtype)
    return (rng.random(shape) < 0.05).astype(dtype) * dtype.type(highest // 2)


def check_round_trip(codec: Codec, frames: NDArray[Any], **options: Any) -> bytes:
    """Encode, decode, compare every sample, shape and dtype; encode twice, compare; return the stream."""
    before = frames.copy()
    data = codec.encode(frames, **options)
    assert np.array_equal(frames, before), "encode changed its input"
    assert codec.encode(frames, **options) == data
    decoded = codec.decode(data)
    assert decoded.dtype == frames.dtype
    assert decoded.shape == frames.shape
    assert np.array_equal(decoded, frames)
    return data


def check_select(codec: Codec, frames: NDArray[Any], data: bytes) -> None:
    """Selected frames come back in the order asked for, also twice; a wrong number is an IndexError."""
    everything = codec.decode(data)
    wanted = [len(frames) - 1, 0, 0]
    assert np.array_equal(codec.decode(data, wanted), everything[wanted])
    for wrong in (len(frames), -1):
        with pytest.raises(IndexError):
            codec.decode(data, [wrong])


def repair_checksum(data: bytes) -> bytes:
    """Return `data` with the checksum that its bytes ask for, so that damage reaches the decoder."""
    if len(data) < HEADER_SIZE:
        return data
    crc = zlib.crc32(data[HEADER_SIZE:], zlib.crc32(data[: HEADER_SIZE - 4]))
    return data[: HEADER_SIZE - 4] + struct.pack("<I", crc) + data[HEADER_SIZE:]


def check_truncated(codec: Codec, data: bytes, step: int = 1) -> None:
    """Every proper prefix is refused, whether or not its checksum is right."""
    for size in range(0, len(data), step):
        with pytest.raises(CodecError):
            codec.decode(data[:size])
        if size >= HEADER_SIZE:
            with pytest.raises(CodecError):
                codec.decode(repair_checksum(data[:size]))


def check_flipped(codec: Codec, data: bytes) -> None:
    """Every flipped bit is noticed."""
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CodecError):
            codec.decode(bytes(damaged))


def check_fuzz(codec: Codec, data: bytes, rounds: int, seed: int) -> None:
    """Damage behind a right checksum gives frames of the declared shape or CodecError, nothing else."""
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(rounds):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            kind = rng.integers(4)
            at = int(rng.integers(HEADER_SIZE, max(len(damaged), HEADER_SIZE + 1)))
            if kind == 0 and at < len(damaged):
                damaged[at] = rng.integers(256)
            elif kind == 1 and at < len(damaged):
                damaged[at] ^= 1 << rng.integers(8)
            elif kind == 2:
                del damaged[at : at + int(rng.integers(1, 9))]
            else:
                damaged[at:at] = rng.integers(0, 256, rng.integers(1, 9), np.uint8).tobytes()
        try:
            codec.decode(repair_checksum(bytes(damaged)), max_pixels=1 << 20)
        except CodecError:
            refused += 1
    assert refused, "no damage was ever noticed"


def check_too_large(codec: Codec, data: bytes) -> None:
    """A declared size beyond `max_pixels` is refused, before the checksum and before memory is touched."""
    shape = struct.unpack_from("<HIII", data, 6)
    declared = max(shape[0], 1) * shape[1] * shape[2] * shape[3]
    codec.decode(data, max_pixels=declared)
    with pytest.raises(TooLargeError):
        codec.decode(data, max_pixels=declared - 1)
    huge = data[:8] + struct.pack("<III", 2**31, 2**31, 2**31) + data[20:]
    with pytest.raises(TooLargeError):
        codec.decode(repair_checksum(huge))
