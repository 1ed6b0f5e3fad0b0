"""The padded frames and error maps that the frame at hand needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe import geometry, predict

Array = NDArray[Any]

_NO_PLANE = np.zeros(0, np.int32)
_NO_ERRORS = np.zeros(0, np.uint16)


class Window:
    """Padded frames and error maps that later frames still need."""

    def __init__(
        self, planes: Array, references: Sequence[int], shifts: Sequence[tuple[int, int]] | None
    ) -> None:
        self.planes = planes
        self.references = references
        self.shifts = shifts
        _, self.rows, self.columns = planes.shape
        self.size = geometry.padded_size(self.rows, self.columns)
        self.errors: dict[int, Array] = {}
        self.classes: dict[int, Array] = {}
        """The encoder's: coefficients of the batch before, by kind."""
        self.last_use = {r: i for i, r in enumerate(references) if r >= 0}
        self.current = np.zeros(self.size, np.int32)
        self.padded = -1
        """Number of the frame that `pad` put into `current`."""
        self.reference = np.zeros(self.size, np.int32)
        self.inside = -1
        """Number of the frame that `reference` holds, unmoved."""
        self.extra = np.empty((predict.MAX_EXTRA, self.size), np.int32)
        self._spare: list[Array] = []

    def new_errors(self, i: int) -> Array:
        """Return an error map for frame `i`, kept until its last user is done."""
        # A used map needs no clearing: each frame writes the same places of it, and the rest stays zero.
        errors = self._spare.pop() if self._spare else np.zeros(self.size, np.uint16)
        self.errors[i] = errors
        return errors

    def drop_errors(self, i: int) -> None:
        """Frame `i` is done: forget the maps that no later frame needs."""
        reference = self.references[i]
        for j in (i, reference):
            if j >= 0 and self.last_use.get(j, -1) <= i and j in self.errors:
                self._spare.append(self.errors.pop(j))

    def pad(self, i: int) -> Array:
        """Return frame `i`, padded, in `current`."""
        if i != self.padded:
            geometry.pad_current(self.planes[i], self.current)
            self.padded = i
        return self.current

    def turn(self, i: int) -> None:
        """Frame `i` in `current` is done; keep it as the likely next reference."""
        if self.last_use.get(i, -1) > i:
            geometry.repeat_edges(self.current, self.rows, self.columns)
            self.current, self.reference = self.reference, self.current
            self.inside = i
            self.padded = -1

    def errors_behind(self, i: int) -> Array:
        """Return the error map of the reference of frame `i`, moved with it."""
        j = self.references[i]
        if j < 0:
            return _NO_ERRORS
        errors = self.errors[j]
        dy, dx = self.shifts[i] if self.shifts else (0, 0)
        if dy or dx:
            moved = np.empty_like(errors)
            geometry.move_errors(errors, moved, self.rows, self.columns, dy, dx)
            errors = moved
        return errors

    def planes_behind(self, i: int, n_extra: int) -> tuple[Array, Array]:
        """Return the padded reference of frame `i` and the `n_extra` frames behind it."""
        j = self.references[i]
        if j < 0:
            return _NO_PLANE, self.extra
        dy, dx = self.shifts[i] if self.shifts else (0, 0)
        if j != self.inside or dy or dx:
            geometry.pad_reference(self.planes[j], self.reference, dy, dx)
            self.inside = -1 if dy or dx else j
        for k in range(n_extra):
            if self.references[j] >= 0:
                if self.shifts:
                    dy, dx = dy + self.shifts[j][0], dx + self.shifts[j][1]
                j = self.references[j]
            geometry.pad_reference(self.planes[j], self.extra[k], dy, dx)
        return self.reference, self.extra
