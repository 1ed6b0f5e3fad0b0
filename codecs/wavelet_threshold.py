"""Thresholded wavelets with run-length and Huffman coding: the lossy codec `wavelet-threshold`.

After Dhawale et al., "Implementation of DICOM image compression by N-level wavelets with threshold,
run-length and Huffman coding" (the chapter with the seven wavelet families): a global threshold, hard
thresholding, uniform quantisation, run-length coding of the detail bands, Huffman coding of all. With
`target_psnr` the thresholds come from a particle swarm instead, one for each level (Rani and Chitra 2018,
with the wavelet "haar").

PyWavelets' filters, and the swarm's exponentials, are floating point: another build of those libraries may
encode a rare coefficient one step off, or decode a sample one grey level off. The stream itself holds integers
and a step, and is decodable everywhere.

Format: docs/formats/wavelet-threshold.md.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.leb128 import Cursor, leb128
from dcmpress.codecs.measures import mse, peak_of
from dcmpress.codecs.stream import read_stream, write_stream
from dcmpress.codecs.wavelet_threshold_bands import (
    MAX_LEVELS,
    Floats,
    Integers,
    band_shapes,
    decompose,
    filter_length,
    pack_bands,
    quantise,
    recompose,
    to_samples,
    unpack_bands,
)
from dcmpress.codecs.wavelet_threshold_swarm import Thresholds, swarm_thresholds

MAGIC = b"DWTH"
_SMALLEST_STEP = 1 / 16
_STEP = struct.Struct("<d")


def universal_threshold(n_coefficients: int, sigma: float = 1.0) -> float:
    """Return the paper's threshold, sigma * sqrt(2 log10(n)).

    It is printed as Donoho's universal threshold, which has the natural logarithm; the value printed with
    it, 3.29416477 for 266 539 coefficients, is that of the decimal one.

    >>> round(universal_threshold(266_539), 8)
    3.29416477
    """
    if n_coefficients < 1:
        raise ValueError("there is no threshold for no coefficients")
    return sigma * math.sqrt(2 * math.log10(n_coefficients))


@dataclass(frozen=True)
class WaveletThreshold(Codec):
    """Lossy coding of thresholded wavelet coefficients.

    Parameters
    ----------
    wavelet : str
        A discrete wavelet of PyWavelets: bior*, haar, db*, sym*, coif*, rbio*, dmey.
    levels : int
        Levels of decomposition, the paper's N, 1 to 8; small frames get fewer.
    threshold : float or None
        Coefficients up to this magnitude become zero; None for `universal_threshold` of their number.
    step : float
        Width of the uniform quantiser, at least 1/16.
    target_psnr : float or None
        In dB; if given, a particle swarm chooses thresholds and step for each image, and `threshold` and
        `step` are not used. The peak is that of `measures.psnr`.
    """

    codec_id: ClassVar[str] = "wavelet-threshold"
    format_version: ClassVar[int] = 1
    lossless: ClassVar[bool] = False

    wavelet: str = "bior4.4"
    levels: int = 3
    threshold: float | None = None
    step: float = 1.0
    target_psnr: float | None = None

    def __post_init__(self) -> None:
        filter_length(self.wavelet)
        if not 1 <= self.levels <= MAX_LEVELS:
            raise ValueError(f"levels must be 1 to {MAX_LEVELS}, not {self.levels}")
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must not be negative: {self.threshold}")
        if not _SMALLEST_STEP <= self.step < math.inf:
            raise ValueError(f"step must be at least 1/16, not {self.step}")
        if self.target_psnr is not None and not 0 < self.target_psnr <= 120:
            raise ValueError(f"target_psnr must be above 0 and at most 120 dB, not {self.target_psnr}")

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        frames = check_frames(self, frames)
        check_references(references, len(frames))
        check_shifts(shifts, len(frames))
        segments = []
        for image in _planes(frames):
            approximation, details = decompose(image, self.wavelet, self.levels)
            if self.target_psnr is None:
                chosen = self._fixed_thresholds(approximation, details)
            else:
                chosen = self._swarm(image, approximation, details)
            indices = _quantised(approximation, details, chosen)
            segments.append(_STEP.pack(chosen.step) + pack_bands(*indices))
        name = self.wavelet.encode("ascii")
        front = bytes([len(name)]) + name + bytes([self.levels])
        directory = b"".join(leb128(len(segment)) for segment in segments)
        payload = front + directory + b"".join(segments)
        return write_stream(MAGIC, self.format_version, frames, payload)

    def _fixed_thresholds(self, approximation: Floats, details: list[Floats]) -> Thresholds:
        n = approximation.size + sum(bands.size for bands in details)
        threshold = universal_threshold(n) if self.threshold is None else self.threshold
        return Thresholds((threshold,) * len(details), self.step)

    def _swarm(self, image: NDArray[Any], approximation: Floats, details: list[Floats]) -> Thresholds:
        """Return thresholds with which the decoded image reaches `target_psnr`."""
        assert self.target_psnr is not None
        target = peak_of(image) ** 2 / 10 ** (self.target_psnr / 10)
        # rounding to samples and a wavelet that is not orthonormal move the error a little, either way
        chosen = swarm_thresholds(approximation, details, target * image.size).scaled(1.05)
        while chosen.step > _SMALLEST_STEP:
            indices = _quantised(approximation, details, chosen)
            decoded = _dequantised(*indices, chosen.step, self.wavelet, image.shape)
            if mse(image, to_samples(decoded, image.dtype)) <= target:
                return chosen
            chosen = chosen.scaled(0.99)
        return Thresholds((0.0,) * len(details), _SMALLEST_STEP)

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        if header.dtype.name not in self.dtypes:
            raise CorruptStreamError(f"{self.codec_id} does not hold {header.dtype.name}")
        n_frames, rows, columns = header.shape[:3]
        samples = header.shape[3] if len(header.shape) == 4 else 1
        cursor = Cursor(payload)
        wavelet = bytes(cursor.take(cursor.byte())).decode("ascii", "replace")
        levels = cursor.byte()
        if not 1 <= levels <= MAX_LEVELS:
            raise CorruptStreamError(f"{levels} levels")
        try:
            shapes = band_shapes(rows, columns, wavelet, levels)
        except ValueError as error:
            raise CorruptStreamError(str(error)) from None
        if cursor.remaining < n_frames * samples:
            raise CorruptStreamError("stream is shorter than its directory")
        sizes = [cursor.leb128() for _ in range(n_frames * samples)]
        begins = [cursor.skip(size) for size in sizes]
        cursor.finish()

        wanted = range(n_frames) if select is None else [int(k) for k in select]
        for k in wanted:
            if not 0 <= k < n_frames:
                raise IndexError(f"frame {k} of {n_frames}")
        planes = np.empty((len(wanted), samples, rows, columns), header.dtype)
        for at, k in enumerate(wanted):
            for s in range(samples):
                i = k * samples + s
                segment = Cursor(payload[begins[i] : begins[i] + sizes[i]])
                (step,) = _STEP.unpack(segment.take(_STEP.size))
                if not _SMALLEST_STEP <= step < 1e9:
                    raise CorruptStreamError(f"quantisation step {step}")
                indices = unpack_bands(segment, rows, columns, shapes)
                segment.finish()
                image = _dequantised(*indices, step, wavelet, (rows, columns))
                planes[at, s] = to_samples(image, header.dtype)
        if len(header.shape) == 3:
            return planes.reshape(len(wanted), rows, columns)
        return np.ascontiguousarray(np.moveaxis(planes, 1, 3))


def _planes(frames: NDArray[Any]) -> NDArray[Any]:
    """Return every plane of every frame, shape (images, rows, columns)."""
    if frames.ndim == 3:
        return frames
    return np.moveaxis(frames, 3, 1).reshape(-1, *frames.shape[1:3])


def _quantised(
    approximation: Floats, details: list[Floats], chosen: Thresholds
) -> tuple[Integers, list[Integers]]:
    """Return the quantiser's indices; the approximation is not thresholded."""
    bands = [quantise(d, t, chosen.step) for d, t in zip(details, chosen.levels, strict=True)]
    return quantise(approximation, 0.0, chosen.step), bands


def _dequantised(
    approximation: Integers, details: list[Integers], step: float, wavelet: str, shape: tuple[int, ...]
) -> Floats:
    coefficients = [bands.astype(np.float64) * np.float64(step) for bands in (approximation, *details)]
    return recompose(coefficients[0], coefficients[1:], wavelet, shape[0], shape[1])
