"""The wrapped codecs and `auto`."""

import numpy as np
import pytest

from dcmpress.codecs.auto import AutoCodec
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.registry import codec_names, get_codec
from tests.codecs import checks

NAMES = ("htj2k", "jpeg-2000", "jpeg-ls", "jpeg-xl", "rle", "store", "zstd")


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    assert name in codec_names()
    checks.check_codec(get_codec(name, effort=1) if name == "jpeg-xl" else get_codec(name))


def test_auto_keeps_the_contract() -> None:
    checks.check_codec(get_codec("auto", candidates=["interframe/fast", "jpeg-ls", "zstd"]))


@pytest.mark.parametrize("name", ["jpeg-2000", "jpeg-ls", "jpeg-xl"])
def test_refuses_32_bits_where_the_library_is_wrong(name: str) -> None:
    with pytest.raises(ValueError, match="uint32"):
        get_codec(name).encode(np.zeros((1, 4, 4), np.uint32))


@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_takes_plain_bytes(name: str) -> None:
    text = np.frombuffer(b"No fewer than 70,000 bytes. " * 2600, np.uint8)
    codec = get_codec(name)
    checks.assert_same(codec.decode(codec.encode(text[np.newaxis, np.newaxis])), text[np.newaxis, np.newaxis])


def test_zstd_reads_either_setting_of_shuffle() -> None:
    frames = np.arange(600, dtype=np.uint16).reshape(2, 15, 20)
    for shuffle in (False, True):
        data = get_codec("zstd", shuffle=shuffle).encode(frames)
        checks.assert_same(get_codec("zstd", shuffle=not shuffle).decode(data), frames)


def test_auto_takes_the_smallest_within_its_budget() -> None:
    rng = np.random.default_rng(5)
    smooth = np.cumsum(rng.integers(-2, 3, (3, 64, 80)), axis=2).astype(np.int16)
    noise = rng.integers(0, 256, (1, 50, 50), np.uint8)
    every = ("interframe/balanced", "jpeg-ls", "rle", "store")
    sizes = {
        name: len(get_codec(name.partition("/")[0]).encode(smooth)) for name in ("jpeg-ls", "rle", "store")
    }
    data = AutoCodec(budget=1.0, candidates=every).encode(smooth)
    assert AutoCodec.codec_inside(data) == min(sizes, key=lambda name: sizes[name])
    assert AutoCodec.codec_inside(AutoCodec(budget=0.1, candidates=every).encode(smooth)) == "store"
    assert AutoCodec.codec_inside(AutoCodec(budget=9, candidates=("rle", "store")).encode(noise)) == "store"
    with pytest.raises(ValueError, match="budget"):
        AutoCodec(budget=0.5, candidates=("jpeg-ls",))


def test_auto_refuses_itself_inside() -> None:
    from dcmpress.codecs.stream import write_stream

    inner = AutoCodec().encode(np.zeros((1, 2, 2), np.uint8))
    nested = write_stream(b"DCAU", 1, np.zeros((1, 2, 2), np.uint8), b"\x04auto" + inner)
    with pytest.raises(CorruptStreamError, match="auto"):
        AutoCodec().decode(nested)
