"""A decoder of JPEG coefficients in plain Python, from `docs/formats/reconstruct.md` alone. Slow."""

from bisect import bisect_right
from collections import defaultdict
from math import exp

SQUASH = [min(max(round(65536 / (1 + exp(-(i - 2048) / 128))), 1), 65535) for i in range(4096)]
BOUNDS = (1, 2, 3, 5, 8, 12, 17, 25, 36, 52, 73)
BASIS = (5793, 8035, 7568, 6811, 5793, 4551, 3135, 1598)
ZIGZAG = sorted(
    ((v, u) for v in range(8) for u in range(8)), key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1])
)
NUMBER = {place: k for k, place in enumerate(ZIGZAG)}

Block = list[int]
Blocks = dict[tuple[int, int], Block]
Image = list[Blocks]
ZERO = [0] * 64


def clamp(v: int, low: int, high: int) -> int:
    return min(max(v, low), high)


def stretch(i: int) -> int:
    x = next((x for x, p in enumerate(SQUASH) if p >= 16 * i + 8), 4096)
    return clamp(2 * x - 4096, -2047, 2047)


STRETCH = [stretch(i) for i in range(4096)]


def class_of(v: int) -> int:
    return bisect_right(BOUNDS, v)


def sign(v: int) -> int:
    return 1 if v > 0 else 2 if v < 0 else 0


class Component:
    """What is learned of a component, and its blocks in the last two images."""

    def __init__(self) -> None:
        self.chances: dict[object, tuple[int, int]] = defaultdict(lambda: (1 << 21, 0))
        self.weights: dict[object, list[int]] = defaultdict(lambda: [14000] * 8)
        self.before: Blocks | None = None
        self.earlier: Blocks | None = None
        self.unchanged: dict[tuple[int, int], bool] = {}


class GroupDecoder:
    """Decodes the images of one group."""

    def __init__(self, data: bytes, layout: list[tuple[int, int]]) -> None:
        self.data = data.ljust(6, b"\0")
        self.offset = int.from_bytes(self.data[:6], "big")
        self.range = 1 << 48
        self.position = 6
        self.layout = layout
        self.components = [Component() for _ in layout]
        self.at = self.components[0]

    def bit(self, p: int = 32768) -> int:
        bound = (self.range >> 16) * p
        bit = int(self.offset < bound)
        if bit:
            self.range = bound
        else:
            self.offset -= bound
            self.range -= bound
        if self.range < 1 << 32:
            self.range <<= 16
            following = self.data[self.position : self.position + 2].ljust(2, b"\0")
            self.offset = self.offset << 16 | int.from_bytes(following, "big")
            self.position += 2
        return bit

    def decide(self, weights: object, *contexts: object) -> int:
        entries = [self.at.chances[context] for context in contexts]
        odds = [STRETCH[p >> 10] for p, _ in entries] + [0] * (8 - len(entries))
        w = self.at.weights[weights]
        x = sum(o * v for o, v in zip(odds, w, strict=True)) >> 16
        p = clamp(SQUASH[clamp(x >> 1, -2048, 2047) + 2048], 24, 65512)
        bit = self.bit(p)
        error = ((65536 * bit - p) * 24) >> 6
        w[:] = [clamp(v + ((o * error + 8192) >> 14), -131071, 131071) for o, v in zip(odds, w, strict=True)]
        for context, (q, t) in zip(contexts, entries, strict=True):
            q += (((((1 << 22) - 1) * bit - q) >> 7) * (131072 // (2 * t + 3))) >> 9
            self.at.chances[context] = q, min(t + 1, 250)
        return bit

    def plain_number(self, most: int) -> int:
        size = 0
        while size < most and self.bit():
            size += 1
        v = 1
        for _ in range(size):
            v = 2 * v + self.bit()
        return v

    def image(self, steps: list[list[int]]) -> Image:
        """Return the blocks of each component by (row, column)."""
        out: Image = []
        for number, (rows, columns) in enumerate(self.layout):
            self.at = self.components[number]
            same = number > 0 and self.layout[number - 1] == (rows, columns)
            blocks: Blocks = {}
            unchanged: dict[tuple[int, int], bool] = {}
            for y in range(rows):
                for x in range(columns):
                    self.block(blocks, unchanged, out[-1] if same else {}, y, x, columns, steps[number])
            self.at.earlier = self.at.before if self.at.before is not None else blocks
            self.at.before = blocks
            self.at.unchanged = unchanged
            out.append(blocks)
        return out

    def block(
        self,
        blocks: Blocks,
        unchanged: dict[tuple[int, int], bool],
        other: Blocks,
        y: int,
        x: int,
        columns: int,
        q: list[int],
    ) -> None:
        before, earlier = self.at.before, self.at.earlier

        def last(block: Block) -> int:
            return max((k for k in range(64) if k and block[k]), default=0)

        w, n, c, f = (
            blocks.get(place, ZERO) for place in ((y, x - 1), (y - 1, x), (y - 1, x - 1), (y - 1, x + 1))
        )
        p = qq = ZERO
        then_unchanged = self.at.unchanged
        if before is not None and earlier is not None:
            p, qq = before[y, x], earlier[y, x]
            s = [unchanged.get(place, False) for place in ((y, x - 1), (y - 1, x), (y - 1, x - 1))]
            flags = 8 * then_unchanged.get((y, x), False) + 4 * s[2] + 2 * s[1] + s[0]
            pair = 0
            if x + 1 < columns:
                pair = 2 * unchanged.get((y - 1, x + 1), False) + then_unchanged.get((y, x + 1), False)
            unchanged[y, x] = bool(self.decide("same", ("same0", flags, last(p)), ("same1", flags, pair)))
            if unchanged[y, x]:
                blocks[y, x] = p
                return
        has_before = before is not None
        block = blocks[y, x] = [0] * 64
        lw, ln, lp = last(w), last(n), last(p)
        node = 1
        for _ in range(6):
            contexts = [("last0", node, (lw + ln + 1) >> 1), ("last1", node, lw >> 2, ln >> 2)]
            if has_before:
                contexts += [("last2", node, lp), ("last3", node, lp >> 2, (lw + ln) >> 3)]
            node = 2 * node + self.decide(("last", node, has_before), *contexts)
        highest = node - 64

        def border(line: list[int], neighbour: Block | None) -> int:
            if neighbour is None:
                return 0
            t = sum((-1) ** i * neighbour[k] * q[k] * BASIS[i] for i, k in enumerate(line))
            t -= sum(block[k] * q[k] * BASIS[i] for i, k in enumerate(line) if i)
            u = q[line[0]] * BASIS[0]
            return clamp((2 * t + u) // (2 * u), -32767, 32767)

        at_left = blocks[y, x - 1] if x else None
        above = blocks[y - 1, x] if y else None
        beside = other.get((y, x), ZERO)
        count = total = 0
        for k in range(highest, 0, -1):
            v, u = ZIGZAG[k]
            near = class_of(2 * abs(w[k]) + 2 * abs(n[k]) + abs(c[k]))
            inside = class_of(
                sum(
                    weight * abs(block[NUMBER[v + down, u + across]])
                    for down, across, weight in ((0, 1, 2), (1, 0, 2), (1, 1, 1))
                    if v + down < 8 and u + across < 8
                )
            )
            if before is not None:
                around = ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
                then = class_of(4 * abs(p[k]) + sum(abs(before.get(place, ZERO)[k]) for place in around))
            else:
                far = (f, blocks.get((y - 2, x), ZERO), blocks.get((y, x - 2), ZERO))
                then = class_of(2 * sum(abs(one[k]) for one in far))
            begins = u == 0 or v == 0
            edge = 0
            if u == 0:
                edge = border([NUMBER[v, i] for i in range(8)], at_left)
            elif v == 0:
                edge = border([NUMBER[i, u] for i in range(8)], above)
            many, bordering = min(count, 11), min(abs(edge), 11)
            j = int(k == highest)
            while j < 18:
                step = min(j, 3)

                def table(number: int, a: int, b: int, k: int = k, step: int = step) -> object:
                    return "ac", number, k, step, 12 * a + b

                def d(v: int, j: int = j) -> int:
                    return clamp(v - j, -3, 4) + 3

                contexts_ac = [
                    table(0, near, inside),
                    table(1, inside, many),
                    table(2, class_of(2 * total), min(highest >> 2, 11)),
                ]
                if has_before:
                    contexts_ac += [
                        table(3, then, d(abs(p[k]))),
                        table(4, near, then),
                        table(5, then, inside),
                        table(6, d(abs(p[k])), d(abs(qq[k]))),
                        table(7, d(abs(p[k])), bordering if begins else many),
                    ]
                else:
                    contexts_ac += [
                        table(4, near, many),
                        table(5, min(abs(w[k]), 11), min(abs(n[k]), 11)),
                        table(6, near, then),
                        table(3, bordering, inside if begins else near),
                        table(7, min(abs(beside[k]), 11), inside),
                    ]
                if not self.decide(("ac", k, step), *contexts_ac):
                    break
                j += 1
            else:
                j = min(self.plain_number(14) + 17, 32767)
            if j == 0:
                continue
            count += 1
            total += j
            if has_before:
                first = 8 * sign(p[k]) + min(abs(p[k]), 7)
                if begins:
                    first = 9 * sign(edge) + 3 * min(abs(edge), 2) + sign(p[k])
                entries = [
                    first,
                    9 * sign(p[k]) + 3 * sign(qq[k]) + min(abs(p[k]), 2),
                    8 * sign(p[k]) + clamp(j - abs(p[k]), -3, 4) + 3,
                ]
            else:
                entries = [
                    8 * sign(edge) + min(abs(edge), 7),
                    sign(c[k]),
                    8 * sign(beside[k]) + min(abs(beside[k]), 7),
                ]
            entries.append(9 * sign(w[k]) + 3 * sign(n[k]) + sign(p[k]))
            contexts_sign = [("sign", i, k, entry) for i, entry in enumerate(entries)]
            block[k] = -j if self.decide(("sign", k), *contexts_sign) else j
        rows_border = border([NUMBER[0, i] for i in range(8)], at_left)
        columns_border = border([NUMBER[i, 0] for i in range(8)], above)
        spread = 0
        if x and y:
            along = (rows_border + columns_border) >> 1
            spread = abs(rows_border - columns_border)
        else:
            along = rows_border + columns_border
            spread = abs(along - (w[0] if x else n[0])) if x or y else 0
        expected, doubt = along, abs(w[0] - n[0])
        if before is not None:
            moved = (w[0] - before[y, x - 1][0] if x else 0, n[0] - before[y - 1, x][0] if y else 0)
            expected = clamp(p[0] + (sum(moved) >> 1), -32768, 32767)
            spread, doubt = abs(moved[0]) + abs(moved[1]), abs(expected - along)
        spread, doubt = class_of(spread), class_of(doubt)
        size = 0
        while size < 16 and self.decide(
            ("dc", size), ("dc0", size, spread, doubt), ("dc1", size, spread, highest)
        ):
            size += 1
        value = 1
        for i in range(size):
            top = i == 0
            bit = self.decide(("top", size), ("top0", size), ("top1", size, doubt)) if top else self.bit()
            value = 2 * value + bit
        step = value - 1
        if step:
            turn = sign(along - expected)
            contexts_turn = ("turn0", turn, doubt), ("turn1", turn, doubt, class_of(step))
            if self.decide("turn", *contexts_turn):
                step = -step
        block[0] = clamp(expected + step, -32768, 32767)
