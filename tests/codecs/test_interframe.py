"""The interframe codec: container, frame preparation and forward core."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CodecError, CorruptStreamError, TooLargeError, UnknownVersionError
from dcmpress.codecs.interframe import codec as container
from dcmpress.codecs.interframe.codec import InterframeCodec
from dcmpress.codecs.interframe.planes import NO_TRANSFORM, Layer, find_layers, put_layers, read_layers
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.stream import HEADER_SIZE, write_stream
from tests.codecs import checks, interframe_reference

Array = NDArray[Any]
FORWARD = [InterframeCodec("fast"), InterframeCodec("balanced")]
DATA = Path(__file__).resolve().parents[1] / "data"


def _moving(n: int, rows: int, columns: int, seed: int = 1, top: int = 3000) -> Array:
    """A smooth scene that drifts by (1, 2) pixels a frame under noise, uint16."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(rows + 2 * n, columns + 4 * n)).cumsum(0).cumsum(1)
    scene = (scene - scene.min()) / np.ptp(scene) * top
    frames = np.stack([scene[i : i + rows, 2 * i : 2 * i + columns] for i in range(n)])
    return (frames + rng.normal(0, 4, frames.shape)).clip(0, top + 20).astype(np.uint16)


@pytest.mark.parametrize("codec", FORWARD, ids=lambda c: c.effort)
def test_keeps_the_contract(codec: InterframeCodec) -> None:
    checks.check_codec(codec)


def test_refuses_an_unknown_effort() -> None:
    with pytest.raises(ValueError, match="effort"):
        get_codec("interframe", effort="extreme")


@pytest.mark.parametrize("codec", FORWARD, ids=lambda c: c.effort)
@pytest.mark.parametrize("references", [[-1] * 9, [-1, 0, 0, 1, 1, 3, -1, 6, 2], list(range(-1, 8))])
def test_any_tree_of_references(codec: InterframeCodec, references: list[int]) -> None:
    frames = _moving(9, 40, 51)
    shifts = [(0, 0) if r < 0 else (-(i - r), -2 * (i - r)) for i, r in enumerate(references)]
    for moved in (None, shifts, [(300, -300)] * 9):
        data = codec.encode(frames, references, shifts=moved)
        checks.assert_same(codec.decode(data), frames)
        for i in (8, 4):
            checks.assert_same(codec.decode(data, [i]), frames[i : i + 1])


def test_references_and_shifts_pay() -> None:
    frames = _moving(6, 96, 96)
    codec = InterframeCodec("balanced")
    alone = len(codec.encode(frames, [-1] * 6))
    chain = len(codec.encode(frames, list(range(-1, 5))))
    moved = len(codec.encode(frames, list(range(-1, 5)), shifts=[(0, 0)] + [(-1, -2)] * 5))
    assert moved < chain
    assert moved < 0.98 * alone


def test_select_reads_only_its_chain() -> None:
    """Damage in a frame's record is not seen by frames that do not refer to it."""
    frames = _moving(4, 80, 80)
    codec = InterframeCodec("fast")
    data = codec.encode(frames, [-1, 0, -1, 2])
    payload = bytearray(data[HEADER_SIZE:])
    payload[-3] ^= 0x55  # in the record of frame 3
    damaged = write_stream(container.MAGIC, 1, frames, bytes(payload))
    checks.assert_same(codec.decode(damaged, [0, 1, 2]), frames[:3])
    with pytest.raises(CorruptStreamError):
        codec.decode(damaged, [3])


def test_duplicated_frames_are_nearly_free() -> None:
    frame = _moving(1, 120, 120)
    codec = InterframeCodec("fast")
    once = len(codec.encode(frame))
    assert len(codec.encode(np.repeat(frame, 50, axis=0))) < once + 120
    shuffled = np.concatenate([frame, frame[:, ::-1], frame, frame[:, ::-1]])
    checks.assert_same(codec.decode(codec.encode(shuffled), [3, 2]), shuffled[[3, 2]])


def test_constant_frames_are_nearly_free() -> None:
    for value in (-32768, 0, 32767):
        frames = np.full((3, 200, 300), value, np.int16)
        assert len(InterframeCodec().encode(frames)) < 60


@pytest.mark.parametrize("codec", FORWARD, ids=lambda c: c.effort)
def test_frames_with_nothing_to_fit(codec: InterframeCodec) -> None:
    bands = np.arange(6 * 96, dtype=np.uint16).reshape(6, 96, 1) * 37 % 1024
    flat = np.repeat(bands, 160, axis=2)  # every sample equals its left neighbour
    data = codec.encode(flat)
    assert np.array_equal(codec.decode(data), flat)
    assert len(data) < 3000  # hardly more than a step for each of its 576 rows


def test_noise_is_stored() -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 16, (2, 50, 60), np.uint16)
    data = InterframeCodec().encode(noise)
    assert len(data) == HEADER_SIZE + 1 + noise.nbytes


def test_sparse_values_are_packed() -> None:
    frames = _moving(2, 128, 128, top=200)
    table = np.sort(np.random.default_rng(4).choice(65536, 256, replace=False)).astype(np.uint16)
    codec = InterframeCodec("fast")
    stretched = table[frames]
    data = codec.encode(stretched)
    checks.assert_same(codec.decode(data), stretched)
    assert len(data) < len(codec.encode(frames)) + 600


def test_flags_in_high_bits_cost_little() -> None:
    frames = _moving(2, 128, 128)
    flagged = frames.copy()
    flagged[:, 30:50, 40:100] |= 0x8000
    codec = InterframeCodec("fast")
    data = codec.encode(flagged)
    checks.assert_same(codec.decode(data), flagged)
    assert len(data) < 1.05 * len(codec.encode(frames))


def test_a_gap_between_air_and_tissue_is_no_flag() -> None:
    random = np.random.default_rng(7)
    air = random.integers(0, 40, (2, 96, 128))
    tissue = 900 + random.normal(0, 20, (2, 96, 128)).astype(np.int64)
    y, x = np.mgrid[:96, :128]
    frames = np.where((y - 48) ** 2 + (x - 64) ** 2 < 40**2, tissue, air).astype(np.uint16)
    layers = find_layers(frames, NO_TRANSFORM, np.arange(2))
    assert [(layer.shift, layer.bits) for layer in layers] == [(0, 16)]
    frames[:, 20:60, 30:90] |= 0x2000
    layers = find_layers(frames, NO_TRANSFORM, np.arange(2))
    assert [(layer.shift, layer.bits) for layer in layers] == [(0, 10), (10, 16)]


def test_grey_in_three_samples_costs_like_grey() -> None:
    grey = (_moving(1, 128, 160, top=220)[..., np.newaxis] & 0xFF).astype(np.uint8)
    codec = InterframeCodec("fast")
    assert len(codec.encode(np.repeat(grey, 3, axis=3))) < 1.02 * len(codec.encode(grey[..., 0])) + 200


def test_stripes_and_threads_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "STRIPE_SAMPLES", 5000)
    frames = _moving(3, 150, 90)
    codec = InterframeCodec("fast")
    streams = []
    for threads in (1, 3):
        monkeypatch.setattr(container, "MAX_THREADS", threads)
        streams.append(codec.encode(frames))
        checks.assert_same(codec.decode(streams[-1]), frames)
    assert streams[0] == streams[1]


@pytest.mark.parametrize("stripe", [1 << 22, 700])
@pytest.mark.parametrize("effort", ["balanced", "dense"])
@pytest.mark.parametrize("colours", [1, 3])
def test_each_frame_is_whole_when_it_is_said_to_be(
    effort: str, colours: int, stripe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "STRIPE_SAMPLES", stripe)
    monkeypatch.setattr(container, "SECTION_SAMPLES", 4000)
    monkeypatch.setattr(container, "MAX_THREADS", 2)
    frames = _moving(9, 40, 51)
    if colours == 3:
        frames = np.array([[7, 200, 3], [90, 90, 91], [255, 0, 17], [1, 2, 250]], np.uint8)[frames >> 9 & 3]
    frames[5] = frames[2]
    codec = InterframeCodec(effort)
    data = codec.encode(frames)
    for select in (None, [7, 2, 2, 5]):
        expected = frames if select is None else frames[select]
        found, whole = codec.decode_stepwise(data, select)
        places = []
        for place in whole:
            checks.assert_same(found[place], expected[place])
            places.append(place)
        assert sorted(places) == list(range(len(expected)))


def test_only_what_is_asked_for_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = []
    place = container._place

    def counted(*given: Any) -> None:
        placed.append(1)
        place(*given)

    monkeypatch.setattr(container, "_place", counted)
    frames = _moving(9, 40, 51)
    codec = InterframeCodec("balanced")
    found, whole = codec.decode_stepwise(codec.encode(frames))
    assert next(whole) == 0
    assert len(placed) == 1
    checks.assert_same(found[0], frames[0])


def test_long_series_in_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "SECTION_SAMPLES", 3000)
    frames = _moving(40, 20, 24)
    codec = InterframeCodec("fast")
    data = codec.encode(frames)
    checks.assert_same(codec.decode(data), frames)
    checks.assert_same(codec.decode(data, [39, 17, 3]), frames[[39, 17, 3]])


def test_refuses_before_it_allocates() -> None:
    frames = np.zeros((1, 1, 1), np.uint8)
    data = bytearray(InterframeCodec().encode(frames))
    data[8:20] = b"\xff" * 12
    with pytest.raises(TooLargeError):
        InterframeCodec().decode(bytes(data))
    many = np.broadcast_to(frames, (1 << 24, 1, 1))
    with pytest.raises(CorruptStreamError, match="more frames than bytes"):
        InterframeCodec().decode(write_stream(container.MAGIC, 1, many, b"\1\0\0\0"))


def test_a_table_of_more_values_than_samples_is_refused() -> None:
    """Else a few bytes a layer would say what takes half a megabyte."""
    values = np.arange(65536)
    out = bytearray()
    put_layers(out, [Layer(0, 0, 0, 16, 65535, values)])
    (layer,) = read_layers(ByteReader(bytes(out)), 1, 65536)
    assert layer.values is not None
    np.testing.assert_array_equal(layer.values, values)
    assert layer.values.nbytes == 2 * 65536
    with pytest.raises(CorruptStreamError, match="than there are samples"):
        read_layers(ByteReader(bytes(out)), 1, 65535)


def test_a_newer_version_is_refused() -> None:
    data = bytearray(InterframeCodec().encode(np.zeros((1, 2, 2), np.uint8)))
    data[4] = 4
    with pytest.raises(UnknownVersionError):
        InterframeCodec().decode(bytes(data))


def _hostile(data: bytes, frames: Array, rng: np.random.Generator) -> bytes:
    """Damage a payload and give it a right checksum."""
    payload = bytearray(data[HEADER_SIZE:])
    for _ in range(int(rng.integers(1, 4))):
        position = int(rng.integers(len(payload))) if rng.random() < 0.5 else int(rng.integers(40))
        position = min(position, len(payload) - 1)
        kind = rng.integers(4)
        if kind == 0:
            payload[position] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            payload[position] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del payload[position : position + int(rng.integers(1, 9))]
        else:
            payload[position:position] = rng.bytes(int(rng.integers(1, 9)))
        if not payload:
            payload = bytearray(1)
    return write_stream(container.MAGIC, 1, frames, bytes(payload))


@pytest.mark.parametrize("codec", FORWARD, ids=lambda c: c.effort)
def test_hostile_streams_raise_or_decode(codec: InterframeCodec) -> None:
    """With a right checksum, damage ends in CodecError or in frames of the declared shape, never worse."""
    rng = np.random.default_rng(99)
    colour = np.random.default_rng(1).integers(0, 9, (2, 30, 31, 3)).cumsum(1).astype(np.uint8)
    series = _moving(4, 33, 47)
    series[:, :12] = 0
    cases = (
        (series, [-1, 0, 1, 0], [(0, 0), (1, 1), (0, 0), (-2, 3)]),
        (colour, None, None),
        (_moving(2, 30, 40) * np.uint16(21), None, None),
        (np.repeat(_moving(2, 20, 20).astype(np.uint32) * 70000, 2, axis=0), None, None),
    )
    outcomes = set()
    for frames, references, shifts in cases:
        data = codec.encode(frames, references, shifts=shifts)
        for _ in range(250):
            try:
                found = codec.decode(_hostile(data, frames, rng))
            except CodecError:
                outcomes.add("error")
            else:
                outcomes.add("frames")
                assert found.shape == frames.shape
                assert found.dtype == frames.dtype
    assert "error" in outcomes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(FORWARD),
    st.sampled_from(InterframeCodec.dtypes),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([None, 1, 2, 3, 4]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_round_trip_of_anything(
    codec: InterframeCodec,
    dtype: str,
    n: int,
    rows: int,
    columns: int,
    samples: int | None,
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (n, rows, columns) + ((samples,) if samples else ())
    info = np.iinfo(dtype)
    spread = int(rng.choice([2, 16, 256, 4096, info.max]))
    frames = (rng.integers(0, spread, shape) * int(rng.choice([1, 1, 3, 1000]))).astype(dtype)
    if rng.random() < 0.5:
        frames = np.minimum(frames, frames[:1])
    references = None
    shifts = None
    if rng.random() < 0.7:
        references = [data.draw(st.integers(-1, i - 1)) for i in range(n)]
        shifts = [(int(rng.integers(-5, 6)), int(rng.integers(-5, 6))) for _ in range(n)]
    stream = codec.encode(frames, references, shifts=shifts)
    checks.assert_same(codec.decode(stream), frames)
    wanted = rng.integers(0, n, 3).tolist()
    checks.assert_same(codec.decode(stream, wanted), frames[wanted])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)))
def test_any_payload_raises_or_decodes(payload: bytes, shape: tuple[int, int, int]) -> None:
    stream = write_stream(container.MAGIC, 1, np.broadcast_to(np.uint16(0), shape), payload)
    try:
        assert InterframeCodec().decode(stream).shape == shape
    except CodecError:
        pass


GOLDEN = {
    "interframe-v1-fast-tree": "44b3d86dcd0b17be38e34f19e5e4decf39ce35f83dd9cce829599cafff9e4b83",
    "interframe-v1-balanced-chain": "6ca34e8ab3ea56a271dc470d34c1cd76483589babb7a0a828a047d4621e50ecc",
    "interframe-v1-colour": "825b827033108df6b6a7a8c9fcfe7b9e1aa6a8d84931128704c53858316280fa",
    "interframe-v1-packed": "62f84ad202622f9c12121a12a2dbb3a1c5644a30f0b8eaa3592f8ab7cf791c2f",
    "interframe-v1-stored": "a7248c75490bce2ea738b23fcdfa0207cfada7ffda041404a3dce17fcd7e4dd9",
    "interframe-v1-wide-range": "ec2d52445ce6d25c3c74a6ecd9db60734ad6ae2754dd497eb80c6ed889b9abb6",
}
"""Name of a stream in tests/data -> SHA-256 of its frames (little endian, C order)."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_streams_decode_for_ever(name: str) -> None:
    frames = InterframeCodec().decode((DATA / f"{name}.bin").read_bytes())
    little = frames.astype(frames.dtype.newbyteorder("<"))
    assert hashlib.sha256(little.tobytes()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_document_is_enough_to_decode(name: str) -> None:
    """The decoder in plain Python, written after docs/codec-interframe.md, gives the same frames."""
    frames = interframe_reference.decode((DATA / f"{name}.bin").read_bytes())
    little = frames.astype(frames.dtype.newbyteorder("<"))
    assert hashlib.sha256(little.tobytes()).hexdigest() == GOLDEN[name]
