"""The choice between colour transforms and a palette, against what every one of them takes in full."""

import numpy as np
import pytest

from dcmpress.codecs.interframe import codec as container
from dcmpress.codecs.interframe import palette
from dcmpress.codecs.interframe.codec import InterframeCodec
from dcmpress.codecs.interframe.colour_choice import choose_colours, choose_transform, estimated_bits
from dcmpress.codecs.interframe.planes import DIFFERENCES, NO_TRANSFORM, RCT
from tests import corpus

DENSE = InterframeCodec("dense")


@pytest.mark.parametrize(
    ("name", "uses_palette"),
    [("US-RGB-8-epicard.dcm", True), ("US-RGB-8-esopecho.dcm", False), ("RGB_IMAGE.dcm", True)],
)
def test_the_choice_is_the_smallest_on_real_images(
    name: str, uses_palette: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (e.path for e in corpus.entries("US-RGB-singles") if e.path.name == name)
    frames = corpus.frames_of(path)[:, :480, :640]
    chosen = choose_colours(frames, np.arange(1))
    assert (chosen[1] is not None) == uses_palette
    found = palette.find_palette(frames)
    assert found is not None
    monkeypatch.setattr(container, "choose_graphics", lambda *_: None)
    sizes = []
    for way in (chosen, (NO_TRANSFORM, None), (RCT, None), (DIFFERENCES, None), (NO_TRANSFORM, found)):
        monkeypatch.setattr(container, "choose_colours", lambda frames, kept, way=way: way)
        sizes.append(len(DENSE.encode(frames)))
    assert sizes[0] <= 1.005 * min(sizes)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("name", ["US-RGB-8-epicard.dcm", "US-RGB-8-esopecho.dcm", "RGB_IMAGE.dcm"])
def test_the_forward_choice_is_the_smallest_on_real_images(
    name: str, effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (e.path for e in corpus.entries("US-RGB-singles") if e.path.name == name)
    frames = corpus.frames_of(path)
    monkeypatch.setattr(container, "choose_graphics", lambda *_: None)  # it would take all of them
    sizes = []
    for way in (choose_transform(frames, np.arange(1)), NO_TRANSFORM, RCT, DIFFERENCES):
        monkeypatch.setattr(container, "choose_transform", lambda frames, kept, way=way: way)
        sizes.append(len(InterframeCodec(effort).encode(frames)))
    assert sizes[0] <= 1.005 * min(sizes)
    assert sizes[0] < max(sizes)


def test_a_table_of_colours_must_pay() -> None:
    """Eight samples of eight colours: ranks say less than components, but not less by a table."""
    colours = np.random.default_rng(4).integers(0, 256, (8, 3)).astype(np.uint8)
    assert choose_colours(colours.reshape(1, 1, 8, 3), np.arange(1))[1] is None


def test_sixteen_bits_have_no_palette() -> None:
    frames = np.tile(np.arange(60, dtype=np.uint16)[:, np.newaxis], (1, 20, 1, 3))
    assert choose_colours(frames, np.arange(1)) == (RCT, None)


def test_estimates_of_what_is_known_exactly() -> None:
    rng = np.random.default_rng(6)
    noise = rng.integers(0, 65536, (64, 64)).astype(np.uint16)
    assert 15 <= estimated_bits(noise) / noise.size <= 20
    assert estimated_bits(np.full((64, 64), 65535, np.uint16)) < 100
    letters = np.tile(rng.integers(0, 256, (8, 8)), (12, 12)).astype(np.uint16)
    assert estimated_bits(letters) < 0.3 * estimated_bits(letters, guesses=False)
    assert estimated_bits(letters) < 0.3 * estimated_bits(rng.integers(0, 256, (96, 96)).astype(np.uint16))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_estimates_of_any_shape(shape: tuple[int, int]) -> None:
    assert estimated_bits(np.full(shape, 7, np.uint16)) > 0


def test_as_many_colours_as_a_palette_holds() -> None:
    """All slots chosen alike by the low bits, and one colour too many."""
    keys = np.arange(palette.MAX_COLOURS + 1) << 12
    frames = np.stack([keys >> 16 & 255, keys >> 8 & 255, keys & 255], axis=1).astype(np.uint8)
    assert len(np.unique(frames, axis=0)) == 4096
    most = frames[:4096].reshape(1, 64, 64, 3)
    found = palette.find_palette(most)
    assert found is not None
    np.testing.assert_array_equal(palette.from_ranks(palette.to_ranks(most, found), found), most)
    one_more = np.concatenate([most, np.full((1, 64, 64, 3), 1, np.uint8)])
    assert palette.find_palette(one_more) is None
