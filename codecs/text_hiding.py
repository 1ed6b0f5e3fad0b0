"""Text hidden in an image: as the wavelet paper does it, and reversibly.

`embed_by_xor` and `extract_by_xor` are sections 3.1 and 3.2 of Dhawale et al.: pixel i becomes pixel i XOR
character i, so the original is needed to get the text back, and the marked image shows it as noise.

`hide` and `reveal` need no original: the marked image alone gives the text and the exact image. They shift
the histogram of prediction errors (Ni, Shi, Ansari and Su, "Reversible data hiding", IEEE Trans. CSVT
16(3), 2006; on prediction errors as in Thodi and Rodriguez, IEEE Trans. Image Processing 16(3), 2007): each
pixel is predicted by the median edge detector from its marked neighbours; an error at the histogram's peak
carries a bit by staying or growing by one; larger errors grow by one to make room. So no pixel changes by
more than one, but for the lowest bits of the first 96, which hold what `reveal` must know first, and pixels
at the very top of the range, which are lowered before and put back after from a packed map.
"""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jit import inline, njit

HEAD_PIXELS = 96
_HEAD = struct.Struct("<iII")  # peak, bits of the payload, CRC-32 of the payload
_BODY = struct.Struct("<II")  # bytes of the packed map, bytes of the text


class NothingHiddenError(ValueError):
    """The image carries no text, or was changed after the text was hidden."""


def embed_by_xor(image: NDArray[Any], text: bytes) -> NDArray[Any]:
    """Return `image` with pixel i replaced by pixel i XOR character i.

    Parameters
    ----------
    image : ndarray of any shape, uint8 or uint16; not modified
    text : bytes without NUL, at most one for each pixel
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, not {image.dtype}")
    if len(text) > image.size or 0 in text:
        raise ValueError("text must have at most one character for each pixel, none of them NUL")
    marked = image.copy(order="C")
    flat = marked.reshape(-1)
    flat[: len(text)] ^= np.frombuffer(text, np.uint8).astype(image.dtype)
    return marked


def extract_by_xor(original: NDArray[Any], marked: NDArray[Any]) -> bytes:
    """Return the text that `embed_by_xor` put in: the XOR of both images up to the first zero."""
    if original.shape != marked.shape or original.dtype != marked.dtype:
        raise ValueError("original and marked image differ in shape or dtype")
    difference = (original ^ marked).reshape(-1)
    zeros = np.flatnonzero(difference == 0)
    end = int(zeros[0]) if zeros.size else difference.size
    if (difference[:end] > 255).any():
        raise NothingHiddenError("the images differ by more than a text")
    return difference[:end].astype(np.uint8).tobytes()


def hide(image: NDArray[Any], text: bytes) -> NDArray[Any]:
    """Return `image` with `text` hidden in it; `reveal` gives both back exactly.

    Parameters
    ----------
    image : ndarray, shape (rows, columns), uint8, int8, uint16 or int16; not modified
    text : bytes

    Raises
    ------
    ValueError
        If the text does not fit: there is room for about as many bits as prediction errors share one value.
    """
    _check(image)
    values = image.astype(np.int32)
    flat = values.reshape(-1)
    top = int(np.iinfo(image.dtype).max)
    head_bits = flat[:HEAD_PIXELS] & 1
    flat[:HEAD_PIXELS] -= head_bits  # so that nothing is predicted from bits that are not known yet

    high = flat[HEAD_PIXELS:] >= top - 1
    was_top = flat[HEAD_PIXELS:][high] == top
    flat[HEAD_PIXELS:][high] = top - 1
    packed = zlib.compress(np.packbits(was_top).tobytes(), 9) if was_top.any() else b""
    body = np.packbits(head_bits.astype(np.uint8)).tobytes() + _BODY.pack(len(packed), len(text))
    payload = body + packed + text
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))

    peak = int(_peak(values))
    n = int(_embed(values, peak, bits))
    if n < bits.size:
        raise ValueError(f"{len(text)} bytes of text do not fit: {bits.size} bits wanted, {n} hidden")
    head = np.unpackbits(np.frombuffer(_HEAD.pack(peak, bits.size, zlib.crc32(payload)), np.uint8))
    flat[:HEAD_PIXELS] += head
    return values.astype(image.dtype)


def reveal(marked: NDArray[Any]) -> tuple[bytes, NDArray[Any]]:
    """Return the text that `hide` put into the image `marked` and the exact image from before.

    Raises
    ------
    NothingHiddenError
        If there is none, or the image was changed since.
    """
    _check(marked)
    values = marked.astype(np.int32)
    flat = values.reshape(-1)
    top = int(np.iinfo(marked.dtype).max)
    head = np.packbits((flat[:HEAD_PIXELS] & 1).astype(np.uint8)).tobytes()
    peak, n_bits, crc = _HEAD.unpack(head)
    head_size = HEAD_PIXELS // 8
    if n_bits % 8 or n_bits > flat.size or n_bits < 8 * (head_size + _BODY.size) or abs(peak) > 1 << 16:
        raise NothingHiddenError("no text is hidden in this image")
    flat[:HEAD_PIXELS] -= flat[:HEAD_PIXELS] & 1
    bits = np.zeros(n_bits, np.uint8)
    n = int(_extract(values, peak, bits))
    payload = np.packbits(bits).tobytes()
    if n < n_bits or zlib.crc32(payload) != crc:
        raise NothingHiddenError("no text is hidden in this image, or it was changed")
    map_size, text_size = _BODY.unpack_from(payload, head_size)
    begin = head_size + _BODY.size
    if begin + map_size + text_size != len(payload):
        raise NothingHiddenError("the hidden payload is inconsistent")
    text = payload[begin + map_size :]
    if map_size:
        high = np.flatnonzero(flat[HEAD_PIXELS:] == top - 1)
        unpacker = zlib.decompressobj()
        try:
            packed = unpacker.decompress(payload[begin : begin + map_size], (high.size + 7) // 8)
        except zlib.error as error:
            raise NothingHiddenError(f"the hidden payload is inconsistent: {error}") from None
        was_top = np.unpackbits(np.frombuffer(packed, np.uint8))[: high.size]
        if was_top.size != high.size:
            raise NothingHiddenError("the hidden payload is inconsistent")
        flat[HEAD_PIXELS:][high] += was_top.astype(np.int32)
    flat[:HEAD_PIXELS] += np.unpackbits(np.frombuffer(payload[:head_size], np.uint8))
    return text, values.astype(marked.dtype)


def _check(image: NDArray[Any]) -> None:
    if image.ndim != 2 or image.dtype.name not in ("uint8", "int8", "uint16", "int16"):
        raise ValueError(f"not a plane of 8- or 16-bit integers: {image.dtype} {image.shape}")
    if image.size <= HEAD_PIXELS:
        raise ValueError(f"an image of {image.size} pixels has no room; it needs more than {HEAD_PIXELS}")


@inline
def _predict(marked: NDArray[np.int32], y: int, x: int) -> np.int32:
    """Predict a pixel from its left, upper and upper left neighbours (JPEG-LS's median edge detector)."""
    if x == 0 and y == 0:
        return np.int32(0)
    if y == 0:
        return marked[y, x - 1]
    if x == 0:
        return marked[y - 1, x]
    west, north, corner = marked[y, x - 1], marked[y - 1, x], marked[y - 1, x - 1]
    return max(min(west, north), min(max(west, north), west + north - corner))


@njit
def _peak(values: NDArray[np.int32]) -> int:
    """Return the commonest prediction error."""
    rows, columns = values.shape
    counts = np.zeros(1 << 18, np.int64)
    for y in range(rows):
        for x in range(columns):
            if y * columns + x >= HEAD_PIXELS:
                counts[values[y, x] - _predict(values, y, x) + (1 << 17)] += 1
    return int(np.argmax(counts)) - (1 << 17)


@njit
def _embed(values: NDArray[np.int32], peak: int, bits: NDArray[np.uint8]) -> int:
    """Hide `bits` in place and return how many found room; pixels after the last one stay as they are."""
    rows, columns = values.shape
    n = 0
    for y in range(rows):
        for x in range(columns):
            if y * columns + x < HEAD_PIXELS:
                continue
            if n == bits.size:
                return n
            error = values[y, x] - _predict(values, y, x)
            if error > peak:
                values[y, x] += 1
            elif error == peak:
                values[y, x] += bits[n]
                n += 1
    return n


@njit
def _extract(values: NDArray[np.int32], peak: int, bits: NDArray[np.uint8]) -> int:
    """Read the bits, put the pixels back, and return how many bits there were."""
    rows, columns = values.shape
    marked = values.copy()
    n = 0
    for y in range(rows):
        for x in range(columns):
            if y * columns + x < HEAD_PIXELS:
                continue
            if n == bits.size:
                return n
            error = marked[y, x] - _predict(marked, y, x)
            if error > peak + 1:
                values[y, x] -= 1
            elif error == peak + 1:
                values[y, x] -= 1
                bits[n] = 1
                n += 1
            elif error == peak:
                n += 1
    return n
