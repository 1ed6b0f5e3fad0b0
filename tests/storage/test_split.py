"""join(split(x)) == x, whatever x is."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.elements import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    NATIVE_SYNTAXES,
)
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.split import split
from dcmpress.storage.spool import Spool, SpoolEntry
from tests.corpus_files import data_set, part10_files
from tests.storage.objects import MR_IMAGE, SENDER, encoded, image, picture

EXPLICIT, IMPLICIT, BIG = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN


def joined(data: bytes, syntax: str) -> bytes:
    """Take a data set apart and put it together again, as `compress` and `InstanceReader` do."""
    found, reason = split(data, syntax)
    if found is None:
        assert reason
        return data
    assert not reason
    frames = found.pixel_format.to_frames(data[found.start : found.end])
    assert frames.shape == (found.n_frames, *found.pixel_format.frame_shape)
    assert frames.dtype.isnative
    return data[: found.start] + found.pixel_format.to_bytes(frames) + data[found.end :]


def test_every_file_of_the_corpus() -> None:
    n_split = 0
    for path in part10_files():
        meta, data = data_set(path)
        assert joined(data, meta.transfer_syntax_uid) == data, path
        n_split += split(data, meta.transfer_syntax_uid)[0] is not None
    assert n_split > 5


def test_frames_are_the_pixels_that_pydicom_reads() -> None:
    compared = 0
    for path in part10_files():
        if path.stat().st_size > 600_000 or compared > 60:
            continue
        meta, data = data_set(path)
        found, _ = split(data, meta.transfer_syntax_uid)
        if found is None or found.pixel_format.bits_allocated == 32:
            continue
        dataset = pydicom.dcmread(path)
        if "PixelData" not in dataset:
            continue
        try:
            theirs = dataset.pixel_array
        except Exception:
            continue
        ours = found.pixel_format.to_frames(data[found.start : found.end])
        if theirs.size != ours.size or "YBR_FULL_422" in str(dataset.PhotometricInterpretation):
            continue
        if found.pixel_format.big_endian is False and meta.transfer_syntax_uid == BIG:
            continue  # 8-bit samples in words
        assert np.array_equal(theirs.reshape(ours.shape), ours), path
        compared += 1
    assert compared > 5 or len(part10_files()) < 10


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def us(group: int, element: int, value: int) -> bytes:
    return struct.pack("<HH2sHH", group, element, b"US", 2, value)


ROWS, COLUMNS, BITS = us(0x28, 0x10, 32), us(0x28, 0x11, 40), us(0x28, 0x100, 16)
PLAIN = encoded(image())
CINE = encoded(image(2, picture(frames=5)))

ODD: dict[str, tuple[bytes, str, int]] = {
    "plain": (PLAIN, EXPLICIT, 1),
    "implicit": (encoded(image(), IMPLICIT), IMPLICIT, 1),
    "cine": (CINE, EXPLICIT, 5),
    "cut in a frame": (CINE[:-100], EXPLICIT, 4),
    "cut at a frame": (CINE[: -2 * 32 * 40 * 2], EXPLICIT, 3),
    "cut before the first frame ends": (PLAIN[:-10], EXPLICIT, 0),
    "cut inside the header": (PLAIN[:200], EXPLICIT, 0),
    "odd length": (PLAIN + b"x", EXPLICIT, 1),
    "padding after": (PLAIN + b"\xfc\xff\xfc\xff" + b"\0" * 20, EXPLICIT, 1),
    "no Rows": (replaced(PLAIN, ROWS, b""), EXPLICIT, 0),
    "0 Rows": (replaced(PLAIN, ROWS, us(0x28, 0x10, 0)), EXPLICIT, 0),
    "fewer rows: longer than declared": (replaced(PLAIN, ROWS, us(0x28, 0x10, 30)), EXPLICIT, 1),
    "more rows: shorter than declared": (replaced(PLAIN, ROWS, us(0x28, 0x10, 33)), EXPLICIT, 0),
    "12 bits allocated": (replaced(PLAIN, BITS, us(0x28, 0x100, 12)), EXPLICIT, 0),
    "1 bit allocated": (replaced(PLAIN, BITS, us(0x28, 0x100, 1)), EXPLICIT, 0),
    "0 frames": (encoded(image(NumberOfFrames=0)), EXPLICIT, 0),
    "frames without a number": (replaced(CINE, b"IS\x02\x005 ", b"IS\x02\x00x "), EXPLICIT, 1),
    "a million frames declared": (replaced(CINE, b"IS\x02\x005 ", b"IS\x02\x0099"), EXPLICIT, 5),
    "empty": (b"", EXPLICIT, 0),
    "garbage": (b"\xff\x00garbage" * 99, EXPLICIT, 0),
    "big endian": (encoded(image(1, picture().byteswap()), BIG), BIG, 1),
    "signed": (encoded(image(1, picture().astype(np.int16) - 900)), EXPLICIT, 1),
    "32 bits": (encoded(image(1, picture().astype(np.uint32) << 9)), EXPLICIT, 1),
    "8 bits": (encoded(image(1, (picture(9, 9) >> 4).astype(np.uint8))), EXPLICIT, 1),
    "five samples": (encoded(image(SamplesPerPixel=5)), EXPLICIT, 0),
    "nested deeper than is followed": (
        struct.pack("<HHIHHI", 8, 0x1140, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 99,
        IMPLICIT,
        0,
    ),
}


def colour(planar: int, bits: int = 8) -> bytes:
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    pixels = np.random.default_rng(5).integers(0, 255, (2, 12, 20, 3)).astype(dtype)
    data_set = image(1, pixels, SamplesPerPixel=3, PlanarConfiguration=planar)
    data_set.PhotometricInterpretation = "RGB"
    return encoded(data_set)


ODD |= {f"planar {p}, {bits} bits": (colour(p, bits), EXPLICIT, 2) for p in (0, 1, 2) for bits in (8, 16)}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_sets(name: str) -> None:
    data, syntax, n_frames = ODD[name]
    found, _ = split(data, syntax)
    assert (found.n_frames if found else 0) == n_frames
    assert joined(data, syntax) == data


def in_spool(spool: Spool, number: int, data: bytes, syntax: str) -> SpoolEntry:
    writer = spool.begin(FileMeta(MR_IMAGE, f"1.2.{number}", syntax), SENDER)
    writer.write(data)
    return writer.finish()


def through_a_blob(folder: Path, sent: list[tuple[bytes, str]], **settings: Any) -> None:
    spool = Spool(folder / "spool")
    entries = [in_spool(spool, number, *one) for number, one in enumerate(sent)]
    expected = {entry.name: data for entry, (data, _) in zip(entries, sent, strict=True)}
    choice = CodecChoice(settings.pop("codec", "jpeg-ls"))
    job = CompressJob(entries, str(spool.folder), str(folder / "blob"), choice, **settings)
    result = compress(job)
    spool.close()
    with InstanceReader(folder / "blob") as reader:
        for number, name in enumerate(result.order):
            assert reader.read(number) == expected[name]
        for number, name in reversed(list(enumerate(result.order))):
            assert reader.read(number) == expected[name]
    assert len(result.order) == len(sent)
    assert result.damaged == {}


@pytest.mark.parametrize("segment_bytes", [1, 5000, 1 << 20])
def test_all_of_them_in_one_blob(tmp_path: Path, segment_bytes: int) -> None:
    sent = [(data, syntax) for data, syntax, _ in ODD.values()]
    through_a_blob(tmp_path, sent, segment_bytes=segment_bytes)


def test_large_shells_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells and data sets without frames beyond what a reader holds, head and tail of one of them."""
    monkeypatch.setattr("dcmpress.storage.join.LARGEST_HELD", 1 << 16)
    noise = np.random.default_rng(1).bytes(700_001)
    with_tail = PLAIN + noise
    long_head = encoded(image(3, LossyImageCompressionMethod="x" * 500_000))
    sent = [(with_tail, EXPLICIT), (noise, EXPLICIT), (long_head, EXPLICIT), (bytes(3_000_000), IMPLICIT)]
    through_a_blob(tmp_path, sent)


def test_too_many_tiny_frames_are_kept_whole() -> None:
    tiny = np.zeros((5000, 2, 2), np.uint8)
    data = encoded(image(1, tiny))
    found, reason = split(data, EXPLICIT)
    assert found is None
    assert "5000 frames" in reason


def test_every_native_file_of_the_corpus_through_a_blob(tmp_path: Path) -> None:
    """Small files of every kind together: whatever else they are, they come back."""
    sent = []
    for path in part10_files():
        if path.stat().st_size < 40_000:
            meta, data = data_set(path)
            sent.append((data, meta.transfer_syntax_uid))
    through_a_blob(tmp_path, sent[::3], codec="zstd")
    assert {syntax for _, syntax in sent} & NATIVE_SYNTAXES
