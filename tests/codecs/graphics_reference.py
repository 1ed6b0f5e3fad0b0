"""A decoder of the graphics core in plain Python, written after docs/codec-graphics.md.

Slow and without checks: it shows that the document is enough, and guards against a change of the format. It shares
no code with the codec but NumPy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[Any, ...]


def _clamp(v: int, low: int, high: int) -> int:
    return min(max(v, low), high)


def _fold(h: int, *values: int) -> int:
    for v in values:
        h = (h ^ v) * 0x2C1B3C6D % 2**32
        h ^= h >> 15
    return h


def _med(w: int, n: int, nw: int) -> int:
    return _clamp(w + n - nw, min(w, n), max(w, n))


def _sign(v: int) -> int:
    return (v > 0) - (v < 0) + 1


def _level(v: int) -> int:
    n = min(v.bit_length(), 11)
    return 2 * n + (v >> max(n - 2, 0) & 1)


class Coder:
    """The binary coder, with the chances of all decisions."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 6
        self.offset = int.from_bytes(data[:6].ljust(6, b"\0"), "big")
        self.range = 1 << 48
        self.chances: dict[Key, tuple[int, int]] = {}

    def plain(self, p: int = 32768) -> int:
        bound = (self.range >> 16) * p
        bit = self.offset < bound
        if bit:
            self.range = bound
        else:
            self.offset -= bound
            self.range -= bound
        if self.range < 1 << 32:
            self.range <<= 16
            two = self.data[self.at : self.at + 2].ljust(2, b"\0")
            self.offset = self.offset << 16 | int.from_bytes(two, "big")
            self.at += 2
        return int(bit)

    def low_bits(self, n: int) -> int:
        value = 0
        for _ in range(n):
            value = 2 * value + self.plain()
        return value

    def bit(self, *keys: Key) -> int:
        """Decode a decision under one chance, or two."""
        known = [self.chances.get(key, (1 << 21, 0)) for key in keys]
        total = sum(p for p, _ in known) >> (6 if len(keys) == 1 else 7)
        bit = self.plain(_clamp(total, 24, 65512))
        for key, (p, n) in zip(keys, known, strict=True):
            p += (((bit << 22) - p) * (655360 // (10 * n + 16))) >> 16
            self.chances[key] = (p, min(n + 1, 30))
        return bit

    def number(self, *key: Any) -> int:
        k = 0
        while k < 17 and self.bit((*key, "length", k)):
            k += 1
        if k == 0:
            return 0
        b = self.bit((*key, "second", k))
        return (2 + b << (k - 1) | self.low_bits(k - 1)) - 1


class GraphicsPart:
    """A part of the graphics core."""

    def __init__(
        self,
        data: bytes,
        rows: int,
        columns: int,
        max_value: int,
        references: list[int],
        shifts: list[tuple[int, int]],
    ) -> None:
        self.rows, self.columns, self.max_value = rows, columns, max_value
        self.references, self.shifts = references, shifts
        self.by_symbols = data[0]
        self.coder = Coder(data[1:])
        self.planes: list[NDArray[Any]] = []
        self.tables: list[dict[int, tuple[int, int, int]]] = [{}, {}]
        self.hit: dict[tuple[int, int], int] = {}
        self.bias: dict[tuple[int, int], int] = {}

    def decode(self) -> list[NDArray[Any]]:
        for i in range(len(self.references)):
            self.decode_plane(i)
        return self.planes

    def behind(self, i: int) -> Callable[[int, int], int] | None:
        """Return P of plane `i`."""
        if self.references[i] < 0:
            return None
        plane = self.planes[self.references[i]]
        dy, dx = self.shifts[i]
        return lambda y, x: int(plane[_clamp(y - dy, 0, self.rows - 1), _clamp(x - dx, 0, self.columns - 1)])

    def decode_plane(self, i: int) -> None:
        columns = self.columns
        plane = np.zeros((self.rows, columns), np.int64)
        errors: dict[tuple[int, int], int] = {}
        p = self.behind(i)

        def at(y: int, x: int) -> int:
            if y < 0:
                return p(y, x) if p else 0
            if x < 0:
                return at(y - 1, 0)
            return int(plane[y, min(x, columns - 1)])

        def error_at(y: int, x: int) -> int:
            if y < 0:
                return 0
            return error_at(y - 1, 0) if x < 0 else errors[y, min(x, columns - 1)]

        held_before = [0, 0]
        for y in range(self.rows):
            x = 0
            while x < columns:
                w, n, nw, ne = at(y, x - 1), at(y - 1, x), at(y - 1, x - 1), at(y - 1, x + 1)
                still = p is not None and (w, n, nw, ne) == (
                    p(y, x - 1), p(y - 1, x), p(y - 1, x - 1), p(y - 1, x + 1),
                )  # fmt: skip
                missed = -1
                if still or w == n == nw == ne:
                    length = 1
                    while x + length < columns and at(y - 1, x + length + 1) == (
                        p(y - 1, x + length + 1) if p and still else w
                    ):
                        length += 1
                    around = (at(y, x - 2) == w) + (at(y - 2, x) == w)
                    kind = int(still)
                    holds = self.coder.bit(("holds", kind, around, held_before[kind], length.bit_length()))
                    held_before[kind] = holds
                    held = length if holds else 0
                    if not holds and length > 1:
                        held = min(self.coder.number("where", kind, length.bit_length()), length - 1)
                    for _ in range(held):
                        plane[y, x] = p(y, x) if p and still else w
                        errors[y, x] = 0
                        x += 1
                    if holds:
                        continue
                    missed = p(y, x) if p and still else w
                plane[y, x], errors[y, x] = self.sample(y, x, at, error_at, p, missed)
                x += 1
        self.planes.append(plane)

    def sample(
        self,
        y: int,
        x: int,
        at: Callable[[int, int], int],
        error_at: Callable[[int, int], int],
        p: Callable[[int, int], int] | None,
        missed: int,
    ) -> tuple[int, int]:
        """Decode a sample that is in no stretch; return it and its E."""
        w, ww, n, nn = at(y, x - 1), at(y, x - 2), at(y - 1, x), at(y - 2, x)
        nw, ne = at(y - 1, x - 1), at(y - 1, x + 1)
        h = _fold(7, w, n)
        four = _fold(h, nw, ne)
        more = _fold(h, p(y, x), p(y, x + 1), p(y + 1, x)) if p else _fold(four, ww, nn, at(y - 2, x + 1))
        slots = []
        for known, value in zip(self.tables, (four, more), strict=True):
            slot = known.get(value % 2**14, (0, 0, 0))
            slots.append(slot if slot[1] == (value >> 16) % 256 else (0, 0, 0))
        energy = (
            2 * (error_at(y, x - 1) + error_at(y - 1, x)) + error_at(y - 1, x - 1) + error_at(y - 1, x + 1)
        )
        found = -1
        after = int(missed >= 0)
        for turn in (0, 1):
            chance, table = 26000, -1
            for t, (value, _, times) in enumerate(slots):
                if times and value != missed and self.hit.get((t, times), 40000) > chance:
                    chance, table = self.hit.get((t, times), 40000), t
            if table < 0:
                break
            guess, _, times = slots[table]
            both = slots[0][2] > 0 and slots[1][2] > 0
            other = 0 if not both else 1 if slots[0][0] == slots[1][0] else 2
            like = (guess == w) + 2 * (guess == n) + 4 * (guess == (p(y, x) if p else ne))
            if self.coder.bit(
                ("table", turn, table, times, other), ("like", turn, _level(energy), like, after)
            ):
                found = guess
                break
            missed, after = guess, 0
        error = 0
        if found < 0:
            predicted = _med(w, n, nw)
            if self.by_symbols:
                found = self.symbol(w, predicted)
            else:
                if p:
                    pw, pn, pnw = p(y, x - 1), p(y - 1, x), p(y - 1, x - 1)
                    moved = _clamp(p(y, x) + _med(w - pw, n - pn, nw - pnw), 0, self.max_value)
                    predicted = (predicted + moved + 1) >> 1
                activity = abs(w - nw) + abs(n - nw) + abs(ne - n) + abs(ww - w) + abs(n - nn)
                signs = 9 * _sign(n - predicted) + 3 * _sign(w - predicted) + _sign(ww - w)
                found = self.by_error(predicted, energy, _level(activity), signs)
            error = min(abs(found - predicted), 255)
        for t, (hashed, (value, _, times)) in enumerate(zip((four, more), slots, strict=True)):
            if times:
                c = self.hit.get((t, times), 40000)
                right = int(value == found)
                self.hit[t, times] = c + (((right << 16) - right - c) >> 6)
                times = min(times + 1, 15) if right else min(times >> 1, 3)
            if times == 0:
                value, times = found, 1
            self.tables[t][hashed % 2**14] = (value, (hashed >> 16) % 256, times)
        return found, error

    def symbol(self, one: int, other: int) -> int:
        n_bits = self.max_value.bit_length()
        value = 0
        keys: tuple[Key, Key] = ((), ())
        for j in range(n_bits):
            if j % 4 == 0:
                prefix = value | 1 << j
                keys = ((1, _fold(17, one, prefix) % 2**13), (2, _fold(19, other, prefix) % 2**13))
                node = 1
            bit = self.coder.bit((*keys[0], node), (*keys[1], node))
            node = 2 * node + bit
            value = 2 * value + bit
        return min(value, self.max_value)

    def by_error(self, predicted: int, energy: int, activity: int, s: int) -> int:
        most = self.max_value
        level = _level(energy)
        bias = self.bias.get((level, s), 0)
        corrected = _clamp(predicted + ((bias + 128) >> 8), 0, most)
        second = (activity, level >> 1)
        value = corrected
        if not self.coder.bit(("zero", level), ("zero2", *second)) and most > 0:
            below = corrected == most
            if 0 < corrected < most:
                below = bool(self.coder.bit(("below", level, s)))
            k = min(max(energy.bit_length() - 5, 0), max(most.bit_length() - 3, 0))
            q = 0
            while q < 20 and self.coder.bit(("more", level, q), ("more2", *second, q)):
                q += 1
            key = ("low", level, q)
            if q == 20:
                q += self.coder.number("escape")
            low = 0
            if k:
                low = self.coder.bit(key) << (k - 1)
                low |= self.coder.low_bits(k - 1)
            distance = (q << k | low) + 1
            value = _clamp(corrected - distance if below else corrected + distance, 0, most)
        self.bias[level, s] = bias + ((((value - predicted) << 8) - bias) >> 5)
        return value
