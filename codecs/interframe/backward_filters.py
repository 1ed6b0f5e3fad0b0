"""Linear prediction: the 32 taps around a pixel, two LMS filters, and weighted recursive least squares."""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from dcmpress.codecs.interframe.backward_jit import inline, njit
from dcmpress.codecs.interframe.backward_vector import I32, LANES, Memory, Vector, join, splat

TAPS = 32
"""Samples that a prediction is made from. The last tap is the west neighbour."""
WIDE_TAPS = 40
"""The same and eight more to the west, for the filter of residuals."""
BATCH = 32
_U = np.uint64

# Chunks of four taps: (plane, row, first column), and the place that replaces the fourth, if any.
# Plane 0 is this one, 1 its reference, 2 the reference's reference.
_INTER = (
    ((0, -1, -3), None),
    ((0, -1, 1), (0, -2, 2)),
    ((0, -2, -2), None),
    ((0, -3, -1), (2, 0, 0)),
    ((1, -1, -1), (1, 0, 2)),
    ((1, 0, -2), None),
    ((1, 1, -1), (1, 2, 0)),
    ((0, 0, -4), None),
)
_INTRA = (
    ((0, -1, -3), None),
    ((0, -1, 1), (0, -2, 2)),
    ((0, -2, -2), None),
    ((0, -3, -1), (0, -3, -2)),
    ((0, -2, -4), (0, -2, 3)),
    ((0, -4, -2), None),
    ((0, -3, 2), (0, -1, -4)),
    ((0, 0, -4), None),
)


def _collect(memory: Memory, builder: Any, chunks: Any, origin: Any, stride: Any, out: int) -> None:
    def place(row: int, column: int) -> Any:
        offset = builder.mul(stride, ir.Constant(stride.type, row))
        return builder.add(builder.add(origin, offset), ir.Constant(origin.type, column))

    quads = []
    for (plane, row, column), patch in chunks:
        quad = memory.load(plane, place(row, column), 4).value
        if patch is not None:
            sample = memory.load_scalar(patch[0], place(*patch[1:]))
            quad = builder.insert_element(quad, sample, ir.Constant(I32, 3))
        quads.append(Vector(builder, quad))
    for i in range(0, len(quads), 2):
        memory.store(out, i * 4, join(quads[i], quads[i + 1]).to_float())


def _collector(chunks: Any) -> Any:
    def typed(typing_context, plane, reference, second, origin, stride, taps):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature, arguments)
            _collect(memory, builder, chunks, arguments[3], arguments[4], 5)
            return context.get_dummy_value()

        return types.void(plane, reference, second, types.int64, types.int64, taps), generate

    return typed


collect_inter = intrinsic(_collector(_INTER))
collect_intra = intrinsic(_collector(_INTRA))


@intrinsic
def collect_west(typing_context, plane, origin, taps):
    """Store the places 12 to 5 west of `origin`, in flat order, as taps 32 to 39."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        memory.store(2, TAPS, memory.load(0, memory.offset(arguments[1], -12)).to_float())
        return context.get_dummy_value()

    return types.void(plane, types.int64, taps), generate


def _filter(size: int) -> Any:
    def typed(typing_context, taps, weights, base):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature, arguments)
            base = splat(builder, arguments[2])
            dots, norms = [], []
            for i in range(0, size, LANES):
                x = memory.load(0, i) - base
                dots.append(x * memory.load(1, i))
                norms.append(x * x)
            totals = [(v[0] + v[1]) + (v[2] + v[3]) for v in (dots, norms)]
            if size > TAPS:
                totals = [totals[0] + dots[4], totals[1] + norms[4]]
            return context.make_tuple(builder, signature.return_type, [total.sum() for total in totals])

        f32 = types.float32
        return types.UniTuple(f32, 2)(taps, weights, f32), generate

    return typed


def _adapt(size: int) -> Any:
    def typed(typing_context, taps, weights, base, gain):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature, arguments)
            base = splat(builder, arguments[2])
            gain = splat(builder, arguments[3])
            for i in range(0, size, LANES):
                memory.store(1, i, memory.load(1, i) + (memory.load(0, i) - base) * gain)
            return context.get_dummy_value()

        return types.void(taps, weights, types.float32, types.float32), generate

    return typed


# (sum of (taps - base) * weights, sum of (taps - base)^2)
filter_taps = intrinsic(_filter(TAPS))
filter_wide = intrinsic(_filter(WIDE_TAPS))
# weights += (taps - base) * gain
adapt_taps = intrinsic(_adapt(TAPS))
adapt_wide = intrinsic(_adapt(WIDE_TAPS))


@inline
def keep_sample(taps, target, scale, samples, n, n_taps):
    """Store the taps and the target relative to the west neighbour, scaled; the target takes its place."""
    west = taps[_U(TAPS - 1)]
    row = n * TAPS
    for i in range(n_taps - 1):
        samples[_U(row + i)] = np.float64((taps[_U(i)] - west) * scale)
    samples[_U(row + n_taps - 1)] = np.float64((target - west) * scale)


@intrinsic
def add_products(typing_context, covariance, samples, row, column):
    """Do what `accumulate` does to 4 rows of 8 columns of the covariance, which stay in registers meanwhile."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        row, column = arguments[2:]
        first = builder.add(builder.mul(row, ir.Constant(row.type, TAPS)), column)
        sums = [memory.load(0, memory.offset(first, r * TAPS)) * (31.0 / 32.0) for r in range(4)]
        for n in range(BATCH):
            right = memory.load(1, memory.offset(column, n * TAPS))
            for r in range(4):
                left = splat(builder, memory.load_scalar(1, memory.offset(row, n * TAPS + r)))
                sums[r] = sums[r] + left * right
        for r in range(4):
            memory.store(0, memory.offset(first, r * TAPS), sums[r])
        return context.get_dummy_value()

    return types.void(covariance, samples, types.int64, types.int64), generate


@njit
def accumulate(covariance, samples):
    """covariance = 31/32 covariance + sum of outer products, in the order of the samples.

    What lies left of the diagonal, and the last row, are filled in where a block reaches there, and never read.
    """
    for i in range(0, TAPS, 4):
        for j in range(i & ~7, TAPS, LANES):
            add_products(covariance, samples, np.int64(i), np.int64(j))


@intrinsic
def subtract_row(typing_context, matrix, target, source, factor):
    """matrix[target : target + 8] -= factor * matrix[source : source + 8], flat and float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        row = memory.load(0, arguments[1])
        memory.store(0, arguments[1], row - memory.load(0, arguments[2]) * splat(builder, arguments[3]))
        return context.get_dummy_value()

    return types.void(matrix, types.int64, types.int64, types.float64), generate


@njit
def solve(covariance, work, weights):
    """Solve the ridge-regularised normal equations by LDL^T elimination; weights beyond +-16 become 0."""
    n = TAPS - 1
    for i in range(TAPS * TAPS):
        work[_U(i)] = covariance[_U(i)]
    for i in range(n):
        work[_U(i * TAPS + i)] = work[_U(i * TAPS + i)] * 1.0001 + 0.5
    for k in range(n - 1):
        row = k * TAPS
        inverse = 1.0 / work[_U(row + k)]
        for i in range(k + 1, n):
            f = work[_U(row + i)] * inverse
            # Whole blocks of eight: what lies left of the diagonal is never read.
            for j in range(i & ~7, TAPS, 8):
                subtract_row(work, np.int64(i * TAPS + j), np.int64(row + j), f)
    for k in range(n - 1, -1, -1):
        x = work[_U(k * TAPS + n)] / work[_U(k * TAPS + k)]
        if not -16.0 < x < 16.0:
            x = 0.0
        for i in range(k):
            work[_U(i * TAPS + n)] -= work[_U(i * TAPS + k)] * x
        weights[_U(k)] = np.float32(x)
