"""The codec `huffman`: the paper's figures, the format, damage."""

import heapq
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.huffman import Huffman
from dcmpress.codecs.huffman_block import pack_bytes, unpack_bytes
from dcmpress.codecs.huffman_code import MAX_LENGTH, code_lengths, is_complete
from dcmpress.codecs.leb128 import Cursor, leb128, unzigzag, zigzag
from dcmpress.codecs.registry import get_codec
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
CODEC = Huffman()


def test_keeps_the_contract():
    checks.check_codec(CODEC)


def test_is_registered_without_parameters():
    assert get_codec("huffman") == CODEC
    assert get_codec("huffman", **CODEC.parameters()) == CODEC
    assert CODEC.lossless


@given(frames_of(CODEC.dtypes))
@settings(max_examples=120, deadline=None)
def test_gives_back_every_sample(frames):
    check_round_trip(CODEC, frames)


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=256).filter(lambda c: sum(x > 0 for x in c) > 1))
@settings(max_examples=100, deadline=None)
def test_code_is_complete_and_as_short_as_huffmans(counts):
    """Without a limit that bites, package-merge costs what Huffman's algorithm costs."""
    lengths = code_lengths(np.array(counts, np.int64), 64)
    heap = [c for c in counts if c]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    assert sum(c * int(n) for c, n in zip(counts, lengths, strict=True)) == cost
    assert is_complete(code_lengths(np.array(counts, np.int64), MAX_LENGTH))


def test_length_limit_costs_least():
    """Fibonacci counts want words of 1, 2, 3, ... bits; of all complete codes of <= 4 bits ours is best."""
    counts = np.array([1, 1, 2, 3, 5, 8, 13], np.int64)
    lengths = code_lengths(counts, 4)

    def best(rest: tuple[int, ...], space: int) -> float:
        if not rest:
            return 0 if space == 0 else float("inf")
        return min(
            (rest[0] * n + best(rest[1:], space - (16 >> n)) for n in range(1, 5) if space >= 16 >> n),
            default=float("inf"),
        )

    assert int(counts @ lengths.astype(np.int64)) == best(tuple(map(int, counts)), 16)


@pytest.mark.parametrize(
    ("name", "symbols", "optimal"),
    [("ankle", 89, 2.9933), ("brain", 256, 1.4596), ("chest", 256, 1.0024)],
)
def test_files_that_the_paper_names(name, symbols, optimal):
    """Within 0.5 % of the ratio of an optimal byte code without its table; ours includes the table."""
    (path,) = CORPUS.glob(f"Barre-singles/**/CT-MONO2-16-{name}.dcm")
    content = np.fromfile(path, np.uint8)
    assert np.count_nonzero(np.bincount(content)) == symbols
    data = check_round_trip(CODEC, content.reshape(1, 1, -1))
    assert optimal * 0.995 < content.size / len(data) < optimal + 0.0001


def test_never_grows_beyond_its_header():
    noise = np.random.default_rng(1).integers(0, 256, (3, 100, 100), np.uint8)
    assert len(CODEC.encode(noise)) <= noise.size + 24 + 1 + 3


def test_constant_frames_cost_a_byte_or_two():
    assert len(CODEC.encode(np.full((10, 64, 64), 300, np.uint16))) == 24 + 1 + 2 * 20


def test_frames_share_a_table_and_take_their_own_where_it_pays():
    rng = np.random.default_rng(2)
    alike = rng.geometric(0.2, (20, 32, 32)).clip(0, 255).astype(np.uint8)
    assert CODEC.encode(alike)[24] == 1
    unlike = np.concatenate([alike[:4], 255 - alike[4:8]])
    assert CODEC.encode(unlike)[24] > 1
    check_round_trip(CODEC, unlike)


def test_more_frames_than_tables():
    rng = np.random.default_rng(3)
    frames = np.array([rng.permutation(256)[rng.geometric(0.3, 4096).clip(0, 255)] for _ in range(300)])
    check_round_trip(CODEC, frames.astype(np.uint8).reshape(300, 64, 64))


def test_select():
    frames = np.random.default_rng(4).geometric(0.1, (5, 20, 30)).astype(np.int16)
    check_select(CODEC, frames, CODEC.encode(frames))


def test_memory_order_does_not_matter():
    frames = np.random.default_rng(5).integers(0, 99, (3, 20, 30)).astype(np.uint16)
    data = CODEC.encode(frames)
    assert CODEC.encode(np.asfortranarray(frames)) == data
    assert CODEC.encode(frames.astype(">u2")) == data


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 2)), np.zeros((1, 2, 2)), np.zeros((0, 2, 2), np.uint8), np.zeros(4, np.uint8)]
)
def test_bad_calls(frames):
    with pytest.raises(ValueError, match=r"axes|takes|axis"):
        CODEC.encode(frames)
    with pytest.raises(ValueError, match="references"):
        CODEC.encode(np.zeros((2, 2, 2), np.uint8), [-1])


def _sample():
    rng = np.random.default_rng(6)
    frames = rng.geometric(0.1, (4, 16, 16)).astype(np.uint16) * 3
    frames[1] = 7
    frames[2] = rng.integers(0, 65536, (16, 16))
    return frames


def test_damage_is_noticed():
    data = CODEC.encode(_sample())
    check_truncated(CODEC, data)
    check_flipped(CODEC, data)
    check_too_large(CODEC, data)


def test_fuzz():
    check_fuzz(CODEC, CODEC.encode(_sample()), 3000, seed=7)
    check_fuzz(CODEC, CODEC.encode(np.arange(300).reshape(1, 1, -1).astype(np.uint8) % 7), 1500, seed=8)


def test_directory_longer_than_the_stream():
    data = CODEC.encode(np.zeros((1, 1, 1), np.uint8))
    many = data[:8] + (1 << 20).to_bytes(4, "little") + data[12:]
    with pytest.raises(CorruptStreamError):
        CODEC.decode(repair_checksum(many))


def test_worked_example_of_the_format():
    """docs/formats/huffman.md, "Worked example"."""
    text = (PROJECT / "docs" / "formats" / "huffman.md").read_text()
    block = text.split("## Worked example")[1].split("```")[1]
    data = bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()[1:]))
    frames = np.tile(np.array([0, 1, 0, 2, 0, 1, 0, 3], np.uint8), 8).reshape(1, 4, 16)
    assert np.array_equal(CODEC.decode(data), frames)
    assert CODEC.encode(frames) == data


def test_golden_stream():
    data = (DATA / "huffman-v1.bin").read_bytes()
    frames = np.load(DATA / "huffman-v1.npy")
    assert np.array_equal(CODEC.decode(data), frames)
    assert CODEC.encode(frames) == data


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_block(content):
    values = np.frombuffer(content, np.uint8)
    packed = pack_bytes(values)
    assert len(packed) <= values.size + 2
    cursor = Cursor(memoryview(packed))
    assert unpack_bytes(cursor, values.size).tobytes() == content
    cursor.finish()


@given(st.integers(-(2**40), 2**40))
def test_integers(value):
    assert unzigzag(zigzag(value)) == value
    cursor = Cursor(memoryview(leb128(zigzag(value))))
    assert cursor.leb128() == zigzag(value)
    cursor.finish()


def test_cursor_refuses_to_read_too_far():
    with pytest.raises(CorruptStreamError):
        Cursor(memoryview(b"ab")).take(3)
    with pytest.raises(CorruptStreamError):
        Cursor(memoryview(b"\xff" * 20)).leb128()
    with pytest.raises(CorruptStreamError):
        Cursor(memoryview(b"ab")).finish()
