"""Measures of compression and of likeness, as the papers and the review of Kareem et al. use them.

Images are arrays of equal shape and any integer or floating type; sums are taken in float64. With f the
original and g the other one:

- MSE: mean of (f - g)^2.
- PSNR: 10 log10(peak^2 / MSE) dB. The peak defaults to 2^b - 1, b the bits that the largest value needs (so
  4095
  for a 12-bit image kept in 16), which is what makes figures of 8- and 16-bit files comparable.
- SNR: 10 log10(sum f^2 / sum (f - g)^2) dB; `mean_to_noise` is the wavelet paper's mean(f) / std(f - g), in
  dB.
- SSIM: Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13(4), 2004, Gaussian window of 11
  x 11.
- CR: bytes before / bytes after; space saving: 1 - after / before.
- PCDZ: percentage of coefficients that are zero.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mse(original: Array, other: Array) -> float:
    """Return the mean squared error."""
    _check_shapes(original, other)
    return float(np.mean((original.astype(np.float64) - other.astype(np.float64)) ** 2))


def peak_of(original: Array) -> float:
    """Return 2^b - 1, b the bits that the largest magnitude in `original` needs; at least 1."""
    largest = max(int(np.max(original)), -int(np.min(original)), 1)
    return float((1 << largest.bit_length()) - 1)


def psnr(original: Array, other: Array, peak: float | None = None) -> float:
    """Return the peak signal to noise ratio in dB, infinite for equal images."""
    error = mse(original, other)
    if error == 0:
        return float("inf")
    return float(10 * np.log10((peak_of(original) if peak is None else peak) ** 2 / error))


def snr(original: Array, other: Array) -> float:
    """Return the signal to noise ratio of energies in dB, infinite for equal images."""
    error = mse(original, other)
    if error == 0:
        return float("inf")
    return float(10 * np.log10(max(np.mean(original.astype(np.float64) ** 2), np.finfo(float).tiny) / error))


def mean_to_noise(original: Array, other: Array) -> float:
    """Return mean(original) / std(original - other) in dB (20 log10), infinite where there is no noise."""
    _check_shapes(original, other)
    noise = float(np.std(original.astype(np.float64) - other.astype(np.float64)))
    if noise == 0:
        return float("inf")
    mean = abs(float(np.mean(original.astype(np.float64))))
    return float(20 * np.log10(max(mean, np.finfo(float).tiny) / noise))


def ssim(original: Array, other: Array, peak: float | None = None) -> float:
    """Return the mean structural similarity of two images of shape (rows, columns), at least 11 x 11."""
    _check_shapes(original, other)
    if original.ndim != 2 or min(original.shape) < 11:
        raise ValueError(f"SSIM wants two axes of at least 11, not {original.shape}")
    peak = peak_of(original) if peak is None else peak
    f, g = original.astype(np.float64), other.astype(np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_f, mean_g = _gaussian(f), _gaussian(g)
    var_f = _gaussian(f * f) - mean_f**2
    var_g = _gaussian(g * g) - mean_g**2
    cov = _gaussian(f * g) - mean_f * mean_g
    similarity = (2 * mean_f * mean_g + c1) * (2 * cov + c2)
    similarity /= (mean_f**2 + mean_g**2 + c1) * (var_f + var_g + c2)
    return float(similarity.mean())


def compression_ratio(before: int, after: int) -> float:
    """Return bytes before / bytes after."""
    return before / after


def space_saving(before: int, after: int) -> float:
    """Return what fraction of the bytes is saved; the wavelet paper calls it compression gain."""
    return 1 - after / before


def zero_percentage(coefficients: Array) -> float:
    """Return PCDZ: 100 x zeros / coefficients."""
    return 100 * (1 - np.count_nonzero(coefficients) / coefficients.size)


def _gaussian(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter with a Gaussian of sigma 1.5 over 11 x 11, keeping the places where the window fits."""
    x = np.arange(-5, 6)
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window /= window.sum()
    for axis in (0, 1):
        parts = np.lib.stride_tricks.sliding_window_view(image, 11, axis=axis)
        image = parts @ window
    return image


def _check_shapes(original: Array, other: Array) -> None:
    if original.shape != other.shape:
        raise ValueError(f"shapes differ: {original.shape} and {other.shape}")
