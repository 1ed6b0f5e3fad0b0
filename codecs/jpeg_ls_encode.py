"""The encoder of JPEG-LS: see `jpeg_ls_model`.

The bit stream is (window, bits in it, offset in the buffer, whether the byte before is FF).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit
from dcmpress.codecs.jpeg_ls_model import (
    LIMIT,
    MAXVAL,
    QBPP,
    RANGE,
    RESET,
    RUN_CONTEXT,
    RUN_ORDER,
    T1,
    T2,
    T3,
    median_of,
    new_states,
    order_of,
    region,
    update,
    update_run,
)

MOST_SAMPLE_BYTES = 16
"""A sample takes less: 71 bits in regular mode, 88 with the end of a run, and one bit in eight stuffed."""

Array = NDArray[Any]


@njit
def _regions(regions: Array, medians: Array, above: Array, here: Array, step: int, p: Array) -> None:
    """Fill the contexts, with their signs, and the median predictions of a row, int32 (len(here) - 2 step,)."""
    t1, t2, t3 = np.int32(p[T1]), np.int32(p[T2]), np.int32(p[T3])
    for i in range(len(regions)):
        left, up_left = here[np.uint64(i)], above[np.uint64(i)]
        up, up_right = above[np.uint64(i + step)], above[np.uint64(i + 2 * step)]
        regions[np.uint64(i)] = np.int32(
            81 * region(np.int32(up_right - up), t1, t2, t3)
            + 9 * region(np.int32(up - up_left), t1, t2, t3)
            + region(np.int32(up_left - left), t1, t2, t3)
        )
        medians[np.uint64(i)] = median_of(left, up, up_left)


@inline
def _flush(buffer: Array, window: Any, filled: Any, at: Any, stuffed: Any) -> Any:
    """Write the whole bytes of the window; after FF a byte has 7 bits (T.87 A.1)."""
    while filled >= 8 - stuffed:
        filled -= 8 - stuffed
        byte = np.uint8((window >> np.uint64(filled)) & (np.uint64(0xFF) >> np.uint64(stuffed)))
        buffer[np.uint64(at)] = byte
        at += 1
        stuffed = np.int64(byte == 0xFF)
    return window, filled, at, stuffed


@inline
def _put(buffer: Array, bits: Any, value: Any, size: Any) -> Any:
    """Write up to 32 bits; fewer than 32 stay in the window."""
    window, filled, at, stuffed = bits
    window = (window << np.uint64(size)) | np.uint64(value)
    filled += size
    if filled >= 32:
        word = np.uint32(window >> np.uint64(filled - 32))
        gone = np.uint32(~word)
        # Whether a byte of `gone` is zero.
        ones = np.uint32(np.uint32(gone - np.uint32(0x01010101)) & word & np.uint32(0x80808080))
        if ones == 0 and stuffed == 0:
            filled -= 32
            buffer[np.uint64(at)] = np.uint8(word >> np.uint32(24))
            buffer[np.uint64(at + 1)] = np.uint8(word >> np.uint32(16))
            buffer[np.uint64(at + 2)] = np.uint8(word >> np.uint32(8))
            buffer[np.uint64(at + 3)] = np.uint8(word)
            at += 4
        else:
            window, filled, at, stuffed = _flush(buffer, window, filled, at, stuffed)
    return window, filled, at, stuffed


@inline
def _put_golomb(buffer: Array, bits: Any, k: Any, most: Any, qbpp: Any, mapped: Any) -> Any:
    """Write `mapped` in the limited-length Golomb code (T.87 A.5.3); most: LIMIT - qbpp - 1."""
    high = mapped >> k
    value = (1 << k) | (mapped & ((1 << k) - 1))
    size = k + 1
    if high >= most:
        high = most
        size = qbpp + 1
        value = (1 << qbpp) | ((mapped - 1) & ((1 << qbpp) - 1))
    while high + size > 32:
        zeros = min(high, 32)
        bits = _put(buffer, bits, 0, zeros)
        high -= zeros
    return _put(buffer, bits, value, high + size)


@inline
def _reduced(error: Any, span: Any) -> Any:
    """Return a prediction error modulo RANGE (T.87 A.4.5)."""
    error += span if error < 0 else 0
    return error - (span if error >= (span + 1) >> 1 else 0)


@inline
def _put_interrupted(
    buffer: Array, bits: Any, p: Array, states: Array, order: Any, alike: Any, left: Any, up: Any, value: Any
) -> Any:
    """Write the sample that ends a run (T.87 A.7.2). `alike` is RItype, `order` J[RUNindex]."""
    at = 4 * (RUN_CONTEXT + alike)
    negatives, n = states[at + 1], states[at + 3]
    k = order_of(states[at] + alike * (n >> 1), n)
    error = (value - left) if alike == 1 else (up - value if left > up else value - up)
    error = _reduced(error, p[RANGE])
    turned = (k == 0 and error > 0 and 2 * negatives < n) or (error < 0 and (2 * negatives >= n or k != 0))
    mapped = 2 * abs(error) - alike - np.int64(turned)
    bits = _put_golomb(buffer, bits, k, p[LIMIT] - order - 2 - p[QBPP], p[QBPP], mapped)
    update_run(states, at, error, mapped, alike, p[RESET])
    return bits


@njit
def encode_scan(buffer: Array, limit: int, planes: Array, together: bool, p: Array) -> Any:
    """Write the coded data of a scan to `buffer`; return where they end, or -1 if a row begins behind `limit`.

    Parameters
    ----------
    buffer : uint8 array
        With MOST_SAMPLE_BYTES behind `limit` for each sample of a row of all planes.
    planes : uint16 array, shape (components, rows, columns)
    together : bool
        Whether components are interleaved by sample; else they are by line.
    p : int64 array, shape (8,)
        MAXVAL, RANGE, ...
    """
    n_planes, rows, columns = planes.shape
    step = n_planes if together else 1
    width = columns * step
    top, span, qbpp, reset = p[MAXVAL], p[RANGE], p[QBPP], p[RESET]
    most = p[LIMIT] - qbpp - 1
    states = new_states(p)
    bits = (np.uint64(0), np.int64(0), np.int64(0), np.int64(0))
    run_indices = np.zeros(n_planes, np.int64)
    # A row and the one before, with one pixel more at both ends.
    lines = np.zeros((2, n_planes, width + 2 * step), np.int32)
    regions = np.empty(width, np.int32)
    medians = np.empty(width, np.int32)
    for y in range(rows):
        if bits[2] > limit:
            return -1
        for first in range(0, n_planes, step):
            above, here = lines[(y + 1) & 1, first], lines[y & 1, first]
            for m in range(step):
                here[m] = above[step + m]
                above[width + step + m] = above[width + m]
                plane = planes[first + m, y]
                for x in range(columns):
                    here[np.uint64((x + 1) * step + m)] = plane[np.uint64(x)]
            _regions(regions, medians, above, here, step, p)
            index = run_indices[first]
            i = 0
            while i < width:
                some = regions[np.uint64(i)]
                for m in range(1, step):
                    some |= regions[np.uint64(i + m)]
                if some != 0:
                    for _ in range(step):
                        q = np.int64(regions[np.uint64(i)])
                        sign = q >> 63
                        at = 4 * ((q ^ sign) - sign)
                        a, b = states[np.uint64(at)], states[np.uint64(at + 1)]
                        c, n = states[np.uint64(at + 2)], states[np.uint64(at + 3)]
                        predicted = min(max(medians[np.uint64(i)] + ((c ^ sign) - sign), 0), top)
                        error = np.int64(here[np.uint64(i + step)]) - predicted
                        error = _reduced((error ^ sign) - sign, span)
                        k = order_of(a, n)
                        turned = error ^ -np.int64((k == 0) & (2 * b <= -n))
                        bits = _put_golomb(buffer, bits, k, most, qbpp, (turned << 1) ^ (turned >> 63))
                        update(states, at, error, reset)
                        i += 1
                    continue
                # Run mode (T.87 A.7.1).
                start = i
                while i < width and here[np.uint64(i + step)] == here[np.uint64(i)]:
                    i += 1
                i -= (i - start) % step
                told = (i - start) // step
                while told >= 1 << RUN_ORDER[index]:
                    bits = _put(buffer, bits, 1, 1)
                    told -= 1 << RUN_ORDER[index]
                    index = min(index + 1, 31)
                if i >= width:
                    if told > 0:
                        bits = _put(buffer, bits, 1, 1)
                    break
                bits = _put(buffer, bits, told, RUN_ORDER[index] + 1)
                for _ in range(step):
                    left, up = np.int64(here[i]), np.int64(above[i + step])
                    alike = np.int64(step == 1 and left == up)
                    bits = _put_interrupted(
                        buffer, bits, p, states, RUN_ORDER[index], alike, left, up, np.int64(here[i + step])
                    )
                    i += 1
                index = max(index - 1, 0)
            run_indices[first] = index
    window, filled, at, stuffed = bits
    window, filled, at, stuffed = _flush(buffer, window, filled, at, stuffed)
    # Filled with zeros; no FF stands at the end (T.87 A.1).
    if filled > 0 or stuffed:
        buffer[at] = np.uint8(
            (window << np.uint64(8 - stuffed - filled)) & (np.uint64(0xFF) >> np.uint64(stuffed))
        )
        at += 1
    return at
