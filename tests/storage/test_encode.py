"""Frames on their way out: what each format holds, what is told about it, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets

from dcmpress.storage import encapsulation, encode
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.encapsulation import opening
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.targets import COMPRESSED
from dcmpress.storage.transcode import convert
from tests.interop.judges import PREFIX, judged, read
from tests.storage.objects import encoded, image

EXPLICIT, IMPLICIT = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
JPEG_LS, JPEG_2000, HTJ2K, RPCL = (PREFIX + f"4.{n}" for n in (80, 90, 201, 202))
JPEG_LOSSLESS, RLE, JPEG_XL = PREFIX + "4.70", PREFIX + "5", PREFIX + "4.110"
ALL = sorted(COMPRESSED)


def noise(shape: tuple[int, ...], low: int, high: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def grey(samples: NDArray[Any], bits: int, **attributes: Any) -> Dataset:
    return image(1, samples, BitsStored=bits, HighBit=bits - 1, **attributes)


def colour(samples: NDArray[Any], photometric: str = "RGB", by_plane: bool = False) -> Dataset:
    data_set = image(1, samples)
    data_set.SamplesPerPixel = 3
    data_set.PhotometricInterpretation = photometric
    data_set.PlanarConfiguration = int(by_plane)
    data_set.PixelData = (samples.transpose(0, 3, 1, 2) if by_plane else samples).tobytes()
    return data_set


def sent(data_set: Dataset, target: str, stored: str = EXPLICIT) -> bytes:
    converted = convert(encoded(data_set, stored), stored, target)
    data = b"".join(converted.pieces())
    assert len(data) == converted.size
    return data


GREY = {
    "8 bits": grey(noise((1, 21, 33), 0, 256, np.uint8), 8),
    "6 of 8 bits": grey(noise((1, 21, 33), 0, 64, np.uint8), 6),
    "12 of 16 bits": grey(noise((1, 70, 130), 0, 4096, np.uint16), 12),
    "16 bits": grey(noise((1, 70, 130), 0, 65536, np.uint16), 16),
    "signed": grey(noise((1, 70, 130), -32768, 32768, np.int16), 16),
    "signed 12 of 16 bits": grey(noise((1, 70, 130), -2048, 2048, np.int16), 12),
    "signed, unused bits 0": grey(noise((1, 70, 130), 0, 4096, np.int16), 12),
    "signed 8 bits": grey(noise((1, 21, 33), -128, 128, np.int8), 8),
    "one pixel": grey(noise((1, 1, 1), 0, 4096, np.uint16), 12),
    "one column": grey(noise((1, 130, 1), 0, 4096, np.uint16), 12),
    "frames of odd length": grey(noise((5, 3, 7), 0, 256, np.uint8), 8),
    "constant": grey(np.full((2, 64, 64), 7, np.uint16), 12),
    "inverted": grey(noise((1, 21, 33), 0, 256, np.uint8), 8, PhotometricInterpretation="MONOCHROME1"),
}


@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize("case", GREY)
def test_grey(case: str, target: str, tmp_path: Path) -> None:
    data_set = GREY[case]
    shape = (-1, data_set.Rows, data_set.Columns, 1)
    raw = np.frombuffer(data_set.PixelData, f"u{data_set.BitsAllocated // 8}")
    mask = (1 << data_set.BitsStored) - 1
    n = int(data_set.get("NumberOfFrames", 1)) * data_set.Rows * data_set.Columns
    for stored in (EXPLICIT, IMPLICIT):
        data = sent(data_set, target, stored)
        np.testing.assert_array_equal(judged(data, target, tmp_path), raw[:n].reshape(shape) & mask)
        received = read(data, target)
        assert received.PhotometricInterpretation == data_set.PhotometricInterpretation
        del received.PixelData, received.file_meta
        assert received == Dataset({k: v for k, v in data_set.items() if k != 0x7FE00010})


@pytest.mark.parametrize("by_plane", [False, True])
@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour(dtype: Any, target: str, by_plane: bool, tmp_path: Path) -> None:
    samples = noise((3, 66, 70, 3), 0, 1 << 8 * np.dtype(dtype).itemsize, dtype)
    data = sent(colour(samples, by_plane=by_plane), target)
    np.testing.assert_array_equal(judged(data, target, tmp_path), samples)
    received = read(data, target)
    transformed = target in (JPEG_2000, HTJ2K, RPCL)
    assert received.PhotometricInterpretation == ("YBR_RCT" if transformed else "RGB")
    assert received.PlanarConfiguration == int(target == RLE)


@pytest.mark.parametrize("target", ALL)
def test_luminance_and_chrominance_stay(target: str, tmp_path: Path) -> None:
    samples = noise((1, 66, 70, 3), 0, 256, np.uint8)
    data = sent(colour(samples, "YBR_FULL"), target)
    np.testing.assert_array_equal(judged(data, target, tmp_path), samples)
    assert read(data, target).PhotometricInterpretation == "YBR_FULL"


@pytest.mark.parametrize("target", ALL)
def test_shared_chrominance_is_repeated(target: str, tmp_path: Path) -> None:
    samples = noise((2, 6, 8, 3), 0, 256, np.uint8)
    samples[:, :, 1::2, 1:] = samples[:, :, ::2, 1:]
    data_set = colour(samples, "YBR_FULL_422")
    pairs = [samples[:, :, ::2, :1], samples[:, :, 1::2, :1], samples[:, :, ::2, 1:]]
    data_set.PixelData = np.concatenate(pairs, -1).tobytes()
    data = sent(data_set, target)
    np.testing.assert_array_equal(judged(data, target, tmp_path), samples)
    assert read(data, target).PhotometricInterpretation == "YBR_FULL"


def precision(frame: bytes, target: str) -> int:
    """Return the precision that a frame tells, from its header."""
    if target in (JPEG_2000, HTJ2K, RPCL):
        return (frame[42] & 0x7F) + 1  # Ssiz, T.800 A.5.1
    marker = b"\xff\xf7" if target == JPEG_LS else b"\xff\xc3"
    return frame[frame.index(marker) + 4]


@pytest.mark.parametrize("target", [JPEG_LOSSLESS, JPEG_2000, HTJ2K, RPCL])
def test_precision_is_bits_stored_unless_a_sample_has_more(target: str) -> None:
    samples = noise((1, 70, 130), 0, 4096, np.uint16)
    for words, bits in ((samples, 12), (samples | 0x8000, 16)):
        (frame,) = generate_frames(read(sent(grey(words, 12), target), target).PixelData, number_of_frames=1)
        assert precision(frame, target) == bits


@pytest.mark.parametrize("target", ALL)
def test_bits_above_those_stored_survive(target: str, tmp_path: Path) -> None:
    samples = noise((1, 70, 130), 0, 65536, np.uint16)
    data = sent(grey(samples, 12), target)
    as_words = read(data, target)
    as_words.BitsStored, as_words.HighBit = 16, 15
    whole = encoded_compressed(as_words)
    np.testing.assert_array_equal(judged(whole, target, tmp_path)[..., 0], samples)


def encoded_compressed(data_set: Dataset) -> bytes:
    del data_set.file_meta
    data_set["PixelData"].is_undefined_length = True
    return encoded(data_set)


def test_a_stream_for_progressive_display() -> None:
    """PS3.5 10.18: RPCL, tile-part lengths, a base resolution of at most 64 rows or columns."""
    data = sent(grey(noise((1, 2600, 2400), 0, 4096, np.uint16), 12), RPCL)
    (frame,) = generate_frames(read(data, RPCL).PixelData, number_of_frames=1)
    style = frame.index(b"\xff\x52")
    progression, levels = frame[style + 5], frame[style + 9]
    assert progression == 2
    assert b"\xff\x55" in frame[:200]
    assert 2400 >> levels <= 64


@pytest.mark.parametrize("target", ALL)
def test_offset_table(target: str) -> None:
    received = read(sent(grey(noise((5, 33, 21), 0, 4096, np.uint16), 12), target), target)
    value = received.PixelData
    offsets = parse_basic_offsets(value)
    first = 8 + struct.unpack_from("<I", value, 4)[0]
    assert len(offsets) == 5
    for offset, after in zip(offsets, [*offsets[1:], len(value) - first], strict=True):
        tag, length = struct.unpack_from("<II", value, first + offset)
        assert tag == 0xE000FFFE
        assert length % 2 == 0
        assert offset + 8 + length == after


def test_extended_offset_table_beyond_32_bits() -> None:
    sizes = [1 << 31, 1 << 31, 1 << 31]
    start = opening(sizes)
    assert start[:8] == b"\xe0\x7f\x01\x00OV\0\0"
    assert struct.unpack_from("<3Q", start, 12) == (0, (1 << 31) + 8, (1 << 32) + 16)
    assert start[36:44] == b"\xe0\x7f\x02\x00OV\0\0"
    assert struct.unpack_from("<3Q", start, 48) == tuple(sizes)
    assert start[72:] == b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    assert opening(sizes[:2])[:4] == b"\xe0\x7f\x10\x00"  # the second begins at 2^31 + 8


def test_many_frames_go_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "IN_MEMORY", 1000)
    monkeypatch.setattr(encapsulation, "_CHUNK", 100)
    samples = noise((40, 20, 20), 0, 4096, np.uint16)
    data = b"".join(convert(encoded(grey(samples, 12)), EXPLICIT, JPEG_LS, tmp_path).pieces())
    np.testing.assert_array_equal(judged(data, JPEG_LS, tmp_path)[..., 0], samples)


def test_every_other_element_stays_as_it_stands() -> None:
    data_set = grey(noise((1, 21, 33), 0, 256, np.uint8), 8)
    data_set.add_new(0x00091001, "UN", b"\x01\x02\x03\x04")
    data_set.add_new(0x7FE10010, "LO", "AFTER")
    data_set.add_new(0xFFFCFFFC, "OB", b"\0" * 6)
    data = encoded(data_set)
    at = data.index(b"\xe0\x7f\x10\x00")
    end = at + 12 + len(data_set.PixelData)
    received = sent(data_set, JPEG_LS)
    assert received.startswith(data[:at])
    assert received.endswith(data[end:])


def test_lengths_of_changed_groups_and_old_offset_tables_go() -> None:
    from dcmpress.storage.elements import Encoding, iterate

    groups = b"\x28\x00\x00\x00UL\x04\x00\x10\x00\x00\x00"
    tables = b"\xe0\x7f\x00\x00UL\x04\x00\x10\x00\x00\x00" + b"\xe0\x7f\x01\x00OV\0\0\x08\0\0\0" + bytes(8)
    data = encoded(grey(noise((1, 4, 4), 0, 256, np.uint8), 8))
    data = data.replace(b"\x28\x00\x02\x00", groups + b"\x28\x00\x02\x00", 1)
    data = data.replace(b"\xe0\x7f\x10\x00", tables + b"\xe0\x7f\x10\x00", 1)
    received = b"".join(convert(data, EXPLICIT, RLE).pieces())
    tags = [element.tag for element in iterate(received, Encoding(explicit=True))]
    assert tags == sorted(set(tags) - {0x00280000, 0x7FE00000, 0x7FE00001})


REFUSED: dict[str, dict[str, Any]] = {
    "no pixel data": {"PixelData": None},
    "1 bit": {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
    "an overlay in unused bits": {"OverlayBitsAllocated": 16, "OverlayBitPosition": 15},
    "fewer frames than told": {"NumberOfFrames": 4},
    "more frames than told": {"NumberOfFrames": 1},
    "no frames": {"NumberOfFrames": 0},
    "four samples": {"SamplesPerPixel": 4, "Rows": 6, "Columns": 5, "PhotometricInterpretation": "ARGB"},
    "another colour space": {"SamplesPerPixel": 3, "Rows": 5, "PhotometricInterpretation": "HSV"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """Never a wrong image: the receiver is offered another syntax, or told that it failed."""
    data_set = grey(noise((2, 15, 8), 0, 4096, np.uint16), 12)
    for keyword, value in REFUSED[case].items():
        if value is None:
            del data_set[keyword]
        elif keyword.startswith("Overlay"):
            data_set.add_new({"OverlayBitsAllocated": 0x60000100}.get(keyword, 0x60000102), "US", value)
        else:
            setattr(data_set, keyword, value)
    for target in ALL:
        with pytest.raises(ConversionError):
            convert(encoded(data_set), EXPLICIT, target)


def test_32_bits_go_run_length_encoded_only() -> None:
    data_set = image(1, noise((1, 9, 9), 0, 1 << 31, np.uint32))
    data = sent(data_set, RLE)
    (frame,) = generate_frames(read(data, RLE).PixelData, number_of_frames=1)
    assert frame[0] == 4
    for target in set(ALL) - {RLE}:
        with pytest.raises(ConversionError):
            convert(encoded(data_set), EXPLICIT, target)


def test_what_was_lossy_says_so() -> None:
    """So far the transfer syntax has said it; in another one the attribute must."""
    import imagecodecs
    from pydicom.encaps import encapsulate

    baseline = PREFIX + "4.50"
    samples = noise((1, 16, 16), 0, 256, np.uint8)
    data_set = grey(samples, 8)
    data_set.PixelData = encapsulate([imagecodecs.jpeg8_encode(samples[0], level=80)])
    data_set["PixelData"].VR = "OB"
    data_set["PixelData"].is_undefined_length = True
    for target in (EXPLICIT, JPEG_LS):
        received = read(b"".join(convert(encoded(data_set), baseline, target).pieces()), target)
        assert received.LossyImageCompression == "01"
        assert received.LossyImageCompressionMethod == "ISO_10918_1"
    data_set.LossyImageCompression = "01"
    data_set.LossyImageCompressionMethod = "OTHER"
    received = read(b"".join(convert(encoded(data_set), baseline, JPEG_LS).pieces()), JPEG_LS)
    assert received.LossyImageCompressionMethod == "OTHER"
