"""Steps on the eight distributions ("lanes") of a pixel.

Each lane is a logistic distribution around its own prediction. The kernel keeps them in `state`, float32
with rows of eight:

    0  mean of the distribution, in 1/16 level
    1  1 / scale
    2  X = exp(-z) at the upper end of the interval still open, z = (end - mean) / scale; 0: no end
    3  Y = exp(z) at the lower end; 0: no end
    4  (1 + Y) / (1 + X)
    5  exp(-z) at the edge last asked for

With F = 1 / (1 + exp(-z)), the odds that a sample of the interval lies above an edge are
(F(upper) - F(edge)) / (F(edge) - F(lower)) = (exp(-z) - X) (1 + Y) / ((1 - exp(-z) Y) (1 + X)).
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from dcmpress.codecs.interframe.backward_vector import (
    F32,
    I32,
    LANES,
    Memory,
    Vector,
    constant,
    exp_negative,
    log_256,
    splat,
    vector_of,
)

BLEND = 3
"""The lane whose mean is a blend of the others' means."""
CLASSES = 96
COUNT_LIMIT = 255.0

MEAN, SCALE, UPPER, LOWER, ENDS, EDGE = (LANES * i for i in range(6))


@intrinsic
def lane_energies(
    typing_context,
    errors,
    here,
    above,
    far,
    temporal,
    has_reference,
    state,
    classes,
    m0,
    m1,
    m2,
    m4,
    m5,
    m6,
    m7,
    base,
):
    """Local energies of the lanes, their classes, and the blended mean.

    `errors` are the lines of |error| (int32, 1/16 level, eight lanes a pixel); `here`, `above`, `far` index
    this pixel in this row and the two above. `temporal` is the energy of the reference at this place.
    Stores the means of all lanes but the blend and each lane's class * 8 + lane; returns the blend minus
    `base`: the other lanes' means weighted by 1 / (energy^2 + 3700).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        here, above, far = arguments[1:4]

        def error(line: Any, distance: int) -> Vector:
            return memory.load(0, memory.offset(line, distance * LANES))

        energy = (error(here, -1) + error(above, 0)) * 4
        energy = energy + (error(above, -1) + error(above, 1)) * 2
        energy = energy + error(here, -2) + error(far, 0)
        inter = (energy + splat(builder, arguments[4])).value
        intra = ((energy * 39) >> 5).value
        referenced = builder.icmp_signed("!=", arguments[5], ir.Constant(arguments[5].type, 0))
        energy = Vector(builder, builder.select(referenced, inter, intra)).to_float()

        base = splat(builder, arguments[15])
        m0, m1, m2, m4, m5, m6, m7 = arguments[8:15]
        means = vector_of(builder, [m0, m1, m2, arguments[15], m4, m5, m6, m7])
        memory.store(6, MEAN, means)
        weights = constant(builder, BLEND_MASK) / (energy * energy + 3700.0)
        # 5 classes an octave; 1/256 nat * 5 / ln 2
        steps = log_256((energy + 68.0) * (1.0 / 272.0)) * 0.028177637606859207 + 10.0
        index = (steps.clip(0.0, CLASSES - 1.0).to_int() << 3) + Vector(
            builder, ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
        )
        memory.store(7, 0, index)
        return builder.fdiv((weights * (means - base)).sum(), weights.sum())

    f32 = types.float32
    signature = types.float32(
        errors, types.int64, types.int64, types.int64, types.int32, types.boolean, state, classes, *[f32] * 8
    )
    return signature, generate


BLEND_MASK = [0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0]


@intrinsic
def lane_open(typing_context, state, classes, mean_error, blend):
    """Set the blend's mean and every lane's scale, with no end to the interval."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        error = memory.gather(2, memory.load(1, 0))
        # The logistic scale is 0.72 of the mean |error|, which is kept from vanishing.
        memory.store(0, SCALE, 1.38886719 / (error + 0.3203125))
        zero = constant(builder, [0.0] * LANES)
        memory.store(0, UPPER, zero)
        memory.store(0, LOWER, zero)
        memory.store(0, ENDS, zero + 1.0)
        means = memory.load(0, MEAN).value
        means = builder.insert_element(means, arguments[3], ir.Constant(I32, BLEND))
        memory.store(0, MEAN, Vector(builder, means))
        return context.get_dummy_value()

    return types.void(state, classes, mean_error, types.float32), generate


@intrinsic
def lane_inputs(typing_context, state, inputs, edge):
    """Store the log odds, in 1/256 nat, that the sample is at or above `edge` (1/16 level)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        z = (splat(builder, arguments[2]) - memory.load(0, MEAN)) * memory.load(0, SCALE)
        x = exp_negative(z.clip(-40.0, 40.0))
        memory.store(0, EDGE, x)
        above = (x - memory.load(0, UPPER)).at_least(x * 2.0**-16)
        below = (1.0 - x * memory.load(0, LOWER)).at_least(2.0**-16)
        odds = log_256(above * memory.load(0, ENDS) / below)
        memory.store(1, 0, odds.clip(-2047.0, 2047.0).to_int())
        return context.get_dummy_value()

    return types.void(state, inputs, types.float32), generate


@intrinsic
def lane_narrow(typing_context, state, bit):
    """Move the lower (bit 1) or upper (bit 0) end of the interval to the edge last asked for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        x = memory.load(0, EDGE)
        up = builder.icmp_signed("!=", arguments[1], ir.Constant(arguments[1].type, 0))
        upper = Vector(builder, builder.select(up, memory.load(0, UPPER).value, x.value))
        lower = Vector(builder, builder.select(up, (1.0 / x).value, memory.load(0, LOWER).value))
        memory.store(0, UPPER, upper)
        memory.store(0, LOWER, lower)
        memory.store(0, ENDS, (lower + 1.0) / (upper + 1.0))
        return context.get_dummy_value()

    return types.void(state, types.int64), generate


@intrinsic
def lane_dot(typing_context, inputs, weights, index):
    """Sum of inputs * weights[index : index + 8]; 32 bits suffice: 8 * 2047 * 131071 < 2^31."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        return (memory.load(0, 0) * memory.load(1, arguments[2])).sum()

    return types.int32(inputs, weights, types.int64), generate


@intrinsic
def lane_learn(typing_context, inputs, weights, index, error):
    """weights += (inputs * error + 8192) >> 14, clipped to +-131071."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        step = (memory.load(0, 0) * splat(builder, arguments[3]) + 8192) >> 14
        memory.store(1, arguments[2], (memory.load(1, arguments[2]) + step).clip(-131071, 131071))
        return context.get_dummy_value()

    return types.void(inputs, weights, types.int64, types.int32), generate


@intrinsic
def lane_settle(typing_context, state, classes, mean_error, count, errors, here, value):
    """Learn the lanes' scales from the sample `value` (1/16 level) and store their |errors|."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        error = (splat(builder, arguments[6]) - memory.load(0, MEAN)).absolute()
        memory.store(4, arguments[5], error.at_most(65535.0).to_int())
        index = memory.load(1, 0)
        mean = memory.gather(2, index)
        n = memory.gather(3, index)
        memory.scatter(2, index, mean + (error - mean) / (n + 1.5))
        memory.scatter(3, index, (n + 1.0).at_most(COUNT_LIMIT))
        return context.get_dummy_value()

    return types.void(state, classes, mean_error, count, errors, types.int64, types.float32), generate


@intrinsic
def lane_quiet(typing_context, errors, here):
    """Store an error of 0 for every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature, arguments)
        memory.store(0, arguments[1], Vector(builder, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)))
        return context.get_dummy_value()

    return types.void(errors, types.int64), generate


@intrinsic
def scale_by_power(typing_context, p, shifted):
    """p * 2^n, where n is in the low bits of `shifted`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        p, shifted = (builder.bitcast(a, I32) for a in arguments)
        n = builder.shl(shifted, ir.Constant(I32, 23))
        return builder.bitcast(builder.add(p, n), F32)

    return types.float32(types.float32, types.float32), generate
