"""A synthetic fluoroscopy run, for want of a public one. Every figure from it is labelled synthetic.

Attenuation of a few smooth bodies that move with the heart and the breath, a swallowed bolus that runs
down, a disc-shaped field with black corners and two white marks, quantum noise after Poisson at the
detector, a logarithmic display curve, 8 bits.
"""

import numpy as np
from numpy.typing import NDArray


def fluoroscopy_run(
    n: int = 16, size: int = 512, photons: float = 400.0, averaged: int = 1, seed: int = 7
) -> NDArray[np.uint8]:
    """Return frames of shape (n, size, size).

    Parameters
    ----------
    photons : float
        Mean count of a pixel in the open beam.
    averaged : int
        Frames that the device averages before it shows one (recursive noise reduction).
    """
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / (size / 2)
    disc = y**2 + x**2 <= 0.97
    frames = np.zeros((n, size, size), np.uint8)
    noise = np.zeros((size, size))
    for k in range(n):
        breath = 0.004 * np.sin(2 * np.pi * k / 40)
        thickness = 1.2 + 0.5 * np.exp(-((x / 0.25) ** 2)) * (1 + 0.15 * np.cos(18 * (y + breath)))
        thickness += 0.3 * np.exp(-(((x - 0.35) / 0.3) ** 2 + ((y + 0.2 + breath) / 0.5) ** 2))
        head = -0.8 + 1.4 * k / n
        bolus = np.exp(-(((x + 0.05) / 0.06) ** 2)) / (1 + np.exp((y - head) * 40)) * (y > head - 0.5)
        thickness += 0.8 * bolus
        signal = photons * np.exp(-thickness)
        fresh = rng.poisson(signal) - signal
        noise = fresh if k == 0 else noise + (fresh - noise) / averaged
        if k == 0 and averaged > 1:
            noise /= np.sqrt(2 * averaged - 1)
        shown = 255 * np.log1p(np.maximum(signal + noise, 0)) / np.log1p(photons)
        frames[k] = np.where(disc, np.clip(np.rint(shown), 0, 255), 0)
        frames[k, 10:30, 12:60] = 255
        frames[k, 10:30, -60:-12] = 255
    return frames
