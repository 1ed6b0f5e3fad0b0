"""Wavelet coefficients of an image, hard thresholding, uniform quantisation, and the packed bands.

PyWavelets does the transforms, with its default (symmetric) extension, which gives more coefficients than
pixels: floor((n + filter length - 1) / 2) for an axis of n at each level.
"""

from typing import Any

import numpy as np
import pywt
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jit import njit
from dcmpress.codecs.leb128 import Cursor
from dcmpress.codecs.runlength import HUFFMAN, LARGEST, RUN_LENGTH, pack_residuals, unpack_residuals

MODE = "symmetric"
MAX_LEVELS = 8

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def filter_length(wavelet: str) -> int:
    """Return the length of a discrete wavelet's filters; raise ValueError if there is no such wavelet."""
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(f"no discrete wavelet {wavelet!r} in PyWavelets")
    return int(pywt.Wavelet(wavelet).dec_len)


def band_shapes(rows: int, columns: int, wavelet: str, levels: int) -> list[tuple[int, int]]:
    """Return the shape of the bands of each level, finest first.

    There are fewer than `levels` where an axis gets shorter than the filter less one: a level more would only
    add coefficients.
    """
    length = filter_length(wavelet)
    shapes: list[tuple[int, int]] = []
    while len(shapes) < levels and min(rows, columns) >= max(2, length - 1):
        rows, columns = (rows + length - 1) // 2, (columns + length - 1) // 2
        shapes.append((rows, columns))
    return shapes


def decompose(image: NDArray[Any], wavelet: str, levels: int) -> tuple[Floats, list[Floats]]:
    """Return the approximation and, finest first, the three detail bands of each level as one (3, r, c) array."""
    approximation = image.astype(np.float64)
    details = []
    rows, columns = image.shape
    for _ in band_shapes(rows, columns, wavelet, levels):
        approximation, bands = pywt.dwt2(approximation, wavelet, mode=MODE)
        details.append(np.stack(bands))
    return approximation, details


def recompose(approximation: Floats, details: list[Floats], wavelet: str, rows: int, columns: int) -> Floats:
    """Undo `decompose` for an image of rows x columns."""
    for level in range(len(details) - 1, -1, -1):
        shape = details[level - 1].shape[1:] if level else (rows, columns)
        image = pywt.idwt2((approximation, tuple(details[level])), wavelet, mode=MODE)
        approximation = image[: shape[0], : shape[1]]
    return approximation


@njit
def quantise(coefficients: Floats, threshold: float, step: float) -> Integers:
    """Return round(c / step), halves away from zero, and 0 where |c| <= threshold; same shape, int64."""
    indices = np.zeros(coefficients.size, np.int64)
    flat = coefficients.ravel()
    for i in range(flat.size):
        magnitude = abs(flat[i])
        if magnitude > threshold:
            index = np.int64(magnitude / step + 0.5)
            indices[i] = index if flat[i] > 0 else -index
    return indices.reshape(coefficients.shape)


@njit
def try_quantiser(coefficients: Floats, threshold: float, step: float, mapped: NDArray[np.uint32]) -> float:
    """Fill `mapped` with the zigzag mapped indices that `quantise` gives; return the sum of squared errors.

    `coefficients` is a vector, `mapped` at least as long; indices above 2**31 - 2 are cut.
    """
    error = 0.0
    for i in range(coefficients.size):
        value = coefficients[i]
        magnitude = abs(value)
        index = np.int64(min(magnitude / step + 0.5, 2147483646.0)) if magnitude > threshold else np.int64(0)
        rest = magnitude - index * step
        error += rest * rest
        mapped[i] = np.uint32(2 * index - 1 if value < 0 and index > 0 else 2 * index)
    return error


def zigzag_all(indices: Integers) -> NDArray[np.uint32]:
    """Map 0, -1, 1, -2, ... to 0, 1, 2, 3, ...; raise ValueError if one does not fit 32 bits."""
    mapped = np.where(indices >= 0, 2 * indices, -2 * indices - 1).ravel()
    if mapped.size and int(mapped.max()) > LARGEST:
        raise ValueError("quantisation step is too small for these samples")
    return mapped.astype(np.uint32)


def _unzigzag_all(mapped: NDArray[np.uint32]) -> Integers:
    wide = mapped.astype(np.int64)
    return (wide >> 1) ^ -(wide & 1)


def pack_bands(approximation: Integers, details: list[Integers]) -> bytes:
    """Return the bands: the approximation's differences along the rows, then the levels from coarse to fine."""
    differences = np.diff(approximation, axis=1, prepend=0)
    parts = [pack_residuals(zigzag_all(differences), HUFFMAN)]
    parts += [pack_residuals(zigzag_all(bands), RUN_LENGTH) for bands in reversed(details)]
    return b"".join(parts)


def unpack_bands(
    cursor: Cursor, rows: int, columns: int, shapes: list[tuple[int, int]]
) -> tuple[Integers, list[Integers]]:
    """Read what `pack_bands` wrote for an image of rows x columns."""
    r, c = shapes[-1] if shapes else (rows, columns)
    differences = _unzigzag_all(unpack_residuals(cursor, r * c)).reshape(r, c)
    approximation = np.cumsum(differences, axis=1)
    details = [
        _unzigzag_all(unpack_residuals(cursor, 3 * r * c)).reshape(3, r, c) for r, c in reversed(shapes)
    ]
    return approximation, details[::-1]


def to_samples(image: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `image` rounded and clamped to `dtype`."""
    limits = np.iinfo(dtype)
    if not np.isfinite(image).all():
        raise CorruptStreamError("coefficients overflow")
    return np.rint(image).clip(limits.min, limits.max).astype(dtype)
