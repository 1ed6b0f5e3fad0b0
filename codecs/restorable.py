"""Losslessly compressed images: samples and a recipe, from which our own encoders write the same bytes again.

The encoders here are part of a stream's meaning: what they write never changes. A format is two functions:

    take_apart(data, shape, dtype) -> (frame, recipes), or None if it is not such an image, or not of that shape
    put_together(frame, recipe) -> bytes, or CodecError

The recipes differ in what cannot be seen from the data; the first that gives them back is kept.

Where what is put together differs from what was received in one place only, the place is in the recipe too: an
encoder that ends its data in its own way is no hindrance.

    recipe := 0, recipe of the format
            | 1, offset, bytes to remove there, bytes to insert: their number and they; recipe of the format
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs import jpeg_lossless, jpeg_ls, rle_image
from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.jpeg_2000 import image as jpeg_2000
from dcmpress.codecs.reconstruct_directory import Image

LONGEST_CORRECTION = 256
"""Bytes that a recipe may insert."""

MOST_SAMPLES_PER_BYTE = 64
_FREE = 1 << 22

_EXACT, _CORRECTED = b"\0", b"\1"

Array = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """How images of one kind are taken apart and put together."""

    method: int
    """Number in the directory of a `reconstruct` stream."""
    take_apart: Callable[[bytes, tuple[int, ...], np.dtype[Any]], tuple[Array, list[bytes]] | None]
    put_together: Callable[[Array, bytes], bytes]


FORMATS: dict[str, Format] = {
    "rle": Format(2, rle_image.take_apart, rle_image.put_together),
    "jpeg-ls": Format(4, jpeg_ls.take_apart, jpeg_ls.put_together),
    "jpeg-2000": Format(5, jpeg_2000.take_apart, jpeg_2000.put_together),
    "jpeg-lossless": Format(3, jpeg_lossless.take_apart, jpeg_lossless.put_together),
}
_BY_METHOD = {form.method: form for form in FORMATS.values()}


def working_limit(n_bytes: int) -> int:
    """Return how many samples, or bytes of one image, may be held on the way to `n_bytes` bytes."""
    return MOST_SAMPLES_PER_BYTE * n_bytes + _FREE


def take_apart(
    name: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Image, Array] | None:
    """Return an image without its samples, and these; None if the same bytes do not come back.

    Parameters
    ----------
    name
        Of a format in `FORMATS`.
    data : bytes
        Of one image, with whatever pads them.
    shape, dtype
        Of its samples: (rows, columns) or (rows, columns, samples).
    """
    form = FORMATS[name]
    if prod(shape) > working_limit(len(data)):
        return None
    try:
        taken = form.take_apart(data, shape, dtype)
        if taken is None:
            return None
        frame, recipes = taken
        kept: bytes | None = None
        for recipe in recipes:
            correction = _correction(form.put_together(frame, recipe), data)
            if correction is not None and (kept is None or correction == _EXACT):
                kept = correction + recipe
            if correction == _EXACT:
                break
    except CodecError:
        return None
    return None if kept is None else (Image(form.method, len(data), kept), frame)


def put_together(method: int, frame: Array, recipe: bytes) -> bytes:
    """Return the bytes of an image.

    Raises
    ------
    CodecError
    """
    if method not in _BY_METHOD:
        raise CorruptStreamError(f"unknown method {method}")
    reader = ByteReader(recipe)
    kind = bytes(reader.take(1))
    at = removed = 0
    inserted = b""
    if kind == _CORRECTED:
        at, removed = reader.varint(), reader.varint()
        inserted = bytes(reader.take(reader.varint(LONGEST_CORRECTION)))
    elif kind != _EXACT:
        raise CorruptStreamError(f"a recipe of kind {kind[0]}")
    made = _BY_METHOD[method].put_together(frame, bytes(reader.take(reader.left)))
    if at + removed > len(made):
        raise CorruptStreamError("a correction beyond the image")
    return made[:at] + inserted + made[at + removed :]


def _correction(made: bytes, wanted: bytes) -> bytes | None:
    """Return what a recipe says of the difference between two strings; None if that would be long."""
    if made == wanted:
        return _EXACT
    shorter = min(len(made), len(wanted))
    a, b = np.frombuffer(made, np.uint8), np.frombuffer(wanted, np.uint8)
    at = _agreeing(a[:shorter], b[:shorter])
    behind = _agreeing(a[::-1][: shorter - at], b[::-1][: shorter - at])
    inserted = wanted[at : len(wanted) - behind]
    if len(inserted) > LONGEST_CORRECTION:
        return None
    out = bytearray(_CORRECTED)
    for value in (at, len(made) - behind - at, len(inserted)):
        put_varint(out, value)
    return bytes(out) + inserted


def _agreeing(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """Return how many leading elements of two arrays of one length are equal."""
    differ = np.flatnonzero(a != b)
    return int(differ[0]) if differ.size else len(a)
