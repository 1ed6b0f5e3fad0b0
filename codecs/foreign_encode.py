"""Single images written in a standard's format, for receivers that want that one: samples in, bytes out.

The libraries were chosen by what they take (8 to 16 bits, signed, colour), by speed, and because they let
other threads run meanwhile: CharLS, OpenJPEG, OpenJPH, libjxl and libjpeg-turbo, all through imagecodecs; JPEG-LS of
16 bits in grey is our own.
"""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jpeg_ls import encode_image

JPEG_XL_EFFORT = 4
"""Of libjxl, 1 to 9. CT of 512 x 512: 1 is 17 % larger and 50 times faster, 7 is 4 % smaller, 3 times slower."""

_BASE_SIDE = 64
"""Rows or columns of the lowest resolution in an HTJ2K stream for progressive display (PS3.5 10.18)."""

Image = NDArray[Any]


def encode_foreign(format_name: str, image: Image, bits: int, *, decorrelate: bool = False) -> bytes:
    """Return one image, losslessly encoded.

    Parameters
    ----------
    format_name : str
        "jpeg-lossless" (ITU-T T.81 process 14, selection value 1), "jpeg-ls", "jpeg-2000", "htj2k",
        "htj2k-rpcl" (for progressive display), "jpeg-xl" or "run-length" (PS3.5 annex G).
    image : ndarray, shape (rows, columns) or (rows, columns, 3)
        8 or 16 bits; "run-length" takes 32 too. Signed samples are told as such to JPEG 2000; the other
        formats know unsigned ones only, and hold their words.
    bits : int
        Precision that the stream tells. No sample may need more. JPEG-LS always tells that of the dtype, as
        DCMTK's encoder does.
    decorrelate : bool
        Let JPEG 2000 transform red, green and blue reversibly (RCT); JPEG XL does so anyway.

    Raises
    ------
    ValueError
        If the library does not take such an image.
    """
    if format_name != "run-length" and (image.dtype.itemsize > 2 or image.shape[2:] not in ((), (3,))):
        raise ValueError(f"{format_name} of {image.dtype} {image.shape}")
    try:
        return _ENCODERS[format_name](image, bits, decorrelate)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{format_name} of {image.dtype} {image.shape}: {error}") from error


def _words(image: Image) -> Image:
    """Return the samples as unsigned words of the same bits."""
    return np.ascontiguousarray(image).view(f"u{image.dtype.itemsize}")


def _jpeg_lossless(image: Image, bits: int, decorrelate: bool) -> bytes:
    colours: Any = {"colorspace": "rgb", "outcolorspace": "rgb"} if image.ndim == 3 else {}
    return bytes(
        imagecodecs.jpeg8_encode(
            _words(image), lossless=True, predictor=1, bitspersample=max(bits, 2), **colours
        )
    )


def _jpeg_ls(image: Image, bits: int, decorrelate: bool) -> bytes:
    if image.ndim == 2 and image.dtype.itemsize == 2:
        return encode_image(_words(image))  # in seven tenths of CharLS's time; 8 bits and colour take longer
    # The buffer that imagecodecs takes by itself is too small for noise; a sample never needs more than LIMIT
    # bits (T.87 A.2.1), which is four times its own.
    words = _words(image)
    for size in (words.nbytes + words.nbytes // 8, 4 * words.nbytes):
        try:
            return bytes(imagecodecs.jpegls_encode(words, out=size + 1024))
        except imagecodecs.JpeglsError as error:
            problem = error
    raise problem


def _jpeg_2000(image: Image, bits: int, decorrelate: bool) -> bytes:
    encoded = imagecodecs.jpeg2k_encode(
        np.ascontiguousarray(image),
        level=0,
        reversible=True,
        codecformat="j2k",
        bitspersample=bits,
        mct=decorrelate,
        numthreads=1,
    )
    return bytes(encoded)


def _htj2k(image: Image, bits: int, decorrelate: bool) -> bytes:
    return _high_throughput(image, bits, decorrelate)


def _htj2k_rpcl(image: Image, bits: int, decorrelate: bool) -> bytes:
    # OpenJPH's order of progression is RPCL whatever is asked for.
    levels = 0
    while min(image.shape[:2]) > _BASE_SIDE << levels:
        levels += 1
    return _high_throughput(
        image, bits, decorrelate, resolutions=max(levels, 5), tlm=True, tilepart=_BY_RESOLUTION
    )


_BY_RESOLUTION = imagecodecs.HTJ2K.TILEPART.RESOLUTIONS


def _high_throughput(image: Image, bits: int, decorrelate: bool, **options: Any) -> bytes:
    """Encode by OpenJPH, which takes the precision from the dtype, and then set it right.

    An unsigned sample less half its range is what T.800 G.1.2 feeds to the transform; so the stream of those
    signed differences is the stream of the unsigned samples, but for the precision in its SIZ segment. The
    bit planes that the sub-bands have are told apart from that, in QCD (E.1).
    """
    narrow = image.ndim == 2 and bits < 8 * image.dtype.itemsize
    if narrow and image.dtype.kind == "u":
        signed = np.dtype(f"i{image.dtype.itemsize}")
        encoded = imagecodecs.htj2k_encode(
            _words(image).view(signed) - signed.type(1 << bits - 1), reversible=True, **options
        )
        return _with_precision(encoded, bits - 1)
    encoded = imagecodecs.htj2k_encode(
        np.ascontiguousarray(image), reversible=True, rgb=decorrelate if image.ndim == 3 else None, **options
    )
    return _with_precision(encoded, 0x80 | bits - 1) if narrow else bytes(encoded)


_SSIZ = 42
"""Offset of the first component's precision in a codestream that begins with SOC and SIZ (T.800 A.5.1)."""


def _with_precision(codestream: Any, ssiz: int) -> bytes:
    """Return a codestream of one component with another Ssiz."""
    if bytes(codestream[:4]) != b"\xff\x4f\xff\x51":
        raise ValueError("no SIZ at its beginning")
    return bytes(codestream[:_SSIZ]) + bytes([ssiz]) + bytes(codestream[_SSIZ + 1 :])


def _jpeg_xl(image: Image, bits: int, decorrelate: bool) -> bytes:
    encoded = imagecodecs.jpegxl_encode(
        _words(image),
        lossless=True,
        effort=JPEG_XL_EFFORT,
        bitspersample=bits,
        usecontainer=False,
        numthreads=1,
    )
    return bytes(encoded)


def _run_length(image: Image, bits: int, decorrelate: bool) -> bytes:
    """Encode each byte plane, the most significant first, sample by sample; runs end with the row (G.3.1)."""
    rows, columns = image.shape[:2]
    size = image.dtype.itemsize
    planes = _words(image).astype(f">u{size}").view(np.uint8).reshape(rows, columns, -1)
    if planes.shape[2] > 15:
        raise ValueError("more than 15 segments")
    segments = []
    for k in range(planes.shape[2]):
        segment = bytes(imagecodecs.packbits_encode(planes[..., k].copy()))
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = [0] * 15
    at = 64
    for k, segment in enumerate(segments):
        offsets[k] = at
        at += len(segment)
    return struct.pack("<16I", len(segments), *offsets) + b"".join(segments)


_ENCODERS: dict[str, Callable[[Image, int, bool], bytes]] = {
    "jpeg-lossless": _jpeg_lossless,
    "jpeg-ls": _jpeg_ls,
    "jpeg-2000": _jpeg_2000,
    "htj2k": _htj2k,
    "htj2k-rpcl": _htj2k_rpcl,
    "jpeg-xl": _jpeg_xl,
    "run-length": _run_length,
}
