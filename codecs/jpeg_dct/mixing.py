"""One binary decision: chances under several contexts, mixed by learned weights, coded, and learned from.

Numba does not make vector instructions of these short loops, so they are written as such (see
`interframe/backward_vector.py`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from dcmpress.codecs.interframe.backward_jit import inline
from dcmpress.codecs.interframe.backward_mixer import squash
from dcmpress.codecs.interframe.backward_tables import RECIPROCAL, STRETCH
from dcmpress.codecs.interframe.backward_vector import I32, LANES, Memory, Vector, splat, vector_of
from dcmpress.codecs.interframe.binary_coder import code_bit

_I64 = ir.IntType(64)
COUNT_LIMIT = 250
_RATE = 24
_LEAST = 24
"""No decision is more certain than this, in 1/65536."""
EVEN = 1 << 29
"""A chance of one half that was never met: 22 bits of probability, 8 of a count."""
FIRST_WEIGHT = 14000
"""In 1/65536."""
STATE = 2 * LANES
"""Numbers that a decision keeps from mixing to learning."""


def _mixing(n: int) -> tuple[Any, Any]:
    """Return the intrinsics that mix `n` chances, and learn."""

    @intrinsic
    def mix(typing_context, chances, contexts, weights, w, state, stretch):
        """Return the sum of log odds (1/256 nat) * weights[w : w + 8]; `state` keeps chances and log odds."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature, arguments)
            zero = ir.Constant(I32, 0)
            entries, odds = [zero] * LANES, [zero] * LANES
            for i in range(n):
                entries[i] = memory.load_scalar(0, memory.load_scalar(1, i))
                step = builder.zext(builder.lshr(entries[i], ir.Constant(I32, 18)), _I64)
                odds[i] = memory.load_scalar(5, step)
            vector = vector_of(builder, odds)
            memory.store(4, 0, vector_of(builder, entries))
            memory.store(4, LANES, vector)
            return (vector * memory.load(2, arguments[3])).sum()

        return types.int32(chances, contexts, weights, types.int64, state, stretch), generate

    @intrinsic
    def learn(typing_context, chances, contexts, weights, w, state, error, bit, reciprocal):
        """Move the weights by `error` (1/65536), and each chance by 1 / (n + 1.5) of what it is off `bit`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature, arguments)
            odds = memory.load(4, LANES)
            step = (odds * splat(builder, arguments[5]) + 8192) >> 14
            memory.store(2, arguments[3], (memory.load(2, arguments[3]) + step).clip(-131071, 131071))
            entries = memory.load(4, 0)
            count = Vector(builder, builder.and_(entries.value, _all(255)))
            chance = entries >> 8
            share = [memory.load_scalar(7, builder.zext(count.lane(i), _I64)) for i in range(n)]
            share += [ir.Constant(I32, 0)] * (LANES - n)
            target = builder.mul(arguments[6], ir.Constant(I32, (1 << 22) - 1))
            moved = (((splat(builder, target) - chance) >> 7) * vector_of(builder, share)) >> 9
            chance = chance + moved
            count = (count + 1).at_most(COUNT_LIMIT)
            entries = Vector(builder, builder.or_((chance << 8).value, count.value))
            for i in range(n):
                memory.store_scalar(0, memory.load_scalar(1, i), entries.lane(i))
            return context.get_dummy_value()

        arrays = (chances, contexts, weights, types.int64, state)
        return types.void(*arrays, types.int32, types.int32, reciprocal), generate

    return mix, learn


def _all(value: int) -> Any:
    return ir.Constant(ir.VectorType(I32, LANES), [value] * LANES)


def decider(n: int) -> Callable[..., Any]:
    """Return the kernel that codes a decision under `n` contexts, at most 8.

    It takes (encode, bit, contexts, chances, weights, w, state, acc, rng, pos, buffer), `contexts` being places in
    `chances` (int64, shape (8,)), `w` the number of a set of weights, `state` int32 of shape (16,), and returns (bit,
    acc, rng, pos) as `binary_coder.code_bit` does.
    """
    mix, learn = _mixing(n)

    @inline
    def decide(encode, bit, contexts, chances, weights, w, state, acc, rng, pos, buffer):
        i = np.int64(w) * LANES
        p = squash(np.int64(mix(chances, contexts, weights, i, state, STRETCH)) >> 16)
        p = min(max(p, _LEAST), 65536 - _LEAST)
        bit, acc, rng, pos = code_bit(encode, bit, p, acc, rng, pos, buffer)
        error = np.int32((((bit << 16) - p) * _RATE) >> 6)
        learn(chances, contexts, weights, i, state, error, np.int32(bit), RECIPROCAL)
        return bit, acc, rng, pos

    return decide
