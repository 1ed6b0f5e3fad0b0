"""The graphics core: exact, unharmed by any bytes, and used where it pays."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.bits import put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import codec as container
from dcmpress.codecs.interframe import graphics, graphics_choice
from dcmpress.codecs.interframe.codec import InterframeCodec
from dcmpress.codecs.interframe.graphics_choice import Graphics, choose_graphics
from dcmpress.codecs.interframe.parts import default_references
from dcmpress.codecs.interframe.planes import NO_TRANSFORM, Layer, find_layers, put_layers
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.stream import HEADER_SIZE, write_stream
from tests import corpus
from tests.codecs import checks, interframe_reference

Array = NDArray[Any]
FAST, BALANCED = InterframeCodec("fast"), InterframeCodec("balanced")
DATA = Path(__file__).resolve().parents[1] / "data"
CORE = HEADER_SIZE
"""Where a stream names its core."""


def _numbers(n: int) -> Array:
    """Return pseudo-random numbers, 0 to 255, the same on every machine."""
    state = 7
    values = np.empty(n, np.int64)
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values[i] = state >> 56
    return values


def report(n: int, rows: int, columns: int) -> Array:
    """Return frames of text on black with grey edges, the last line of them counting, uint8."""
    letters = _numbers(10 * 10 * 6).reshape(10, 10, 6) % 4 * 85
    letters[:, [0, 1, -1]] = 0
    text = _numbers(rows * columns)
    frames = np.zeros((n, rows, columns), np.uint8)
    for k in range(n):
        for line in range(1, rows // 10, 2):
            for place in range(2, columns // 6 - 2):
                letter = text[line * columns + place] % 10
                if line + 2 >= rows // 10:
                    letter = (letter + k) % 10
                if text[line * columns // 2 + place] % 5:
                    frames[k, 10 * line : 10 * line + 10, 6 * place : 6 * place + 6] = letters[letter]
    return frames


def scan(n: int, rows: int, columns: int) -> Array:
    """Return frames of a report with a sector of grey noise that changes, and a bar and letters in colour, uint8."""
    grey = report(n, rows, columns)
    y, x = np.mgrid[:rows, :columns]
    sector = (2 * abs(x - columns // 2) < y) & (y > rows // 4)
    noise = _numbers(n * rows * columns).reshape(n, rows, columns) % 12 * 8
    grey = np.where(sector, noise, grey)
    frames = np.repeat(grey[..., np.newaxis], 3, axis=3)
    ramp = np.arange(rows) * 255 // (rows - 1)
    frames[:, :, -8:] = np.stack([ramp, ramp // 3, 255 - ramp], axis=1)[:, np.newaxis]
    frames[:, rows // 2 :, : columns // 4] = frames[:, rows // 2 :, : columns // 4] * [4, 3, 0] // 4
    return frames.astype(np.uint8)


Choice = Callable[[Array, Array, Sequence[int]], Graphics | None]


def always(by_symbols: bool) -> Choice:
    """Return a choice of the graphics core for everything that it can take."""

    def choose(frames: Array, kept: Array, references: Sequence[int]) -> Graphics | None:
        if frames.ndim == 4:
            return choose_graphics(frames, kept, references)
        layers = find_layers(frames, NO_TRANSFORM, kept, dense=True)
        return Graphics(None, layers, [by_symbols] * len(layers))

    return choose


@pytest.mark.parametrize("by_symbols", [False, True])
def test_it_keeps_the_contract(by_symbols: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "choose_graphics", always(by_symbols))
    checks.check_codec(FAST)


@pytest.mark.parametrize("references", [None, [-1] * 5, [-1, 0, 0, 1, 2], list(range(-1, 4))])
def test_any_tree_of_references(references: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = [(0, 0), (3, -2), (-1, 0), (400, -400), (0, 9)]
    for frames, by_symbols in ((report(5, 40, 60), False), (scan(5, 41, 61), True)):
        monkeypatch.setattr(container, "choose_graphics", always(by_symbols))
        for moved in (None, shifts) if references else (None,):
            data = FAST.encode(frames, references, shifts=moved)
            assert data[CORE] == 4
            checks.assert_same(FAST.decode(data), frames)
            for select in ([4], [3, 0, 3], [1]):
                checks.assert_same(FAST.decode(data, select), frames[select])


def test_what_does_not_change_is_nearly_free() -> None:
    frames = scan(8, 96, 160)
    frames[:, :, 8:-8] = frames[:1, :, 8:-8]
    frames[:, 40:48, :8] = np.arange(8)[:, np.newaxis, np.newaxis, np.newaxis] * 30
    one = len(BALANCED.encode(frames[:1]))
    assert len(BALANCED.encode(frames)) < 1.1 * one + 100
    assert len(BALANCED.encode(frames, [-1] * 8)) > 2 * one


def test_frames_are_alike_but_moved() -> None:
    scene = scan(1, 150, 200)[0]
    frames = np.stack([scene[4 * k : 4 * k + 96, 3 * k : 3 * k + 160] for k in range(4)])
    references = [-1, 0, 1, 2]
    moved = BALANCED.encode(frames, references, shifts=[(0, 0)] + [(-4, -3)] * 3)
    assert moved[CORE] == 4
    checks.assert_same(BALANCED.decode(moved), frames)
    assert len(moved) < 0.7 * len(BALANCED.encode(frames, references))


def test_sections_and_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "SECTION_SAMPLES", 12_000)
    monkeypatch.setattr(container, "STRIPE_SAMPLES", 2_500)
    frames = report(9, 70, 90)
    references = default_references(9, 3)
    data = FAST.encode(frames, references)
    assert data[CORE] == 4
    checks.assert_same(FAST.decode(data), frames)
    checks.assert_same(FAST.decode(data, [8, 0, 4]), frames[[8, 0, 4]])
    payload = bytearray(data[HEADER_SIZE:])
    payload[-1] ^= 0x55  # in the last section
    damaged = write_stream(container.MAGIC, 3, frames, bytes(payload))
    checks.assert_same(FAST.decode(damaged, [5, 2]), frames[[5, 2]])


def test_more_noise_than_the_buffer_expects() -> None:
    planes = np.random.default_rng(3).integers(0, 65536, (2, 90, 70)).astype(np.uint16)
    for by_symbols in (False, True):
        data = graphics.encode_planes(planes, 65535, [-1, 0], None, by_symbols)
        assert len(data) < 1.2 * planes.nbytes
        found = graphics.decode_planes(data, planes.shape, 65535, [-1, 0], None, [0, 1])
        for (_, plane), expected in zip(found, planes, strict=True):
            np.testing.assert_array_equal(plane, expected)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0, 1, 2, 7, 255, 4095, 65535]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_planes_of_anything(
    n: int, rows: int, columns: int, top: int, by_symbols: bool, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    few = rng.integers(0, top + 1, 4)
    planes = np.where(rng.random((n, rows, columns)) < rng.random(), rng.choice(few), few[0])
    planes = np.where(rng.random(planes.shape) < 0.2, rng.integers(0, top + 1, planes.shape), planes)
    planes = planes.astype(np.uint16)
    references = [data.draw(st.integers(-1, i - 1)) for i in range(n)]
    shifts = [(int(rng.integers(-4, 5)), int(rng.integers(-40, 41))) for _ in range(n)]
    coded = graphics.encode_planes(planes, top, references, shifts, by_symbols)
    wanted = sorted({int(i) for i in rng.integers(0, n, 2)})
    found = 0
    for i, plane in graphics.decode_planes(coded, planes.shape, top, references, shifts, wanted):
        np.testing.assert_array_equal(plane, planes[i])
        found += 1
    assert found == len(wanted)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 5, 255, 1135, 65535]), st.booleans())
def test_any_bytes_are_planes_within_their_limit(data: bytes, top: int, by_symbols: bool) -> None:
    shape, references, shifts = (3, 17, 23), [-1, 0, -1], [(0, 0), (1, -30), (0, 0)]
    coded = bytes([by_symbols]) + data
    planes = [
        plane.copy() for _, plane in graphics.decode_planes(coded, shape, top, references, shifts, [0, 1, 2])
    ]
    assert len(planes) == 3
    assert max(int(plane.max()) for plane in planes) <= top


@pytest.mark.parametrize("references", [[-1, -1], [-1, 0]])
def test_stretches_that_never_hold_take_no_longer_in_wide_planes(references: list[int]) -> None:
    """Every bit of this stream is 0 for long: stretches begin at each sample, and end at once."""
    coded = b"\1" + b"\xff" * 4000
    times = []
    for rows, columns in ((180, 180), (1, 32_400)):
        for _ in graphics.decode_planes(coded, (2, rows, columns), 255, references, None, [1]):
            pass
        start = time.thread_time()
        for _, plane in graphics.decode_planes(coded, (2, rows, columns), 255, references, None, [1]):
            assert not plane.any()
        times.append(time.thread_time() - start)
    assert times[1] < 8 * times[0]


def test_it_is_for_one_component() -> None:
    """Of many components, each would learn at the same time what takes a megabyte."""
    frames = np.zeros((1, 2, 3, 2), np.uint8)
    payload = bytearray([4, 0, NO_TRANSFORM])
    put_layers(payload, [Layer(c, 0, 0, 16, 1) for c in range(2)])
    for _ in range(2):
        put_varint(payload, 1)
    stream = write_stream(container.MAGIC, 3, frames, bytes(payload) + b"\0\0")
    with pytest.raises(CorruptStreamError, match="component"):
        FAST.decode(stream)


@pytest.mark.parametrize("data", [b"", b"\2abc", b"\xff"])
def test_an_unknown_flag_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptStreamError, match="flag"):
        next(graphics.decode_planes(data, (1, 2, 2), 9, [-1], None, [0]))


def test_it_came_with_version_3() -> None:
    frames = report(1, 60, 90)
    data = FAST.encode(frames)
    assert (data[4], data[CORE]) == (3, 4)
    older = write_stream(container.MAGIC, 2, frames, data[HEADER_SIZE:])
    with pytest.raises(CorruptStreamError, match="unknown core"):
        FAST.decode(older)


@pytest.mark.parametrize("frames", [report(3, 40, 64), scan(2, 40, 64)], ids=["grey", "colour"])
def test_hostile_streams_raise_or_decode(frames: Array) -> None:
    assert FAST.encode(frames)[CORE] == 4
    checks.check_hostile(FAST, frames, 200, np.random.default_rng(5))


GOLDEN = {
    "interframe-v3-graphics-colours": "65cef7dc38a28a181de405331181131b13e47b3d98e49243c18ffb91b1ed73bc",
    "interframe-v3-graphics-errors": "09cba7ae317da3703d9299b410737a1fa0e797dccdce517e207ae822a0dd02e7",
    "interframe-v3-graphics-text": "694a85b604a1e2d747da5e7301ca687df751ad165679499d66a9e1cbcff95a4e",
}
"""Name of a stream in tests/data -> SHA-256 of its frames (little endian, C order)."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_streams_decode_for_ever(name: str) -> None:
    data = (DATA / f"{name}.bin").read_bytes()
    for frames in (FAST.decode(data), interframe_reference.decode(data)):
        little = frames.astype(frames.dtype.newbyteorder("<"))
        assert hashlib.sha256(little.tobytes()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", ["interframe-v3-graphics-colours", "interframe-v3-graphics-text"])
def test_golden_streams_are_written_again(name: str) -> None:
    data = (DATA / f"{name}.bin").read_bytes()
    assert FAST.encode(FAST.decode(data)) == data


def _image(name: str) -> Array:
    (path,) = (entry.path for entry in corpus.entries() if entry.path.name == name)
    return corpus.frames_of(path)


@pytest.mark.parametrize(
    ("name", "of_jpeg_xl"),
    [
        ("RGB_IMAGE.dcm", 0.83),
        ("US-RGB-8-epicard.dcm", 0.94),
        ("US-RGB-8-esopecho.dcm", 1.08),
        ("OT-PAL-8-face.dcm", 0.56),
        ("US-PAL-8-10x-echo.dcm", 0.75),
    ],
)
def test_screens_are_small(name: str, of_jpeg_xl: float) -> None:
    frames = _image(name)[:3]
    data = BALANCED.encode(frames)
    assert data[CORE] == 4
    checks.assert_same(BALANCED.decode(data), frames)
    peers = [get_codec("jpeg-ls"), get_codec("zstd", level=19)]
    assert len(data) < min(len(peer.encode(frames)) for peer in peers)
    assert len(data) < of_jpeg_xl * len(get_codec("jpeg-xl", effort=7).encode(frames))


@pytest.mark.parametrize(
    "name", ["CT-MONO2-16-chest.dcm", "MR-MONO2-12-shoulder.dcm", "OT-MONO2-8-hip.dcm", "VL6_UNC", "NM1_UNC"]
)
def test_scans_and_photographs_are_left_to_prediction(name: str) -> None:
    frames = _image(name)
    references = default_references(len(frames))
    assert choose_graphics(frames, np.arange(len(frames)), references) is None


@pytest.mark.parametrize(
    "group", ["CT-LIDC0314-thin", "MR-heart-cine-MF", "US-EPIQ-cine", "XA-catheter", "PT-QINHN0024"]
)
def test_series_are_left_to_prediction(group: str) -> None:
    frames = corpus.series(group, 5)
    assert choose_graphics(frames, np.arange(len(frames)), default_references(len(frames))) is None


@pytest.mark.parametrize("references", [[-1, -1, -1], [-1, -1, 1], [-1, 0, -1]])
def test_a_choice_with_values_in_frames_without_reference(references: list[int]) -> None:
    """A band of a frame without reference has values that no pair has."""
    frames = scan(3, 60, 90)
    frames[0] //= 3
    frames[1, :, :30] = np.arange(30)[:, np.newaxis] * 8
    for part in (frames, frames[..., 1].astype(np.int16) * 99 - 7000):
        choose_graphics(part, np.arange(3), references)
        checks.assert_same(FAST.decode(FAST.encode(part, references)), part)


def test_the_choice_adds_up_what_is_exact_on_every_machine() -> None:
    frames = report(1, 60, 90)
    sample = graphics_choice._sample(frames, np.arange(1), [-1])
    for bits in sample.bits(True):
        assert bits > 0
        assert float(bits) * 2**20 == int(bits * 2**20)
    for v in (6 / 65536, 0.75, 1.0, 3.0, 1023.0, 123_456.75):
        assert abs(graphics_choice._log2(v) - math.log2(v)) < 0.003


@pytest.mark.parametrize("frames", [report(1, 60, 90), report(3, 40, 60), scan(2, 40, 64)])
def test_dense_takes_this_core_where_it_is_smaller(frames: Array) -> None:
    dense = InterframeCodec("dense")
    data = dense.encode(frames)
    assert len(data) <= len(BALANCED.encode(frames))
    assert (data[4], data[CORE]) == (3, 4)
    checks.assert_same(dense.decode(data), frames)


@pytest.mark.parametrize("name", ["RGB_IMAGE.dcm", "US-PAL-8-10x-echo.dcm", "OT-PAL-8-face.dcm"])
def test_dense_is_never_larger_than_balanced(name: str) -> None:
    frames = _image(name)[:2]
    assert len(InterframeCodec("dense").encode(frames)) <= len(BALANCED.encode(frames))


def test_the_choice_is_near_the_smaller_on_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never much more than the forward core takes, where the graphics core is chosen."""
    chosen = 0
    for entry in [*corpus.entries("US-RGB-singles"), *corpus.entries("US-PAL-echo")]:
        frames = corpus.frames_of(entry.path)[:2]
        data = FAST.encode(frames)
        if data[CORE] != 4:
            continue
        chosen += 1
        with monkeypatch.context() as context:
            context.setattr(container, "choose_graphics", lambda *_: None)
            assert len(data) < 0.95 * len(FAST.encode(frames))
    assert chosen >= 4
