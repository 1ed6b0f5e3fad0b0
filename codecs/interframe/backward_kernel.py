"""The pixel loop of the backward-adaptive core: predict, mix, code, learn."""

import numpy as np

from dcmpress.codecs.interframe.backward_filters import (
    BATCH,
    TAPS,
    accumulate,
    adapt_taps,
    collect_inter,
    collect_intra,
    filter_taps,
    keep_sample,
    solve,
)
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

U = np.uint64
F = np.float32
PAD = 4
NODES = 32
QA = 24
QB = 16
LEVELS = 64
VALUES = 4096
FLAT_CONTEXTS = 8


@inline
def clamp(v, low, high):
    return min(max(v, low), high)


@inline
def median_edge(w, n, nw):
    return clamp(w + n - nw, min(w, n), max(w, n))


@inline
def to_level(p, top):
    """Round a float32 in 1/16 level to int64 and clamp it to 0..top; NaN gives 0."""
    if p > F(0.0):
        return min(np.int64(min(p, F(1 << 21)) + F(0.5)), top)
    return np.int64(0)


@inline
def exp_scalar(z):
    """exp(-z) for one lane, the same steps as `backward_vector.exp_negative`."""
    y = z * F(-1.4426950216293335)
    shifted = y + F(12582912.0)
    f = y - (shifted - F(12582912.0))
    f2 = f * f
    low = f * F(0.6931469440460205) + F(1.0)
    middle = f * F(0.05550742521882057) + F(0.24022121727466583)
    high = f * F(0.0013266975292935967) + F(0.00967546459287405)
    return scale_by_power(low + f2 * (middle + f2 * high), shifted)


@inline
def absolute(v):
    return abs(np.int64(v))


@njit
def code_plane(
    encode, plane, reference, second, has_reference, residual, residual_reference, final, final_reference,
    rows, columns, max_value, n_taps,
    covariance, samples, fill, w_ols, w_pixel, w_residual, bias, mean_error, count,
    mix_a, mix_b, mix_c, final_mix, apm_value, apm_level, flat, level_of, work, taps, around, lanes, classes, inputs, lines, buffer, registers,
):  # fmt: skip
    stride = np.int64(columns + 2 * PAD)
    acc = registers[0]
    rng = registers[1]
    pos = registers[2]
    top = np.int64(max_value) << 4
    value_shift = np.int64(12)
    while max_value >> value_shift:
        value_shift += 1
    line_size = (columns + 4) * LANES
    n_samples = np.int64(fill[0])
    zero32 = F(0.0)

    for y in range(rows):
        o = np.int64((y + PAD) * stride + PAD)
        if y == 0:
            for j in range(1, PAD + 1):
                for i in range(stride):
                    plane[U(o - PAD - j * stride + i)] = reference[U(o - PAD + i)] if has_reference else 0
        for i in range(1, PAD + 1):
            plane[U(o - i)] = plane[U(o - stride)]
            plane[U(o + columns - 1 + i)] = plane[U(o - stride + columns - 1)]
        here = np.int64(y % 3) * line_size + LANES
        above = np.int64((y + 2) % 3) * line_size + LANES
        far = np.int64((y + 1) % 3) * line_size + LANES
        for x in range(columns):
            here += LANES
            above += LANES
            far += LANES
            n_o = o - stride
            W = np.int64(plane[U(o - 1)])
            N = np.int64(plane[U(n_o)])
            NW = np.int64(plane[U(n_o - 1)])
            NE = np.int64(plane[U(n_o + 1)])
            WW = np.int64(plane[U(o - 2)])
            P = np.int64(reference[U(o)])
            Pw = np.int64(reference[U(o - 1)])
            Pn = np.int64(reference[U(n_o)])
            # Where everything around is equal, one decision says that it stays so.
            kind = 0
            guess = W
            if W == N and W == NW and W == NE and W == WW:
                if not has_reference:
                    kind = 1
                elif P == W and np.int64(reference[U(o + 1)]) == W and np.int64(reference[U(o + stride)]) == W:
                    kind = 2
            if (
                kind == 0
                and has_reference
                and W == Pw
                and N == Pn
                and NW == np.int64(reference[U(n_o - 1)])
                and NE == np.int64(reference[U(n_o + 1)])
                and WW == np.int64(reference[U(o - 2)])
            ):
                kind = 3
                guess = P
            if kind:
                p_hit = np.int64(flat[U(kind)])
                if p_hit > 64000 << 6:
                    bit = np.int64(np.int64(plane[U(o)]) == guess)
                    bit, acc, rng, pos = code_bit(encode, bit, clamp(p_hit >> 6, 1, 65535), acc, rng, pos, buffer)
                    flat[U(kind)] = p_hit + (((bit << 22) - p_hit) >> 6)
                    if bit:
                        plane[U(o)] = np.int32(guess)
                        residual[U(o)] = 0
                        final[U(o)] = 0
                        lane_quiet(lines, here)
                        o += 1
                        continue
            # --- predictions
            if has_reference:
                collect_inter(plane, reference, second, o, stride, taps)
                collect_inter(residual, residual_reference, residual_reference, o, stride, around)
            else:
                collect_intra(plane, plane, plane, o, stride, taps)
                collect_intra(residual, residual, residual, o, stride, around)
            dot, norm = filter_taps(taps, w_ols, F(W))
            base = to_level((F(W) + dot) * F(16.0), top)
            base32 = F(base)
            base_level = base32 * F(0.0625)
            dot, norm_pixel = filter_taps(taps, w_pixel, base_level)
            p1 = to_level(base32 + dot * F(16.0), top)
            dot, norm_residual = filter_taps(around, w_residual, zero32)
            p2 = to_level(base32 + dot, top)
            if has_reference:
                med = P + median_edge(W - Pw, N - Pn, NW - np.int64(reference[U(n_o - 1)]))
                other = P
                temporal = absolute(final_reference[U(o)]) + (
                    (
                        absolute(final_reference[U(o - 1)])
                        + absolute(final_reference[U(o + 1)])
                        + absolute(final_reference[U(n_o)])
                        + absolute(final_reference[U(o + stride)])
                    )
                    >> 1
                )
            else:
                med = median_edge(W, N, NW)
                other = clamp(N + ((NE - NW) >> 1), 0, max_value)
                temporal = np.int64(0)
            p0 = clamp(med << 4, 0, top)
            blend_step = lane_energies(
                lines, here, above, far, np.int32(temporal), has_reference, lanes, classes,
                F(p0), F(p1), F(p2), F(other << 4), base32, F(W << 4), F(N << 4), base32,
            )  # fmt: skip
            blend_class = np.int64(classes[U(BLEND)]) >> 3
            m = np.int64(mean_error[U(classes[U(BLEND)])] * F(256.0))
            dead = m >> 10
            fw = np.int64(final[U(o - 1)])
            fn = np.int64(final[U(n_o)])
            fp = np.int64(final_reference[U(o)])
            sw = np.int64(fw > dead) - np.int64(fw < -dead)
            sn = np.int64(fn > dead) - np.int64(fn < -dead)
            sp = np.int64(fp > dead) - np.int64(fp < -dead)
            bc = min(blend_class >> 2, 15) * 27 + 9 * (sw + 1) + 3 * (sn + 1) + (sp + 1)
            blend = to_level(base32 + blend_step + F(bias[U(bc)]) * F(1.0 / 4096.0), top)
            lane_open(lanes, classes, mean_error, F(blend))
            # --- contexts
            scale = lanes[U(SCALE + BLEND)] * F(11.54)
            q1 = np.int64(RATIO_CLASS[U(np.int64(min(F(abs(fw)) * scale, F(127.0))))])
            q2 = np.int64(RATIO_CLASS[U(np.int64(min(F(abs(fn)) * scale, F(127.0))))])
            qa = min((blend_class * 43) >> 7, QA - 1)
            qb = 4 * (q1 >> 1) + (q2 >> 1)
            level = np.int64(level_of[U((blend + 8) >> 4)])
            # --- the sample, decision by decision
            fill[1] += 1
            rate = RATE + max(0, RATE - (fill[1] >> 10))
            sigma = (737 * (m + 82)) >> 10
            value = np.int64(plane[U(o)])
            lo = np.int64(0)
            hi = np.int64(max_value) + 1
            heap = np.int64(1)
            step = np.int64(0)
            node = np.int64(0)
            ia = np.int64(0)
            ib = np.int64(0)
            ic = np.int64(0)
            im = np.int64(0)
            jb = np.int64(0)
            jc = np.int64(0)
            sa = np.int64(0)
            sb = np.int64(0)
            sc = np.int64(0)
            sm = np.int64(0)
            xb = zero32
            while hi - lo > 1:
                if heap < 16:
                    bnd = (blend + ((sigma * np.int64(QUANTILE[U(heap)])) >> 18) + 8) >> 4
                    node = heap
                    if bnd <= lo:
                        heap = 2 * heap + 1
                        continue
                    if bnd >= hi:
                        heap = 2 * heap
                        continue
                elif hi > max_value and hi - lo > ((8 * sigma) >> 12) + 8:
                    bnd = min(lo + 1 + ((sigma << step) >> 12), hi - 1)
                    node = 16 + min(step, 7)
                    step += 1
                elif lo == 0 and hi - lo > ((8 * sigma) >> 12) + 8:
                    bnd = max(hi - 1 - ((sigma << step) >> 12), 1)
                    node = 24 + min(step, 7)
                    step += 1
                else:
                    bnd = (lo + hi) >> 1
                    node = np.int64(-1)
                edge = F(16 * bnd - 8)
                if node >= 0:
                    lane_inputs(lanes, inputs, edge)
                    ia = (node * QA + qa) * LANES
                    ib = (node * QB + qb) * LANES
                    ic = (node * LEVELS + level) * LANES
                    im = (node * QA + qa) * 3
                    sa, sb, sc, sm = mix(inputs, mix_a, mix_b, mix_c, final_mix, ia, ib, ic, im)
                    place = (clamp(sm, -2047, 2047) + 2048) * 32
                    pb, jb = refined(apm_value, (bnd << 12) >> value_shift, place)
                    pc, jc = refined(apm_level, node * LEVELS + level, place)
                    p = clamp((2 * squash(sm) + 3 * pb + 3 * pc + 4) >> 3, 1, 65535)
                else:
                    z = (edge - lanes[U(MEAN + BLEND)]) * lanes[U(SCALE + BLEND)]
                    xb = exp_scalar(min(max(z, F(-40.0)), F(40.0)))
                    upper = lanes[U(UPPER + BLEND)]
                    lower = lanes[U(LOWER + BLEND)]
                    up = max(xb - upper, xb * F(1.0 / 65536.0)) * (F(1.0) + lower)
                    down = max(F(1.0) - xb * lower, F(1.0 / 65536.0)) * (F(1.0) + upper)
                    p = clamp(np.int64(F(65536.0) * (up / (up + down))), 256, 65536 - 256)
                bit = np.int64(value >= bnd)
                bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buffer)
                if bit:
                    lo = bnd
                else:
                    hi = bnd
                if node >= 0:
                    heap = 2 * heap + bit
                    learn(inputs, mix_a, mix_b, mix_c, final_mix, ia, ib, ic, im, sa, sb, sc, sm, bit, rate)
                    refine(apm_value, jb, bit)
                    refine(apm_level, jc, bit)
                    lane_narrow(lanes, bit)
                elif bit:
                    lanes[U(LOWER + BLEND)] = F(1.0) / xb
                else:
                    lanes[U(UPPER + BLEND)] = xb
            value = lo
            plane[U(o)] = np.int32(value)
            if kind:
                p_hit = np.int64(flat[U(kind)])
                if p_hit <= 64000 << 6:
                    flat[U(kind)] = p_hit + (((np.int64(value == guess) << 22) - p_hit) >> 6)
            # --- learn
            v4 = value << 4
            lane_settle(lanes, classes, mean_error, count, lines, here, F(v4))
            d = v4 - blend
            final[U(o)] = np.int32(d)
            residual[U(o)] = np.int32(v4 - base)
            if abs(d) < 3 * (m >> 8) + 16:
                bias[U(bc)] += np.int32(20 * d)
            cl = 4 * ((m + 82) >> 8) + 16
            gain = F(clamp(v4 - p1, -cl, cl)) * F(0.1 / 16.0) / (norm_pixel + F(58.125))
            adapt_taps(taps, w_pixel, base_level, gain)
            gain = F(clamp(v4 - p2, -cl, cl)) * F(0.02) / (norm_residual + F(207360.0))
            adapt_taps(around, w_residual, zero32, gain)
            if (x + 3 * y) & 3 == 0:
                e = (
                    2 * (np.int64(lines[U(here - LANES + 2)]) + np.int64(lines[U(above + 2)]))
                    + np.int64(lines[U(above - LANES + 2)])
                    + np.int64(lines[U(above + LANES + 2)])
                )
                if has_reference:
                    e = (e + 2 * absolute(fp)) >> 3
                else:
                    e = (e * 43) >> 8
                e = ((e + 16) * 181) >> 8
                weight = F(1.0)
                while e >= 16:
                    weight *= F(0.5)
                    e >>= 1
                keep_sample(taps, F(value), weight, samples, n_samples, n_taps)
                n_samples += 1
                if n_samples == BATCH:
                    n_samples = 0
                    accumulate(covariance, samples)
                    solve(covariance, work, w_ols)
            o += 1
    registers[0] = acc
    registers[1] = rng
    registers[2] = pos
    fill[0] = n_samples
    # The reference's surroundings: repeat its last columns and rows.
    o = np.int64((rows - 1 + PAD) * stride)
    for i in range(PAD):
        plane[U(o + i)] = plane[U(o + PAD)]
        plane[U(o + PAD + columns + i)] = plane[U(o + PAD + columns - 1)]
    for j in range(1, PAD + 1):
        for i in range(stride):
            plane[U(o + j * stride + i)] = plane[U(o + i)]
