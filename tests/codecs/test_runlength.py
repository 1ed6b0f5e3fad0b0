"""Tokens, runs and Golomb-Rice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.golomb_rice import rice_bits, rice_decode, rice_encode
from dcmpress.codecs.leb128 import Cursor
from dcmpress.codecs.runlength import (
    HUFFMAN,
    LARGEST,
    RICE,
    RUN_LENGTH,
    cheapest_tokens,
    coded_bits,
    estimated_bits,
    pack_residuals,
    token_counts,
    unpack_residuals,
    write_tokens,
)

residual_lists = st.lists(
    st.one_of(
        st.just([0]), st.integers(1, 400).map(lambda n: [0] * n), st.integers(0, LARGEST).map(lambda z: [z])
    ),
    max_size=40,
).map(lambda parts: np.array([z for part in parts for z in part], np.uint32))


@given(residual_lists, st.sampled_from([HUFFMAN, RUN_LENGTH, RICE]))
@settings(max_examples=300, deadline=None)
def test_round_trip(residuals, coder):
    packed = pack_residuals(residuals, coder)
    cursor = Cursor(memoryview(packed))
    assert np.array_equal(unpack_residuals(cursor, residuals.size), residuals)
    cursor.finish()
    for size in range(len(packed)):
        with pytest.raises(CodecError):
            unpack_residuals(Cursor(memoryview(packed)[:size]), residuals.size)


@given(residual_lists)
@settings(deadline=None)
def test_counts_are_those_of_the_tokens(residuals):
    for counts, runs in zip(token_counts(residuals), (False, True), strict=True):
        tokens, extra = write_tokens(residuals, runs, 64 * residuals.size)
        assert np.array_equal(np.bincount(tokens, minlength=256), counts)
        assert coded_bits(counts) >= 0
        assert extra.size == 8 * residuals.size


def test_tokens_by_hand():
    # five zeros are 1 + 2*2: digits 1, 2; v = 300 has m = 8, next bits 00, six low bits 44
    residuals = np.array([0, 0, 0, 0, 0, 7, 0, 0, 299, 0], np.uint32)
    tokens, extra = write_tokens(residuals, True, 6)
    assert tokens.tolist() == [1, 0, 8, 0, 132, 1]
    assert extra.tolist() == [44]
    assert write_tokens(residuals, False, 6)[0].tolist() == [1, 1, 1, 1, 1, 8, 1, 1, 132, 1]


def test_rice_by_hand():
    # k = 1 in five bits, then 5 = 110 and low bit 1, 2 = 10 and low bit 0
    coded = rice_encode(np.array([5, 2, 3, 3], np.uint32))
    bits = "".join(f"{byte:08b}"[::-1] for byte in coded)
    assert bits.startswith("10000" + "1101" + "100" + "101" + "101")
    assert rice_bits(np.array([5, 2, 3, 3], np.uint32)) == 18
    assert len(coded) == 3


def test_long_runs_are_cheap():
    residuals = np.zeros(100_000, np.uint32)
    assert len(pack_residuals(residuals, RUN_LENGTH)) < 30
    assert cheapest_tokens(residuals)[0] < 100


def test_without_runs_where_they_cost():
    residuals = np.random.default_rng(1).integers(0, 9, 5000).astype(np.uint32)
    bits = {
        coder: coded_bits(c) for coder, c in zip((HUFFMAN, RUN_LENGTH), token_counts(residuals), strict=True)
    }
    estimate, coder = cheapest_tokens(residuals)
    assert bits[coder] == min(bits.values())
    assert estimate == pytest.approx(bits[coder], rel=0.02)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_the_estimate_is_near_huffmans_code(share):
    residuals = (np.random.default_rng(3).geometric(share, 20000) - 1).astype(np.uint32)
    for counts in token_counts(residuals):
        assert estimated_bits(counts) == pytest.approx(coded_bits(counts), rel=0.15)


def test_hostile_tokens():
    rng = np.random.default_rng(2)
    packed = pack_residuals(rng.geometric(0.02, 300).astype(np.uint32) * 9, RUN_LENGTH)
    rice = pack_residuals(rng.geometric(0.02, 300).astype(np.uint32) * 9, RICE)
    refused = 0
    for data in (packed, rice):
        for _ in range(2000):
            damaged = bytearray(data)
            damaged[rng.integers(len(damaged))] = rng.integers(256)
            try:
                unpack_residuals(Cursor(memoryview(damaged)), 300)
            except CorruptStreamError:
                refused += 1
    assert refused > 500


def test_rice_ends_where_it_ends():
    coded = np.frombuffer(rice_encode(np.arange(40, dtype=np.uint32)), np.uint8)
    with pytest.raises(CorruptStreamError):
        rice_decode(coded, 41 + 64)
    with pytest.raises(CorruptStreamError):
        rice_decode(coded, 20)
