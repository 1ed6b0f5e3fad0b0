"""Text in images: the paper's XOR, and the reversible way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.text_hiding import (
    HEAD_PIXELS,
    NothingHiddenError,
    embed_by_xor,
    extract_by_xor,
    hide,
    reveal,
)

TEXT = "Müller^Änne, 1957-03-02, ID 4711\n".encode()


def smooth(dtype, size=64, seed=1, top=False):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = 60 + 40 * np.sin(x / 17) * np.cos(y / 11) + rng.integers(0, 3, x.shape)
    image = image.astype(dtype)
    if top:
        image[: size // 2, : size // 3] = np.iinfo(dtype).max
        image[size // 2 :, : size // 4] = np.iinfo(dtype).max - 1
    return image


@given(st.integers(0, 2**31), st.sampled_from([np.uint8, np.uint16]), st.binary(max_size=200))
def test_xor_and_back(seed, dtype, text):
    text = text.replace(b"\0", b"")
    image = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (16, 16)).astype(dtype)
    before = image.copy()
    marked = embed_by_xor(image, text)
    assert np.array_equal(image, before)
    assert extract_by_xor(image, marked) == text
    assert np.array_equal(marked.ravel()[len(text) :], image.ravel()[len(text) :])
    expected = [int(p) ^ c for p, c in zip(image.ravel(), text, strict=False)]
    assert marked.ravel()[: len(text)].tolist() == expected


def test_xor_of_a_full_image():
    image = np.zeros((2, 3), np.uint8)
    assert extract_by_xor(image, embed_by_xor(image, b"abcdef")) == b"abcdef"


def test_xor_bad_calls():
    image = np.zeros((2, 3), np.uint8)
    for text in (b"1234567", b"a\0"):
        with pytest.raises(ValueError, match="at most one"):
            embed_by_xor(image, text)
    with pytest.raises(ValueError, match="uint8"):
        embed_by_xor(image.astype(np.int16), b"a")
    with pytest.raises(ValueError, match="differ"):
        extract_by_xor(image, image.astype(np.uint16))
    with pytest.raises(NothingHiddenError):
        extract_by_xor(np.zeros(3, np.uint16), np.full(3, 999, np.uint16))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("text", [b"", b"x", TEXT, b"\0\xff" * 20])
def test_text_and_image_come_back_from_the_marked_image_alone(dtype, top, text):
    image = smooth(dtype, top=top)
    before = image.copy()
    marked = hide(image, text)
    assert np.array_equal(image, before)
    assert marked.dtype == image.dtype
    found, restored = reveal(marked)
    assert found == text
    assert np.array_equal(restored, image)
    assert restored.dtype == image.dtype


def test_marks_are_not_seen():
    image = smooth(np.uint16, 256)
    change = hide(image, TEXT * 10).astype(int) - image
    assert np.abs(change).max() <= 1
    assert change.any()


@given(st.integers(0, 2**31), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_any_image_either_refuses_or_gives_back(seed, n_text):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(["uint8", "int8", "uint16", "int16"][rng.integers(4)])
    limits = np.iinfo(dtype)
    shape = tuple(rng.integers(1, 60, 2))
    kind = rng.integers(4)
    if kind == 0:
        image = np.full(shape, rng.choice([limits.min, 0, limits.max - 1, limits.max])).astype(dtype)
    elif kind == 1:
        image = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    elif kind == 2:
        image = rng.choice([limits.max, limits.max - 1, limits.min], shape, p=[0.6, 0.3, 0.1]).astype(dtype)
    else:
        image = (rng.integers(0, 2, shape) + limits.max - 2).astype(dtype)
    text = rng.bytes(n_text)
    try:
        marked = hide(image, text)
    except ValueError:
        return
    found, restored = reveal(marked)
    assert found == text
    assert np.array_equal(restored, image)


def test_constant_images_hold_about_a_bit_a_pixel():
    image = np.full((64, 64), 255, np.uint8)
    text = b"t" * ((64 * 64 - HEAD_PIXELS) // 8 // 4)
    assert reveal(hide(image, text))[0] == text


def test_a_text_too_long_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        hide(smooth(np.uint8), b"x" * 5000)
    with pytest.raises(ValueError, match="no room"):
        hide(np.zeros((8, 8), np.uint8), b"x")
    with pytest.raises(ValueError, match="not a plane"):
        hide(np.zeros((64, 64, 3), np.uint8), b"x")


def test_images_without_text_and_changed_ones_are_refused():
    rng = np.random.default_rng(2)
    for _ in range(50):
        with pytest.raises(NothingHiddenError):
            reveal(rng.integers(0, 256, (40, 40)).astype(np.uint8))
    marked = hide(smooth(np.uint8), TEXT)
    for _ in range(100):
        damaged = marked.copy()
        damaged.ravel()[rng.integers(HEAD_PIXELS)] ^= 1
        with pytest.raises(NothingHiddenError):
            reveal(damaged)
