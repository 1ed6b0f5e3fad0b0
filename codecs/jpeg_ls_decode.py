"""The decoder of JPEG-LS: see `jpeg_ls_model`.

The bit stream is (window, its bits from the top on; how many; how many of them are not there; offset in the
buffer; whether the byte before is FF). Behind its bits the window may hold those that come next.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import leading_zeros
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

READ_SLACK = 8
"""Bytes that a buffer to be read from has behind its second marker."""

Array = NDArray[Any]


@njit
def _regions_above(regions: Array, above: Array, step: int, p: Array) -> None:
    """Fill `regions`, int32 (len(above) - 2 step,): what the gradients of the row above count in a context."""
    t1, t2, t3 = np.int32(p[T1]), np.int32(p[T2]), np.int32(p[T3])
    for i in range(len(regions)):
        up_left, up = above[np.uint64(i)], above[np.uint64(i + step)]
        up_right = above[np.uint64(i + 2 * step)]
        regions[np.uint64(i)] = np.int32(
            81 * region(np.int32(up_right - up), t1, t2, t3) + 9 * region(np.int32(up - up_left), t1, t2, t3)
        )


@inline
def _refill(buffer: Array, bits: Any) -> Any:
    """Fill the window to 56 bits or more; zeros stand for what is behind a marker (T.87 A.1)."""
    window, filled, borrowed, at, stuffed = bits
    word = np.uint64(0)
    for k in range(8):
        word = (word << np.uint64(8)) | np.uint64(buffer[np.uint64(at + k)])
    gone = ~word
    # Whether a byte of `gone` is zero.
    ones = (gone - np.uint64(0x0101010101010101)) & word & np.uint64(0x8080808080808080)
    if ones == 0 and stuffed == 0:
        window |= word >> np.uint64(filled)
        at += (63 - filled) >> 3
        return window, filled | 56, borrowed, at, stuffed
    while filled < 56:
        byte = np.uint64(buffer[np.uint64(at)])
        size = 8 - stuffed
        if stuffed == 0 and byte == 0xFF and buffer[np.uint64(at + 1)] >= 0x80:
            byte = np.uint64(0)
            borrowed += 8
        else:
            at += 1
            stuffed = np.int64(byte == 0xFF)
        window |= byte << np.uint64(64 - size - filled)
        filled += size
    return window, filled, borrowed, at, stuffed


@inline
def _get(buffer: Array, bits: Any, size: Any) -> Any:
    """Read up to 32 bits."""
    if bits[1] < size:
        bits = _refill(buffer, bits)
    window, filled, borrowed, at, stuffed = bits
    value = np.int64((window >> np.uint64(1)) >> np.uint64(63 - size))
    return (window << np.uint64(size), filled - size, borrowed, at, stuffed), value


@inline
def _get_golomb(buffer: Array, bits: Any, k: Any, most: Any, qbpp: Any) -> Any:
    """Read a number in the limited-length Golomb code, or -1 if there is none (T.87 A.5.3)."""
    if bits[1] < 32:
        bits = _refill(buffer, bits)
    high = leading_zeros(bits[0])
    if high >= bits[1]:
        bits = _refill(buffer, bits)
        high = leading_zeros(bits[0])
    if high > most:
        return bits, np.int64(-1)
    window, filled, borrowed, at, stuffed = bits
    bits = window << np.uint64(high + 1), filled - high - 1, borrowed, at, stuffed
    if high == most:
        bits, low = _get(buffer, bits, qbpp)
        return bits, low + 1
    bits, low = _get(buffer, bits, k)
    return bits, (high << k) | low


@inline
def _within(value: Any, span: Any) -> Any:
    """Return a sample from one that may be off by RANGE."""
    return value + span if value < 0 else (value - span if value >= span else value)


@inline
def _get_interrupted(
    buffer: Array, bits: Any, p: Array, states: Array, order: Any, alike: Any, left: Any, up: Any
) -> Any:
    """Read the sample that ends a run, or a number that is none (T.87 A.7.2)."""
    at = 4 * (RUN_CONTEXT + alike)
    negatives, n = states[at + 1], states[at + 3]
    k = order_of(states[at] + alike * (n >> 1), n)
    bits, mapped = _get_golomb(buffer, bits, k, p[LIMIT] - order - 2 - p[QBPP], p[QBPP])
    if mapped < 0:
        return bits, np.int64(-1)
    size = (mapped + alike + 1) >> 1
    # The bit that is left tells whether it was turned, and this the sign.
    turned = (mapped + alike) & 1 == 1
    error = -size if turned == (k != 0 or 2 * negatives >= n) else size
    update_run(states, at, error, mapped, alike, p[RESET])
    if alike == 1:
        return bits, _within(left + error, p[RANGE])
    return bits, _within(up - error if left > up else up + error, p[RANGE])


@njit
def decode_scan(buffer: Array, begin: int, planes: Array, together: bool, p: Array) -> Any:
    """Read the coded data of a scan from `buffer[begin:]`; return where they end, or -1 if they cannot be.

    Parameters
    ----------
    buffer : uint8 array
        Ends with two markers, so that a marker is always met, and READ_SLACK bytes.
    planes : uint16 array, shape (components, rows, columns); written
    together, p
        See `jpeg_ls_encode.encode_scan`.
    """
    n_planes, rows, columns = planes.shape
    step = n_planes if together else 1
    width = columns * step
    top, span, qbpp, reset = p[MAXVAL], p[RANGE], p[QBPP], p[RESET]
    most = p[LIMIT] - qbpp - 1
    states = new_states(p)
    bits = (np.uint64(0), np.int64(0), np.int64(0), np.int64(begin), np.int64(0))
    run_indices = np.zeros(n_planes, np.int64)
    lines = np.zeros((2, n_planes, width + 2 * step), np.int32)
    regions = np.empty(width, np.int32)
    t3 = np.int64(p[T3])
    # Regions of gradients from -T3 to T3; beyond, they are those of the ends.
    nearest = np.empty(2 * t3 + 1, np.int64)
    for g in range(-t3, t3 + 1):
        nearest[g + t3] = region(np.int32(g), np.int32(p[T1]), np.int32(p[T2]), np.int32(t3))
    for y in range(rows):
        for first in range(0, n_planes, step):
            above, here = lines[(y + 1) & 1, first], lines[y & 1, first]
            for m in range(step):
                here[m] = above[step + m]
                above[width + step + m] = above[width + m]
            _regions_above(regions, above, step, p)
            index = run_indices[first]
            i = 0
            while i < width:
                left = np.int64(here[np.uint64(i)])
                up_left = np.int64(above[np.uint64(i)])
                q = regions[np.uint64(i)] + nearest[np.uint64(min(max(up_left - left, -t3), t3) + t3)]
                some = q
                for m in range(i + 1, i + step):
                    gradient = min(max(np.int64(above[np.uint64(m)]) - here[np.uint64(m)], -t3), t3)
                    some |= regions[np.uint64(m)] + nearest[np.uint64(gradient + t3)]
                if some != 0:
                    for m in range(step):
                        if m > 0:
                            left, up_left = np.int64(here[np.uint64(i)]), np.int64(above[np.uint64(i)])
                            gradient = min(max(up_left - left, -t3), t3)
                            q = regions[np.uint64(i)] + nearest[np.uint64(gradient + t3)]
                        sign = q >> 63
                        at = 4 * ((q ^ sign) - sign)
                        a, b = states[np.uint64(at)], states[np.uint64(at + 1)]
                        c, n = states[np.uint64(at + 2)], states[np.uint64(at + 3)]
                        up = np.int64(above[np.uint64(i + step)])
                        median = median_of(left, up, up_left)
                        predicted = min(max(median + ((c ^ sign) - sign), 0), top)
                        k = order_of(a, n)
                        bits, mapped = _get_golomb(buffer, bits, k, most, qbpp)
                        if mapped < 0:
                            return -1
                        error = (mapped >> 1) ^ -(mapped & 1) ^ -np.int64((k == 0) & (2 * b <= -n))
                        value = _within(predicted + ((error ^ sign) - sign), span)
                        if value < 0 or value > top:
                            return -1
                        here[np.uint64(i + step)] = np.int32(value)
                        update(states, at, error, reset)
                        i += 1
                    continue
                # Run mode (T.87 A.7.1).
                left_over = (width - i) // step
                run = np.int64(0)
                ended = False
                while run < left_over:
                    bits, bit = _get(buffer, bits, 1)
                    if bit == 0:
                        ended = True
                        break
                    block = 1 << RUN_ORDER[index]
                    if run + block <= left_over:
                        index = min(index + 1, 31)
                    run = min(run + block, left_over)
                if ended:
                    bits, more = _get(buffer, bits, RUN_ORDER[index])
                    run += more
                    if run >= left_over:
                        return -1
                for _ in range(run * step):
                    here[np.uint64(i + step)] = here[np.uint64(i)]
                    i += 1
                if i >= width:
                    break
                for _ in range(step):
                    left, up = np.int64(here[i]), np.int64(above[i + step])
                    alike = np.int64(step == 1 and left == up)
                    bits, value = _get_interrupted(buffer, bits, p, states, RUN_ORDER[index], alike, left, up)
                    if value < 0 or value > top:
                        return -1
                    here[i + step] = np.int32(value)
                    i += 1
                index = max(index - 1, 0)
            run_indices[first] = index
            for m in range(step):
                plane = planes[first + m, y]
                for x in range(columns):
                    plane[np.uint64(x)] = np.uint16(here[np.uint64((x + 1) * step + m)])
        if bits[2] > bits[1]:
            return -1
    end = bits[3]
    while not (buffer[end] == 0xFF and buffer[end + 1] >= 0x80):
        end += 1
    return end
