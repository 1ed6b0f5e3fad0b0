"""Guesses at a whole sample: what stood here the last time that its neighbours were exactly the same.

Screens, burnt-in text, palette indices and graphics repeat themselves exactly, and numbers that are near each
other need not look alike. Six tables remember, under a hash of some neighbours, the sample that followed them and
how often in a row. The one that is most often right proposes its sample; one decision says whether that is it. The
probability of that decision is mixed as in `backward_mixer`. The model of contexts and the confidence in a match
follow M. Mahoney's PAQ.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward_jit import inline, njit
from dcmpress.codecs.interframe.backward_lanes import lane_dot, lane_learn
from dcmpress.codecs.interframe.backward_mixer import refine, refined, squash
from dcmpress.codecs.interframe.backward_tables import STRETCH
from dcmpress.codecs.interframe.backward_vector import LANES
from dcmpress.codecs.interframe.binary_coder import code_bit

_U = np.uint64
TABLES = 6
SLOTS = 1 << 16
"""Entries of a table: sample (16 bits), times in a row (8), check of the hash (7)."""
FOUND = 4
"""What is found in a table: place, check, times in a row (0: nothing), sample."""
TIMES = 16
STAGES = 3
"""A guess before any prediction, the first after it, and a second."""
PATTERNS = 256
ENERGIES = 16
AGREEMENTS = 1 << TABLES
CONTEXTS = STAGES * (PATTERNS + ENERGIES * AGREEMENTS)
"""Contexts of refinement: patterns of equal neighbours, then energy and the tables that agree."""
WEIGHT_SETS = STAGES * (TABLES * ENERGIES + AGREEMENTS)
EVEN_CHANCE = 40000
"""What every chance starts with, in 1/65536."""
FIRST_WEIGHT = 13000
PLAUSIBLE = 13107
"""A guess less likely than this, in 1/65536, is not asked for."""
SURE = 63569
"""A guess more likely than this is asked for before the sample is predicted."""
_RATE = 16
_SPEED = 6


@inline
def _fold(h, v):
    """Add `v` to a hash of 32 bits."""
    h = ((h ^ v) * np.int64(0x7FEB352D)) & np.int64(0xFFFFFFFF)
    return h ^ (h >> 15)


@inline
def _look_up(table, h, slots, found):
    i = np.int64(table) * SLOTS + (h & (SLOTS - 1))
    check = (h >> 16) & 127
    entry = np.int64(slots[_U(i)])
    f = table * FOUND
    found[_U(f)] = i
    found[_U(f + 1)] = check
    found[_U(f + 2)] = (entry >> 16) & 255 if entry >> 24 == check else 0
    found[_U(f + 3)] = entry & 65535


@inline
def look_up(plane, reference, has_reference, o, stride, slots, found):
    """Fill `found` for the sample at `o`; return which of its neighbours are equal, 5 bits."""
    n = o - stride
    w = np.int64(plane[_U(o - 1)])
    north = np.int64(plane[_U(n)])
    nw = np.int64(plane[_U(n - 1)])
    ne = np.int64(plane[_U(n + 1)])
    ww = np.int64(plane[_U(o - 2)])
    nn = np.int64(plane[_U(n - stride)])
    pair = _fold(_fold(np.int64(7), w), north)
    four = _fold(_fold(pair, nw), ne)
    seven = _fold(_fold(_fold(four, ww), nn), np.int64(plane[_U(n - stride + 1)]))
    _look_up(0, four, slots, found)
    _look_up(1, seven, slots, found)
    _look_up(2, _fold(_fold(_fold(_fold(np.int64(11), w), ww), north), ne), slots, found)
    if has_reference:
        p = np.int64(reference[_U(o)])
        east = np.int64(reference[_U(o + 1)])
        south = np.int64(reference[_U(o + stride)])
        west = np.int64(reference[_U(o - 1)])
        above = np.int64(reference[_U(n)])
        three = _fold(pair, p)
        _look_up(3, three, slots, found)
        _look_up(4, _fold(_fold(_fold(_fold(three, east), south), west), above), slots, found)
        five = _fold(_fold(_fold(_fold(_fold(np.int64(3), p), east), south), west), above)
        _look_up(5, five, slots, found)
    else:
        eleven = _fold(_fold(seven, np.int64(plane[_U(n - stride - 1)])), np.int64(plane[_U(n + 2)]))
        eleven = _fold(_fold(eleven, np.int64(plane[_U(n - 2)])), np.int64(plane[_U(o - 3)]))
        _look_up(3, pair, slots, found)
        _look_up(4, eleven, slots, found)
        _look_up(5, _fold(_fold(_fold(np.int64(3), north), nn), ne), slots, found)
    return (
        np.int64(w == north)
        | np.int64(north == nw) << 1
        | np.int64(north == ne) << 2
        | np.int64(w == ww) << 3
        | np.int64(north == nn) << 4
    )


@inline
def best_table(found, hits, missed):
    """Return the table whose sample, not `missed`, is most likely right, or -1, and that chance."""
    best = np.int64(-1)
    chance = np.int64(PLAUSIBLE)
    for table in range(TABLES):
        times = found[_U(table * FOUND + 2)]
        if times > 0 and found[_U(table * FOUND + 3)] != missed:
            p = np.int64(hits[_U(table * TIMES + times)])
            if p > chance:
                chance = p
                best = np.int64(table)
    return best, chance


@inline
def _stretch(p):
    """Return 256 ln(p / (65536 - p)) for a probability in 1/65536."""
    return STRETCH[_U(p >> 4)]


@inline
def _clamp(v, low, high):
    return min(max(v, low), high)


@inline
def _learn_chance(chances, i, bit):
    p = np.int64(chances[_U(i)])
    chances[_U(i)] = np.int32(p + (((bit << 16) - bit - p) >> _SPEED))


@inline
def code_guess(
    encode, bit, stage, table, pattern, energy, evidence,
    found, hits, chances, weights, refinement, odds,
    acc, rng, pos, buffer,
):  # fmt: skip
    """Encode or decode whether the sample is that of `table`, and learn from it.

    `evidence` is the chance that the predictions give that sample, in 1/65536, or negative if there are none yet.
    """
    guess = found[_U(table * FOUND + 3)]
    agreeing = np.int64(0)
    for t in range(TABLES):
        times = found[_U(t * FOUND + 2)]
        o = np.int32(0)
        if times > 0:
            o = _stretch(np.int64(hits[_U(t * TIMES + times)]))
            if found[_U(t * FOUND + 3)] == guess:
                agreeing |= np.int64(1) << t
            else:
                o = -max(o, np.int32(0))
        odds[_U(t)] = o
    i = stage * PATTERNS + pattern
    j = STAGES * PATTERNS + (stage * ENERGIES + energy) * AGREEMENTS + agreeing
    odds[_U(6)] = _stretch(np.int64(chances[_U(i)]))
    odds[_U(7)] = _stretch(evidence if evidence >= 0 else np.int64(chances[_U(j)]))
    a = ((stage * TABLES + table) * ENERGIES + energy) * LANES
    b = (STAGES * TABLES * ENERGIES + stage * AGREEMENTS + agreeing) * LANES
    sa = np.int64(lane_dot(odds, weights, a)) >> 16
    sb = np.int64(lane_dot(odds, weights, b)) >> 16
    mixed = _clamp((sa + sb) >> 1, -2047, 2047)
    place = (mixed + 2048) * 32
    p_pattern, k = refined(refinement, i, place)
    p_agreeing, m = refined(refinement, j, place)
    p = _clamp((2 * squash(mixed) + p_pattern + p_agreeing + 2) >> 2, 16, 65520)
    bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buffer)
    target = bit << 16
    lane_learn(odds, weights, a, np.int32(((target - squash(sa)) * _RATE) >> 6))
    lane_learn(odds, weights, b, np.int32(((target - squash(sb)) * _RATE) >> 6))
    refine(refinement, k, bit)
    refine(refinement, m, bit)
    _learn_chance(chances, i, bit)
    _learn_chance(chances, j, bit)
    return bit, acc, rng, pos


@inline
def remember(found, hits, slots, value):
    """Learn the sample that was found to stand here, in all tables."""
    for table in range(TABLES):
        f = table * FOUND
        times = found[_U(f + 2)]
        kept = found[_U(f + 3)]
        if times > 0:
            right = kept == value
            _learn_chance(hits, table * TIMES + times, np.int64(right))
            times = np.int64(min(times + 1, TIMES - 1) if right else min(times >> 1, 3))
        if times == 0:
            kept = value
            times = np.int64(1)
        slots[_U(found[_U(f)])] = np.int32(found[_U(f + 1)] << 24 | times << 16 | kept)


def samples_recur(plane: NDArray[np.uint16]) -> bool:
    """Return whether guesses will often be right in a plane: most of those that it would make, and enough."""
    asked, right, lively = _count_guesses(plane, np.zeros(SLOTS, np.int64))
    return bool(right * 10 >= asked * 7 and right * 20 >= lively and right > 0)


@njit
def _count_guesses(plane, slots):
    """Count the guesses made from W, N, NW and NE, the right ones, and the samples where these four differ."""
    asked = np.int64(0)
    right = np.int64(0)
    lively = np.int64(0)
    for y in range(1, plane.shape[0]):
        for x in range(1, plane.shape[1] - 1):
            w = np.int64(plane[_U(y), _U(x - 1)])
            north = np.int64(plane[_U(y - 1), _U(x)])
            nw = np.int64(plane[_U(y - 1), _U(x - 1)])
            ne = np.int64(plane[_U(y - 1), _U(x + 1)])
            if w == north and w == nw and w == ne:
                continue
            lively += 1
            value = np.int64(plane[_U(y), _U(x)])
            i = _fold(_fold(_fold(_fold(np.int64(7), w), north), nw), ne) & (SLOTS - 1)
            times = slots[_U(i)] >> 16
            kept = slots[_U(i)] & 65535
            if times > 1:
                asked += 1
                right += np.int64(kept == value)
            if times == 0 or (kept != value and times == 1):
                kept = value
                times = np.int64(1)
            elif kept == value:
                times = min(times + 1, 7)
            else:
                times >>= 1
            slots[_U(i)] = times << 16 | kept
    return asked, right, lively
