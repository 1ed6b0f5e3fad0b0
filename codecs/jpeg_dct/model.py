"""Quantized DCT coefficients under a binary arithmetic coder, predicted from the image before.

A block is coded as: the place of its last coefficient that is not 0, in zigzag order; from there down to 1 the
coefficients, each as whether it is 0, its magnitude, its sign; the DC coefficient as the difference to a prediction.
Decisions have several contexts, made of the blocks to the left and above, of the same and the neighbouring blocks in
the image before, and of the higher frequencies of the block itself; see `mixing` for what becomes of them.

Contexts by neighbouring magnitudes follow D. R. Horn et al., "The design, implementation, and deployment of a system
to transparently compress hundreds of petabytes of image files for a file-storage service" (Lepton, NSDI 2017). The
images before are ours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward_jit import inline, njit
from dcmpress.codecs.interframe.backward_vector import LANES
from dcmpress.codecs.interframe.binary_coder import code_bit
from dcmpress.codecs.jpeg_dct.borders import COLUMN, HIGHER, LINE_OF, NONE, ROW, smooth
from dcmpress.codecs.jpeg_dct.mixing import EVEN, FIRST_WEIGHT, STATE, decider

Array = NDArray[Any]
_U = np.uint64

_CLASSES = 12
"""Classes of a sum of magnitudes."""
_UNARY = 18
"""Magnitudes from here on are coded by their bits."""
_DEEP = 4
"""Steps of the unary code that are told apart."""
_MOST_BITS = 14
_MOST_DC_BITS = 16
_HALF = 32768

_UNCHANGED = 128
"""Bit of a block's entry in `lasts`: all of its coefficients are as in the image before."""
_LAST_BITS = 63

# Where in a component's chances the contexts of each kind of decision are: tables of LAST, AC, SIGN, and DC.
_LAST_SIZE = 64 * 256
_AC_SIZE = _DEEP * 64 * _CLASSES * _CLASSES
_SIGN_SIZE = 64 * 32
_DC_SIZE = (_MOST_DC_BITS + 1) * _CLASSES * 64
_LAST = 0
_AC = _LAST + 4 * _LAST_SIZE
_SIGN = _AC + 8 * _AC_SIZE
_DC = _SIGN + 4 * _SIGN_SIZE
_SAME = _DC + 6 * _DC_SIZE
_SAME_SIZE = 16 * 64
N_CHANCES = _SAME + 2 * _SAME_SIZE
_W_LAST = 0
_W_AC = 128
_W_SIGN = _W_AC + _DEEP * 64
_W_DC = _W_SIGN + 64
_W_DC_TOP = _W_DC + _MOST_DC_BITS + 1
_W_DC_SIGN = _W_DC_TOP + _MOST_DC_BITS + 1
_W_SAME = _W_DC_SIGN + 1
N_WEIGHTS = (_W_SAME + 1) * LANES


_BOUNDS = (1, 2, 3, 5, 8, 12, 17, 25, 36, 52, 73)
_MOST_SUM = 128
_CLASS_OF = np.searchsorted(_BOUNDS, np.arange(_MOST_SUM), side="right").astype(np.uint8)
"""Class of each sum: how many of the bounds are not above it."""

_decide_8 = decider(8)
_decide_4 = decider(4)
_decide_2 = decider(2)


class Model:
    """What coder and decoder learn of the components of a group of images."""

    def __init__(self, n_components: int) -> None:
        self.chances = np.full((n_components, N_CHANCES), EVEN, np.int32)
        self.weights = np.full((n_components, N_WEIGHTS), FIRST_WEIGHT, np.int32)
        self.contexts = np.zeros(LANES, np.int64)
        self.state = np.zeros(STATE, np.int32)


@inline
def _class(v):
    return np.int64(_CLASS_OF[_U(min(v, _MOST_SUM - 1))])


@inline
def _clamp(v, low, high):
    return min(max(v, low), high)


@inline
def _sign(v):
    return np.int64(v > 0) + 2 * np.int64(v < 0)


@inline
def _at(blocks, b, k):
    return np.int64(blocks[_U(b), _U(k)])


@inline
def _code_same(
    encode, same, lasts, lasts_before, columns, y, x, contexts, chances, weights, state, acc, rng, pos, buffer
):
    """Code whether a block is as it was in the image before, from where that was so."""
    then = np.int64(lasts_before[_U(y + 1), _U(x + 1)])
    west = np.int64(lasts[_U(y + 1), _U(x)] >= _UNCHANGED)
    north = np.int64(lasts[_U(y), _U(x + 1)] >= _UNCHANGED)
    corner = np.int64(lasts[_U(y), _U(x)] >= _UNCHANGED)
    flags = 8 * np.int64(then >= _UNCHANGED) + 4 * corner + 2 * north + west
    contexts[0] = _SAME + flags * 64 + (then & _LAST_BITS)
    contexts[1] = _SAME + _SAME_SIZE + flags * 4
    if x + 1 < columns:
        contexts[1] += 2 * np.int64(lasts[_U(y), _U(x + 2)] >= _UNCHANGED)
        contexts[1] += np.int64(lasts_before[_U(y + 1), _U(x + 2)] >= _UNCHANGED)
    return _decide_2(encode, same, contexts, chances, weights, _W_SAME, state, acc, rng, pos, buffer)


@inline
def _code_last(
    encode, last, west, north, then, has_before, contexts, chances, weights, state, acc, rng, pos, buffer
):
    """Code the number of the last coefficient that is not 0; `west`, `north`, `then` are those of its neighbours."""
    node = np.int64(1)
    for i in range(5, -1, -1):
        table = _LAST + node * 256
        contexts[0] = table + ((west + north + 1) >> 1)
        contexts[1] = table + _LAST_SIZE + (west >> 2) * 16 + (north >> 2)
        bit = (last >> i) & 1
        if has_before:
            contexts[2] = table + 2 * _LAST_SIZE + then
            contexts[3] = table + 3 * _LAST_SIZE + (then >> 2) * 16 + ((west + north) >> 3)
            bit, acc, rng, pos = _decide_4(
                encode, bit, contexts, chances, weights, _W_LAST + 64 + node, state, acc, rng, pos, buffer
            )
        else:
            bit, acc, rng, pos = _decide_2(
                encode, bit, contexts, chances, weights, _W_LAST + node, state, acc, rng, pos, buffer
            )
        node = 2 * node + bit
    return node - 64, acc, rng, pos


@inline
def _code_bits(encode, value, most, acc, rng, pos, buffer):
    """Code a number above 0 that no context knows: how many bits, at most `most` + 1, then they."""
    size = np.int64(0)
    going = True
    while going and size < most:
        bit = np.int64(value >> (size + 1) > 0)
        bit, acc, rng, pos = code_bit(encode, bit, _HALF, acc, rng, pos, buffer)
        going = bit > 0
        size += bit
    coded = np.int64(1)
    for i in range(size - 1, -1, -1):
        bit, acc, rng, pos = code_bit(encode, (value >> i) & 1, _HALF, acc, rng, pos, buffer)
        coded = 2 * coded + bit
    return coded, acc, rng, pos


@inline
def _code_magnitude(
    encode, magnitude, k, last, near, inside, then, summed, count, before, earlier, west, north, other, line, border,
    has_before, contexts, chances, weights, state, acc, rng, pos, buffer,
):  # fmt: skip
    """Code the magnitude of coefficient k: whether it is above 0, 1, ...; the last one is known not to be 0.

    `near`, `inside`, `then` and `summed` are classes of magnitudes: beside it; of higher frequencies in its block; in
    the image before, or farther from it in this one; of all coded in its block, which are `count`. `before` and
    `earlier` are its magnitudes in the two images before, `west` and `north` those beside it, `other` that in the
    component before, `border` that of a smooth border, if it begins a line.
    """
    j = int(k == last)
    going = True
    while going and j < _UNARY:
        base = min(j, _DEEP - 1) * 64 + k
        table = _AC + base * (_CLASSES * _CLASSES)
        many = min(count, _CLASSES - 1)
        bordering = min(border, _CLASSES - 1)
        contexts[0] = table + near * _CLASSES + inside
        contexts[1] = table + _AC_SIZE + inside * _CLASSES + many
        contexts[2] = table + 2 * _AC_SIZE + summed * _CLASSES + min(last >> 2, _CLASSES - 1)
        bit = np.int64(magnitude > j)
        if has_before:
            away = _clamp(before - j, -3, 4) + 3
            contexts[3] = table + 3 * _AC_SIZE + then * _CLASSES + away
            contexts[4] = table + 4 * _AC_SIZE + near * _CLASSES + then
            contexts[5] = table + 5 * _AC_SIZE + then * _CLASSES + inside
            contexts[6] = table + 6 * _AC_SIZE + away * _CLASSES + _clamp(earlier - j, -3, 4) + 3
            contexts[7] = table + 7 * _AC_SIZE + away * _CLASSES + (many if line == NONE else bordering)
            bit, acc, rng, pos = _decide_8(
                encode, bit, contexts, chances, weights, _W_AC + base, state, acc, rng, pos, buffer
            )
        else:
            contexts[3] = table + 4 * _AC_SIZE + near * _CLASSES + many
            contexts[4] = table + 5 * _AC_SIZE + min(west, _CLASSES - 1) * _CLASSES + min(north, _CLASSES - 1)
            contexts[5] = table + 6 * _AC_SIZE + near * _CLASSES + then
            contexts[6] = table + 3 * _AC_SIZE + bordering * _CLASSES + (near if line == NONE else inside)
            contexts[7] = table + 7 * _AC_SIZE + min(other, _CLASSES - 1) * _CLASSES + inside
            bit, acc, rng, pos = _decide_8(
                encode, bit, contexts, chances, weights, _W_AC + base, state, acc, rng, pos, buffer
            )
        going = bit > 0
        j += bit
    if going:
        rest, acc, rng, pos = _code_bits(encode, magnitude - _UNARY + 1, _MOST_BITS, acc, rng, pos, buffer)
        j = min(rest + _UNARY - 1, _HALF - 1)
    return j, acc, rng, pos


@inline
def _farther(blocks, columns, y, x, k):
    """Return the sum of magnitudes of coefficient k around a block that `_code_ac` does not look at by themselves."""
    b = y * columns + x
    total = np.int64(0)
    if y > 0 and x + 1 < columns:
        total += abs(_at(blocks, b - columns + 1, k))
    if y > 1:
        total += abs(_at(blocks, b - 2 * columns, k))
    if x > 1:
        total += abs(_at(blocks, b - 2, k))
    return total


@inline
def _around(before, rows, columns, y, x, k):
    """Return the sum of magnitudes of coefficient k around a block in the image before."""
    b = y * columns + x
    total = np.int64(0)
    if x > 0:
        total += abs(_at(before, b - 1, k))
    if x + 1 < columns:
        total += abs(_at(before, b + 1, k))
    if y > 0:
        total += abs(_at(before, b - columns, k))
    if y + 1 < rows:
        total += abs(_at(before, b + columns, k))
    return total


@inline
def _code_ac(
    encode, blocks, other, has_other, steps, before, earlier, has_before, rows, columns, y, x, last,
    contexts, chances, weights, state, acc, rng, pos, buffer,
):  # fmt: skip
    """Code the coefficients from `last` down to 1 of a block; the higher ones are 0."""
    b = y * columns + x
    count = np.int64(0)
    total = np.int64(0)
    for k in range(last, 0, -1):
        west = _at(blocks, b - 1, k) if x > 0 else np.int64(0)
        north = _at(blocks, b - columns, k) if y > 0 else np.int64(0)
        corner = _at(blocks, b - columns - 1, k) if x > 0 and y > 0 else np.int64(0)
        one = np.int64(0)
        two = np.int64(0)
        if has_before:
            one = _at(before, b, k)
            two = _at(earlier, b, k)
            then = 4 * abs(one) + _around(before, rows, columns, y, x, k)
        else:
            then = 2 * _farther(blocks, columns, y, x, k)
        higher = np.int64(0)
        for i in range(3):
            j = HIGHER[_U(k), _U(i)]
            if j < 64:
                higher += abs(_at(blocks, b, j)) * (2 - i // 2)
        line = LINE_OF[_U(k)]
        border = np.int64(0)
        if NONE < line < COLUMN and x > 0:
            border = smooth(blocks, b, b - 1, line, steps)
        elif line >= COLUMN and y > 0:
            border = smooth(blocks, b, b - columns, line, steps)
        beside = _at(other, b, k) if has_other else np.int64(0)
        value = _at(blocks, b, k)
        near = _class(2 * (abs(west) + abs(north)) + abs(corner))
        magnitude, acc, rng, pos = _code_magnitude(
            encode, abs(value), k, last, near, _class(higher), _class(then), _class(2 * total), count,
            abs(one), abs(two), abs(west), abs(north), abs(beside), line, abs(border),
            has_before, contexts, chances, weights, state, acc, rng, pos, buffer,
        )  # fmt: skip
        if magnitude > 0:
            count += 1
            total += magnitude
            table = _SIGN + k * 32
            turn = _sign(one)
            contexts[1] = table + _SIGN_SIZE + (turn * 3 + _sign(two)) * 3
            if has_before:
                contexts[0] = table + turn * 8 + min(abs(one), 7)
                if line != NONE:
                    contexts[0] = table + _sign(border) * 9 + _clamp(abs(border), 0, 2) * 3 + turn
                contexts[1] += min(abs(one), 2)
                contexts[2] = table + 2 * _SIGN_SIZE + turn * 8 + _clamp(magnitude - abs(one), -3, 4) + 3
            else:
                contexts[0] = table + _sign(border) * 8 + min(abs(border), 7)
                contexts[1] += _sign(corner)
                contexts[2] = table + 2 * _SIGN_SIZE + _sign(beside) * 8 + min(abs(beside), 7)
            contexts[3] = table + 3 * _SIGN_SIZE + (_sign(west) * 3 + _sign(north)) * 3 + turn
            bit, acc, rng, pos = _decide_4(
                encode,
                np.int64(value < 0),
                contexts,
                chances,
                weights,
                _W_SIGN + k,
                state,
                acc,
                rng,
                pos,
                buffer,
            )
            if bit:
                magnitude = -magnitude
        if not encode:
            blocks[_U(b), _U(k)] = magnitude
    return acc, rng, pos


@inline
def _code_dc(
    encode, blocks, steps, before, has_before, columns, y, x, last,
    contexts, chances, weights, state, acc, rng, pos, buffer,
):  # fmt: skip
    """Code a DC coefficient.

    It is expected where it was in the image before, moved as those at the left and above have moved; without one,
    where the borders with these are smooth.
    """
    b = y * columns + x
    west = _at(blocks, b - 1, 0) if x > 0 else np.int64(0)
    north = _at(blocks, b - columns, 0) if y > 0 else np.int64(0)
    along = np.int64(0)
    spread = np.int64(0)
    if x > 0 and y > 0:
        one = smooth(blocks, b, b - 1, ROW, steps)
        two = smooth(blocks, b, b - columns, COLUMN, steps)
        along = (one + two) >> 1
        spread = abs(one - two)
    elif x > 0:
        along = smooth(blocks, b, b - 1, ROW, steps)
        spread = abs(along - west)
    elif y > 0:
        along = smooth(blocks, b, b - columns, COLUMN, steps)
        spread = abs(along - north)
    expected = along
    doubt = abs(west - north)
    if has_before:
        across = west - _at(before, b - 1, 0) if x > 0 else np.int64(0)
        down = north - _at(before, b - columns, 0) if y > 0 else np.int64(0)
        expected = _clamp(_at(before, b, 0) + ((across + down) >> 1), -_HALF, _HALF - 1)
        spread = abs(across) + abs(down)
        doubt = abs(expected - along)
    spread = _class(spread)
    doubt = _class(doubt)
    difference = _at(blocks, b, 0) - expected
    magnitude = abs(difference) + 1
    size = np.int64(0)
    going = True
    while going and size < _MOST_DC_BITS:
        table = _DC + size * (_CLASSES * 64)
        contexts[0] = table + spread * _CLASSES + doubt
        contexts[1] = table + _DC_SIZE + spread * 64 + last
        bit, acc, rng, pos = _decide_2(
            encode, np.int64(magnitude >> (size + 1) > 0), contexts, chances, weights, _W_DC + size,
            state, acc, rng, pos, buffer,
        )  # fmt: skip
        going = bit > 0
        size += bit
    coded = np.int64(1)
    for i in range(size - 1, -1, -1):
        bit = (magnitude >> i) & 1
        if i == size - 1:
            table = _DC + 2 * _DC_SIZE + size * (_CLASSES * 64)
            contexts[0] = table
            contexts[1] = table + _DC_SIZE + doubt
            bit, acc, rng, pos = _decide_2(
                encode, bit, contexts, chances, weights, _W_DC_TOP + size, state, acc, rng, pos, buffer
            )
        else:
            bit, acc, rng, pos = code_bit(encode, bit, _HALF, acc, rng, pos, buffer)
        coded = 2 * coded + bit
    step = coded - 1
    if step > 0:
        table = _DC + 4 * _DC_SIZE + (_sign(along - expected) * _CLASSES + doubt) * _CLASSES
        contexts[0] = table
        contexts[1] = table + _DC_SIZE + _class(step)
        bit, acc, rng, pos = _decide_2(
            encode,
            np.int64(difference < 0),
            contexts,
            chances,
            weights,
            _W_DC_SIGN,
            state,
            acc,
            rng,
            pos,
            buffer,
        )
        if bit:
            step = -step
    if not encode:
        blocks[_U(b), 0] = _clamp(expected + step, -_HALF, _HALF - 1)
    return acc, rng, pos


@njit
def code_component(
    encode, blocks, other, has_other, steps, before, earlier, has_before, rows, columns, lasts, lasts_before,
    chances, weights, contexts, state, registers, buffer,
):  # fmt: skip
    """Encode or decode the blocks of one component of one image.

    Parameters
    ----------
    encode : bool
    blocks : int16 array, shape (rows * columns, 64)
        Coefficients in zigzag order; written when decoding.
    other : int16 array of the same shape
        The component before this one in the same image, if `has_other`.
    steps : int64 array, shape (64,)
        Of quantization, in zigzag order, above 0.
    before, earlier : int16 arrays of the same shape
        The component in the image before, if `has_before`, and in the one before that, or the same again.
    lasts, lasts_before : uint8 arrays, shape (rows + 1, columns + 1)
        Number of the last coefficient that is not 0 of each block, behind a row and a column of zeros; `lasts` is
        written.
    chances, weights : int32 arrays
        Of the component in a `Model`.
    contexts, state : int64 and int32 arrays
        For the kernel's own use, of a `Model`.
    registers : int64 array, shape (3,)
        Of the coder: see `interframe/binary_coder.py`; written.
    buffer : uint8 array
    """
    acc = registers[0]
    rng = registers[1]
    pos = registers[2]
    for y in range(rows):
        for x in range(columns):
            b = y * columns + x
            if has_before:
                same = np.int64(1)
                if encode:
                    for k in range(64):
                        same &= np.int64(blocks[_U(b), _U(k)] == before[_U(b), _U(k)])
                same, acc, rng, pos = _code_same(
                    encode, same, lasts, lasts_before, columns, y, x,
                    contexts, chances, weights, state, acc, rng, pos, buffer,
                )  # fmt: skip
                if same:
                    lasts[_U(y + 1), _U(x + 1)] = lasts_before[_U(y + 1), _U(x + 1)] | _UNCHANGED
                    if not encode:
                        for k in range(64):
                            blocks[_U(b), _U(k)] = before[_U(b), _U(k)]
                    continue
            last = np.int64(0)
            if encode:
                last = np.int64(63)
                while last > 0 and blocks[_U(b), _U(last)] == 0:
                    last -= 1
            last, acc, rng, pos = _code_last(
                encode, last,
                np.int64(lasts[_U(y + 1), _U(x)] & _LAST_BITS),
                np.int64(lasts[_U(y), _U(x + 1)] & _LAST_BITS),
                np.int64(lasts_before[_U(y + 1), _U(x + 1)] & _LAST_BITS), has_before,
                contexts, chances, weights, state, acc, rng, pos, buffer,
            )  # fmt: skip
            lasts[_U(y + 1), _U(x + 1)] = last
            if not encode:
                for k in range(last + 1, 64):
                    blocks[_U(b), _U(k)] = 0
            acc, rng, pos = _code_ac(
                encode, blocks, other, has_other, steps, before, earlier, has_before, rows, columns, y, x, last,
                contexts, chances, weights, state, acc, rng, pos, buffer,
            )  # fmt: skip
            acc, rng, pos = _code_dc(
                encode, blocks, steps, before, has_before, columns, y, x, last,
                contexts, chances, weights, state, acc, rng, pos, buffer,
            )  # fmt: skip
    registers[0] = acc
    registers[1] = rng
    registers[2] = pos
