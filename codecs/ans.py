"""Tabled asymmetric numeral systems with one table per context, four interleaved streams.

Source: J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
compression rate of arithmetic coding", arXiv:1311.2540 (tANS); the spread of symbols and the encoder's
tables are those of Y. Collet's FSE (RFC 8878, section 4.1).

An unsigned value u < 2^20 becomes a symbol and raw bits: symbol u for u < 32; else, with k = floor(log2 u),
symbol 32 + 4(k - 5) + (the two bits below the leading one), and the k - 2 bits below those, raw.

The values of a row are cut into four consecutive segments of equal length (the first ones longer by one if
the length is not a multiple of four), one for each stream. All contexts of a row must be known before the
row is decoded; a stream has one state that runs through the tables of all contexts.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import load64
from dcmpress.codecs.jit import inline, njit

N_STREAMS = 4
N_CONTEXTS = 16
LOG_STATES = 11
N_STATES = 1 << LOG_STATES
N_SYMBOLS = 92
"""Symbols 0 to 91; 128 slots per context are kept."""
SLOTS = 128
MAX_SYMBOL_BITS = LOG_STATES + 17
"""Most bits that one value takes from a stream."""
START_BITS = 8 + LOG_STATES
"""Most bits before the first value: padding, marker, state."""

Array = NDArray[Any]

SYMBOL_RAW_BITS = np.array([0 if u < 32 else (u >> 2) - 5 for u in range(SLOTS)], np.uint32)


@njit
def normalise(histogram: Array, counts: Array) -> None:
    """Scale each row of `histogram` to a sum of N_STATES; every symbol that occurs keeps at least 1.

    The counts that cost least in code length are found greedily: a step from c to c + 1 saves
    h ln(1 + 1/c) ~ h / (c + 1/2). A context that never occurs gets symbol 0 alone.

    Parameters
    ----------
    histogram : int64 array, shape (N_CONTEXTS, SLOTS)
    counts : int64 array, shape (N_CONTEXTS, SLOTS); written
    """
    for context in range(histogram.shape[0]):
        total = 0
        for symbol in range(SLOTS):
            total += histogram[context, symbol]
            counts[context, symbol] = 0
        if total == 0:
            counts[context, 0] = N_STATES
            continue
        used = 0
        for symbol in range(SLOTS):
            h = histogram[context, symbol]
            if h > 0:
                counts[context, symbol] = max(1, h * N_STATES // total)
                used += counts[context, symbol]
        while used != N_STATES:
            best = -1
            best_value = 0.0
            for symbol in range(SLOTS):
                c = counts[context, symbol]
                if c == 0:
                    continue
                if used < N_STATES:
                    value = histogram[context, symbol] / (c + 0.5)
                    if best < 0 or value > best_value:
                        best, best_value = symbol, value
                elif c > 1:
                    value = histogram[context, symbol] / (c - 0.5)
                    if best < 0 or value < best_value:
                        best, best_value = symbol, value
            step = 1 if used < N_STATES else -1
            counts[context, best] += step
            used += step


@inline
def _log2(value: int) -> int:
    bits = 0
    while value > 1:
        value >>= 1
        bits += 1
    return bits


@njit
def build_encoder(counts: Array, steps: Array, states: Array) -> None:
    """Fill the encoder's tables from normalised counts.

    Parameters
    ----------
    counts : int64 array, shape (N_CONTEXTS, SLOTS)
    steps : uint64 array, shape (N_CONTEXTS * SLOTS,); written
        Low 24 bits: (bits << 16) - threshold; next 8: raw bits; high 32: offset into `states`.
    states : uint16 array, shape ((N_CONTEXTS + 1) * N_STATES,); written
    """
    spread = np.empty(N_STATES, np.uint8)
    position = np.empty(SLOTS, np.int64)
    for context in range(N_CONTEXTS):
        _spread(counts[context], spread)
        total = 0
        for symbol in range(SLOTS):
            c = counts[context, symbol]
            position[symbol] = total
            if c > 0:
                bits = LOG_STATES if c == 1 else LOG_STATES - _log2(c - 1)
                offset = total - c + (context + 1) * N_STATES
                steps[context * SLOTS + symbol] = (
                    np.uint64((bits << 16) - (c << bits))
                    | np.uint64(SYMBOL_RAW_BITS[symbol]) << np.uint64(24)
                    | np.uint64(offset) << np.uint64(32)
                )
            total += c
        for s in range(N_STATES):
            found = np.int64(spread[s])
            states[(context + 1) * N_STATES + position[found]] = N_STATES + s
            position[found] += 1


@njit
def build_decoder(counts: Array, table: Array) -> None:
    """Fill the decoder's table from counts that sum to N_STATES in each context.

    Parameters
    ----------
    table : uint32 array, shape (N_CONTEXTS * N_STATES,); written
        From bit 0: state bits (8), state + raw bits (8), next state (11), what stands before the raw bits (5).
    """
    spread = np.empty(N_STATES, np.uint8)
    following = np.empty(SLOTS, np.int64)
    for context in range(N_CONTEXTS):
        _spread(counts[context], spread)
        following[:] = counts[context]
        for s in range(N_STATES):
            symbol = np.int64(spread[s])
            x = following[symbol]
            following[symbol] += 1
            bits = LOG_STATES - _log2(x)
            head = symbol if symbol < 32 else 4 + (symbol & 3)
            table[context * N_STATES + s] = (
                bits
                | (bits + np.int64(SYMBOL_RAW_BITS[symbol])) << 8
                | ((x << bits) - N_STATES) << 16
                | head << 27
            )


@inline
def _spread(counts: Array, spread: Array) -> None:
    position = 0
    for symbol in range(SLOTS):
        for _ in range(counts[symbol]):
            spread[position] = symbol
            position = (position + (N_STATES >> 1) + (N_STATES >> 3) + 3) & (N_STATES - 1)


@inline
def _push(token: Any, state: Any, window: Any, filled: Any, steps: Array, states: Array) -> Any:
    step = steps[np.uint64(token & np.uint32(2047))]
    low = np.int64(step & np.uint64(0xFFFFFF))
    raw_bits = np.int64((step >> np.uint64(24)) & np.uint64(31))
    bits = (state + low) >> 16
    raw = np.int64(token >> np.uint32(11))
    field = (raw << bits) | (state & ((1 << bits) - 1))
    width = bits + raw_bits
    following = np.int64(states[np.uint64((state >> bits) + np.int64(step >> np.uint64(32)))])
    return following, (window << width) | field, filled + width


@njit
def write_streams(
    tokens: Array, row_lengths: Array, steps: Array, states: Array, out: Array, ends: Array
) -> None:
    """Encode a frame's tokens into four streams, last row first.

    Parameters
    ----------
    tokens : uint32 array
        raw << 11 | context << 7 | symbol, row after row.
    row_lengths : int64 array, shape (rows,)
        Tokens in each row.
    steps, states : see `build_encoder`
    out : uint32 array, shape (N_STREAMS, n); written from the end of each row of it
    ends : int64 array, shape (N_STREAMS, 4); written
        Words left free in `out`, then the window, its bits, and the state.
    """
    a = b = c = d = np.int64(N_STATES)
    aw = bw = cw = dw = np.int64(0)
    an = bn = cn = dn = np.int64(0)
    ap = bp = cp = dp = np.int64(out.shape[1])
    first = out[0]
    second = out[1]
    third = out[2]
    fourth = out[3]
    end = np.int64(len(tokens))
    for row in range(len(row_lengths) - 1, -1, -1):
        length = row_lengths[row]
        quarter = length >> 2
        rest = length & 3
        i = end - length
        j = i + quarter + (1 if rest > 0 else 0)
        k = j + quarter + (1 if rest > 1 else 0)
        m = k + quarter + (1 if rest > 2 else 0)
        end = i
        n = quarter
        while n >= 0:
            # The streams of the longer segments have one more value, at n == quarter.
            if n < quarter or rest > 0:
                a, aw, an = _push(tokens[np.uint64(i + n)], a, aw, an, steps, states)
                if an >= 32:
                    ap -= 1
                    an -= 32
                    first[np.uint64(ap)] = np.uint32(aw >> an)
            if n < quarter or rest > 1:
                b, bw, bn = _push(tokens[np.uint64(j + n)], b, bw, bn, steps, states)
                if bn >= 32:
                    bp -= 1
                    bn -= 32
                    second[np.uint64(bp)] = np.uint32(bw >> bn)
            if n < quarter or rest > 2:
                c, cw, cn = _push(tokens[np.uint64(k + n)], c, cw, cn, steps, states)
                if cn >= 32:
                    cp -= 1
                    cn -= 32
                    third[np.uint64(cp)] = np.uint32(cw >> cn)
            if n < quarter:
                d, dw, dn = _push(tokens[np.uint64(m + n)], d, dw, dn, steps, states)
                if dn >= 32:
                    dp -= 1
                    dn -= 32
                    fourth[np.uint64(dp)] = np.uint32(dw >> dn)
            n -= 1
    ends[0, :] = (ap, aw, an, a)
    ends[1, :] = (bp, bw, bn, b)
    ends[2, :] = (cp, cw, cn, c)
    ends[3, :] = (dp, dw, dn, d)


def finish_streams(out: Array, ends: Array) -> list[bytes]:
    """Return the four streams: zero bits up to a byte, a marker bit 1, the state, then the values."""
    streams = []
    for stream in range(N_STREAMS):
        free, window, filled, state = (int(v) for v in ends[stream])
        head = (window & ((1 << filled) - 1)) << LOG_STATES | (state - N_STATES)
        head = head << 1 | 1
        filled += LOG_STATES + 1
        padding = -filled % 8
        head <<= padding
        words = out[stream, free:].astype("<u4", copy=False)
        streams.append(head.to_bytes((filled + padding) // 8, "little") + words.tobytes())
    return streams


@njit
def start_streams(buffer: Array, starts: Array, cursor: Array) -> Any:
    """Read the marker and state of each stream; False if a marker is missing.

    Parameters
    ----------
    buffer : uint8 array, with slack past the last stream
    starts : int64 array, shape (N_STREAMS + 1,), byte offsets; every stream has 3 bytes or more
    cursor : int64 array, shape (N_STREAMS, 2); written: bit position, state
    """
    for stream in range(N_STREAMS):
        first = np.int64(buffer[starts[stream]])
        if first == 0:
            return False
        zeros = 0
        while (first >> zeros) & 1 == 0:
            zeros += 1
        word = np.int64(0)
        for k in range(3):
            word |= np.int64(buffer[starts[stream] + k]) << (8 * k)
        cursor[stream, 0] = 8 * starts[stream] + zeros + 1 + LOG_STATES
        cursor[stream, 1] = (word >> (zeros + 1)) & (N_STATES - 1)
    return True


@inline
def _segments(length: Any) -> Any:
    """Return where the second, third and fourth segment of a row begin, and the values that all four have."""
    quarter = length >> 2
    rest = length & 3
    second = quarter + (1 if rest > 0 else 0)
    third = second + quarter + (1 if rest > 1 else 0)
    return second, third, third + quarter + (1 if rest > 2 else 0), quarter


@inline
def begin_row(contexts: Array, length: int, slots: Array) -> None:
    """Fill `slots`, uint32, with where the tables of the contexts begin, a value of each stream in turn."""
    j, k, m, quarter = _segments(length)
    for n in range(quarter):
        i = np.uint64(4 * n)
        slots[i] = np.uint32(contexts[np.uint64(n)]) << np.uint32(LOG_STATES)
        slots[i + np.uint64(1)] = np.uint32(contexts[np.uint64(j + n)]) << np.uint32(LOG_STATES)
        slots[i + np.uint64(2)] = np.uint32(contexts[np.uint64(k + n)]) << np.uint32(LOG_STATES)
        slots[i + np.uint64(3)] = np.uint32(contexts[np.uint64(m + n)]) << np.uint32(LOG_STATES)
    for stream in range(length & 3):
        first = 0 if stream == 0 else (j if stream == 1 else k)
        slots[4 * quarter + stream] = np.uint32(contexts[first + quarter]) << np.uint32(LOG_STATES)


@inline
def open_row(cursor: Array, limit: int) -> Any:
    """Return the positions and states of the streams, to be worked on by `pull_two` and put back by `close_row`.

    No check is made inside a row: it takes at most MAX_SYMBOL_BITS bits a value, so with positions held to `limit`
    (the end of the frame's data, in bits) at the row's start, the slack that `slack_bytes` gives past that end
    makes every load valid. Contexts must be below N_CONTEXTS.
    """
    most = np.uint64(limit)
    return (
        (min(np.uint64(cursor[0, 0]), most), np.uint64(cursor[0, 1])),
        (min(np.uint64(cursor[1, 0]), most), np.uint64(cursor[1, 1])),
        (min(np.uint64(cursor[2, 0]), most), np.uint64(cursor[2, 1])),
        (min(np.uint64(cursor[3, 0]), most), np.uint64(cursor[3, 1])),
    )


@inline
def _step(word: Any, state: Any, i: Any, slots: Array, words: Array, table: Array) -> Any:
    """Find table entry and bits of value `i`, for `finish_row`; return how many bits, and the next state.

    Only what the next value waits for is done here.
    """
    entry = table[np.uint64(slots[np.uint64(i)]) + state]
    slots[np.uint64(i)] = entry
    words[np.uint64(i)] = word
    found = np.uint64(entry)
    own = word & ((np.uint64(1) << (found & np.uint64(255))) - np.uint64(1))
    return (found >> np.uint64(8)) & np.uint64(255), (
        (found >> np.uint64(16)) & np.uint64(N_STATES - 1)
    ) + own


@inline
def pull_two(stream: Any, i: Any, slots: Array, words: Array, buffer: Array, table: Array) -> Any:
    """Read values `i` and `i + 4` of a row, the next two of a stream: 56 bits at most, which one load gives."""
    position, state = stream
    word = load64(buffer, position >> np.uint64(3)) >> (position & np.uint64(7))
    first, state = _step(word, state, i, slots, words, table)
    second, state = _step(word >> first, state, i + 4, slots, words, table)
    return position + first + second, state


@inline
def close_row(
    streams: Any, i: Any, length: Any, cursor: Array, slots: Array, words: Array, buffer: Array, table: Array
) -> None:
    """Read the values from `i`, a multiple of 8, on, and store the streams."""
    for stream in range(4):
        cursor[stream, 0], cursor[stream, 1] = streams[stream]
    for n in range(i, length):
        position = np.uint64(cursor[n & 3, 0])
        word = load64(buffer, position >> np.uint64(3)) >> (position & np.uint64(7))
        total, state = _step(word, np.uint64(cursor[n & 3, 1]), n, slots, words, table)
        cursor[n & 3, 0] = position + total
        cursor[n & 3, 1] = state


@inline
def _signed_value(entry: Any, word: Any) -> Any:
    bits = entry & np.uint32(255)
    raw_bits = np.uint32(np.uint32((entry >> np.uint32(8)) & np.uint32(31)) - bits)
    raw = np.uint32(word >> bits) & np.uint32(np.uint32(np.uint32(1) << raw_bits) - np.uint32(1))
    u = np.int32(np.uint32(np.uint32(entry >> np.uint32(27)) << raw_bits) | raw)
    return np.int32(np.int32(u >> 1) ^ np.int32(-np.int32(u & 1)))


@inline
def finish_row(slots: Array, words: Array, length: int, values: Array) -> None:
    """Turn what `pull_two` found into the signed values of a row, int32: 0, -1, 1, -2, 2... for 0, 1, 2, 3, 4."""
    j, k, m, quarter = _segments(length)
    for n in range(quarter):
        i = np.uint64(4 * n)
        values[np.uint64(n)] = _signed_value(slots[i], words[i])
        i += np.uint64(1)
        values[np.uint64(j + n)] = _signed_value(slots[i], words[i])
        i += np.uint64(1)
        values[np.uint64(k + n)] = _signed_value(slots[i], words[i])
        i += np.uint64(1)
        values[np.uint64(m + n)] = _signed_value(slots[i], words[i])
    for stream in range(length & 3):
        first = 0 if stream == 0 else (j if stream == 1 else k)
        values[first + quarter] = _signed_value(slots[4 * quarter + stream], words[4 * quarter + stream])


def slack_bytes(columns: int) -> int:
    """Return the bytes that a buffer needs past its last stream: one worst row of a stream, and a load."""
    return ((columns + 3) // 4 * MAX_SYMBOL_BITS + 7) // 8 + 16
