"""Conversion on the way out: the same values, or a clear refusal."""

import zlib
from io import BytesIO

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.transcode import convert as convert_to_pieces
from tests.storage.objects import encoded, image, picture

EXPLICIT, IMPLICIT = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN


def convert(data: bytes, stored: str, target: str) -> bytes:
    return b"".join(convert_to_pieces(data, stored, target).pieces())


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def read(data: bytes, syntax: str) -> Dataset:
    return Dataset(read_dataset(BytesIO(data), syntax == IMPLICIT, True))


def words() -> tuple[Dataset, Dataset]:
    """Return one data set as it is in little endian, and with its words as they stand in big endian."""
    little = image(1, picture(6, 10))
    item = Dataset()
    item.add_new(0x00283006, "OW", b"\x01\x00\x02\x00")
    little.ModalityLUTSequence = Sequence([item])
    little.add_new(0x00281201, "OW", b"\x01\x02\x03\x04")
    little.add_new(0x60003000, "OW", b"\x0f\x00")
    little.add_new(0x00660016, "OF", np.array([1.5, -2.0], "<f4").tobytes())
    big = image(1, picture(6, 10).byteswap())
    item = Dataset()
    item.add_new(0x00283006, "OW", b"\x00\x01\x00\x02")
    big.ModalityLUTSequence = Sequence([item])
    big.add_new(0x00281201, "OW", b"\x02\x01\x04\x03")
    big.add_new(0x60003000, "OW", b"\x00\x0f")
    big.add_new(0x00660016, "OF", np.array([1.5, -2.0], ">f4").tobytes())
    return little, big


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
def test_every_word_of_big_endian_is_turned(target: str) -> None:
    """Palettes, overlays and tables too: not the pixel data alone."""
    little, big = words()
    converted = convert(encoded(big, EXPLICIT_VR_BIG_ENDIAN), EXPLICIT_VR_BIG_ENDIAN, target)
    assert converted == encoded(little, target)


def test_bytes_in_words_are_turned() -> None:
    little = image(1, np.arange(60, dtype=np.uint8).reshape(1, 6, 10))
    big = image(1, np.arange(60, dtype=np.uint8).reshape(1, 6, 10))
    big["PixelData"].value = np.arange(60, dtype=np.uint8).view(np.uint16).byteswap().tobytes()
    converted = convert(encoded(big, EXPLICIT_VR_BIG_ENDIAN), EXPLICIT_VR_BIG_ENDIAN, EXPLICIT)
    assert converted == encoded(little)


def test_deflated_on_the_way_out() -> None:
    for stored in (EXPLICIT, IMPLICIT):
        packed = convert(encoded(image(1), stored), stored, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        assert len(packed) % 2 == 0
        assert zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed) == encoded(image(1))


@pytest.mark.parametrize("length", [-1, -50, -200, 300, 150, 20])
def test_what_is_cut_short_is_not_converted(length: int) -> None:
    data = encoded(image(1))[:length]
    with pytest.raises(ConversionError):
        convert(data, EXPLICIT, IMPLICIT)


def test_deflated() -> None:
    data = encoded(image(1))
    packed = deflated(data)
    assert convert(packed, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT) == data
    assert read(convert(packed, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT), IMPLICIT) == image(1)
    for bad in (packed[:-20], b"garbage", deflated(data[:-9])):
        with pytest.raises(ConversionError):
            convert(bad, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT)


def test_a_deflated_reference_is_not_taken_for_a_data_set() -> None:
    with pytest.raises(ConversionError):
        convert(deflated(encoded(image(1))), "1.2.840.10008.1.2.4.95", EXPLICIT)
