"""Kernel."""

import numpy as np

from dcmpress.codecs.interframe.backward_tables import (
    ENERGY_CLASS,
    LOG_POSITION,
    LOG_WIDTH,
    QUANTILE,
    RATIO_CLASS,
    RECIPROCAL,
    SQUASH,
)
from dcmpress.codecs.jit import inline, njit

U = np.uint64
PAD = 4
TAPS = 32
LANES = 8
BATCH = 32
CLASSES = 96
BLEND = 3
NODES = 32
QA = 24
QB = 16
SLOTS = 512
OPEN = 1 << 20
FAR = 1 << 19
NORM_PIXEL = 480 * 31
NORM_RESIDUAL = 7680 * 27
GAIN_PIXEL = np.int64(107374182)
GAIN_RESIDUAL = np.int64(64424509)
LMS_CLIP = 1 << 30
RATE = 24


@inline
def floor_div(a, b):
    return np.int64(np.floor(np.float64(a) / np.float64(b)))


@inline
def clamp(v, lo, hi):
    return min(max(v, lo), hi)


@inline
def energy_class(s):
    if s < 4096:
        return np.int64(ENERGY_CLASS[U(s)])
    if s < 65536:
        return np.int64(ENERGY_CLASS[U(s >> 4)]) + 20
    return min(np.int64(ENERGY_CLASS[U(min(s >> 8, 4095))]) + 40, CLASSES - 1)


@inline
def median_edge(w, n, nw):
    lo = min(w, n)
    hi = max(w, n)
    return clamp(w + n - nw, lo, hi)


@inline
def log_width(x):
    # ln(1 - exp(-x)), x in 1/1024
    if x < 1024:
        return np.int64(LOG_WIDTH[U(x)])
    return np.int64(LOG_WIDTH[U(min(1024 + ((x - 1024) >> 4), 1024 + 768))])


@inline
def log_position(x):
    return (abs(x) >> 3) + np.int64(LOG_POSITION[U(min(abs(x) >> 4, 512))])


@inline
def squash(s):
    return np.int64(SQUASH[U(clamp(s >> 1, -2048, 2047) + 2048)])


@inline
def code_bit(encode, bit, p, acc, rng, pos, buf):
    """p: P(bit = 1) of 65536."""
    bound = (rng >> 16) * p
    if not encode:
        bit = np.int64(acc < bound)
        if bit:
            rng = bound
        else:
            acc -= bound
            rng -= bound
    elif bit:
        rng = bound
    else:
        acc += bound
        rng -= bound
    if rng < 1 << 32:
        rng <<= 16
        size = np.int64(buf.size)
        if encode:
            if acc >= 1 << 48:
                acc -= 1 << 48
                j = min(pos, size) - 1
                while j > 0 and buf[U(j)] == 255:
                    buf[U(j)] = 0
                    j -= 1
                buf[U(j)] += np.uint8(1)
            if pos + 2 <= size:
                buf[U(pos)] = np.uint8(acc >> 40)
                buf[U(pos + 1)] = np.uint8((acc >> 32) & 255)
            acc = (acc & 0xFFFFFFFF) << 16
        else:
            acc <<= 16
            if pos + 2 <= size:
                acc |= (np.int64(buf[U(pos)]) << 8) | np.int64(buf[U(pos + 1)])
            elif pos + 1 == size:
                acc |= np.int64(buf[U(pos)]) << 8
        pos += 2
    return bit, acc, rng, pos


@njit
def solve(A, B, w, w_sum):
    """Ridge LDL^T; A upper triangle 31 x 32 (column 31: target); B scratch."""
    n = TAPS - 1
    for i in range(n):
        for j in range(i, n + 1):
            B[U(i), U(j)] = A[U(i), U(j)]
        B[U(i), U(i)] = B[U(i), U(i)] * 1.0001 + 0.5
    for k in range(n - 1):
        inv = 1.0 / B[U(k), U(k)]
        for i in range(k + 1, n):
            f = B[U(k), U(i)] * inv
            if f != 0.0:
                for j in range(i, n + 1):
                    B[U(i), U(j)] -= f * B[U(k), U(j)]
    total = np.int64(0)
    for k in range(n - 1, -1, -1):
        x = B[U(k), U(n)] / B[U(k), U(k)]
        if not (-16.0 < x < 16.0):
            x = 0.0
        # column-oriented back substitution
        for i in range(k):
            B[U(i), U(n)] -= B[U(i), U(k)] * x
        q = np.int64(np.floor(x * 65536.0 + 0.5))
        w[U(k + 1)] = q
        total += q
    w[U(0)] = 0
    return total


@njit
def accumulate(A, V):
    decay = 31.0 / 32.0
    for i in range(TAPS - 1):
        for j in range(i, TAPS):
            A[U(i), U(j)] *= decay
    for n in range(0, BATCH, 4):
        for i in range(TAPS - 1):
            a0 = V[U(n), U(i)]
            a1 = V[U(n + 1), U(i)]
            a2 = V[U(n + 2), U(i)]
            a3 = V[U(n + 3), U(i)]
            for j in range(i, TAPS):
                A[U(i), U(j)] = (
                    (((A[U(i), U(j)] + a0 * V[U(n), U(j)]) + a1 * V[U(n + 1), U(j)]) + a2 * V[U(n + 2), U(j)])
                    + a3 * V[U(n + 3), U(j)]
                )


@inline
def gather_own(x, o, s, c):
    n = o - s
    m = n - s
    k = m - s
    c[U(0)] = x[U(o - 1)]
    c[U(1)] = x[U(o - 2)]
    c[U(2)] = x[U(o - 3)]
    c[U(3)] = x[U(n - 3)]
    c[U(4)] = x[U(n - 2)]
    c[U(5)] = x[U(n - 1)]
    c[U(6)] = x[U(n)]
    c[U(7)] = x[U(n + 1)]
    c[U(8)] = x[U(n + 2)]
    c[U(9)] = x[U(n + 3)]
    c[U(10)] = x[U(m - 2)]
    c[U(11)] = x[U(m - 1)]
    c[U(12)] = x[U(m)]
    c[U(13)] = x[U(m + 1)]
    c[U(14)] = x[U(m + 2)]
    c[U(15)] = x[U(k - 1)]
    c[U(16)] = x[U(k)]
    c[U(17)] = x[U(k + 1)]


@inline
def gather_more_own(x, o, s, c):
    n = o - s
    m = n - s
    k = m - s
    l = k - s
    c[U(18)] = x[U(o - 4)]
    c[U(19)] = x[U(n - 4)]
    c[U(20)] = x[U(n + 4)]
    c[U(21)] = x[U(m - 4)]
    c[U(22)] = x[U(m - 3)]
    c[U(23)] = x[U(m + 3)]
    c[U(24)] = x[U(m + 4)]
    c[U(25)] = x[U(k - 3)]
    c[U(26)] = x[U(k - 2)]
    c[U(27)] = x[U(k + 2)]
    c[U(28)] = x[U(k + 3)]
    c[U(29)] = x[U(l - 1)]
    c[U(30)] = x[U(l)]
    c[U(31)] = x[U(l + 1)]


@inline
def gather_reference(x, o, s, c):
    n = o - s
    b = o + s
    c[U(18)] = x[U(n - 1)]
    c[U(19)] = x[U(n)]
    c[U(20)] = x[U(n + 1)]
    c[U(21)] = x[U(o - 1)]
    c[U(22)] = x[U(o)]
    c[U(23)] = x[U(o + 1)]
    c[U(24)] = x[U(b - 1)]
    c[U(25)] = x[U(b)]
    c[U(26)] = x[U(b + 1)]
    c[U(27)] = x[U(o - 2)]
    c[U(28)] = x[U(o + 2)]
    c[U(29)] = x[U(n - s)]
    c[U(30)] = x[U(b + s)]


@njit
def code_plane(
    encode, mode, cur, ref, ref2, has_ref, res, res_ref, fin, fin_ref, rows, columns, max_value,
    A, V, fill, w_ols, w_nlms, w_rlms, bias, mean, count, inverse, wa, wb, apm, counters, plain, buf, coder,
):
    stride = np.int64(columns + 2 * PAD)
    acc = coder[0]
    rng = coder[1]
    pos = coder[2]
    top = np.int64(max_value) << 4
    c = np.zeros(TAPS, np.int32)
    z = np.zeros(TAPS, np.int32)
    r = np.zeros(TAPS, np.int32)
    B = np.zeros((TAPS, TAPS), np.float64)
    lines = np.zeros((3, (columns + 4) * LANES), np.int32)
    mu = np.zeros(LANES, np.int64)
    cls = np.zeros(LANES, np.int64)
    inv = np.zeros(LANES, np.int64)
    energy = np.zeros(LANES, np.int64)
    zl = np.zeros(LANES, np.int64)
    zh = np.zeros(LANES, np.int64)
    zb = np.zeros(LANES, np.int64)
    gl = np.zeros(LANES, np.int64)
    gh = np.zeros(LANES, np.int64)
    t = np.zeros(LANES, np.int32)
    kind = np.int64(0)
    if has_ref:
        kind = np.int64(1)
    wo = w_ols[kind]
    wn = w_nlms[kind]
    wr = w_rlms[kind]
    Ak = A[kind]
    Vk = V[kind]
    nfill = np.int64(fill[kind])
    wsum = np.int64(0)
    for i in range(1, TAPS):
        wsum += wo[U(i)]
    t[U(7)] = 128

    for y in range(rows):
        o = np.int64((y + PAD) * stride + PAD)
        up = o - stride
        if y == 0:
            for j in range(1, PAD + 1):
                for i in range(stride):
                    cur[U(o - PAD - j * stride + i)] = ref[U(o - PAD + i)] if has_ref else 0
        for i in range(1, PAD + 1):
            cur[U(o - i)] = cur[U(up)]
            cur[U(o + columns - 1 + i)] = cur[U(up + columns - 1)]
        e0 = lines[np.int64(y % 3)]
        e1 = lines[np.int64((y + 2) % 3)]
        e2 = lines[np.int64((y + 1) % 3)]
        for x in range(columns):
            # --- gather
            gather_own(cur, o, stride, c)
            gather_own(res, o, stride, r)
            if has_ref:
                gather_reference(ref, o, stride, c)
                c[U(31)] = ref2[U(o)]
                gather_reference(res_ref, o, stride, r)
            else:
                gather_more_own(cur, o, stride, c)
            W = np.int64(c[U(0)])
            N = np.int64(c[U(6)])
            # --- OLS
            dot = np.int64(0)
            for i in range(TAPS):
                dot += np.int64(c[U(i)]) * np.int64(wo[U(i)])
            dot -= W * wsum
            b = clamp((W << 4) + (dot >> 12), 0, top)
            # --- NLMS
            b4 = np.int32(b >> 2)
            for i in range(TAPS):
                z[U(i)] = (c[U(i)] << np.int32(2)) - b4
            dot = np.int64(0)
            norm_z = np.int64(NORM_PIXEL)
            for i in range(TAPS):
                dot += np.int64(z[U(i)]) * np.int64(wn[U(i)])
                norm_z += np.int64(z[U(i)]) * np.int64(z[U(i)])
            p_nlms = b + (dot >> 18)
            dot = np.int64(0)
            norm_r = np.int64(NORM_RESIDUAL)
            for i in range(TAPS):
                dot += np.int64(r[U(i)]) * np.int64(wr[U(i)])
                norm_r += np.int64(r[U(i)]) * np.int64(r[U(i)])
            p_rlms = b + (dot >> 20)
            # --- simple
            NW = np.int64(c[U(5)])
            if has_ref:
                P = np.int64(c[U(22)])
                med = P + median_edge(W - np.int64(c[U(21)]), N - np.int64(c[U(19)]), NW - np.int64(c[U(18)]))
                alt = P << 4
            else:
                med = median_edge(W, N, NW)
                alt = b
            mu[U(0)] = clamp(med << 4, 0, top)
            mu[U(1)] = clamp(p_nlms, 0, top)
            mu[U(2)] = clamp(p_rlms, 0, top)
            mu[U(4)] = alt
            # --- energies
            q = (x + 2) * LANES
            temporal = np.int64(0)
            if has_ref:
                temporal = abs(np.int64(fin_ref[U(o)])) + (
                    (
                        abs(np.int64(fin_ref[U(o - 1)]))
                        + abs(np.int64(fin_ref[U(o + 1)]))
                        + abs(np.int64(fin_ref[U(o - stride)]))
                        + abs(np.int64(fin_ref[U(o + stride)]))
                    )
                    >> 1
                )
            for k in range(5):
                s = (
                    4 * (np.int64(e0[U(q + k - LANES)]) + np.int64(e1[U(q + k)]))
                    + 2 * (np.int64(e1[U(q + k - LANES)]) + np.int64(e1[U(q + k + LANES)]))
                    + np.int64(e0[U(q + k - 2 * LANES)])
                    + np.int64(e2[U(q + k)])
                )
                if has_ref:
                    s += temporal
                else:
                    s = (s * 39) >> 5
                energy[U(k)] = s
            num = 0.0
            den = 0.0
            for k in range(5):
                if k != BLEND:
                    s = energy[U(k)]
                    a = np.floor(68719476736.0 / np.float64(s * s + 3700)) + 1.0
                    num += a * np.float64(mu[U(k)] - b)
                    den += a
            blend = b + np.int64(np.floor(num / den))
            cls3 = energy_class(energy[U(BLEND)])
            m3 = np.int64(mean[U(cls3 * LANES + BLEND)])
            dead = m3 >> 10
            fw = np.int64(fin[U(o - 1)])
            fn = np.int64(fin[U(o - stride)])
            fp = np.int64(fin_ref[U(o)])
            sw = np.int64(fw > dead) - np.int64(fw < -dead)
            sn = np.int64(fn > dead) - np.int64(fn < -dead)
            sp = np.int64(fp > dead) - np.int64(fp < -dead)
            signs = 9 * (sw + 1) + 3 * (sn + 1) + (sp + 1)
            bc = min(cls3 >> 2, 15) * 27 + signs
            blend = clamp(blend + (np.int64(bias[U(bc)]) >> 12), 0, top)
            mu[U(BLEND)] = blend
            for k in range(5):
                ck = energy_class(energy[U(k)])
                cls[U(k)] = ck * LANES + k
                inv[U(k)] = np.int64(inverse[U(cls[U(k)])])
            # --- contexts
            qe = min((cls3 * 43) >> 7, QA - 1)
            inv3 = inv[U(BLEND)]
            # |e| Q4 * inv >> 12 = Q10 units of .72 mean; to 1/16 of mean
            q1 = np.int64(RATIO_CLASS[U(min((abs(fw) * inv3) >> 18, 127))])
            q2 = np.int64(RATIO_CLASS[U(min((abs(fn) * inv3) >> 18, 127))])
            q3 = np.int64(RATIO_CLASS[U(min((abs(fp) * inv3) >> 18, 127))])
            qb = 4 * (q1 >> 1) + (q2 >> 1)
            # --- code the pixel
            sig = (737 * (m3 + 82)) >> 10
            frac = (blend >> 2) & 3
            slot0 = ((qe >> 1) * 8 + q3) * 4 + frac
            if sig < 3 * 4096:
                slot1 = min(cls3, 40) * 8 + ((blend >> 1) & 7)
            else:
                slot1 = 328 + min((cls3 - 20) >> 3, 5) * 27 + signs
            value = np.int64(cur[U(o)]) if encode else np.int64(0)
            lo = np.int64(0)
            hi = np.int64(max_value) + 1
            for k in range(5):
                zl[U(k)] = -OPEN
                zh[U(k)] = OPEN
                gl[U(k)] = OPEN >> 3
                gh[U(k)] = OPEN >> 3
            heap = np.int64(1)
            ext = np.int64(0)
            while hi - lo > 1:
                if heap < 16:
                    bnd = (blend + ((sig * np.int64(QUANTILE[U(heap)])) >> 18) + 8) >> 4
                    node = heap
                    if bnd <= lo:
                        heap = 2 * heap + 1
                        continue
                    if bnd >= hi:
                        heap = 2 * heap
                        continue
                elif hi > max_value and hi - lo > ((8 * sig) >> 12) + 8:
                    bnd = min(lo + 1 + ((sig << ext) >> 12), hi - 1)
                    node = 16 + min(ext, 7)
                    ext += 1
                elif lo == 0 and hi - lo > ((8 * sig) >> 12) + 8:
                    bnd = max(hi - 1 - ((sig << ext) >> 12), 1)
                    node = 24 + min(ext, 7)
                    ext += 1
                else:
                    # bisection
                    bnd = (lo + hi) >> 1
                    d = 16 * bnd - 8 - blend
                    z3 = clamp((d * inv3) >> 12, -FAR, FAR)
                    zl3 = zl[U(BLEND)]
                    zh3 = zh[U(BLEND)]
                    u = zh3 - z3
                    v = z3 - zl3
                    s = ((u - v) >> 3) + log_width(u) - log_width(v) + gl[U(BLEND)] - gh[U(BLEND)]
                    p = clamp(squash(s), 256, 65536 - 256)
                    bit = np.int64(value >= bnd)
                    bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buf)
                    if bit:
                        lo = bnd
                        zl[U(BLEND)] = z3
                        gl[U(BLEND)] = log_position(z3)
                    else:
                        hi = bnd
                        zh[U(BLEND)] = z3
                        gh[U(BLEND)] = log_position(z3)
                    continue
                edge = 16 * bnd - 8
                for k in range(5):
                    zk = clamp(((edge - mu[U(k)]) * inv[U(k)]) >> 12, -FAR, FAR)
                    zb[U(k)] = zk
                    u = zh[U(k)] - zk
                    v = zk - zl[U(k)]
                    s = ((u - v) >> 3) + log_width(u) - log_width(v) + gl[U(k)] - gh[U(k)]
                    t[U(k)] = np.int32(clamp(s, -2047, 2047))
                base3 = np.int64(t[U(BLEND)])
                i0 = node * SLOTS + slot0
                i1 = (NODES + node) * SLOTS + slot1
                c0 = np.int64(counters[U(i0)])
                c1 = np.int64(counters[U(i1)])
                t[U(5)] = np.int32(c0 >> 16)
                t[U(6)] = np.int32(c1 >> 16)
                ia = (node * QA + qe) * LANES
                ib = (node * QB + qb) * LANES
                da = np.int32(0)
                db = np.int32(0)
                for k in range(LANES):
                    da += t[U(k)] * wa[U(ia + k)]
                    db += t[U(k)] * wb[U(ib + k)]
                sa = np.int64(da >> 16)
                sb = np.int64(db >> 16)
                sm = clamp((sa + sb) >> 1, -4095, 4095)
                pm = squash(sm)
                # APM
                spos = (clamp(sm, -2047, 2047) + 2048) * 32
                j = spos >> 12
                f = spos & 4095
                ja = node * 33 + j
                pa = (np.int64(apm[U(ja)]) * (4096 - f) + np.int64(apm[U(ja + 1)]) * f) >> 12
                p = clamp((pm + pa + 1) >> 1, 1, 65535)
                bit = np.int64(value >= bnd)
                bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buf)
                # --- learn
                y16 = bit << 16
                ea = np.int32(((y16 - squash(sa)) * RATE) >> 6)
                eb = np.int32(((y16 - squash(sb)) * RATE) >> 6)
                for k in range(LANES):
                    wa[U(ia + k)] = min(
                        max(wa[U(ia + k)] + ((t[U(k)] * ea + np.int32(8192)) >> np.int32(14)), np.int32(-131071)),
                        np.int32(131071),
                    )
                    wb[U(ib + k)] = min(
                        max(wb[U(ib + k)] + ((t[U(k)] * eb + np.int32(8192)) >> np.int32(14)), np.int32(-131071)),
                        np.int32(131071),
                    )
                if f >= 2048:
                    ja += 1
                apm[U(ja)] += np.int32((y16 - np.int64(apm[U(ja)])) >> 6)
                n0 = c0 & 255
                err0 = y16 - squash((c0 >> 16) + base3)
                c0 = clamp((c0 >> 8) + ((err0 * np.int64(RECIPROCAL[U(min(n0, 48))]) * 3) >> 16), -524287, 524287)
                counters[U(i0)] = np.int32((c0 << 8) | min(n0 + 1, 48))
                n1 = c1 & 255
                err1 = y16 - squash((c1 >> 16) + base3)
                c1 = clamp((c1 >> 8) + ((err1 * np.int64(RECIPROCAL[U(min(n1, 48))]) * 3) >> 16), -524287, 524287)
                counters[U(i1)] = np.int32((c1 << 8) | min(n1 + 1, 48))
                if bit:
                    lo = bnd
                    for k in range(5):
                        zl[U(k)] = zb[U(k)]
                        gl[U(k)] = log_position(zb[U(k)])
                    heap = 2 * heap + 1
                else:
                    hi = bnd
                    for k in range(5):
                        zh[U(k)] = zb[U(k)]
                        gh[U(k)] = log_position(zb[U(k)])
                    heap = 2 * heap
            value = lo
            cur[U(o)] = np.int32(value)
            v4 = value << 4
            # --- learn
            e_q = q
            for k in range(5):
                ek = abs(v4 - mu[U(k)])
                e0[U(e_q + k)] = np.int32(min(ek, 65535))
                ck = cls[U(k)]
                n = np.int64(count[U(ck)])
                mk = np.int64(mean[U(ck)])
                mk += (((ek << 8) - mk) * np.int64(RECIPROCAL[U(n)])) >> 16
                count[U(ck)] = np.int32(n + 1 if n < 200 else 200)
                mean[U(ck)] = np.int32(mk)
                inverse[U(ck)] = np.int32(1491308088 // (mk + 82) if False else floor_div(1491308088, mk + 82))
            d = v4 - blend
            fin[U(o)] = np.int32(d)
            res[U(o)] = np.int32(v4 - b)
            if abs(d) < 3 * (m3 >> 8) + 16:
                bias[U(bc)] += np.int32(20 * d)
            e = clamp(v4 - mu[U(1)], -LMS_CLIP, LMS_CLIP)
            g = clamp(floor_div(e * GAIN_PIXEL, norm_z), -((1 << 30) - 1), (1 << 30) - 1)
            for i in range(TAPS):
                wn[U(i)] += np.int32((g * np.int64(z[U(i)]) + 2048) >> 12)
            e = clamp(v4 - mu[U(2)], -LMS_CLIP, LMS_CLIP)
            g = clamp(floor_div(e * GAIN_RESIDUAL, norm_r), -((1 << 30) - 1), (1 << 30) - 1)
            for i in range(TAPS):
                wr[U(i)] += np.int32((g * np.int64(r[U(i)]) + 2048) >> 12)
            if (x + 3 * y) & 3 == 0:
                E = 2 * (np.int64(e0[U(q + 2 - LANES)]) + np.int64(e1[U(q + 2)])) + np.int64(e1[U(q + 2 - LANES)]) + np.int64(e1[U(q + 2 + LANES)])
                if has_ref:
                    E = (E + 2 * abs(np.int64(fin_ref[U(o)]))) >> 3
                else:
                    E = E // 6
                E = ((E + 16) * 181) >> 8
                scale = 1.0
                while E >= 16:
                    scale *= 0.5
                    E >>= 1
                Wf = np.float64(W) * scale
                for i in range(TAPS - 1):
                    Vk[U(nfill), U(i)] = np.float64(c[U(i + 1)]) * scale - Wf
                Vk[U(nfill), U(TAPS - 1)] = np.float64(value) * scale - Wf
                nfill += 1
                if nfill == BATCH:
                    nfill = 0
                    accumulate(Ak, Vk)
                    wsum = solve(Ak, B, wo, wsum)
            o += 1
        # padding of the finished row
    coder[0] = acc
    coder[1] = rng
    coder[2] = pos
    fill[kind] = nfill
    # right and left pads of the last row, then the rows below
    o = np.int64((rows - 1 + PAD) * stride)
    for i in range(PAD):
        cur[U(o + i)] = cur[U(o + PAD)]
        cur[U(o + PAD + columns + i)] = cur[U(o + PAD + columns - 1)]
    for j in range(1, PAD + 1):
        for i in range(stride):
            cur[U(o + j * stride + i)] = cur[U(o + i)]
