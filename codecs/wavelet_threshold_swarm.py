"""Thresholds for a target PSNR by particle swarm optimisation.

After Rani and Chitra, "A hybrid medical image coding method based on Haar wavelet transform and particle
swarm optimization technique" (2018), as the review of Kareem et al. lists it. A particle is a threshold for
each level and a quantisation step, as logarithms; its fitness is the bits that the bands take, with a
penalty for what the squared error exceeds the target by (Kennedy and Eberhart 1995; inertia and attraction
as in Clerc and Kennedy 2002). With an orthonormal wavelet such as Haar the error of the coefficients is
that of the pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.runlength import coded_bits, token_counts
from dcmpress.codecs.wavelet_threshold_bands import Floats, try_quantiser

_PARTICLES = 12
_ROUNDS = 12
_INERTIA, _ATTRACTION = 0.7298, 1.49618
_SMALLEST, _LARGEST = 1 / 16, 4096.0
_PENALTY = 20.0


@dataclass(frozen=True)
class Thresholds:
    """What an image is quantised with."""

    levels: tuple[float, ...]
    """A threshold for each level, finest first."""
    step: float

    def scaled(self, factor: float) -> "Thresholds":
        """Return all of them times `factor`, the step not below the smallest."""
        return Thresholds(tuple(t * factor for t in self.levels), max(self.step * factor, _SMALLEST))


def swarm_thresholds(
    approximation: Floats, details: list[Floats], squared_error: float, seed: int = 0
) -> Thresholds:
    """Return thresholds that spend few bits and keep the sum of squared errors near `squared_error`.

    The same input gives the same output: the swarm's random numbers come from `seed`.
    """
    rng = np.random.default_rng(seed)
    bands = [part.ravel() for part in (approximation, *details)]
    room = np.empty(max(part.size for part in bands), np.uint32)
    start = _one_width(bands, room, squared_error)
    position = np.log(start) + rng.uniform(-0.5, 0.5, (_PARTICLES, len(bands)))
    position[0] = np.log(start)
    velocity = np.zeros_like(position)
    best, best_cost = position.copy(), np.full(_PARTICLES, np.inf)
    for _ in range(_ROUNDS):
        for p in range(_PARTICLES):
            cost = _cost(_thresholds(position[p]), bands, room, squared_error)
            if cost < best_cost[p]:
                best[p], best_cost[p] = position[p], cost
        leader = best[int(best_cost.argmin())]
        own, social = rng.random((2, *position.shape))
        velocity = _INERTIA * velocity + _ATTRACTION * (
            own * (best - position) + social * (leader - position)
        )
        position = np.clip(position + velocity, np.log(_SMALLEST), np.log(_LARGEST))
    return _thresholds(best[int(best_cost.argmin())])


def _one_width(bands: list[Floats], room: NDArray[np.uint32], squared_error: float) -> float:
    """Return the largest width that, as threshold and step of all bands, keeps within `squared_error`."""
    low, high = np.log(_SMALLEST), np.log(_LARGEST)
    for _ in range(12):
        middle = (low + high) / 2
        width = float(np.exp(middle))
        if (
            sum(try_quantiser(part, width if k else 0.0, width, room) for k, part in enumerate(bands))
            > squared_error
        ):
            high = middle
        else:
            low = middle
    return float(np.exp(low))


def _thresholds(position: Floats) -> Thresholds:
    return Thresholds(tuple(map(float, np.exp(position[:-1]))), float(np.exp(position[-1])))


def _cost(
    thresholds: Thresholds, bands: list[Floats], room: NDArray[np.uint32], squared_error: float
) -> float:
    error = 0.0
    bits = 0
    for threshold, coefficients in zip((0.0, *thresholds.levels), bands, strict=True):
        error += try_quantiser(coefficients, threshold, thresholds.step, room)
        bits += coded_bits(token_counts(room[: coefficients.size])[1])
    excess = max(error / max(squared_error, 1e-9) - 1, 0)
    return bits * (1 + _PENALTY * excess)
