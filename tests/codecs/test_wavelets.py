"""The lifting transforms: exact where they say so, near PyWavelets' bior4.4 where they do not."""

import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.wavelets import FRACTION_97, forward_53, forward_97, inverse_53, inverse_97


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_53_is_undone_exactly(rows, columns, levels, seed):
    image = np.random.default_rng(seed).integers(-65536, 65536, (rows, columns)).astype(np.int32)
    before = image.copy()
    coefficients = forward_53(image, levels)
    assert np.array_equal(image, before)
    assert np.array_equal(inverse_53(coefficients, levels), image)


def test_53_by_hand():
    # d0 = 3 - floor((1+7)/2) = -1, d1 = 2 - 7 = -5
    # s0 = 1 + floor((-1-1+2)/4) = 1, s1 = 7 + floor((-6+2)/4) = 6
    assert forward_53(np.array([[1, 3, 7, 2]], np.int32), 1).tolist() == [[1, 6, -1, -5]]
    assert forward_53(np.array([[1], [3], [7], [2]], np.int32), 1).ravel().tolist() == [1, 6, -1, -5]


def test_53_extremes_do_not_overflow():
    rng = np.random.default_rng(1)
    for _ in range(20):
        image = rng.choice(np.array([-65535, 65535], np.int32), (64, 64))
        coefficients = forward_53(image, 4)
        assert np.abs(coefficients).max() < 1 << 22
        assert np.array_equal(inverse_53(coefficients, 4), image)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_97_is_undone_up_to_rounding(rows, columns, levels, seed):
    image = np.random.default_rng(seed).integers(-65536, 65536, (rows, columns)).astype(np.int32)
    assert np.abs(inverse_97(forward_97(image, levels), levels) - image).max() <= 1


@pytest.mark.parametrize("shape", [(64, 64), (32, 128)])
def test_97_is_bior44(shape):
    """Away from the border (PyWavelets extends differently) the coefficients are those of bior4.4."""
    image = np.random.default_rng(2).integers(0, 4096, shape).astype(np.int32)
    ours = forward_97(image, 1) / 2**FRACTION_97
    low, (across, down, both) = pywt.dwt2(image.astype(float), "bior4.4", mode="periodization")
    h, w = shape[0] // 2, shape[1] // 2
    inner = (slice(4, h - 4), slice(4, w - 4))
    bands = {"low": (ours[:h, :w], low), "down": (ours[h:, :w], across), "across": (ours[:h, w:], down)}
    bands["both"] = (ours[h:, w:], both)
    for name, (a, b) in bands.items():
        errors = [
            np.abs(np.abs(a[inner]) - np.abs(np.roll(b, s, (0, 1))[inner])).max()
            for s in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        ]
        assert min(errors) < 0.2, name


def test_97_keeps_a_constant_in_the_low_pass():
    coefficients = forward_97(np.full((16, 16), 100, np.int32), 1) / 2**FRACTION_97
    assert np.abs(coefficients[:8, :8] - 200).max() < 0.1
    assert np.abs(coefficients[8:]).max() < 0.1
