"""The codec `fluoroscopy`: groups, region of interest, predictions, damage."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.fluoroscopy import Fluoroscopy
from dcmpress.codecs.fluoroscopy_kernels import correlation
from dcmpress.codecs.fluoroscopy_region import find_region
from dcmpress.codecs.registry import get_codec
from tests.codecs import checks
from tests.codecs.literature_checks import (
    check_flipped,
    check_fuzz,
    check_round_trip,
    check_select,
    check_too_large,
    check_truncated,
    frames_of,
    repair_checksum,
)

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "tests" / "data"
CODEC = Fluoroscopy()


def moving_run(n=6, size=96, seed=0, dtype=np.uint8):
    """A disc with anatomy, a moving bolus and noise, black corners; synthetic."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    disc = (2 * y - size + 1) ** 2 + (2 * x - size + 1) ** 2 <= (size - 4) ** 2
    anatomy = 120 + 60 * np.sin(x / 9) * np.cos(y / 13)
    frames = []
    for k in range(n):
        bolus = 50 * np.exp(-((x - size / 2) ** 2 + (y - 10 - 6 * k) ** 2) / 40)
        frames.append(np.where(disc, np.rint(anatomy - bolus + rng.normal(0, 1, x.shape)), 0))
    return np.array(frames).astype(dtype)


def test_keeps_the_contract():
    checks.check_codec(CODEC)


def test_is_registered_without_parameters():
    assert get_codec("fluoroscopy") == CODEC
    assert get_codec("fluoroscopy", **CODEC.parameters()) == CODEC
    assert CODEC.lossless
    assert CODEC.uses_references


@given(frames_of(CODEC.dtypes), st.data())
@settings(max_examples=150, deadline=None)
def test_gives_back_every_sample(frames, data):
    n = len(frames)
    references = data.draw(st.one_of(st.none(), st.tuples(*(st.integers(-1, i - 1) for i in range(n)))))
    moves = st.integers(-5, 50)
    shifts = data.draw(st.one_of(st.none(), st.lists(st.tuples(moves, moves), min_size=n, max_size=n)))
    check_round_trip(CODEC, frames, references=references, shifts=shifts)


@given(st.integers(0, 2**31), st.sampled_from(["uint8", "int8", "uint16", "int16"]))
@settings(max_examples=40, deadline=None)
def test_gives_back_what_moves(seed, dtype):
    """Frames that resemble each other, with bands, corners and overflow of the difference."""
    rng = np.random.default_rng(seed)
    base = moving_run(1, int(rng.integers(20, 90)), seed)[0].astype(np.int64)
    frames = np.array([np.roll(base, tuple(rng.integers(-3, 4, 2)), (0, 1)) for _ in range(5)])
    frames = frames * int(rng.integers(1, 300)) + rng.integers(-2, 3, frames.shape) * (frames > 0)
    frames = frames.astype(dtype)
    if rng.random() < 0.5:
        frames[:, :, : int(rng.integers(1, 9))] = np.iinfo(dtype).max
    check_round_trip(CODEC, frames)


def test_correlation_is_numpys():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    b = (a // 2 + rng.integers(0, 9000, a.shape)).astype(np.uint16)
    assert correlation(a, b, 1) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-12)
    assert correlation(a, 65535 - a, 1) == pytest.approx(-1)
    assert correlation(a, a, 3) == 1
    assert correlation(a, np.full_like(a, 9), 1) == 0


def test_groups():
    """Two views and an outlier of each kind: each view's first image leads, at most `max_groups` lead."""
    rng = np.random.default_rng(2)
    views = rng.integers(0, 200, (2, 64, 64))
    order = [0, 0, 1, 0, 1, 1]
    images = np.array([views[v] + rng.integers(0, 9, (64, 64)) for v in order])
    images = np.concatenate([images, rng.integers(0, 200, (2, 64, 64)), images[:1]]).astype(np.uint16)
    assert Fluoroscopy().classify(images) == [-1, 0, -1, 0, 2, 2, -1, -1, 0]
    assert Fluoroscopy(max_groups=1).classify(images) == [-1, 0, -1, 0, -1, -1, -1, -1, 0]


def test_region_is_the_disc_and_costs_nothing_outside():
    image = moving_run(1, 96)[0].astype(np.uint16) + 1
    image[image == 1] = 0
    region = find_region(image)
    spans = region.spans(96)
    inside = np.zeros((96, 96), bool)
    for y, (begin, end) in enumerate(spans):
        inside[y, begin:end] = True
    assert not image[~inside].any()
    assert inside.mean() < 0.8
    filled = image.copy()
    filled[~inside] = 77
    region.fill_outside(filled, spans)
    assert np.array_equal(filled, image)


def test_one_odd_pixel_in_a_corner_is_kept():
    frames = moving_run()
    frames[3, 0, 0] = 1
    frames[4, -1, 2] = 255
    check_round_trip(CODEC, frames)


def test_region_of_bands_and_constants():
    image = np.full((20, 30), 5, np.uint16)
    region = find_region(image)
    assert (region.spans(20)[:, 1] == region.spans(20)[:, 0]).all()
    image[4:9, 6:20] = np.arange(14)
    region = find_region(image)
    assert (region.top, region.bottom, region.left, region.right) == (4, 9, 6, 20)


def test_a_moved_image_is_found():
    rng = np.random.default_rng(3)
    scene = np.kron(rng.integers(0, 200, (14, 15)), np.ones((10, 10))) + rng.integers(0, 50, (140, 150))
    scene = scene.astype(np.uint8)
    frames = np.array([scene[20:120, 20:120], scene[13:113, 24:124]])  # down by 7, right by -4
    sizes = [len(check_round_trip(CODEC, frames[:1])), len(check_round_trip(CODEC, frames))]
    assert sizes[1] < sizes[0] * 1.3


def test_given_shifts_are_used():
    rng = np.random.default_rng(4)
    scene = rng.integers(0, 256, (120, 120)).astype(np.uint8)
    frames = np.array([scene[40:100, 40:100], scene[10:70, 40:100]])
    blind = len(check_round_trip(CODEC, frames))
    told = len(check_round_trip(CODEC, frames, references=[-1, 0], shifts=[(0, 0), (30, 0)]))
    assert told < 0.85 * blind


def test_beats_huffman_alone_on_a_run():
    frames = moving_run(8, 128)
    huffman = len(get_codec("huffman").encode(frames))
    assert len(CODEC.encode(frames)) < 0.75 * huffman


def test_chains_are_bounded():
    """Each frame is decoded from few others, and select decodes it alone."""
    frames = np.cumsum(np.random.default_rng(5).integers(-1, 2, (40, 32, 32)), axis=0).astype(np.int16)
    check_select(CODEC, frames, CODEC.encode(frames))
    check_select(CODEC, np.stack([frames] * 3, axis=3), CODEC.encode(np.stack([frames] * 3, axis=3)))


def test_without_chains_every_frame_stands_alone():
    frames = moving_run(5, 48)
    codec = Fluoroscopy(max_chain=0)
    data = check_round_trip(codec, frames)
    alone = sum(len(codec.encode(frame[np.newaxis])) - 24 for frame in frames)
    assert abs(len(data) - 24 - alone) <= 5


def test_bad_calls():
    frames = np.zeros((2, 4, 4), np.uint8)
    for options in ({"references": [-1, 1]}, {"references": [-1]}, {"shifts": [(0, 0)]}):
        with pytest.raises(ValueError, match=r"predicted|references|shifts"):
            CODEC.encode(frames, **options)
    for wrong in ({"min_correlation": 2.0}, {"max_groups": 0}, {"max_chain": -1}):
        with pytest.raises(ValueError, match=r"min_correlation|max_groups"):
            Fluoroscopy(**wrong)
    with pytest.raises(ValueError, match="takes"):
        CODEC.encode(frames.astype(np.uint32))


def _sample():
    frames = moving_run(4, 24)
    frames[2] = np.random.default_rng(6).integers(0, 256, (24, 24))
    return frames


def test_damage_is_noticed():
    data = CODEC.encode(_sample())
    check_truncated(CODEC, data, step=3)
    check_flipped(CODEC, data)
    check_too_large(CODEC, data)


def test_fuzz():
    check_fuzz(CODEC, CODEC.encode(_sample()), 3000, seed=9)
    check_fuzz(CODEC, CODEC.encode(np.roll(_sample(), 3, 1).astype(np.int16) * 99), 2000, seed=10)


def test_wide_dtypes_are_refused():
    data = CODEC.encode(np.zeros((1, 2, 2), np.uint16))
    with pytest.raises(CorruptStreamError):
        CODEC.decode(repair_checksum(data[:5] + b"\x05" + data[6:]))


def test_worked_example_of_the_format():
    """docs/formats/fluoroscopy.md, "Worked example"."""
    text = (PROJECT / "docs" / "formats" / "fluoroscopy.md").read_text()
    block = text.split("## Worked example")[1].split("```")[1]
    data = bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()[1:]))
    first = np.array([[0, 0, 0, 0], [0, 10, 12, 0], [0, 11, 13, 0], [0, 0, 0, 0]])
    frames = np.array([first, first + (first > 12)]).astype(np.uint8)
    assert np.array_equal(CODEC.decode(data), frames)
    assert CODEC.encode(frames) == data


def test_golden_stream():
    data = (DATA / "fluoroscopy-v1.bin").read_bytes()
    frames = np.load(DATA / "fluoroscopy-v1.npy")
    assert np.array_equal(CODEC.decode(data), frames)
    assert CODEC.encode(frames) == data


def test_empty_and_tiny_streams():
    for data in (b"", b"DFLU", b"DFLU" + bytes(20)):
        with pytest.raises(CodecError):
            CODEC.decode(data)
