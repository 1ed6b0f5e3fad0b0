"""What the encoder and the decoder of JPEG-LS share (ITU-T T.87 annex A, lossless).

Symbols of the standard and their names here: A, B, C, N: `a`, `b`, `c`, `n`; Nn: `negatives`; RUNindex:
`run_index`; Ra, Rb, Rc, Rd: `left`, `up`, `up_left`, `up_right`; Errval: `error`; MErrval, EMErrval: `mapped`.

What does not depend on the sample before is done for a row at once: an encoder knows all gradients and median
predictions, a decoder two of the three gradients. Bits go through a window of 64; whole words are read and
written where none of their bytes is FF.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import leading_zeros
from dcmpress.codecs.jit import inline, njit

MAXVAL, RANGE, QBPP, LIMIT, T1, T2, T3, RESET = range(8)
"""Places in the parameters of a scan (T.87 A.2.1, C.2.4.1.1)."""

# T.87 A.2.1, the array J.
RUN_ORDER = np.array(
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    np.int64,
)
RUN_CONTEXT = 365
_N_CONTEXTS = 367

Array = NDArray[Any]


@inline
def region(gradient: Any, t1: Any, t2: Any, t3: Any) -> Any:
    """Return the region of a gradient (T.87 A.3.3), -4 to 4; all are int32."""
    size = np.int32(abs(gradient))
    region = np.int32(np.int32(size > 0) + np.int32(size >= t1) + np.int32(size >= t2) + np.int32(size >= t3))
    return np.int32(region if gradient >= 0 else -region)


@inline
def median_of(left: Any, up: Any, up_left: Any) -> Any:
    """Return the prediction before its correction (T.87 A.4.1)."""
    low, high = min(left, up), max(left, up)
    return low if up_left >= high else (high if up_left <= low else np.int32(left + up - up_left))


@inline
def order_of(a: Any, n: Any) -> Any:
    """Return k, the least with n << k >= a (T.87 A.5.1); n > 0."""
    k = max(leading_zeros(np.uint64(n)) - leading_zeros(np.uint64(a)), 0)
    return k + np.int64((n << k) < a)


@inline
def update(states: Array, at: Any, error: Any, reset: Any) -> None:
    """Count an error in the context at `states[at:]`: A, B, C, N (T.87 A.6)."""
    a = states[np.uint64(at)] + abs(error)
    b = states[np.uint64(at + 1)] + error
    c = states[np.uint64(at + 2)]
    n = states[np.uint64(at + 3)]
    if n == reset:
        a >>= 1
        b >>= 1
        n >>= 1
    n += 1
    below, beyond = np.int64(b <= -n), np.int64(b > 0)
    states[np.uint64(at)] = a
    states[np.uint64(at + 1)] = min(max(b + n * (below - beyond), 1 - n), 0)
    states[np.uint64(at + 2)] = min(max(c + beyond - below, -128), 127)
    states[np.uint64(at + 3)] = n


@inline
def update_run(states: Array, at: Any, error: Any, mapped: Any, alike: Any, reset: Any) -> None:
    """Count the error of a sample that ends a run (T.87 A.7.2)."""
    a = states[np.uint64(at)] + ((mapped + 1 - alike) >> 1)
    negatives = states[np.uint64(at + 1)] + np.int64(error < 0)
    n = states[np.uint64(at + 3)]
    if n == reset:
        a >>= 1
        negatives >>= 1
        n >>= 1
    states[np.uint64(at)] = a
    states[np.uint64(at + 1)] = negatives
    states[np.uint64(at + 3)] = n + 1


@njit
def new_states(p: Array) -> Any:
    """Return A, B, C, N of all contexts, one after the other, as a scan begins (T.87 A.2.1)."""
    states = np.zeros(4 * _N_CONTEXTS, np.int64)
    states[0::4] = max(2, (p[RANGE] + 32) >> 6)
    states[3::4] = 1
    return states
