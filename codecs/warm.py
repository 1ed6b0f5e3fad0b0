"""Kernels compiled before they are needed, so that no image waits for the compiler."""

import numpy as np

from dcmpress.codecs.base import Codec
from dcmpress.codecs.registry import get_codec

_SIDE = 80
"""Rows and columns of the frames: more than a tile, so that every kernel runs."""


def warm(codec: Codec) -> None:
    """Run a codec once over small frames of each dtype that it takes, both ways.

    Raises
    ------
    ValueError
        If it does not give back what it was given: this machine is not to be trusted with it.
    """
    y, x = np.mgrid[:_SIDE, :_SIDE]
    noise = np.random.default_rng(1).integers(0, 7, (3, _SIDE, _SIDE))
    smooth = (60 + 50 * np.sin(x / 9) * np.cos(y / 7)).astype(np.int64)[np.newaxis] + noise
    smooth[:, :16] = smooth[0, 0, 0]
    for name in codec.dtypes:
        frames = smooth.astype(name)
        for given in (frames, np.stack([frames, frames // 2, frames], axis=-1)):
            data = codec.encode(given, [-1, 0, 1])
            whole, last = codec.decode(data), codec.decode(data, [2])
            if codec.lossless and not (np.array_equal(whole, given) and np.array_equal(last[0], given[2])):
                raise ValueError(f"{codec.codec_id} does not give back what it was given")


def warm_all(choices: list[tuple[str, dict[str, object]]]) -> None:
    """Warm several codecs, given as (name, parameters)."""
    for name, parameters in choices:
        warm(get_codec(name, **parameters))
