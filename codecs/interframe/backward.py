"""Face."""
import numpy as np

from dcmpress.codecs.interframe import backward_kernel as K
from dcmpress.codecs.interframe.backward_tables import SCALE_START


def _state():
    w_ols = np.zeros((2, K.TAPS), np.int32)
    w_ols[:, 6] = 32768
    mean = np.repeat(SCALE_START, K.LANES).astype(np.int32)
    inverse = (1491308088 // (mean.astype(np.int64) + 82)).astype(np.int32)
    wa = np.zeros((K.NODES * K.QA, K.LANES), np.int32)
    wb = np.zeros((K.NODES * K.QB, K.LANES), np.int32)
    for w in (wa, wb):
        w[:, :5] = 14000
        w[:, 5:7] = 20000
    apm = np.empty((K.NODES, 33), np.int32)
    from dcmpress.codecs.interframe.backward_tables import SQUASH
    apm[:] = SQUASH[np.minimum(np.arange(33) * 64 + 1024, 4095)]
    return [
        np.zeros((2, K.TAPS, K.TAPS)), np.zeros((2, K.BATCH, K.TAPS)), np.zeros(2, np.int64), w_ols,
        np.zeros((2, K.TAPS), np.int32), np.zeros((2, K.TAPS), np.int32), np.zeros(16 * 27, np.int32), mean,
        np.zeros(mean.size, np.int32), inverse, wa.ravel(), wb.ravel(), apm.ravel(),
        np.zeros(2 * K.NODES * K.SLOTS, np.int32), np.zeros(1, np.int32),
    ]


def _run(encode, planes, shape, max_value, references, buf, coder, upto):
    n, rows, columns = shape
    size = (rows + 2 * K.PAD) * (columns + 2 * K.PAD)
    state = _state()
    samples, res, fin = ({} for _ in range(3))
    zero = np.zeros(size, np.int32)
    for i in range(upto):
        ref = references[i]
        cur = np.zeros((rows + 2 * K.PAD, columns + 2 * K.PAD), np.int32)
        if encode:
            cur[K.PAD:-K.PAD, K.PAD:-K.PAD] = planes[i]
        r = np.zeros(size, np.int32)
        f = np.zeros(size, np.int32)
        ref2 = references[ref] if ref >= 0 else -1
        if ref2 < 0: ref2 = ref
        K.code_plane(encode, 0, cur.ravel(), samples.get(ref, zero), samples.get(ref2, zero), ref >= 0, r, res.get(ref, zero), f, fin.get(ref, zero),
                     rows, columns, max_value, *state, buf, coder)
        samples[i] = cur.ravel()
        res[i] = r
        fin[i] = f
        for d in (samples, res, fin):
            for k in [k for k in d if k not in references[i + 1:] and k not in [references[q] for q in references[i+1:] if q>=0]]:
                del d[k]
        if not encode:
            planes[i] = cur[K.PAD:-K.PAD, K.PAD:-K.PAD]


def encode_planes(planes, max_value, references=None):
    n = len(planes)
    if references is None:
        references = [i - 1 for i in range(n)]
    buf = np.zeros(planes.size * 3 + 4096, np.uint8)
    coder = np.array([0, 1 << 48, 0], np.int64)
    _run(True, planes, planes.shape, max_value, references, buf, coder, n)
    acc, rng, pos = (int(v) for v in coder)
    acc += rng - 1 >> 1 << 0
    full = int.from_bytes(buf[:pos].tobytes(), "big") * (1 << 48) + acc if pos < 16 else None
    if acc >= 1 << 48:
        acc -= 1 << 48
        j = pos - 1
        while j > 0 and buf[j] == 255:
            buf[j] = 0
            j -= 1
        buf[j] += 1
    return buf[:pos].tobytes() + acc.to_bytes(6, "big")


def decode_planes(data, shape, max_value, references=None, upto=None):
    n = shape[0]
    if references is None:
        references = [i - 1 for i in range(n)]
    upto = n if upto is None else upto
    out = np.zeros((upto, *shape[1:]), np.uint16)
    buf = np.frombuffer(bytes(data) + bytes(6), np.uint8).copy()
    coder = np.array([int.from_bytes(buf[:6].tobytes(), "big"), 1 << 48, 6], np.int64)
    _run(False, out, shape, max_value, references, buf, coder, upto)
    return out
