"""Kernels of DICOM run-length segments (PS3.5 G.3): code c < 128: c + 1 literal bytes follow; c > 128: the byte
that follows, 257 - c times; 128: nothing."""

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

_LONGEST = 128


@njit
def decode_segment(coded: NDArray[np.uint8], plane: NDArray[np.uint8]) -> int:
    """Fill `plane`; return how many bytes that took, or -1 if the codes do not end where it ends."""
    at = 0
    filled = 0
    while filled < plane.size:
        if at >= coded.size:
            return -1
        code = int(np.int64(coded[at]))
        at += 1
        if code < 128:
            n = code + 1
            if at + n > coded.size or filled + n > plane.size:
                return -1
            for k in range(n):
                plane[filled + k] = coded[at + k]
            at += n
            filled += n
        elif code > 128:
            n = 257 - code
            if at >= coded.size or filled + n > plane.size:
                return -1
            value = coded[at]
            for k in range(n):
                plane[filled + k] = value
            at += 1
            filled += n
    return at


@inline
def _habitual(
    plane: NDArray[np.uint8], p: int, columns: int, by_row: bool, least: int, least_inside: int
) -> np.int64:
    """Return the code that an encoder of this habit writes at offset p."""
    end = plane.size
    if by_row:
        end = min(end, (p // columns + 1) * columns)
    limit = min(end, p + _LONGEST)
    run = 1
    while p + run < limit and plane[p + run] == plane[p]:
        run += 1
    if run >= least:
        return np.int64(257 - run)
    q = p + 1
    while q < limit:
        run = 1
        while run < least_inside and q + run < end and plane[q + run] == plane[q]:
            run += 1
        if run == least_inside:
            break
        q += 1
    return np.int64(q - p - 1)


@njit
def find_exceptions(
    coded: NDArray[np.uint8],
    plane: NDArray[np.uint8],
    columns: int,
    by_row: bool,
    least: int,
    least_inside: int,
    gaps: NDArray[np.uint32],
    codes: NDArray[np.uint8],
) -> int:
    """List the codes of a segment that a habit does not explain; return their number, or -1 if there is no room.

    `gaps` gets the number of habitual codes before each, `codes` gets them. `coded` gave `plane`.
    """
    at = 0
    p = 0
    n = 0
    gap = 0
    while at < coded.size:
        code = int(np.int64(coded[at]))
        if p < plane.size and _habitual(plane, p, columns, by_row, least, least_inside) == code:
            gap += 1
        else:
            if n == codes.size:
                return -1
            gaps[n] = np.uint32(gap)
            codes[n] = np.uint8(code)
            n += 1
            gap = 0
        if code < 128:
            at += code + 2
            p += code + 1
        elif code > 128:
            at += 2
            p += 257 - code
        else:
            at += 1
    return n


@njit
def encode_segment(
    plane: NDArray[np.uint8],
    columns: int,
    by_row: bool,
    least: int,
    least_inside: int,
    gaps: NDArray[np.uint32],
    codes: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> int:
    """Write a segment; return its size, or -1 if an exception leads out of `plane` or is never met.

    `out` has room for two bytes for each of `plane` and one for each exception.
    """
    at = 0
    p = 0
    n = 0
    gap = 0
    while p < plane.size or n < codes.size:
        if n < codes.size and gap == np.int64(gaps[n]):
            code = int(np.int64(codes[n]))
            n += 1
            gap = 0
        else:
            if p >= plane.size:
                return -1
            code = int(_habitual(plane, p, columns, by_row, least, least_inside))
            gap += 1
        out[at] = np.uint8(code)
        at += 1
        if code < 128:
            if p + code + 1 > plane.size:
                return -1
            for k in range(code + 1):
                out[at + k] = plane[p + k]
            at += code + 1
            p += code + 1
        elif code > 128:
            if p + 257 - code > plane.size:
                return -1
            out[at] = plane[p]
            at += 1
            p += 257 - code
    return at
