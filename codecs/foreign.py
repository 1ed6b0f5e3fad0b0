"""Images that arrive compressed in a standard's format, decoded by imagecodecs: bytes in, samples out."""

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.errors import CorruptStreamError


def _inflate(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data), np.uint8)


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "jpeg": imagecodecs.jpeg_decode,
    "jpeg-ls": imagecodecs.jpegls_decode,
    "jpeg-2000": imagecodecs.jpeg2k_decode,
    "htj2k": imagecodecs.htj2k_decode,
    "jpeg-xl": imagecodecs.jpegxl_decode,
    "deflate": _inflate,
    "run-length": lambda data: imagecodecs.dicomrle_decode(data, np.uint8),
}


def decode_foreign(format_name: str, data: bytes) -> NDArray[Any]:
    """Return the samples of one image.

    Parameters
    ----------
    format_name : "jpeg", "jpeg-ls", "jpeg-2000", "htj2k", "jpeg-xl", "deflate" or "run-length"
        "jpeg" is every process of ITU-T T.81, of 8 to 16 bits; "jpeg-2000" (OpenJPEG) takes HTJ2K too; "htj2k"
        (OpenJPH) gives what it has of a damaged stream, so compare it; "deflate" and "run-length" know nothing of
        images and give bytes.

    Returns
    -------
    ndarray
        (rows, columns) or (rows, columns, samples) as the stream says; 1-D for the last two.

    Raises
    ------
    CorruptStreamError
        If the bytes are not such a stream.
    """
    try:
        return np.asarray(_DECODERS[format_name](data))
    except (RuntimeError, ValueError, zlib.error) as error:
        raise CorruptStreamError(f"{format_name}: {error}") from error
