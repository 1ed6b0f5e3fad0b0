"""Measures against hand counts and known properties."""

import numpy as np
import pytest

from dcmpress.codecs import measures


def test_by_hand():
    f = np.array([[10, 20], [30, 40]], np.uint8)
    g = np.array([[10, 22], [30, 36]], np.uint8)
    assert measures.mse(f, g) == 5
    assert measures.peak_of(f) == 63
    assert measures.psnr(f, g) == pytest.approx(10 * np.log10(63**2 / 5))
    assert measures.psnr(f, g, 255) == pytest.approx(10 * np.log10(255**2 / 5))
    assert measures.snr(f, g) == pytest.approx(10 * np.log10(3000 / 20))
    assert measures.mean_to_noise(f, g) == pytest.approx(20 * np.log10(25 / np.std([0, -2, 0, 4])))
    assert measures.compression_ratio(300, 100) == 3
    assert measures.space_saving(400, 100) == 0.75
    assert measures.zero_percentage(np.array([0, 1, 0, 0])) == 75


def test_unsigned_differences_do_not_wrap():
    assert measures.mse(np.array([0], np.uint8), np.array([255], np.uint8)) == 255**2
    assert measures.mse(np.array([0], np.uint16), np.array([65535], np.uint16)) == 65535**2


def test_equal_images():
    f = np.random.default_rng(1).integers(0, 4096, (32, 32)).astype(np.uint16)
    assert measures.psnr(f, f) == np.inf
    assert measures.snr(f, f) == np.inf
    assert measures.mean_to_noise(f, f) == np.inf
    assert measures.ssim(f, f) == pytest.approx(1)


def test_ssim_is_the_definition():
    """One window, counted without the separable filter."""
    rng = np.random.default_rng(2)
    f, g = rng.integers(0, 256, (2, 11, 11)).astype(np.uint8)
    x = np.arange(-5, 6)
    w = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / 4.5)
    w /= w.sum()
    mf, mg = (w * f).sum(), (w * g).sum()
    vf, vg = (w * (f - mf) ** 2).sum(), (w * (g - mg) ** 2).sum()
    c = (w * (f - mf) * (g - mg)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mf * mg + c1) * (2 * c + c2) / ((mf**2 + mg**2 + c1) * (vf + vg + c2))
    assert measures.ssim(f, g, 255) == pytest.approx(expected)


def test_ssim_falls_with_noise():
    rng = np.random.default_rng(3)
    f = np.add.outer(np.arange(64), np.arange(64)).astype(float)
    values = [measures.ssim(f, f + rng.normal(0, s, f.shape), 255) for s in (1, 5, 20)]
    assert values == sorted(values, reverse=True)


def test_bad_calls():
    with pytest.raises(ValueError, match="shapes differ"):
        measures.mse(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="at least 11"):
        measures.ssim(np.zeros((5, 5)), np.zeros((5, 5)))
