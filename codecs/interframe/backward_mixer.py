"""From the distributions' log odds to one probability: three weight sets, a second layer, three refinements.

The mixing of log odds with weights learned by gradient descent on coding cost follows M. Mahoney, "Adaptive
weighing of context models for lossless data compression" (2005); the refinement ("APM") is his too.
Log odds are in 1/256 nat, probabilities in 1/65536, weights in 1/65536.
"""

import numpy as np

from dcmpress.codecs.interframe.backward_jit import inline
from dcmpress.codecs.interframe.backward_lanes import lane_dot, lane_learn
from dcmpress.codecs.interframe.backward_tables import RECIPROCAL, SQUASH

_U = np.uint64
RATE = 24
RATE_FINAL = 4
COUNT_LIMIT = 160
COUNT_START = 6
"""Observations that a refinement pretends to have made when it starts."""
STEPS = 33
"""Log odds at which a refinement keeps a probability: -8 to 8 nats, half a nat apart."""


@inline
def squash(s):
    """65536 / (1 + exp(-s / 256)), 1 to 65535."""
    return np.int64(SQUASH[_U(min(max(s >> 1, -2048), 2047) + 2048)])


@inline
def mix(inputs, set_a, set_b, set_c, final, a, b, c, f):
    """Return the log odds of the weight sets at a, b, c and of their mixture by `final` at f."""
    sa = np.int64(lane_dot(inputs, set_a, a)) >> 16
    sb = np.int64(lane_dot(inputs, set_b, b)) >> 16
    sc = np.int64(lane_dot(inputs, set_c, c)) >> 16
    total = (
        sa * np.int64(final[_U(f)]) + sb * np.int64(final[_U(f + 1)]) + sc * np.int64(final[_U(f + 2)])
    ) >> 16
    return sa, sb, sc, min(max(total, -4095), 4095)


@inline
def learn(inputs, set_a, set_b, set_c, final, a, b, c, f, sa, sb, sc, sm, bit, rate):
    """Move every set towards the coded `bit` by its own error."""
    target = bit << 16
    lane_learn(inputs, set_a, a, np.int32(((target - squash(sa)) * rate) >> 6))
    lane_learn(inputs, set_b, b, np.int32(((target - squash(sb)) * rate) >> 6))
    lane_learn(inputs, set_c, c, np.int32(((target - squash(sc)) * rate) >> 6))
    error = ((target - squash(sm)) * RATE_FINAL) >> 6
    final[_U(f)] += np.int32((sa * error + 8192) >> 14)
    final[_U(f + 1)] += np.int32((sb * error + 8192) >> 14)
    final[_U(f + 2)] += np.int32((sc * error + 8192) >> 14)


@inline
def refined(table, context, place):
    """Return the probability that `table` keeps for these log odds, and the entry to learn."""
    i = context * STEPS + (place >> 12)
    f = place & 4095
    p = (np.int64(table[_U(i)] >> 8) * (4096 - f) + np.int64(table[_U(i + 1)] >> 8) * f) >> 18
    return p, i + (f >> 11)


@inline
def refine(table, i, bit):
    """Learn by 1 / (n + 1.5): an entry is a probability of 22 bits over the count n of 8 bits."""
    entry = np.int64(table[_U(i)])
    n = entry & 255
    p = entry >> 8
    p += (((bit << 22) - p) * np.int64(RECIPROCAL[_U(n)])) >> 16
    table[_U(i)] = np.int32((min(max(p, 0), (1 << 22) - 1) << 8) | min(n + 1, COUNT_LIMIT))
