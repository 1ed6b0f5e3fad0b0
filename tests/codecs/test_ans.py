"""Entropy coding below the interframe codec: tANS tables and streams, and side information."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs import ans
from dcmpress.codecs.bits import ByteReader, put_signed, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe.side import SideReader, SideWriter


def test_counts_fill_the_table_and_keep_every_symbol() -> None:
    rng = np.random.default_rng(0)
    histogram = np.zeros((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    for context in range(1, ans.N_CONTEXTS):
        used = rng.choice(ans.N_SYMBOLS, int(rng.integers(1, ans.N_SYMBOLS)), replace=False)
        histogram[context, used] = rng.geometric(1 / 10 ** rng.integers(1, 6), len(used))
    counts = np.empty_like(histogram)
    ans.normalise(histogram, counts)
    assert (counts.sum(axis=1) == ans.N_STATES).all()
    assert ((counts > 0) == (histogram > 0))[1:].all()


def test_every_state_of_a_decoder_is_reached_from_one_encoder_state() -> None:
    histogram = np.zeros((ans.N_CONTEXTS, ans.SLOTS), np.int64)
    histogram[:, :40] = np.arange(1, 41) ** 2
    counts = np.empty_like(histogram)
    ans.normalise(histogram, counts)
    table = np.zeros(ans.N_CONTEXTS * ans.N_STATES, np.uint32)
    ans.build_decoder(counts, table)
    first = table[: ans.N_STATES].astype(np.int64)
    for symbol in range(40):
        head = symbol if symbol < 32 else 4 + (symbol & 3)
        raw_bits = int(ans.SYMBOL_RAW_BITS[symbol])
        mine = first[(first >> 27 == head) & ((first >> 8 & 255) - (first & 255) == raw_bits)]
        covered = np.concatenate([(v >> 16 & 2047) + np.arange(1 << (v & 255)) for v in mine])
        assert np.array_equal(np.sort(covered), np.arange(ans.N_STATES))


def test_symbols_cover_20_bits_without_gap() -> None:
    base = np.array([u if u < 32 else (4 + (u & 3)) << ((u >> 2) - 5) for u in range(ans.N_SYMBOLS)])
    width = 1 << ans.SYMBOL_RAW_BITS[: ans.N_SYMBOLS].astype(np.int64)
    assert base[0] == 0
    assert np.array_equal(base[1:], base[:-1] + width[:-1])
    assert base[-1] + width[-1] == 1 << 20


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, (1 << 20) - 1), st.integers(0, 3)), min_size=1, max_size=200))
def test_side_information_comes_back(pairs: list[tuple[int, int]]) -> None:
    values = np.array([v >> (5 * c) for v, c in pairs])
    contexts = np.array([c for _, c in pairs])
    writer = SideWriter(4)
    writer.put(values, contexts)
    writer.put_signed(-7, 2)
    reader = SideReader(writer.finish(), 4)
    assert np.array_equal(reader.take(len(values), contexts), values)
    assert reader.take_signed(1, 2)[0] == -7


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_side_information_reads_anything(data: bytes) -> None:
    values = SideReader(data, 2).take(300, np.arange(300) % 2)
    assert values.min() >= 0
    assert values.max() < 1 << 20


def test_integers_of_any_length() -> None:
    numbers = [0, 1, 127, 128, 16383, 16384, (1 << 62) - 1]
    out = bytearray()
    for number in numbers:
        put_varint(out, number)
        put_signed(out, -number // 3)
    reader = ByteReader(bytes(out))
    for number in numbers:
        assert reader.varint() == number
        assert reader.signed() == -number // 3
    assert reader.left == 0
    with pytest.raises(CorruptStreamError, match="ends"):
        reader.byte()
    with pytest.raises(CorruptStreamError, match="long"):
        ByteReader(b"\xff" * 12).varint()
    with pytest.raises(CorruptStreamError, match="limit"):
        ByteReader(b"\x09").varint(8)
