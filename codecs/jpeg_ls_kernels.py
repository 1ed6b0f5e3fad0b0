"""The coder of JPEG-LS (ITU-T T.87 annex A), lossless, both ways in one kernel: what it reads it would write.

Symbols of the standard and their names here: A, B, C, N: `a`, `b`, `c`, `n`; Nn: `negatives`; RUNindex:
`run_index`; Ra, Rb, Rc, Rd: `left`, `up`, `up_left`, `up_right`; Errval: `error`; MErrval, EMErrval: `mapped`.
"""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

MAXVAL, RANGE, QBPP, LIMIT, T1, T2, T3, RESET = range(8)
"""Places in the parameters of a scan (T.87 A.2.1, C.2.4.1.1)."""

_AT, _FILLED, _BORROWED, _AFTER_FF, _FAILED = range(5)
"""Places in the state of the bit stream: offset in the buffer, bits in the window, those of them that are not
there, whether the byte before is FF, and whether anything went wrong."""

# T.87 A.2.1, the array J.
_RUN_ORDER = np.array(
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    np.int64,
)
_RUN_CONTEXT = 365


@inline
def _refill(buffer: NDArray[np.uint8], io: NDArray[np.int64], window: NDArray[np.uint64]) -> None:
    """Fill the window; after FF a byte has 7 bits, and one with the eighth set makes a marker (T.87 A.1)."""
    while io[_FILLED] <= 48:
        byte = buffer[io[_AT]]
        size = 8
        if io[_AFTER_FF] == 1:
            size = 7
            io[_AFTER_FF] = 0
            io[_AT] += 1
        elif byte == 0xFF:
            if buffer[io[_AT] + 1] >= 0x80:
                byte = np.uint8(0)
                io[_BORROWED] += 8
            else:
                io[_AFTER_FF] = 1
                io[_AT] += 1
        else:
            io[_AT] += 1
        window[0] = (window[0] << np.uint64(size)) | np.uint64(byte)
        io[_FILLED] += size


@inline
def _get(buffer: NDArray[np.uint8], io: NDArray[np.int64], window: NDArray[np.uint64], size: int) -> np.int64:
    """Read up to 32 bits."""
    _refill(buffer, io, window)
    io[_FILLED] -= size
    bits = window[0] >> np.uint64(io[_FILLED])
    return np.int64(bits & ((np.uint64(1) << np.uint64(size)) - np.uint64(1)))


@inline
def _put(
    buffer: NDArray[np.uint8], io: NDArray[np.int64], window: NDArray[np.uint64], value: int, size: int
) -> None:
    """Write up to 32 bits."""
    window[0] = (window[0] << np.uint64(size)) | np.uint64(value)
    io[_FILLED] += size
    while io[_FILLED] >= 8 - io[_AFTER_FF]:
        io[_FILLED] -= 8 - io[_AFTER_FF]
        mask = np.uint64(0xFF) >> np.uint64(io[_AFTER_FF])
        byte = np.uint8((window[0] >> np.uint64(io[_FILLED])) & mask)
        if io[_AT] >= buffer.size:
            io[_FAILED] = 1
            io[_AT] = 0
        buffer[io[_AT]] = byte
        io[_AT] += 1
        io[_AFTER_FF] = 1 if byte == 0xFF else 0


@njit
def _golomb(
    writing: bool,
    buffer: NDArray[np.uint8],
    io: NDArray[np.int64],
    window: NDArray[np.uint64],
    k: int,
    limit: int,
    qbpp: int,
    mapped: int,
) -> int:
    """Write `mapped`, or read it, in the limited-length Golomb code (T.87 A.5.3)."""
    most = limit - qbpp - 1
    if writing:
        high = mapped >> k
        size = k
        value = mapped & ((1 << k) - 1)
        if high >= most:
            high = most
            size = qbpp
            value = (mapped - 1) & ((1 << qbpp) - 1)
        while high > 24:
            _put(buffer, io, window, 0, 24)
            high -= 24
        _put(buffer, io, window, 1, high + 1)
        if size > 0:
            _put(buffer, io, window, value, size)
        return mapped
    high = 0
    while _get(buffer, io, window, 1) == 0:
        high += 1
        if high > most:
            io[_FAILED] = 1
            return 0
    if high == most:
        return int(_get(buffer, io, window, qbpp)) + 1
    if k == 0:
        return high
    return (high << k) + int(_get(buffer, io, window, k))


@inline
def _quantized(gradient: int, p: NDArray[np.int64]) -> int:
    """Return the region of a gradient (T.87 A.3.3)."""
    size = abs(gradient)
    region = 0
    if size >= p[T3]:
        region = 4
    elif size >= p[T2]:
        region = 3
    elif size >= p[T1]:
        region = 2
    elif size > 0:
        region = 1
    return region if gradient >= 0 else -region


@inline
def _reduced(error: int, p: NDArray[np.int64]) -> int:
    """Return a prediction error modulo RANGE (T.87 A.4.5)."""
    if error < 0:
        error += p[RANGE]
    if error >= (p[RANGE] + 1) >> 1:
        error -= p[RANGE]
    return error


@njit
def _regular(
    writing: bool,
    buffer: NDArray[np.uint8],
    io: NDArray[np.int64],
    window: NDArray[np.uint64],
    p: NDArray[np.int64],
    contexts: NDArray[np.int64],
    q: int,
    left: int,
    up: int,
    up_left: int,
    value: int,
) -> int:
    """Code one sample in regular mode (T.87 A.4 to A.6); return it."""
    sign = 1
    if q < 0:
        sign = -1
        q = -q
    context = contexts[q]
    a, b, c, n = context[0], context[1], context[2], context[3]
    low, high = min(left, up), max(left, up)
    predicted = low if up_left >= high else (high if up_left <= low else left + up - up_left)
    predicted = min(max(predicted + sign * c, 0), p[MAXVAL])
    k = 0
    while (n << k) < a and k < 24:
        k += 1
    turned = k == 0 and 2 * b <= -n
    error = 0
    mapped = 0
    if writing:
        error = _reduced(sign * (value - predicted), p)
        if turned:
            mapped = 2 * error + 1 if error >= 0 else -2 * (error + 1)
        else:
            mapped = 2 * error if error >= 0 else -2 * error - 1
    mapped = _golomb(writing, buffer, io, window, k, p[LIMIT], p[QBPP], mapped)
    if not writing:
        error = mapped >> 1 if mapped & 1 == 0 else -((mapped + 1) >> 1)
        if turned:
            error = -(error + 1)
        value = predicted + sign * error
        if value < 0:
            value += p[RANGE]
        elif value > p[MAXVAL]:
            value -= p[RANGE]
        if value < 0 or value > p[MAXVAL]:
            io[_FAILED] = 1
            value = 0
    b += error
    a += abs(error)
    if n == p[RESET]:
        a >>= 1
        b >>= 1
        n >>= 1
    n += 1
    if b <= -n:
        b = max(b + n, 1 - n)
        c = max(c - 1, -128)
    elif b > 0:
        b = min(b - n, 0)
        c = min(c + 1, 127)
    context[0], context[1], context[2], context[3] = a, b, c, n
    return value


@njit
def _interrupted(
    writing: bool,
    buffer: NDArray[np.uint8],
    io: NDArray[np.int64],
    window: NDArray[np.uint64],
    p: NDArray[np.int64],
    contexts: NDArray[np.int64],
    order: int,
    alike: int,
    left: int,
    up: int,
    value: int,
) -> int:
    """Code the sample that ends a run (T.87 A.7.2); return it. `alike` is RItype, `order` J[RUNindex]."""
    context = contexts[_RUN_CONTEXT + alike]
    a, negatives, n = context[0], context[1], context[3]
    predicted = left if alike == 1 else up
    sign = -1 if alike == 0 and left > up else 1
    k = 0
    while (n << k) < a + alike * (n >> 1) and k < 24:
        k += 1
    error = 0
    mapped = 0
    if writing:
        error = _reduced(sign * (value - predicted), p)
        turned = (k == 0 and error > 0 and 2 * negatives < n) or (
            error < 0 and (2 * negatives >= n or k != 0)
        )
        mapped = 2 * abs(error) - alike - (1 if turned else 0)
    mapped = _golomb(writing, buffer, io, window, k, p[LIMIT] - order - 1, p[QBPP], mapped)
    if not writing:
        doubled = mapped + alike
        size = (doubled + 1) >> 1
        # The bit that is left tells whether `turned` was set, and this the sign.
        turned = doubled & 1 == 1
        negative = turned == (k != 0 or 2 * negatives >= n)
        error = -size if negative else size
        value = predicted + sign * error
        if value < 0:
            value += p[RANGE]
        elif value > p[MAXVAL]:
            value -= p[RANGE]
        if value < 0 or value > p[MAXVAL]:
            io[_FAILED] = 1
            value = 0
    if error < 0:
        negatives += 1
    a += (mapped + 1 - alike) >> 1
    if n == p[RESET]:
        a >>= 1
        n >>= 1
        negatives >>= 1
    context[0], context[1], context[3] = a, negatives, n + 1
    return value


@njit
def code_scan(
    writing: bool,
    buffer: NDArray[np.uint8],
    at: int,
    planes: NDArray[np.uint16],
    together: bool,
    p: NDArray[np.int64],
) -> int:
    """Write the coded data of a scan to `buffer[at:]`, or read them from there; return where they end, or -1.

    Parameters
    ----------
    buffer
        To be read from: ends with two markers, so that a marker is always met.
    planes, shape (components, rows, columns)
        Read or written.
    together
        Whether components are interleaved by sample; else they are by line.
    p, shape (8,)
        MAXVAL, RANGE, ...
    """
    n_planes, rows, columns = planes.shape
    io = np.zeros(5, np.int64)
    io[_AT] = at
    window = np.zeros(1, np.uint64)
    contexts = np.zeros((367, 4), np.int64)
    contexts[:, 0] = max(2, (p[RANGE] + 32) >> 6)
    contexts[:, 3] = 1
    run_indices = np.zeros(n_planes, np.int64)
    # A row and the one before, with one sample more at both ends.
    lines = np.zeros((2, n_planes, columns + 2), np.int64)
    q = np.zeros(n_planes, np.int64)
    step = n_planes if together else 1
    for y in range(rows):
        above, here = lines[(y + 1) & 1], lines[y & 1]
        for first in range(0, n_planes, step):
            last = first + step
            for m in range(first, last):
                here[m, 0] = above[m, 1]
                above[m, columns + 1] = above[m, columns]
                if writing:
                    for x in range(columns):
                        here[m, x + 1] = planes[m, y, x]
            x = 1
            while x <= columns:
                flat = True
                for m in range(first, last):
                    up_left, up = above[m, x - 1], above[m, x]
                    q[m] = (
                        81 * _quantized(above[m, x + 1] - up, p)
                        + 9 * _quantized(up - up_left, p)
                        + _quantized(up_left - here[m, x - 1], p)
                    )
                    flat = flat and q[m] == 0
                if not flat:
                    for m in range(first, last):
                        here[m, x] = _regular(
                            writing, buffer, io, window, p, contexts, q[m],
                            here[m, x - 1], above[m, x], above[m, x - 1], here[m, x],
                        )  # fmt: skip
                    x += 1
                    if io[_FAILED]:
                        return -1
                    continue
                # Run mode (T.87 A.7.1).
                run = 0
                left_over = columns + 1 - x
                index = run_indices[first]
                if writing:
                    while run < left_over:
                        same = True
                        for m in range(first, last):
                            same = same and here[m, x + run] == here[m, x - 1]
                        if not same:
                            break
                        run += 1
                    told = run
                    while told >= 1 << _RUN_ORDER[index]:
                        _put(buffer, io, window, 1, 1)
                        told -= 1 << _RUN_ORDER[index]
                        index = min(index + 1, 31)
                    if run == left_over:
                        if told > 0:
                            _put(buffer, io, window, 1, 1)
                    else:
                        _put(buffer, io, window, told, _RUN_ORDER[index] + 1)
                else:
                    ended = False
                    while run < left_over:
                        if _get(buffer, io, window, 1) == 0:
                            ended = True
                            break
                        block = 1 << _RUN_ORDER[index]
                        if run + block <= left_over:
                            index = min(index + 1, 31)
                        run = min(run + block, left_over)
                    if ended:
                        if _RUN_ORDER[index] > 0:
                            run += int(_get(buffer, io, window, _RUN_ORDER[index]))
                        if run >= left_over:
                            return -1
                    for m in range(first, last):
                        for j in range(run):
                            here[m, x + j] = here[m, x - 1]
                x += run
                if x <= columns:
                    for m in range(first, last):
                        left, up = here[m, x - 1], above[m, x]
                        alike = 1 if not together and left == up else 0
                        here[m, x] = _interrupted(
                            writing, buffer, io, window, p, contexts, _RUN_ORDER[index],
                            alike, left, up, here[m, x],
                        )  # fmt: skip
                    x += 1
                    index = max(index - 1, 0)
                run_indices[first] = index
                if io[_FAILED]:
                    return -1
            if not writing:
                for m in range(first, last):
                    for x in range(columns):
                        planes[m, y, x] = np.uint16(here[m, x + 1])
        if io[_BORROWED] > io[_FILLED]:
            return -1
    if writing:
        # Filled with zeros; no FF stands at the end (T.87 A.1).
        if io[_FILLED] > 0 or io[_AFTER_FF]:
            _put(buffer, io, window, 0, 8 - io[_AFTER_FF] - io[_FILLED])
        return -1 if io[_FAILED] else io[_AT]
    end = io[_AT]
    while not (buffer[end] == 0xFF and buffer[end + 1] >= 0x80):
        end += 1
    return end
