"""Which frames of a call are coded, what they refer to, and the parts that they are coded in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHAIN = 16
"""Without references: a frame in so many is coded without any, so that access stays random."""

Array = NDArray[Any]


def duplicates(frames: Array) -> list[int]:
    """Return for each frame the first frame that equals it, itself if there is none."""
    first: dict[bytes, list[int]] = {}
    found = []
    step = max(1, frames.shape[1] // 4)
    for i, frame in enumerate(frames):
        same = first.setdefault(frame[::step].tobytes(), [])
        twin = next((j for j in same if np.array_equal(frames[j], frame)), i)
        if twin == i:
            same.append(i)
        found.append(twin)
    return found


def default_references(n: int, chain: int = CHAIN) -> list[int]:
    """Return the references that `encode` uses when it is given none: chains of `chain` frames."""
    return [i - 1 if i % chain else -1 for i in range(n)]


def between_kept(references: list[int] | None, twins: list[int], position: dict[int, int]) -> list[int]:
    """Return the references of the frames that are coded, of frames of theirs."""
    if references is None:
        return default_references(len(position))
    return [position[twins[references[i]]] if references[i] >= 0 else -1 for i in position]


@dataclass(frozen=True)
class Part:
    """One section of one stripe."""

    all_references: list[int]
    all_shifts: list[tuple[int, int]] | None
    first: int
    end: int
    top: int
    bottom: int
    columns: int

    @property
    def references(self) -> list[int]:
        return [r - self.first if r >= 0 else -1 for r in self.all_references[self.first : self.end]]

    @property
    def shifts(self) -> list[tuple[int, int]] | None:
        return self.all_shifts[self.first : self.end] if self.all_shifts else None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.end - self.first, self.bottom - self.top, self.columns
