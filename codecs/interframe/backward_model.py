"""What the backward-adaptive core knows before the first sample, and the memory that it works in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe import backward_guess as guess
from dcmpress.codecs.interframe import backward_kernel as kernel
from dcmpress.codecs.interframe.backward_filters import BATCH, TAPS, WIDE_TAPS
from dcmpress.codecs.interframe.backward_lanes import CLASSES
from dcmpress.codecs.interframe.backward_mixer import COUNT_START, STEPS
from dcmpress.codecs.interframe.backward_tables import CLASS_ERROR, INITIAL_WEIGHTS, SQUASH
from dcmpress.codecs.interframe.backward_vector import LANES

_NORTH = 3  # the tap that the first prediction is made from, together with the west neighbour


class Model:
    """Everything that adapts, about 1.5 MB, 3.7 MB with guesses, and the scratch arrays of the kernel."""

    def __init__(self, columns: int, level_of: NDArray[np.int32], guesses: bool = False) -> None:
        # Predictors learn apart for planes without and with a reference: their taps differ.
        self._predictors: list[tuple[NDArray[Any], ...]] = []
        for _ in range(2):
            w_ols = np.zeros(TAPS, np.float32)
            w_ols[_NORTH] = 0.5
            self._predictors.append(
                (
                    np.zeros(TAPS * TAPS),
                    np.zeros(BATCH * TAPS),
                    np.zeros(2, np.int64),
                    w_ols,
                    np.zeros(TAPS, np.float32),
                    np.zeros(WIDE_TAPS, np.float32),
                )
            )
        weights = INITIAL_WEIGHTS << 8
        odds = SQUASH[np.minimum(np.arange(STEPS) * 64 + 1024, len(SQUASH) - 1)].astype(np.int32)
        refinement = odds << 14 | COUNT_START
        self.learned: tuple[NDArray[Any], ...] = (
            np.zeros(kernel.BIAS_CONTEXTS, np.int32),
            np.repeat(CLASS_ERROR, LANES),
            np.zeros(CLASSES * LANES, np.float32),
            np.repeat(weights, kernel.ENERGY_CONTEXTS, axis=0).ravel(),
            np.repeat(weights, kernel.SIGN_CONTEXTS, axis=0).ravel(),
            np.repeat(weights, kernel.LEVELS, axis=0).ravel(),
            np.full(kernel.NODES * kernel.ENERGY_CONTEXTS * 3, 21845, np.int32),
            np.tile(refinement, kernel.VALUES),
            np.tile(refinement, kernel.NODES * kernel.LEVELS),
            np.zeros(kernel.QUIET_KINDS, np.int32),
            level_of,
        )
        # Without guesses the kernel wants the arrays all the same.
        some = int(guesses)
        self.guesses: tuple[NDArray[Any], ...] = (
            np.zeros(guess.TABLES * guess.SLOTS * some, np.int32),
            np.zeros(guess.TABLES * guess.FOUND, np.int64),
            np.full(guess.TABLES * guess.TIMES, guess.EVEN_CHANCE, np.int32),
            np.full(guess.CONTEXTS, guess.EVEN_CHANCE, np.int32),
            np.full(guess.WEIGHT_SETS * LANES, guess.FIRST_WEIGHT, np.int32),
            np.tile(refinement, guess.CONTEXTS * some),
            np.zeros(LANES, np.int32),
        )
        self.scratch: tuple[NDArray[Any], ...] = (
            np.zeros(TAPS * TAPS),
            np.zeros(TAPS, np.float32),
            np.zeros(WIDE_TAPS, np.float32),
            np.zeros(6 * LANES, np.float32),
            np.zeros(LANES, np.int32),
            np.zeros(LANES, np.int32),
        )
        self.lines = np.zeros(3 * (columns + 4) * LANES, np.int32)

    def predictor(self, has_reference: bool) -> tuple[NDArray[Any], ...]:
        """Return what is learned by the linear predictors of this kind of plane."""
        return self._predictors[int(has_reference)]


class PlaneMemory:
    """A padded plane and what the planes that it predicts want to know of it: 12 bytes a sample."""

    def __init__(self, rows: int, columns: int) -> None:
        pad = kernel.PAD
        shape = (rows + 2 * pad, columns + 2 * pad)
        padded = np.zeros(shape, np.int32)
        self.inside = padded[pad:-pad, pad:-pad]
        self.samples = padded.ravel()
        self.residual = np.zeros(padded.size, np.int32)
        self.final = np.zeros(padded.size, np.int32)
