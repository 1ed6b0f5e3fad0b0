"""A decoder of `interframe`, forward and graphics core, in plain Python, written after docs/codec-interframe.md.

Slow and without most checks: it shows that the document is enough, and guards against a change of the format.
It shares no code with the codec but NumPy.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.codecs.graphics_reference import GraphicsPart

TAPS = (
    [(0, -1), (0, -2)]
    + [(-1, dx) for dx in range(-3, 4)]
    + [(-2, dx) for dx in range(-2, 3)]
    + [(-3, dx) for dx in range(-1, 2)]
)
REFERENCE_TAPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] + [(-2, 0), (2, 0), (0, -2), (0, 2)]
DTYPES = {1: "uint8", 2: "int8", 3: "uint16", 4: "int16", 5: "uint32", 6: "int32"}
COPY, MEDIAN, NORTH = 128, 129, 130


def _unsign(v: int) -> int:
    return -((v + 1) >> 1) if v & 1 else v >> 1


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self) -> int:
        return _unsign(self.varint())


class Side:
    """Side information."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self.at = 4
        self.range = (1 << 32) - 1
        self.p: dict[tuple[Any, ...], int] = {}

    def bit(self, key: tuple[Any, ...] | None) -> int:
        if key is None:
            self.range >>= 1
            one = self.code >= self.range
            self.code -= self.range * one
        else:
            p = self.p.get(key, 1024)
            bound = (self.range >> 11) * p
            one = self.code >= bound
            if one:
                self.code -= bound
                self.range -= bound
                p -= p >> 4
            else:
                self.range = bound
                p += (2048 - p) >> 4
            self.p[key] = p
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = self.code << 8 | (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1
        return int(one)

    def value(self, c: int) -> int:
        n = 0
        while n < 20 and self.bit((c, "unary", n)):
            n += 1
        if n < 2:
            return n
        a = self.bit((c, n, "first"))
        v = 2 + a
        if n > 2:
            v = 2 * v + self.bit((c, n, "second", a))
            for _ in range(n - 3):
                v = 2 * v + self.bit(None)
        return v

    def signed(self, c: int) -> int:
        return _unsign(self.value(c))


def decode(data: bytes) -> NDArray[Any]:
    """Return all frames of a stream."""
    dtype = np.dtype(DTYPES[data[5]])
    samples = int.from_bytes(data[6:8], "little")
    n, rows, columns = (int.from_bytes(data[k : k + 4], "little") for k in (8, 12, 16))
    shape = (n, rows, columns) + ((samples,) if samples else ())
    reader = Bytes(data[24:])
    (core,) = reader.take(1)
    if core == 0:
        return np.frombuffer(data[25:], dtype.newbyteorder("<")).reshape(shape).astype(dtype)
    assert core == 1 or (core == 4 and data[4] >= 3)
    (flags,) = reader.take(1)
    twin = [i - (reader.varint() if flags & 4 else 0) for i in range(n)]
    own = [i for i in range(n) if twin[i] == i]
    m = len(own)
    references = [k - 1 if k % 16 else -1 for k in range(m)]
    if flags & 1:
        back = [reader.varint() for _ in range(m)]
        references = [k - b if b else -1 for k, b in enumerate(back)]
    shifts = [(0, 0)] * m
    if flags & 2:
        shifts = [(reader.signed(), reader.signed()) for _ in range(m)]
    (transform,) = reader.take(1)
    colours = np.zeros((0, 3), np.int64)
    if transform == 3:
        colours = _palette(reader)
        samples = 0
    least, tables, of_frame = 0, [[0]], [0] * m
    if transform == 4:
        least = reader.signed()
        tables = [_values(reader) for _ in range(reader.varint())]
        of_frame = [reader.varint() for _ in range(m)]
    layers = []
    for _ in range(reader.varint()):
        component, offset, shift, _, top = (
            reader.varint(), reader.signed(), reader.varint(), reader.varint(), reader.varint(),
        )  # fmt: skip
        ranks = _values(reader)
        layers.append((component, offset, shift, top, ranks))

    n_components = samples or 1
    cuts = [0]
    for i in range(1, m):
        closed = all(references[k] < 0 or references[k] >= i for k in range(i, m))
        if closed and (i - cuts[-1]) * rows * columns * n_components >= 1 << 20:
            cuts.append(i)
    s = min(rows, -(-rows * columns // (1 << 22)))
    stripes = [(rows * k // s, rows * (k + 1) // s) for k in range(s)]
    parts = [
        (first, end, top, bottom, layer)
        for first, end in zip(cuts, [*cuts[1:], m], strict=True)
        for top, bottom in stripes
        for layer in range(len(layers))
        if layers[layer][3]
    ]
    lengths = [reader.varint() for _ in parts]
    components = np.zeros((n_components, m, rows, columns), np.int64)
    seen = set()
    for c, offset, *_ in layers:
        if c not in seen:
            components[c] += offset
        seen.add(c)
    for (first, end, top, bottom, layer), length in zip(parts, lengths, strict=True):
        c, _, shift, max_value, ranks = layers[layer]
        local = [k - first if k >= 0 else -1 for k in references[first:end]]
        kind = Part if core == 1 else GraphicsPart
        part = kind(reader.take(length), bottom - top, columns, max_value, local, shifts[first:end])
        for k, plane in enumerate(part.decode()):
            values = np.array(ranks)[plane] if ranks else plane
            components[c, first + k, top:bottom] += values.astype(np.int64) << shift
    assert reader.at == len(reader.data)
    if transform in (1, 2):
        y, u, v = components
        green = y - ((u + v) >> 2) if transform == 1 else y
        components = np.stack([v + green, green, u + green])
    out = components.transpose(1, 2, 3, 0) if samples else components[0]
    if transform == 3:
        out = colours[out]
    if transform == 4:
        out = np.stack([np.array(tables[t])[plane] + least for t, plane in zip(of_frame, out, strict=True)])
    position = {i: k for k, i in enumerate(own)}
    return out[[position[i] for i in twin]].astype(dtype)


def _values(reader: Bytes) -> list[int]:
    """Return a table of values; none if there is a 0 instead."""
    values: list[int] = []
    if r := reader.varint():
        side = Side(reader.take(reader.varint()))
        following = 0
        for _ in range(r):
            following += side.value(0)
            more = side.value(1)
            values += range(following, following + more + 1)
            following += more + 1
    return values


def _palette(reader: Bytes) -> NDArray[np.int64]:
    """Return the colours of a palette: red, green, blue."""
    n = reader.varint()
    side = Side(reader.take(reader.varint()))
    steps = [[side.signed(c) for c in range(3)] for _ in range(n)]
    green, red, blue = np.cumsum(steps, axis=0).T
    return np.stack([red + green, green, blue + green], axis=1)


class Part:
    """A part of the forward core."""

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
        self.reader = Bytes(data)
        self.planes: list[NDArray[Any]] = []
        self.maps: list[dict[tuple[int, int], int]] = []

    def decode(self) -> list[NDArray[Any]]:
        n = len(self.references)
        size = max(1, -(-1_000_000 // (self.rows * self.columns)))
        b = max(1, n // size)
        starts = [n * k // b for k in range(b + 1)]
        header_lengths = [self.reader.varint() for _ in range(b)]
        record_lengths = [self.reader.varint() for _ in range(n)]
        headers = [self.reader.take(length) for length in header_lengths]
        for k in range(b):
            self.read_batch(headers[k])
            for i in range(starts[k], starts[k + 1]):
                self.decode_frame(i, self.reader.take(record_lengths[i]))
        return self.planes

    def read_batch(self, header: bytes) -> None:
        side = Side(header)
        self.tile, self.extra, self.level, coarse = (
            side.value(0) + 1, side.value(0), side.value(0), side.value(0),
        )  # fmt: skip
        self.shift = 13 if self.max_value < 1 << 14 else 11
        self.classes: list[list[list[int]]] = [[], []]
        self.weights: list[list[int]] = [[], []]
        for kind in (0, 1):
            count = side.value(0)
            if not count:
                continue
            self.weights[kind] = [side.value(0) for _ in range(10)]
            sums = [0] * 33
            for _ in range(count):
                sums = [v + side.signed(1 + t) for t, v in enumerate(sums, 1)]
                taps = [v << coarse for v in sums]
                self.classes[kind].append([(1 << self.shift) - sum(taps), *taps])
        self.thresholds = np.cumsum([side.value(0) for _ in range(15)]).clip(0, 16384).tolist()
        self.tables = []
        for _ in range(16):
            counts = []
            before = 0
            for _ in range(side.value(35) + 1):
                before = side.value(36 + min(15, before.bit_length()))
                counts.append(before)
            self.tables.append(self.table(counts))

    @staticmethod
    def table(counts: list[int]) -> list[tuple[int, int, int]]:
        assert sum(counts) == 2048
        symbols = [0] * 2048
        position = 0
        for symbol, count in enumerate(counts):
            for _ in range(count):
                symbols[position] = symbol
                position = (position + 1283) % 2048
        met = list(counts)
        entries = []
        for symbol in symbols:
            v = met[symbol]
            met[symbol] += 1
            bits = 11 - (v.bit_length() - 1)
            entries.append((symbol, bits, (v << bits) - 2048))
        return entries

    def decode_frame(self, i: int, record: bytes) -> None:
        rows, columns, tile = self.rows, self.columns, self.tile
        reader = Bytes(record)
        side = Side(reader.take(reader.varint()))
        skipping = side.value(0) > 0
        runs = [side.value(2) for _ in range(side.value(0))] if skipping else []
        lengths = []
        high = 0
        for _ in range(3):
            high += side.signed(1)
            lengths.append(4096 * high + side.value(0))
        labels: dict[tuple[int, int], int] = {}
        for ty in range(-(-rows // tile)):
            for tx in range(-(-columns // tile)):
                left = labels.get((ty, tx - 1))
                above = labels.get((ty - 1, tx), left if left is not None else 0)
                left = above if left is None else left
                v = side.value(3 if above == left else 4)
                labels[ty, tx] = above if v == 0 else left if v == 1 else v - 2
        streams = [Stream(reader.take(length)) for length in lengths]
        streams.append(Stream(reader.data[reader.at :]))

        j = self.references[i]
        kind = int(j >= 0)
        q = max(0, self.max_value.bit_length() - 13)
        errors: dict[tuple[int, int], int] = {
            (y, c): self.level for y in (-1, -2) for c in range(-2, columns + 2)
        }
        moved: dict[tuple[int, int], int] = {}
        behind: list[tuple[NDArray[Any], int, int]] = []
        if kind:
            dy, dx = self.shifts[i]
            moved = self.maps[j]
            if dy or dx:
                moved = {
                    (y + dy, c + dx): e
                    for (y, c), e in moved.items()
                    if 0 <= y < rows and 0 <= c < columns and 0 <= y + dy < rows and 0 <= c + dx < columns
                }
            behind.append((self.planes[j], dy, dx))
            for _ in range(self.extra):
                if self.references[j] >= 0:
                    dy, dx = dy + self.shifts[j][0], dx + self.shifts[j][1]
                    j = self.references[j]
                behind.append((self.planes[j], dy, dx))

        def at(k: int, y: int, c: int) -> int:
            plane, dy, dx = behind[k]
            return int(plane[min(max(y - dy, 0), rows - 1), min(max(c - dx, 0), columns - 1)])

        plane = np.zeros((rows, columns), np.int64)

        def x(y: int, c: int) -> int:
            if y < 0:
                return int(plane[0, min(max(c, 0), columns - 1)])
            if c < 0:
                return x(y - 1, 0)
            return int(plane[y, min(c, columns - 1)])

        run = 0
        left_in_run = runs[0] if runs else None
        for y in range(rows):
            contexts = [self.context(kind, errors, moved, y, c) for c in range(columns)]
            coded: list[int] = []
            for first in range(0, columns, 8):
                block = range(first, min(first + 8, columns))
                if skipping and not any(contexts[c] for c in block):
                    if left_in_run is None:
                        continue
                    if left_in_run > 0:
                        left_in_run -= 1
                        continue
                    run += 1
                    left_in_run = runs[run] if run < len(runs) else None
                coded += block
            residuals = [0] * columns
            quarter, rest = divmod(len(coded), 4)
            start = 0
            for s, stream in enumerate(streams):
                length = quarter + (s < rest)
                for c in coded[start : start + length]:
                    residuals[c] = stream.residual(self.tables[contexts[c]])
                start += length
            for c, e in enumerate(residuals):
                if y == 0:
                    p = x(0, c - 1) if c else 0
                    if kind:
                        p += at(0, 0, c) - (at(0, 0, c - 1) if c else 0)
                else:
                    p = self.predict(kind, labels[y // tile, c // tile], y, c, x, at)
                plane[y, c] = p + e
                errors[y, c] = min(abs(e) >> q, 255)
            for k in (1, 2):
                errors[y, -k] = errors[y, 0]
                errors[y, columns - 1 + k] = errors[y, columns - 1]
        assert all(stream.finished() for stream in streams)
        assert plane.min() >= 0
        assert plane.max() <= self.max_value
        self.planes.append(plane)
        self.maps.append(errors)

    def context(self, kind: int, e: Any, f: Any, y: int, c: int) -> int:
        w = self.weights[kind]
        a = w[0] * e[y - 1, c] + w[1] * e[y - 1, c - 1] + w[2] * e[y - 1, c + 1]
        a += w[3] * e[y - 1, c - 2] + w[4] * e[y - 1, c + 2] + w[5] * e[y - 2, c]
        a += w[6] * (e[y - 2, c - 1] + e[y - 2, c + 1])
        if kind:
            a += w[7] * f.get((y, c), 0)
            a += w[8] * sum(f.get((y + dy, c + dx), 0) for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0)))
            a += w[9] * sum(f.get((y + dy, c + dx), 0) for dy in (-1, 1) for dx in (-1, 1))
        return sum(t <= a >> 4 for t in self.thresholds)

    def predict(self, kind: int, label: int, y: int, c: int, x: Any, at: Any) -> int:
        if label == COPY:
            return int(at(0, y, c))
        if label == NORTH:
            return int(x(y - 1, c))
        if label == MEDIAN:
            w, n, nw = x(y, c - 1), x(y - 1, c), x(y - 1, c - 1)
            return int(sorted((w, n, w + n - nw))[1])
        coefficients = self.classes[kind][label]
        total = 1 << (self.shift - 1)
        total += sum(k * x(y + dy, c + dx) for k, (dy, dx) in zip(coefficients, TAPS, strict=False) if k)
        if kind:
            pairs = zip(coefficients[17:30], REFERENCE_TAPS, strict=True)
            total += sum(k * at(0, y + dy, c + dx) for k, (dy, dx) in pairs if k)
            total += sum(coefficients[30 + k] * at(1 + k, y, c) for k in range(self.extra))
        wrapped = (total + (1 << 31)) % (1 << 32) - (1 << 31)
        return int(wrapped >> self.shift)


class Stream:
    """One of the four streams of a frame."""

    def __init__(self, data: bytes) -> None:
        self.left = int.from_bytes(data, "little")
        self.n_left = 8 * len(data)
        while self.take(1) == 0:
            pass
        self.state = self.take(11)

    def take(self, n: int) -> int:
        value = self.left & ((1 << n) - 1)
        self.left >>= n
        self.n_left -= n
        return value

    def residual(self, table: list[tuple[int, int, int]]) -> int:
        symbol, bits, following = table[self.state]
        self.state = following + self.take(bits)
        u = symbol
        if symbol >= 32:
            n = (symbol >> 2) - 5
            u = ((4 + (symbol & 3)) << n) + self.take(n)
        return (u >> 1) ^ -(u & 1)

    def finished(self) -> bool:
        return self.n_left == 0 and self.state == 0
