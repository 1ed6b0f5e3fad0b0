"""The pixel loop of the backward-adaptive core: predict, mix, code, learn.

`docs/codec-dense.md` describes every step. Encoder and decoder are one kernel: the only difference is in
`code_bit`. Positions are indices into flat padded planes; samples are whole levels, predictions and errors
are in 1/16 level.
"""

import numpy as np

from dcmpress.codecs.interframe.backward_filters import (
    BATCH,
    accumulate,
    adapt_taps,
    adapt_wide,
    collect_inter,
    collect_intra,
    collect_west,
    filter_taps,
    filter_wide,
    keep_sample,
    solve,
)
from dcmpress.codecs.interframe.backward_guess import FOUND, SURE, best_table, code_guess, look_up, remember
from dcmpress.codecs.interframe.backward_jit import inline, njit
from dcmpress.codecs.interframe.backward_lanes import (
    BLEND,
    LOWER,
    MEAN,
    SCALE,
    UPPER,
    lane_energies,
    lane_inputs,
    lane_narrow,
    lane_open,
    lane_quiet,
    lane_settle,
    scale_by_power,
)
from dcmpress.codecs.interframe.backward_mixer import RATE, learn, mix, refine, refined, squash
from dcmpress.codecs.interframe.backward_tables import QUANTILE, RATIO_CLASS
from dcmpress.codecs.interframe.backward_vector import LANES
from dcmpress.codecs.interframe.binary_coder import code_bit

U = np.uint64  # an unsigned index saves the test for a negative one
F = np.float32

PAD = 4
"""Samples around a plane on each side."""
NODES = 32
"""Places in the tree of decisions: 15 quantiles, 8 steps up, 8 steps down."""
ENERGY_CONTEXTS = 24
SIGN_CONTEXTS = 16 * 9
LEVELS = 128
"""Intensity contexts, at most."""
VALUES = 4096
"""Edges told apart by the refinement by value."""
BIAS_CONTEXTS = 16 * 27
QUIET_KINDS = 4
_QUIET_SURE = 64000 << 6
_YOUNG = 1 << 16  # pixels during which every other one trains the least squares
_RLMS = 2  # the lane whose errors weight the least squares


@inline
def clamp(v, low, high):
    return min(max(v, low), high)


@inline
def median_edge(w, n, nw):
    """The median edge detector of JPEG-LS (ISO 14495-1, A.3)."""
    return clamp(w + n - nw, min(w, n), max(w, n))


@inline
def magnitude(v):
    return abs(np.int64(v))


@inline
def three_way(v, dead):
    """0, 1, 2: below, within, above the dead zone."""
    return np.int64(v > dead) - np.int64(v < -dead) + np.int64(1)


@inline
def to_sixteenths(p, top):
    """Round a float32 in 1/16 level to an integer of 0 to `top`; NaN gives 0."""
    if p > F(0.0):
        return min(np.int64(min(p, F(1 << 21)) + F(0.5)), top)
    return np.int64(0)


@inline
def exp_negative(z):
    """exp(-z) for one lane, by the same steps as `backward_vector.exp_negative`."""
    y = z * F(-1.4426950216293335)
    shifted = y + F(12582912.0)
    f = y - (shifted - F(12582912.0))
    f2 = f * f
    low = f * F(0.6931469440460205) + F(1.0)
    middle = f * F(0.05550742521882057) + F(0.24022121727466583)
    high = f * F(0.0013266975292935967) + F(0.00967546459287405)
    return scale_by_power(low + f2 * (middle + f2 * high), shifted)


@inline
def pad_row(plane, reference, has_reference, y, o, stride, columns):
    """Extend row `y`, whose first sample is at `o`, by the row above; give row 0 rows above it."""
    if y == 0:
        for j in range(1, PAD + 1):
            for i in range(stride):
                plane[U(o - PAD - j * stride + i)] = reference[U(o - PAD + i)] if has_reference else 0
    for i in range(1, PAD + 1):
        plane[U(o - i)] = plane[U(o - stride)]
        plane[U(o + columns - 1 + i)] = plane[U(o - stride + columns - 1)]


@inline
def pad_below(plane, rows, columns, stride):
    """Repeat the last row below the plane, for the planes that it predicts."""
    o = (rows - 1 + PAD) * stride
    for i in range(PAD):
        plane[U(o + i)] = plane[U(o + PAD)]
        plane[U(o + PAD + columns + i)] = plane[U(o + PAD + columns - 1)]
    for j in range(1, PAD + 1):
        for i in range(stride):
            plane[U(o + j * stride + i)] = plane[U(o + i)]


@inline
def quiet_kind(plane, reference, has_reference, o, stride):
    """What is quiet around `o`: 0 nothing, 1 this plane is flat, 2 the reference too, 3 nothing has moved."""
    n = o - stride
    w = plane[U(o - 1)]
    flat = plane[U(n)] == w and plane[U(n - 1)] == w and plane[U(n + 1)] == w and plane[U(o - 2)] == w
    if not has_reference:
        return 1 if flat else 0
    if flat and reference[U(o)] == w and reference[U(o + 1)] == w and reference[U(o + stride)] == w:
        return 2
    if (
        w == reference[U(o - 1)]
        and plane[U(n)] == reference[U(n)]
        and plane[U(n - 1)] == reference[U(n - 1)]
        and plane[U(n + 1)] == reference[U(n + 1)]
        and plane[U(o - 2)] == reference[U(o - 2)]
    ):
        return 3
    return 0


@inline
def temporal_energy(final, o, stride):
    """What the reference's own prediction missed at this place and beside it."""
    beside = (
        magnitude(final[U(o - 1)])
        + magnitude(final[U(o + 1)])
        + magnitude(final[U(o - stride)])
        + magnitude(final[U(o + stride)])
    )
    return magnitude(final[U(o)]) + (beside >> 1)


@inline
def training_weight(lines, here, above, reference_error, has_reference):
    """Power of two about the inverse of the expected error: least squares count quiet samples more."""
    e = (
        2 * (np.int64(lines[U(here - LANES + _RLMS)]) + np.int64(lines[U(above + _RLMS)]))
        + np.int64(lines[U(above - LANES + _RLMS)])
        + np.int64(lines[U(above + LANES + _RLMS)])
    )
    e = (e + 2 * reference_error) >> 3 if has_reference else (e * 43) >> 8
    e = ((e + 16) * 181) >> 8
    weight = F(1.0)
    while e >= 16:
        weight *= F(0.5)
        e >>= 1
    return weight


@inline
def next_edge(heap, step, low, high, blend, sigma, max_value):
    """Return where to cut [low, high) next and the node of that cut, -1 for plain bisection.

    Below depth 4 of the quantile tree (`heap` >= 16) an open end is approached in doubling steps.
    """
    if heap < 16:
        return (blend + ((sigma * np.int64(QUANTILE[U(heap)])) >> 18) + 8) >> 4, np.int64(heap)
    if high - low > ((8 * sigma) >> 12) + 8:
        if high > max_value:
            return min(low + 1 + ((sigma << step) >> 12), high - 1), 16 + min(step, 7)
        if low == 0:
            return max(high - 1 - ((sigma << step) >> 12), np.int64(1)), 24 + min(step, 7)
    return (low + high) >> 1, np.int64(-1)


@inline
def bisection(lanes, edge):
    """Return P(sample >= edge) of the blend alone, in 1/65536, and exp(-z) at the edge."""
    z = (edge - lanes[U(MEAN + BLEND)]) * lanes[U(SCALE + BLEND)]
    x = exp_negative(min(max(z, F(-40.0)), F(40.0)))
    upper = lanes[U(UPPER + BLEND)]
    lower = lanes[U(LOWER + BLEND)]
    above = max(x - upper, x * F(1.0 / 65536.0)) * (F(1.0) + lower)
    below = max(F(1.0) - x * lower, F(1.0 / 65536.0)) * (F(1.0) + upper)
    return clamp(np.int64(F(65536.0) * (above / (above + below))), 256, 65536 - 256), x


@inline
def chance_of(lanes, value):
    """Return P(sample = value) of the blend alone, in 1/65536, 1 to 65535."""
    z = (F(16 * value + 8) - lanes[U(MEAN + BLEND)]) * lanes[U(SCALE + BLEND)]
    above = exp_negative(min(max(z, F(-40.0)), F(40.0)))
    z = (F(16 * value - 8) - lanes[U(MEAN + BLEND)]) * lanes[U(SCALE + BLEND)]
    below = exp_negative(min(max(z, F(-40.0)), F(40.0)))
    return clamp(np.int64(F(65536.0) * (F(1.0) / (F(1.0) + above) - F(1.0) / (F(1.0) + below))), 1, 65535)


@inline
def same_as(value, w, n, p, has_reference):
    """Which of W, N and P a guess equals, bits 5 to 7."""
    return np.int64(value == w) << 5 | np.int64(value == n) << 6 | np.int64(has_reference and value == p) << 7


@inline
def error_energy(lines, here, above):
    """Bits of the blend's errors at W and N together, at most 15."""
    e = np.int64(lines[U(here - LANES + BLEND)]) + np.int64(lines[U(above + BLEND)])
    bits = np.int64(0)
    while e > 0 and bits < 15:
        e >>= 1
        bits += 1
    return bits


@njit
def code_plane(
    encode, wide, guessing,
    plane, reference, second, has_reference, residual, residual_reference, final, final_reference,
    rows, columns, max_value, n_taps,
    covariance, samples, counts, w_ols, w_pixel, w_residual,
    bias, mean_error, observed, mix_a, mix_b, mix_c, final_mix, apm_value, apm_level, quiet, level_of,
    slots, found, hits, chances, guess_weights, guess_refinement, guess_odds,
    work, taps, around, lanes, classes, inputs, lines, buffer, registers,
):  # fmt: skip
    """Encode or decode one plane and learn from it.

    `plane`, `reference`, `second` (the reference's reference), their `residual` (sample - base) and `final`
    (sample - blend) are flat int32 of (rows + 8) * (columns + 8); the last two are zero where not yet set.
    Of revision 2 are `wide`, residuals further west are filtered too, and `guessing`, whole samples are guessed.
    `n_taps` is TAPS, handed over so that LLVM vectorises the loops instead of unrolling them. `counts` holds
    the samples kept for the next batch and the pixels modelled so far; `registers` those of the coder.
    The other arrays are those of `backward.Model`.
    """
    stride = np.int64(columns + 2 * PAD)
    acc = registers[0]
    rng = registers[1]
    pos = registers[2]
    top = np.int64(max_value) << 4
    value_shift = np.int64(0)
    while max_value >> value_shift >= VALUES:
        value_shift += 1
    line_size = (columns + 4) * LANES
    n_kept = counts[0]
    n_modelled = counts[1]

    for y in range(rows):
        o = np.int64((y + PAD) * stride + PAD) - 1
        pad_row(plane, reference, has_reference, y, o + 1, stride, columns)
        here = np.int64(y % 3) * line_size + LANES
        above = np.int64((y + 2) % 3) * line_size + LANES
        far = np.int64((y + 1) % 3) * line_size + LANES
        for x in range(columns):
            o += 1
            here += LANES
            above += LANES
            far += LANES
            n = o - stride
            W = np.int64(plane[U(o - 1)])
            N = np.int64(plane[U(n)])
            NW = np.int64(plane[U(n - 1)])
            NE = np.int64(plane[U(n + 1)])
            P = np.int64(reference[U(o)])

            # Where all is quiet, one decision says that it stays so.
            kind = quiet_kind(plane, reference, has_reference, o, stride)
            guess = P if kind == 3 else W
            p_quiet = np.int64(quiet[U(kind)])
            if kind > 0 and p_quiet > _QUIET_SURE:
                bit = np.int64(np.int64(plane[U(o)]) == guess)
                bit, acc, rng, pos = code_bit(
                    encode, bit, clamp(p_quiet >> 6, 1, 65535), acc, rng, pos, buffer
                )
                quiet[U(kind)] = p_quiet + (((bit << 22) - p_quiet) >> 6)
                if bit:
                    plane[U(o)] = np.int32(guess)
                    residual[U(o)] = 0
                    final[U(o)] = 0
                    lane_quiet(lines, here)
                    continue

            # Where all has been seen before, ask whether it is the same again.
            value = np.int64(plane[U(o)])
            known = False
            missed = np.int64(-1)
            missed_too = np.int64(-1)
            if guessing:
                pattern = look_up(plane, reference, has_reference, o, stride, slots, found)
                error_bits = error_energy(lines, here, above)
                table, chance = best_table(found, hits, missed)
                if chance > SURE:
                    guessed = found[U(table * FOUND + 3)]
                    same = pattern | same_as(guessed, W, N, P, has_reference)
                    bit, acc, rng, pos = code_guess(
                        encode, np.int64(value == guessed), 0, table, same, error_bits, np.int64(-1),
                        found, hits, chances, guess_weights, guess_refinement, guess_odds,
                        acc, rng, pos, buffer,
                    )  # fmt: skip
                    if bit:
                        plane[U(o)] = np.int32(guessed)
                        residual[U(o)] = 0
                        final[U(o)] = 0
                        lane_quiet(lines, here)
                        remember(found, hits, slots, guessed)
                        if kind > 0 and p_quiet <= _QUIET_SURE:
                            quiet[U(kind)] = p_quiet + (((np.int64(guessed == guess) << 22) - p_quiet) >> 6)
                        continue
                    missed = guessed

            # Predict.
            if has_reference:
                collect_inter(plane, reference, second, o, stride, taps)
                collect_inter(residual, residual_reference, residual_reference, o, stride, around)
                Pw = np.int64(reference[U(o - 1)])
                Pn = np.int64(reference[U(n)])
                simple = P + median_edge(W - Pw, N - Pn, NW - np.int64(reference[U(n - 1)]))
                other = P
                temporal = temporal_energy(final_reference, o, stride)
            else:
                collect_intra(plane, plane, plane, o, stride, taps)
                collect_intra(residual, residual, residual, o, stride, around)
                simple = median_edge(W, N, NW)
                other = NE
                temporal = np.int64(0)
            dot, _ = filter_taps(taps, w_ols, F(W))
            base = to_sixteenths((F(W) + dot) * F(16.0), top)
            base32 = F(base)
            base_level = base32 * F(0.0625)
            dot, norm_pixel = filter_taps(taps, w_pixel, base_level)
            nlms = to_sixteenths(base32 + dot * F(16.0), top)
            if wide:
                collect_west(residual, o, around)
                dot, norm_residual = filter_wide(around, w_residual, F(0.0))
            else:
                dot, norm_residual = filter_taps(around, w_residual, F(0.0))
            rlms = to_sixteenths(base32 + dot, top)
            step_to_blend = lane_energies(
                lines, here, above, far, np.int32(temporal), has_reference, lanes, classes,
                F(clamp(simple << 4, 0, top)), F(nlms), F(rlms), F(other << 4), base32, F(W << 4), F(N << 4),
                base32,
            )  # fmt: skip

            # Contexts.
            blend_class = np.int64(classes[U(BLEND)]) >> 3
            m = np.int64(mean_error[U(classes[U(BLEND)])] * F(256.0))  # 1/4096 level
            fw = np.int64(final[U(o - 1)])
            fn = np.int64(final[U(n)])
            fp = np.int64(final_reference[U(o)])
            signs = 3 * three_way(fw, m >> 10) + three_way(fn, m >> 10)
            bias_context = clamp(blend_class >> 2, 0, 15) * 27 + 3 * signs + three_way(fp, m >> 10)
            blend = to_sixteenths(base32 + step_to_blend + F(bias[U(bias_context)]) * F(1.0 / 4096.0), top)
            lane_open(lanes, classes, mean_error, F(blend))
            scale = lanes[U(SCALE + BLEND)] * F(11.54)  # |error| to 1/16 of the expected |error|
            q1 = np.int64(RATIO_CLASS[U(np.int64(min(F(abs(fw)) * scale, F(127.0))))])
            q2 = np.int64(RATIO_CLASS[U(np.int64(min(F(abs(fn)) * scale, F(127.0))))])
            energy_context = min((blend_class * 43) >> 7, ENERGY_CONTEXTS - 1)
            sign_context = (4 * (q1 >> 1) + (q2 >> 1)) * 9 + signs
            level = np.int64(level_of[U((blend + 8) >> 4)])
            sigma = (737 * (m + 82)) >> 10
            rate = RATE + clamp(RATE - (n_modelled >> 10), 0, RATE)
            n_modelled += 1

            # Guess, now that there is a prediction to weigh it by.
            if guessing:
                first = np.int64(missed < 0)
                for turn in range(1 + first):
                    table, _ = best_table(found, hits, missed)
                    if table < 0:
                        break
                    guessed = found[U(table * FOUND + 3)]
                    same = pattern | same_as(guessed, W, N, P, has_reference)
                    bit, acc, rng, pos = code_guess(
                        encode, np.int64(value == guessed), 2 - first + turn, table, same, error_bits,
                        chance_of(lanes, guessed),
                        found, hits, chances, guess_weights, guess_refinement, guess_odds,
                        acc, rng, pos, buffer,
                    )  # fmt: skip
                    if bit:
                        known = True
                        value = guessed
                        break
                    missed_too = missed
                    missed = guessed

            # Code the sample, cut by cut.
            low = value if known else np.int64(0)
            high = (value if known else np.int64(max_value)) + 1
            heap = np.int64(1)
            step = np.int64(0)
            while high - low > 1:
                if guessing:
                    if low in (missed, missed_too):
                        low += 1
                        continue
                    if high - 1 in (missed, missed_too):
                        high -= 1
                        continue
                edge, node = next_edge(heap, step, low, high, blend, sigma, max_value)
                if edge <= low:
                    heap = 2 * heap + 1
                    continue
                if edge >= high:
                    heap = 2 * heap
                    continue
                edge32 = F(16 * edge - 8)
                if node < 0:
                    p, far_x = bisection(lanes, edge32)
                    bit, acc, rng, pos = code_bit(encode, np.int64(value >= edge), p, acc, rng, pos, buffer)
                    if bit:
                        low = edge
                        lanes[U(LOWER + BLEND)] = F(1.0) / far_x
                    else:
                        high = edge
                        lanes[U(UPPER + BLEND)] = far_x
                    continue
                step += np.int64(node >= 16)
                lane_inputs(lanes, inputs, edge32)
                a = (node * ENERGY_CONTEXTS + energy_context) * LANES
                b = (node * SIGN_CONTEXTS + sign_context) * LANES
                c = (node * LEVELS + level) * LANES
                f = (node * ENERGY_CONTEXTS + energy_context) * 3
                sa, sb, sc, mixed = mix(inputs, mix_a, mix_b, mix_c, final_mix, a, b, c, f)
                place = (clamp(mixed, -2047, 2047) + 2048) * 32
                p_value, i = refined(apm_value, edge >> value_shift, place)
                p_level, j = refined(apm_level, node * LEVELS + level, place)
                p = clamp((2 * squash(mixed) + 3 * p_value + 3 * p_level + 4) >> 3, 1, 65535)
                bit, acc, rng, pos = code_bit(encode, np.int64(value >= edge), p, acc, rng, pos, buffer)
                if bit:
                    low = edge
                else:
                    high = edge
                heap = 2 * heap + bit
                learn(inputs, mix_a, mix_b, mix_c, final_mix, a, b, c, f, sa, sb, sc, mixed, bit, rate)
                refine(apm_value, i, bit)
                refine(apm_level, j, bit)
                lane_narrow(lanes, bit)
            value = low
            plane[U(o)] = np.int32(value)
            if guessing:
                remember(found, hits, slots, value)
            if kind > 0 and p_quiet <= _QUIET_SURE:
                quiet[U(kind)] = p_quiet + (((np.int64(value == guess) << 22) - p_quiet) >> 6)

            # Learn.
            v16 = value << 4
            error = v16 - blend
            lane_settle(lanes, classes, mean_error, observed, lines, here, F(v16))
            final[U(o)] = np.int32(error)
            residual[U(o)] = np.int32(v16 - base)
            if abs(error) < 3 * (m >> 8) + 16:
                bias[U(bias_context)] += np.int32(20 * error)
            limit = 4 * ((m + 82) >> 8) + 16  # an outlier must not turn the filters
            gain = F(clamp(v16 - nlms, -limit, limit)) * F(0.1 / 16.0) / (norm_pixel + F(58.125))
            adapt_taps(taps, w_pixel, base_level, gain)
            rate_residual = F(0.03) if wide else F(0.02)
            gain = F(clamp(v16 - rlms, -limit, limit)) * rate_residual / (norm_residual + F(207360.0))
            if wide:
                adapt_wide(around, w_residual, F(0.0), gain)
            else:
                adapt_taps(around, w_residual, F(0.0), gain)
            one_in = 2 if n_modelled < _YOUNG else 4 if has_reference else 8
            if (x + 3 * y) & (one_in - 1) == 0:
                weight = training_weight(lines, here, above, abs(fp), has_reference)
                keep_sample(taps, F(value), weight, samples, n_kept, n_taps)
                n_kept += 1
                if n_kept == BATCH:
                    n_kept = 0
                    accumulate(covariance, samples)
                    solve(covariance, work, w_ols)
    pad_below(plane, np.int64(rows), np.int64(columns), stride)
    registers[0] = acc
    registers[1] = rng
    registers[2] = pos
    counts[0] = n_kept
    counts[1] = n_modelled
