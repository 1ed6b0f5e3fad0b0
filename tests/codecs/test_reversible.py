"""What the headers of compressed images say of losslessness, and that no bytes do more than be refused."""

import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.foreign_encode import encode_foreign
from dcmpress.codecs.reversible import Told, read_told
from tests.codecs.test_restorable import field

GREY = field((40, 56), "uint16", 12)
COLOUR = np.stack([field((40, 56), "uint8", 8, seed=k) for k in range(3)], axis=-1)
NAMES = {
    "jpeg-2000": "jpeg-2000",
    "htj2k": "htj2k",
    "jpeg-ls": "jpeg-ls",
    "jpeg": "jpeg-lossless",
    "jpeg-xl": "jpeg-xl",
}
IMAGES = {
    name: encode_foreign(encoder, GREY, 16 if name == "jpeg-ls" else 12, decorrelate=False)
    for name, encoder in NAMES.items()
}


@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff"])
@pytest.mark.parametrize("name", NAMES)
def test_grey(name: str, padding: bytes) -> None:
    assert read_told(name, IMAGES[name] + padding) == Told((40, 56))


@pytest.mark.parametrize("name", NAMES)
def test_colour(name: str) -> None:
    transformed = name in ("jpeg-2000", "htj2k")
    data = encode_foreign(NAMES[name], COLOUR, 8, decorrelate=transformed)
    assert read_told(name, data) == Told(
        (40, 56) if name == "jpeg-xl" else (40, 56, 3), transformed=transformed
    )


@pytest.mark.parametrize("name", ["jpeg-2000", "htj2k"])
def test_signs(name: str) -> None:
    samples = GREY.astype(np.int16) - 900
    assert read_told(name, encode_foreign(name, samples, 12, decorrelate=False)) == Told(
        (40, 56), signed=True
    )


def test_extents_of_jpeg_xl() -> None:
    for shape in [
        (8, 8),
        (64, 64),
        (7, 300),
        (300, 7),
        (600, 800),
        (1080, 1920),
        (1500, 1000),
        (513, 512),
        (40, 33),
    ]:
        data = bytes(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True))
        assert read_told("jpeg-xl", data) == Told(shape)


def test_scans_of_one_component_each() -> None:
    plane = COLOUR[:, :, 0]
    data = bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(plane)))
    assert read_told("jpeg-ls", data) == Told((40, 56))
    head = data.index(b"\xff\xf7")
    frame = struct.pack(">HHBHHB", 0xFFF7, 17, 8, 40, 56, 3) + b"".join(
        bytes([k, 0x11, 0]) for k in (1, 2, 3)
    )
    scan = data[data.index(b"\xff\xda") : -2]
    scans = [scan[:5] + bytes([k]) + scan[6:] for k in (1, 2, 3)]
    whole = data[:head] + frame + b"".join(scans) + b"\xff\xd9"
    assert read_told("jpeg-ls", whole) == Told((40, 56, 3))
    with pytest.raises(CorruptStreamError, match="components are missing"):
        read_told("jpeg-ls", data[:head] + frame + b"".join(scans[:2]) + b"\xff\xd9")


LOSSY = {
    "the other wavelet": (
        "jpeg-2000",
        lambda: imagecodecs.jpeg2k_encode(GREY, level=60, reversible=False, codecformat="j2k"),
    ),
    "a tolerance": ("jpeg-ls", lambda: imagecodecs.jpegls_encode(GREY, level=2)),
    "XYB": ("jpeg-xl", lambda: imagecodecs.jpegxl_encode(GREY, distance=1.0)),
    "JPEG": ("jpeg", lambda: imagecodecs.jpeg8_encode(COLOUR, level=90)),
    "a point transform": ("jpeg", lambda: _point_transform()),
    "a file around it": ("jpeg-2000", lambda: imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="jp2")),
    "bytes behind it": ("htj2k", lambda: IMAGES["htj2k"] + b"more"),
    "another format": ("jpeg-xl", lambda: IMAGES["htj2k"]),
}


def _point_transform() -> bytes:
    data = bytearray(IMAGES["jpeg"])
    at = data.index(b"\xff\xda")
    data[at + 1 + data[at + 3]] = 1  # the last byte of the scan header
    return bytes(data)


@pytest.mark.parametrize("what", LOSSY)
def test_what_may_have_lost_something_is_refused(what: str) -> None:
    name, make = LOSSY[what]
    with pytest.raises(CorruptStreamError):
        read_told(name, bytes(make()))


@pytest.mark.parametrize("name", ["jpeg-2000", "htj2k", "jpeg-ls", "jpeg"])
def test_a_part_is_refused(name: str) -> None:
    for end in range(len(IMAGES[name]) - 1):
        with pytest.raises(CorruptStreamError):
            read_told(name, IMAGES[name][:end])


def test_missing_tiles_are_noticed() -> None:
    """Two tiles, by what the size says, of which one is there; then that one twice; then both."""
    whole = IMAGES["jpeg-2000"]
    at = whole.index(b"\xff\x90")
    halves = whole[:24] + struct.pack(">I", 28) + whole[28:at]
    tile = whole[at:-2]
    other = tile[:4] + b"\0\1" + tile[6:]
    for tiles in (tile, tile + tile):
        with pytest.raises(CorruptStreamError, match=r"tiles are missing|parts of tiles"):
            read_told("jpeg-2000", halves + tiles + b"\xff\xd9")
    assert read_told("jpeg-2000", halves + tile + other + b"\xff\xd9") == Told((40, 56))


@given(st.data())
@settings(deadline=None)
def test_no_bytes_do_more_than_be_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(IMAGES)))
    changed = bytearray(IMAGES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(changed) - 1, 160)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    for candidate in (bytes(changed), bytes(changed[:cut])):
        try:
            read_told(name, candidate)
        except CodecError:
            pass


@given(st.binary(max_size=200), st.sampled_from(sorted(IMAGES)))
def test_noise_is_refused(noise: bytes, name: str) -> None:
    for start in (b"", IMAGES[name][:2], IMAGES[name][:40]):
        try:
            read_told(name, start + noise)
        except CodecError:
            pass
