"""The codecs `spiht` and `spiht-lossy`: the papers' examples, prefixes, damage."""

import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.errors import CodecError
from dcmpress.codecs.measures import psnr
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.spiht import Spiht, SpihtLossy
from dcmpress.codecs.spiht_groups import (
    PAPER_BOOK,
    decode_with_book,
    encode_with_book,
    group_symbols,
    huffman_book,
    pack_deflate,
    pack_groups,
    unpack_deflate,
    unpack_groups,
)
from dcmpress.codecs.spiht_image import plane_bits
from dcmpress.codecs.spiht_tree import default_levels, first_child, make_tree
from dcmpress.codecs.stream import HEADER_SIZE
from tests.codecs import checks
from tests.codecs.literature_checks import (
    check_flipped,
    check_fuzz,
    check_round_trip,
    check_select,
    check_too_large,
    check_truncated,
    frames_of,
    repair_checksum,
)

PROJECT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("DCMPRESS_CORPUS", PROJECT.parent / "shared" / "corpus"))
DATA = PROJECT / "tests" / "data"
EXAMPLE = "1110001110" + "0010000001010110000"
SHAPIRO = np.array(
    [
        [63, -34, 49, 10, 7, 13, -12, 7],
        [-31, 23, 14, -13, 3, 4, 6, -1],
        [15, 14, 3, -12, 5, -7, 3, 9],
        [-9, -7, -14, 8, 4, -2, 3, 2],
        [-5, 9, -1, 47, 4, 6, -2, 2],
        [3, 0, -3, 2, 3, -2, 0, 4],
        [2, -3, 6, -4, 3, 6, 3, 6],
        [5, 11, 5, 6, 0, 3, -4, 4],
    ],
    np.int32,
)
CODECS = [Spiht(), Spiht(entropy="deflate")]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.entropy)
def test_keeps_the_contract(codec):
    checks.check_codec(codec)


def test_are_registered_without_parameters():
    assert get_codec("spiht") == Spiht()
    assert get_codec("spiht-lossy") == SpihtLossy()
    assert Spiht().lossless
    assert not SpihtLossy().lossless
    for codec in (*CODECS, SpihtLossy(0.5, "5/3", "deflate")):
        assert get_codec(codec.codec_id, **codec.parameters()) == codec


def test_shapiros_matrix_gives_the_papers_bits():
    """The first pass, T0 = 32, is the paper's 29-bit example, bit for bit."""
    tree = make_tree(8, 8, 2, False)
    planes = plane_bits(tree.gather(SHAPIRO), tree)
    assert "".join(map(str, planes[0])) == EXAMPLE
    assert len(planes) == 6


def test_the_papers_book_gives_25_bits_and_back():
    coded = encode_with_book(EXAMPLE, PAPER_BOOK)
    assert coded == "10" + "00" + "01" + "00" + "01" + "11" + "01" + "1001" + "101" + "11" + "00"
    assert len(coded) == 25
    assert decode_with_book(coded, PAPER_BOOK) == EXAMPLE


def test_a_true_huffman_code_gives_24_bits():
    symbols = group_symbols(np.array(list(map(int, EXAMPLE)), np.uint8))
    assert dict(zip(*np.unique(symbols, return_counts=True), strict=True)) == {0: 3, 2: 1, 4: 2, 5: 1, 7: 2}
    coded = encode_with_book(EXAMPLE, huffman_book(symbols))
    assert len(coded) == 24
    assert decode_with_book(coded, huffman_book(symbols)) == EXAMPLE


def test_packed_groups_are_those_24_bits_behind_a_table():
    chunk = pack_groups(np.array(list(map(int, EXAMPLE)), np.uint8))
    assert len(chunk) == 1 + (24 + 24 + 7) // 8  # groups, table, words


@given(st.lists(st.integers(0, 1), max_size=200), st.data())
@settings(max_examples=150, deadline=None)
def test_a_prefix_of_a_chunk_is_a_prefix_of_its_bits(bits, data):
    values = np.array(bits, np.uint8)
    for pack, unpack in ((pack_groups, unpack_groups), (pack_deflate, unpack_deflate)):
        chunk = memoryview(pack(values))
        got, whole = unpack(chunk, 300)
        assert whole
        assert got.tolist() == bits
        cut = data.draw(st.integers(1, len(chunk)))
        try:
            got, whole = unpack(chunk[:cut], 300)
        except CodecError:
            continue  # the number of groups itself was cut
        # padding may add bits to what a cut chunk gives, but only behind the last byte's worth
        n = max(0, got.size - 8)
        assert got[:n].tolist() == bits[:n]


@pytest.mark.parametrize(
    ("rows", "columns", "levels"), [(8, 8, 2), (9, 13, 1), (1, 40, 0), (70, 33, 3), (64, 65, 4)]
)
def test_trees_hold_every_coefficient_once(rows, columns, levels):
    tree = make_tree(rows, columns, levels, True)
    pyramid = np.arange(1, rows * columns + 1, dtype=np.int32).reshape(rows, columns)
    vector = tree.gather(pyramid)
    assert np.array_equal(tree.scatter(vector), pyramid)
    assert np.array_equal(vector != 0, tree.lowest != 255)
    assert np.count_nonzero(vector) == rows * columns
    reached = np.zeros(tree.size, int)
    for index in range(tree.size):
        child = first_child(index, tree.groups)
        if child and child < tree.size:
            reached[child : child + 4] += 1
    assert not reached[: 4 * tree.groups].any()
    assert (reached[4 * tree.groups :] == 1).all()


def test_children_lie_at_twice_the_coordinates():
    tree = make_tree(16, 16, 2, False)
    y, x = np.mgrid[:16, :16].astype(np.int32)
    rows, columns = tree.gather(y), tree.gather(x)
    for index in range(tree.size // 4):
        child = first_child(index, tree.groups)
        if index >= 4 * tree.groups:
            assert rows[child : child + 4].tolist() == [2 * rows[index] + k for k in (0, 0, 1, 1)]
            assert columns[child : child + 4].tolist() == [2 * columns[index] + k for k in (0, 1, 0, 1)]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.entropy)
@given(frames=frames_of(Spiht.dtypes))
@settings(max_examples=80, deadline=None)
def test_gives_back_every_sample(codec, frames):
    check_round_trip(codec, frames)


@given(frames_of(Spiht.dtypes), st.data())
@settings(max_examples=60, deadline=None)
def test_any_prefix_gives_frames(frames, data):
    codec = data.draw(st.sampled_from(CODECS))
    stream = codec.encode(frames)
    decoded = codec.decode_prefix(stream[: data.draw(st.integers(HEADER_SIZE, len(stream)))])
    assert decoded.shape == frames.shape
    assert decoded.dtype == frames.dtype
    assert np.array_equal(codec.decode_prefix(stream), frames)


def corpus_frames(group: str, n: int) -> np.ndarray:
    paths = sorted(p for p in (CORPUS / group).rglob("*") if p.is_file())
    pixels = pydicom.dcmread(paths[len(paths) // 2]).pixel_array
    frames = pixels if pixels.ndim >= 3 else pixels[None]
    return frames[:n, :512, :512] if frames.shape[-1] != 3 else frames[:n]


@pytest.mark.parametrize(
    "group", ["CT-LungDxA0002", "MR-GE-T1-3D", "MR-heart-cine-MF", "US-EPIQ-cine", "PT-QINHN0024"]
)
def test_quality_grows_with_the_bytes(group):
    """At every bit-plane PSNR rises; between any two of many prefixes it never falls by more than 0.05 dB."""
    frames = corpus_frames(group, 2)
    codec = Spiht()
    data = codec.encode(frames)
    ends = codec.plane_ends(data)
    assert ends[-1] == len(data)
    assert ends == sorted(ends)
    at_planes = [psnr(frames, codec.decode_prefix(data[:end])) for end in ends]
    assert all(b > a for a, b in pairwise(at_planes)), at_planes
    assert at_planes[-1] == np.inf
    sizes = sorted({int(size) for size in np.geomspace(HEADER_SIZE, len(data), 80)} | set(ends))
    best = 0.0
    for size in sizes:
        quality = psnr(frames, codec.decode_prefix(data[:size]))
        assert quality > best - 0.05, (size, quality, best)
        best = max(best, quality)


def test_offsets_need_only_the_directory():
    frames = corpus_frames("MR-GE-T1-3D", 1)
    data = Spiht().encode(frames)
    ends = Spiht().plane_ends(data)
    assert Spiht().plane_ends(data[: ends[0]]) == ends
    preview = Spiht().decode_prefix(data[: ends[len(ends) // 2]])
    assert psnr(frames, preview) > 25


def test_colour_plane_by_plane():
    rng = np.random.default_rng(1)
    frames = (
        np.indices((40, 50)).sum(0)[None, :, :, None] * [1, 2, 0] + rng.integers(0, 4, (2, 40, 50, 3))
    ).astype(np.uint8)
    data = check_round_trip(Spiht(), frames)
    check_select(Spiht(), frames, data)


@pytest.mark.parametrize("wavelet", ["bior4.4", "5/3"])
def test_lossy_keeps_its_rate_and_improves_with_it(wavelet):
    frames = corpus_frames("CT-LungDxA0002", 1)
    qualities = []
    for rate in (0.25, 0.5, 1.0, 2.0):
        codec = SpihtLossy(rate, wavelet)
        data = codec.encode(frames)
        assert len(data) * 8 / frames.size <= rate
        decoded = codec.decode(data)
        assert decoded.shape == frames.shape
        assert decoded.dtype == frames.dtype
        qualities.append(psnr(frames, decoded))
    assert qualities == sorted(qualities)
    assert qualities[2] > 40


def test_bior44_ends_within_one():
    frames = corpus_frames("MR-heart-cine-MF", 1)
    codec = SpihtLossy(None)
    assert np.abs(codec.decode(codec.encode(frames)).astype(int) - frames).max() <= 1


def test_lossy_of_tiny_and_extreme_frames():
    rng = np.random.default_rng(2)
    for dtype in Spiht.dtypes:
        limits = np.iinfo(dtype)
        for shape in ((1, 1, 1), (2, 3, 5), (1, 33, 20, 3)):
            frames = rng.choice(np.array([limits.min, limits.max], dtype), shape)
            for rate in (0.01, 8, None):
                codec = SpihtLossy(rate)
                decoded = codec.decode(codec.encode(frames))
                assert decoded.shape == shape
                assert decoded.dtype == frames.dtype


def test_bad_parameters():
    for wrong in ({"entropy": "none"}, {"bits_per_pixel": 0}, {"wavelet": "haar"}):
        with pytest.raises(ValueError, match=r"must be|not take|unexpected"):
            get_codec("spiht-lossy", **wrong)
    with pytest.raises(ValueError, match="entropy"):
        Spiht(entropy="x")
    with pytest.raises(ValueError, match="takes"):
        Spiht().encode(np.zeros((1, 2, 2), np.uint32))


def _sample(size=20):
    rng = np.random.default_rng(3)
    return (np.indices((size, size)).sum(0) * 40 + rng.integers(0, 9, (2, size, size))).astype(np.int16)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.entropy)
def test_damage_is_noticed(codec):
    data = codec.encode(_sample(10))
    check_truncated(codec, data, step=5)
    check_flipped(codec, data)
    check_too_large(codec, data)


@pytest.mark.parametrize("codec", [*CODECS, SpihtLossy(4.0)], ids=str)
def test_fuzz(codec):
    data = codec.encode(_sample())
    if codec.lossless:
        check_fuzz(codec, data, 1500, seed=4)
    rng = np.random.default_rng(5)
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 9)):
            damaged[rng.integers(6, len(damaged))] = rng.integers(256)
        for decode in (codec.decode, codec.decode_prefix):
            try:
                decode(repair_checksum(bytes(damaged)), max_pixels=1 << 16)
            except CodecError:
                pass


def test_prefix_shorter_than_the_header_is_refused():
    data = Spiht().encode(_sample())
    for size in range(HEADER_SIZE):
        with pytest.raises(CodecError):
            Spiht().decode_prefix(data[:size])


def test_a_prefix_of_very_many_frames_takes_no_time():
    data = Spiht().encode(np.zeros((1, 1, 1), np.uint8))
    many = data[:8] + struct.pack("<I", 1 << 26) + data[12:HEADER_SIZE] + data[HEADER_SIZE : HEADER_SIZE + 4]
    assert Spiht().decode_prefix(many).shape == (1 << 26, 1, 1)
    with pytest.raises(CodecError):
        Spiht().decode(repair_checksum(many))


def test_levels_leave_four_low_pass_rows():
    assert [default_levels(n, 4096) for n in (1, 7, 8, 15, 16, 64, 512, 5000)] == [0, 0, 1, 1, 2, 4, 6, 6]


def test_worked_example_of_the_format():
    """docs/formats/spiht.md, "Worked example"."""
    text = (PROJECT / "docs" / "formats" / "spiht.md").read_text()
    block = text.split("## Worked example")[1].split("```")[1]
    data = bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()[1:]))
    frames = np.array([[[10, 12, 11], [9, 10, 14]]], np.uint8)
    assert np.array_equal(Spiht().decode(data), frames)
    assert Spiht().encode(frames) == data


def test_golden_stream():
    frames = np.load(DATA / "spiht-v1.npy")
    data = (DATA / "spiht-v1.bin").read_bytes()
    assert np.array_equal(Spiht().decode(data), frames)
    assert Spiht().encode(frames) == data
    lossy = (DATA / "spiht-lossy-v1.bin").read_bytes()
    assert np.array_equal(SpihtLossy().decode(lossy), np.load(DATA / "spiht-lossy-v1.npy"))
    assert SpihtLossy(2.0).encode(frames) == lossy
