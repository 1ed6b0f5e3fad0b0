"""Codecs by name.

Our own are listed below. Another package adds one by being installed with an entry point of the group
`dcmpress.codecs` (name = codec id, value = the class). A codec's module is imported when it is first
asked for: `get_codec("huffman")` does not compile or load the others.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dcmpress.codecs.base import Codec

GROUP = "dcmpress.codecs"

_BUILT_IN: dict[str, str] = {
    "auto": "dcmpress.codecs.auto:AutoCodec",
    "fluoroscopy": "dcmpress.codecs.fluoroscopy:Fluoroscopy",
    "htj2k": "dcmpress.codecs.standard:HtJpeg2000Codec",
    "huffman": "dcmpress.codecs.huffman:Huffman",
    "interframe": "dcmpress.codecs.interframe.codec:InterframeCodec",
    "jpeg-2000": "dcmpress.codecs.standard:Jpeg2000Codec",
    "jpeg-ls": "dcmpress.codecs.standard:JpegLsCodec",
    "jpeg-xl": "dcmpress.codecs.standard:JpegXlCodec",
    "reconstruct": "dcmpress.codecs.reconstruct:Reconstruct",
    "rle": "dcmpress.codecs.standard:RleCodec",
    "spiht": "dcmpress.codecs.spiht:Spiht",
    "spiht-lossy": "dcmpress.codecs.spiht:SpihtLossy",
    "store": "dcmpress.codecs.standard:StoreCodec",
    "wavelet-threshold": "dcmpress.codecs.wavelet_threshold:WaveletThreshold",
    "zstd": "dcmpress.codecs.standard:ZstdCodec",
}
"""Codec id -> "module:class", one line each, sorted."""


def codec_names() -> list[str]:
    """Return the names of all codecs that are installed, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def get_codec(name: str, /, **parameters: Any) -> Codec:
    """Return the codec `name` with `parameters` (those not given keep the codec's defaults).

    Raises
    ------
    ValueError
        If there is no such codec, or it does not take one of the parameters.
    """
    try:
        codec: Codec = codec_class(name)(**parameters)
    except TypeError as error:
        raise ValueError(f"codec {name!r}: {error}") from None
    return codec


@cache
def codec_class(name: str) -> type[Codec]:
    """Return the class of the codec `name`; raise ValueError if there is none."""
    if name in _BUILT_IN:
        module_name, _, class_name = _BUILT_IN[name].partition(":")
        loaded: type[Codec] = getattr(import_module(module_name), class_name)
        return loaded
    for point in entry_points(group=GROUP, name=name):
        found: type[Codec] = point.load()
        return found
    raise ValueError(f"no codec {name!r}; there are: {', '.join(codec_names())}")
