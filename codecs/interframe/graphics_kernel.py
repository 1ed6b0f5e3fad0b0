"""The pixel loop of the graphics core: stretches that repeat, guesses at samples, literals.

`docs/codec-graphics.md` describes every step. Encoder and decoder are one kernel: the only difference is in
`code_bit`. Positions are indices into flat padded planes.
"""

import numpy as np

from dcmpress.codecs.interframe.backward_jit import inline, njit
from dcmpress.codecs.interframe.backward_kernel import clamp, median_edge
from dcmpress.codecs.interframe.graphics_coder import (
    NUMBER,
    code,
    code_by_two,
    code_low_bits,
    code_number,
    code_symbol,
    fold,
    size_of,
)

U = np.uint64  # an unsigned index saves the test for a negative one

PAD = 3
"""Samples around a plane on each side."""
SLOTS = 1 << 14
"""Of one table of guesses. A slot: value (16 bits), check of the hash (8), times in a row (4)."""
TIMES = 16
PLAUSIBLE = 26000
"""A guess less likely than this, in 1/65536, is not asked for."""
HIT = 40000
"""How often a guess is right, in 1/65536, to begin with."""
ENERGIES = 24
LENGTHS = 18
_KINDS = 2
_TURNS = 2
_UNARY = 20
_SIGNS = 27

# Where the chances of each kind of decision begin.
_HOLDS = 0
_WHERE = _HOLDS + _KINDS * 3 * 2 * LENGTHS
_BY_TABLE = _WHERE + _KINDS * LENGTHS * NUMBER
_BY_LIKENESS = _BY_TABLE + _TURNS * 2 * TIMES * 3
_LITERAL = _BY_LIKENESS + _TURNS * ENERGIES * 8 * 2
_LITERAL_SIZE = 1 + _SIGNS + _UNARY + 1 + _UNARY + 1
_ESCAPE = _LITERAL + ENERGIES * _LITERAL_SIZE
_BY_ACTIVITY = _ESCAPE + NUMBER
CHANCES = _BY_ACTIVITY + ENERGIES * (ENERGIES // 2) * (_UNARY + 1)
BIASES = ENERGIES * _SIGNS


@inline
def _level(v):
    """Half octaves of a number >= 0: 0 to 23."""
    n = min(size_of(v), ENERGIES // 2 - 1)
    return 2 * n + (v >> max(n - 2, 0) & 1)


@inline
def _sign(v):
    return np.int64(v > 0) - np.int64(v < 0) + 1


@inline
def _times(entry, check):
    return (entry >> 24) & 15 if (entry >> 16) & 255 == check else np.int64(0)


@inline
def _remember(slots, place, check, times, kept, hits, first, value):
    """Learn in one table of guesses which sample was found to stand here."""
    # Without branches: the chance of no times is never asked for, and may learn what it likes.
    right = np.int64(kept == value)
    p = hits[U(first + times)]
    hits[U(first + times)] = p + (((right << 16) - right - p) >> 6)
    more = min(times + 1, TIMES - 1) if right else min(times >> 1, 3)
    kept = value if min(times, more) == 0 else kept
    times = np.int64(1) if min(times, more) == 0 else more
    slots[U(place)] = np.int32(times << 24 | check << 16 | kept)


@njit
def code_plane(
    encode, by_symbols, current, reference, has_reference, rows, columns, max_value,
    slots, hits, chances, symbols, biases, errors, rates, buffer, registers,
):  # fmt: skip
    """Encode or decode the samples of a plane.

    Parameters
    ----------
    encode : bool
    by_symbols : bool
        Literals are symbols, not errors of a prediction.
    current, reference : uint16 arrays, flat; padded planes, see `surround`
        `current` is read if `encode`, else written. `reference` is any array unless `has_reference`.
    slots : int32 array, shape (2 * SLOTS,)
    hits : int64 array, shape (2 * TIMES,)
    chances : int32 array, shape (CHANCES,)
    symbols : int32 array, shape (2 * GROUPS * GROUP,), or of any length unless `by_symbols`
    biases : int32 array, shape (BIASES,)
    errors : uint16 array, shape (2, columns + 2)
        Zeros to begin with.
    rates : int64 array
        `graphics_coder.RATES`.
    buffer, registers
        Of the binary coder.
    """
    acc = registers[0]
    rng = registers[1]
    pos = registers[2]
    stride = np.int64(columns) + 2 * PAD
    n_bits = size_of(np.int64(max_value))
    held_before = np.int64(0)  # a bit for each kind of stretch
    for y in range(rows):
        o = (y + PAD) * stride + PAD
        for k in range(1, PAD + 1):
            current[U(o - k)] = current[U(o - stride)]
        here = y & 1
        above = 1 - here
        errors[U(here), U(0)] = errors[U(above), U(1)]
        errors[U(above), U(columns + 1)] = errors[U(above), U(columns)]
        flat_end = np.int64(
            0
        )  # of the stretches found last: a place inside one has not to look for its end again
        still_end = np.int64(0)
        x = np.int64(0)
        while x < columns:
            i = o + x
            n = i - stride
            w = np.int64(current[U(i - 1)])
            north = np.int64(current[U(n)])
            nw = np.int64(current[U(n - 1)])
            ne = np.int64(current[U(n + 1)])
            p = np.int64(reference[U(i)]) if has_reference else np.int64(0)
            missed = np.int64(-1)

            # A stretch: as long as what is above it goes on to be flat, or like the reference.
            still = (
                has_reference
                and w == reference[U(i - 1)]
                and north == reference[U(n)]
                and nw == reference[U(n - 1)]
                and ne == reference[U(n + 1)]
            )
            if still or (w == north and w == nw and w == ne):
                length = np.int64(1)
                held = np.int64(0)
                kind = np.int64(still)
                if still:
                    length = max(still_end - x, length)
                    if x >= still_end:
                        while (
                            x + length < columns
                            and current[U(n + length + 1)] == reference[U(n + length + 1)]
                        ):
                            length += 1
                        still_end = x + length
                    if encode:
                        while held < length and current[U(i + held)] == reference[U(i + held)]:
                            held += 1
                else:
                    length = max(flat_end - x, length)
                    if x >= flat_end:
                        while x + length < columns and current[U(n + length + 1)] == w:
                            length += 1
                        flat_end = x + length
                    if encode:
                        while held < length and current[U(i + held)] == w:
                            held += 1
                size = size_of(length)
                around = np.int64(current[U(i - 2)] == w) + np.int64(current[U(n - stride)] == w)
                c = _HOLDS + ((kind * 3 + around) * 2 + (held_before >> kind & 1)) * LENGTHS + size
                bit, acc, rng, pos = code(
                    encode, np.int64(held == length), chances, c, rates, acc, rng, pos, buffer
                )
                held_before = (held_before & ~(np.int64(1) << kind)) | bit << kind
                if bit:
                    held = length
                elif length > 1:
                    c = _WHERE + (kind * LENGTHS + size) * NUMBER
                    held, acc, rng, pos = code_number(encode, held, chances, c, rates, acc, rng, pos, buffer)
                    held = min(held, length - 1)
                for k in range(held):
                    errors[U(here), U(x + k + 1)] = 0
                if not encode:
                    if still:
                        for k in range(held):
                            current[U(i + k)] = reference[U(i + k)]
                    else:
                        for k in range(held):
                            current[U(i + k)] = np.uint16(w)
                x += held
                if held == length:
                    continue
                i = o + x
                n = i - stride
                w = np.int64(current[U(i - 1)])
                north = np.int64(current[U(n)])
                nw = np.int64(current[U(n - 1)])
                ne = np.int64(current[U(n + 1)])
                p = np.int64(reference[U(i)]) if has_reference else np.int64(0)
                missed = p if still else w

            # Guesses: what followed the same neighbours before.
            value = np.int64(current[U(i)]) if encode else np.int64(0)
            ww = np.int64(current[U(i - 2)])
            nn = np.int64(current[U(n - stride)])
            h = fold(fold(np.int64(7), w), north)
            four = fold(fold(h, nw), ne)
            if has_reference:
                east = np.int64(reference[U(i + 1)])
                more = fold(fold(fold(h, p), east), np.int64(reference[U(i + stride)]))
            else:
                more = fold(fold(fold(four, ww), nn), np.int64(current[U(n - stride + 1)]))
            place0 = four & (SLOTS - 1)
            place1 = SLOTS + (more & (SLOTS - 1))
            check0 = (four >> 16) & 255
            check1 = (more >> 16) & 255
            kept0 = np.int64(slots[U(place0)])
            kept1 = np.int64(slots[U(place1)])
            times0 = _times(kept0, check0)
            times1 = _times(kept1, check1)
            kept0 &= 65535
            kept1 &= 65535
            energy = 2 * (np.int64(errors[U(here), U(x)]) + np.int64(errors[U(above), U(x + 1)]))
            energy += np.int64(errors[U(above), U(x)]) + np.int64(errors[U(above), U(x + 2)])
            level = _level(energy)
            after = np.int64(missed >= 0)
            found = False
            for turn in range(_TURNS):
                chance0 = hits[U(times0)] if (times0 > 0) & (kept0 != missed) else np.int64(0)
                chance1 = hits[U(TIMES + times1)] if (times1 > 0) & (kept1 != missed) else np.int64(0)
                if max(chance0, chance1) <= PLAUSIBLE:
                    break
                table = np.int64(chance1 > chance0)
                guess = kept1 if table else kept0
                times = times1 if table else times0
                # The other table: knows nothing, agrees, knows better.
                other = np.int64(0)
                if times0 > 0 and times1 > 0:
                    other = np.int64(1) if kept0 == kept1 else np.int64(2)
                like = np.int64(guess == w) | np.int64(guess == north) << 1
                like |= np.int64(guess == (p if has_reference else ne)) << 2
                c = _BY_TABLE + ((turn * 2 + table) * TIMES + times) * 3 + other
                d = _BY_LIKENESS + ((turn * ENERGIES + level) * 8 + like) * 2 + after
                bit, acc, rng, pos = code_by_two(
                    encode, np.int64(value == guess), chances, c, d, rates, acc, rng, pos, buffer
                )
                if bit:
                    found = True
                    value = guess
                    break
                missed = guess
                after = np.int64(0)

            error = np.int64(0)
            if not found:
                predicted = median_edge(w, north, nw)
                if by_symbols:
                    value, acc, rng, pos = code_symbol(
                        encode, value, n_bits, symbols, w, predicted, rates, acc, rng, pos, buffer
                    )
                    value = min(value, max_value)
                    error = value - predicted
                else:
                    if has_reference:
                        dw = w - np.int64(reference[U(i - 1)])
                        dn = north - np.int64(reference[U(n)])
                        dnw = nw - np.int64(reference[U(n - 1)])
                        moved = clamp(p + median_edge(dw, dn, dnw), 0, max_value)
                        predicted = (predicted + moved + 1) >> 1
                    signs = (_sign(north - predicted) * 3 + _sign(w - predicted)) * 3 + _sign(ww - w)
                    b = level * _SIGNS + signs
                    bias = np.int64(biases[U(b)])
                    corrected = clamp(predicted + ((bias + 128) >> 8), 0, max_value)
                    activity = abs(w - nw) + abs(north - nw) + abs(ne - north) + abs(ww - w) + abs(north - nn)
                    value, acc, rng, pos = _code_error(
                        encode, value, corrected, max_value, n_bits, energy, level, activity, signs,
                        chances, rates, acc, rng, pos, buffer,
                    )  # fmt: skip
                    error = value - predicted
                    biases[U(b)] += np.int32(((error << 8) - bias) >> 5)
            if not encode:
                current[U(i)] = np.uint16(value)
            errors[U(here), U(x + 1)] = np.uint16(clamp(abs(error), 0, 255))
            _remember(slots, place0, check0, times0, kept0, hits, 0, value)
            _remember(slots, place1, check1, times1, kept1, hits, TIMES, value)
            x += 1
        for k in range(PAD):
            current[U(o + columns + k)] = current[U(o + columns - 1)]
    registers[0] = acc
    registers[1] = rng
    registers[2] = pos


@inline
def _code_error(
    encode, value, predicted, max_value, n_bits, energy, level, activity, signs,
    chances, rates, acc, rng, pos, buffer,
):  # fmt: skip
    """Code a sample by how far it is from a prediction, 0 to `max_value`; return it."""
    error = value - predicted
    c = _LITERAL + level * _LITERAL_SIZE
    d = _BY_ACTIVITY + (_level(activity) * (ENERGIES // 2) + (level >> 1)) * (_UNARY + 1)
    bit, acc, rng, pos = code_by_two(
        encode, np.int64(error == 0), chances, c, d, rates, acc, rng, pos, buffer
    )
    if bit or max_value == 0:
        return predicted, acc, rng, pos
    below = np.int64(predicted == max_value)
    if 0 < predicted < max_value:
        below, acc, rng, pos = code(
            encode, np.int64(error < 0), chances, c + 1 + signs, rates, acc, rng, pos, buffer
        )
    k = min(max(size_of(energy) - 5, 0), max(n_bits - 3, 0))
    rest = abs(error) - 1
    high = np.int64(0)
    c += 1 + _SIGNS
    while high < _UNARY:
        bit, acc, rng, pos = code_by_two(
            encode, np.int64(rest >> k > high), chances, c + high, d + 1 + high, rates, acc, rng, pos, buffer
        )
        if not bit:
            break
        high += 1
    c += _UNARY
    second = c + high
    if high == _UNARY:
        more, acc, rng, pos = code_number(
            encode, (rest >> k) - _UNARY, chances, np.int64(_ESCAPE), rates, acc, rng, pos, buffer
        )
        high += more
    low = np.int64(0)
    if k > 0:
        bit, acc, rng, pos = code(
            encode, (rest >> (k - 1)) & 1, chances, second, rates, acc, rng, pos, buffer
        )
        low, acc, rng, pos = code_low_bits(encode, rest, k - 1, acc, rng, pos, buffer)
        low |= bit << (k - 1)
    size = (high << k | low) + 1
    return clamp(predicted - size if below else predicted + size, 0, max_value), acc, rng, pos


@njit
def surround(plane, rows, columns):
    """Give a finished padded plane the surroundings of a reference: its edges repeat."""
    stride = np.int64(columns) + 2 * PAD
    for y in range(rows):
        o = (y + PAD) * stride + PAD
        for k in range(PAD):
            plane[U(o - 1 - k)] = plane[U(o)]
            plane[U(o + columns + k)] = plane[U(o + columns - 1)]
    top = PAD * stride
    bottom = (rows + PAD - 1) * stride
    for k in range(PAD):
        for i in range(stride):
            plane[U(k * stride + i)] = plane[U(top + i)]
            plane[U(bottom + (k + 1) * stride + i)] = plane[U(bottom + i)]
