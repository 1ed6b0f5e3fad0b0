"""Kernels compiled before they are needed, so that no image waits for the compiler."""

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import Codec
from dcmpress.codecs.foreign_encode import encode_foreign
from dcmpress.codecs.jit import CACHE_FOLDER
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.restorable import put_together, take_apart

_SIDE = 80
"""Rows and columns of the frames: more than a tile, so that every kernel runs."""

_ENCODERS = {
    "rle": "run-length",
    "jpeg-lossless": "jpeg-lossless",
    "jpeg-ls": "jpeg-ls",
    "jpeg-2000": "jpeg-2000",
}
"""Format of `restorable` -> format of `encode_foreign`."""

_DONE = "restorable-compiled"
"""File in the cache folder that says so: most senders send none of these, so nobody loads them to find out."""


def warm(codec: Codec) -> None:
    """Run a codec once over small frames of each dtype that it takes, both ways.

    Raises
    ------
    ValueError
        If it does not give back what it was given: this machine is not to be trusted with it.
    """
    smooth = _smooth()
    drawn = _drawn()
    for name in codec.dtypes:
        frames = smooth.astype(name)
        lines = drawn.astype(name)
        for given in (frames, _in_colour(frames), lines, _in_colour(lines)):
            data = codec.encode(given, [-1, 0, 1])
            whole, last = codec.decode(data), codec.decode(data, [2])
            if codec.lossless and not (np.array_equal(whole, given) and np.array_equal(last[0], given[2])):
                raise ValueError(f"{codec.codec_id} does not give back what it was given")


def _smooth() -> NDArray[np.int64]:
    """Return three frames, the upper part of them flat."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    noise = np.random.default_rng(1).integers(0, 7, (3, _SIDE, _SIDE))
    frames = (60 + 50 * np.sin(x / 9) * np.cos(y / 7)).astype(np.int64)[np.newaxis] + noise
    frames[:, :16] = frames[0, 0, 0]
    return frames


def _in_colour(frames: NDArray[Any]) -> NDArray[Any]:
    return np.stack([frames, frames // 2, frames], axis=-1)


def _drawn() -> NDArray[np.int64]:
    """Return three frames of a pattern that repeats itself, and goes on to do so."""
    tile = np.random.default_rng(2).integers(0, 5, (3, 8, 8)) * 25
    tile[1:] = tile[0]
    tile[2, 3] = 0
    frames = np.tile(tile, (1, _SIDE // 8, _SIDE // 8))
    frames[:, 40:56] = 0
    return frames


def warm_all(choices: list[tuple[str, dict[str, object]]]) -> None:
    """Warm several codecs, given as (name, parameters)."""
    for name, parameters in choices:
        warm(get_codec(name, **parameters))


def restorable_compiled() -> bool:
    """Tell whether `warm_restorable` has nothing to do, or nowhere to leave what it does."""
    return CACHE_FOLDER is None or (CACHE_FOLDER / _DONE).exists()


def warm_restorable() -> None:
    """Take an image of each kind that arrives compressed apart and put it together, so that its kernels are cached.

    Raises
    ------
    ValueError
        If an image does not come back to the byte.
    """
    frames = _smooth()
    for name, encoder in _ENCODERS.items():
        for image in (frames[0].astype(np.uint16), np.stack(list(frames), axis=-1).astype(np.uint8)):
            data = encode_foreign(encoder, image, 8 * image.dtype.itemsize, decorrelate=True)
            taken = take_apart(name, data, image.shape, image.dtype)
            if taken is None or put_together(taken[0].method, taken[1], taken[0].recipe) != data:
                raise ValueError(f"{name} does not come back to the byte")
    jpegs = [bytes(imagecodecs.jpeg8_encode(frame.astype(np.uint8), level=90)) for frame in frames]
    size = max(map(len, jpegs))
    rows = np.frombuffer(b"".join(data.ljust(size, b"\0") for data in jpegs), np.uint8).reshape(
        len(jpegs), 1, size
    )
    codec = get_codec("reconstruct")
    if not np.array_equal(codec.decode(codec.encode(rows)), rows):
        raise ValueError("JPEG does not come back to the byte")
    if CACHE_FOLDER is not None:
        (CACHE_FOLDER / _DONE).touch()
