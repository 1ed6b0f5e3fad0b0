"""Vectors of eight 32-bit lanes as values with operators, generated as LLVM vector instructions.

Numba's loop vectoriser misses the short loops of this codec, which are half of its time; written with
`Vector` in `numba.extending.intrinsic` functions they become what a C programmer would write with vector
types. The operations are IEEE 754 binary32 +, -, *, / (round to nearest even) and 32-bit integer operations
per lane, emitted without fast-math flags, so that LLVM may neither contract nor reassociate them: results
are the same on every machine, whatever its vector width.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

LANES = 8
F32 = ir.FloatType()
I32 = ir.IntType(32)
VF = ir.VectorType(F32, LANES)
VI = ir.VectorType(I32, LANES)


class Vector:
    """A vector value with operators."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value
        self.is_float = value.type.element != I32

    def _lift(self, other: Any) -> Any:
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.value.type, [other] * self.value.type.count)

    def _binary(self, other: Any, float_name: str, int_name: str, swap: bool = False) -> "Vector":
        operation = getattr(self.builder, float_name if self.is_float else int_name)
        a, b = self.value, self._lift(other)
        return Vector(self.builder, operation(b, a) if swap else operation(a, b))

    def __add__(self, other: Any) -> "Vector":
        return self._binary(other, "fadd", "add")

    def __sub__(self, other: Any) -> "Vector":
        return self._binary(other, "fsub", "sub")

    def __rsub__(self, other: Any) -> "Vector":
        return self._binary(other, "fsub", "sub", swap=True)

    def __mul__(self, other: Any) -> "Vector":
        return self._binary(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> "Vector":
        return self._binary(other, "fdiv", "sdiv")

    def __rtruediv__(self, other: Any) -> "Vector":
        return self._binary(other, "fdiv", "sdiv", swap=True)

    def __lshift__(self, bits: int) -> "Vector":
        return self._binary(bits, "", "shl")

    def __rshift__(self, bits: int) -> "Vector":
        return self._binary(bits, "", "ashr")

    def _compare(self, operator: str, other: Any) -> Any:
        if self.is_float:
            return self.builder.fcmp_ordered(operator, self.value, self._lift(other))
        return self.builder.icmp_signed(operator, self.value, self._lift(other))

    def clip(self, low: Any, high: Any) -> "Vector":
        return self.at_least(low).at_most(high)

    def at_least(self, other: Any) -> "Vector":
        return Vector(
            self.builder, self.builder.select(self._compare(">", other), self.value, self._lift(other))
        )

    def at_most(self, other: Any) -> "Vector":
        return Vector(
            self.builder, self.builder.select(self._compare("<", other), self.value, self._lift(other))
        )

    def bits(self) -> "Vector":
        return Vector(self.builder, self.builder.bitcast(self.value, VI))

    def from_bits(self) -> "Vector":
        return Vector(self.builder, self.builder.bitcast(self.value, VF))

    def to_int(self) -> "Vector":
        return Vector(self.builder, self.builder.fptosi(self.value, VI))

    def to_float(self) -> "Vector":
        return Vector(self.builder, self.builder.sitofp(self.value, VF))

    def absolute(self) -> "Vector":
        sign = ir.Constant(VI, [0x7FFFFFFF] * LANES)
        return Vector(self.builder, self.builder.bitcast(self.builder.and_(self.bits().value, sign), VF))

    def lane(self, i: int) -> Any:
        return self.builder.extract_element(self.value, ir.Constant(I32, i))

    def sum(self) -> Any:
        """Sum of the lanes as ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)); integers wrap."""
        total = self
        for half in (4, 2, 1):
            mask = [(i + half) % LANES for i in range(LANES)]
            moved = self.builder.shuffle_vector(total.value, total.value, ir.Constant(VI, mask))
            total = total + Vector(self.builder, moved)
        return total.lane(0)


class Memory:
    """The arrays given to an intrinsic, as places to load vectors from and store them to."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.arguments = arguments
        self._data = [
            context.make_array(kind)(context, builder, argument).data if hasattr(kind, "ndim") else None
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]

    def _pointer(self, argument: int, index: Any) -> Any:
        if isinstance(index, int):
            index = ir.Constant(ir.IntType(64), index)
        return self.builder.gep(self._data[argument], [index])

    def load(self, argument: int, index: Any, n: int = LANES) -> Vector:
        pointer = self._pointer(argument, index)
        kind = ir.VectorType(pointer.type.pointee, n)
        loaded = self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=4)
        return Vector(self.builder, loaded)

    def store(self, argument: int, index: Any, vector: Vector) -> None:
        kind = vector.value.type.as_pointer()
        pointer = self.builder.bitcast(self._pointer(argument, index), kind)
        self.builder.store(vector.value, pointer, align=4)

    def load_scalar(self, argument: int, index: Any) -> Any:
        return self.builder.load(self._pointer(argument, index))

    def store_scalar(self, argument: int, index: Any, value: Any) -> None:
        self.builder.store(value, self._pointer(argument, index))

    def offset(self, index: Any, distance: int) -> Any:
        return self.builder.add(index, ir.Constant(index.type, distance))

    def gather(self, argument: int, lanes: Vector) -> Vector:
        """One scalar for each lane, from the index in that lane."""
        scalars = [
            self.load_scalar(argument, self.builder.zext(lanes.lane(i), ir.IntType(64))) for i in range(LANES)
        ]
        return vector_of(self.builder, scalars)

    def scatter(self, argument: int, lanes: Vector, values: Vector) -> None:
        for i in range(LANES):
            self.store_scalar(argument, self.builder.zext(lanes.lane(i), ir.IntType(64)), values.lane(i))


def splat(builder: Any, scalar: Any) -> Vector:
    """Return a vector with `scalar` in every lane."""
    kind = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return Vector(builder, builder.shuffle_vector(first, first, ir.Constant(VI, [0] * LANES)))


def vector_of(builder: Any, scalars: list[Any]) -> Vector:
    """Return the vector of these scalars (LLVM values, all of one type)."""
    value = ir.Constant(ir.VectorType(scalars[0].type, len(scalars)), ir.Undefined)
    for i, scalar in enumerate(scalars):
        value = builder.insert_element(value, scalar, ir.Constant(I32, i))
    return Vector(builder, value)


def join(low: Vector, high: Vector) -> Vector:
    """Return the eight lanes of two vectors of four."""
    mask = ir.Constant(VI, list(range(LANES)))
    return Vector(low.builder, low.builder.shuffle_vector(low.value, high.value, mask))


def constant(builder: Any, values: list[float]) -> Vector:
    """Return a vector of constants."""
    return Vector(builder, ir.Constant(VF, values))


def exp_negative(z: Vector) -> Vector:
    """exp(-z), relative error below 1e-6, for |z| <= 40: 2^n 2^f with |f| <= 1/2."""
    y = z * -1.4426950216293335
    shifted = y + 12582912.0  # 1.5 * 2^23: rounds to an integer, which is left in the low bits
    f = y - (shifted - 12582912.0)
    f2 = f * f
    low = f * 0.6931469440460205 + 1.0
    middle = f * 0.05550742521882057 + 0.24022121727466583
    high = f * 0.0013266975292935967 + 0.00967546459287405
    p = low + f2 * (middle + f2 * high)
    return (p.bits() + (shifted.bits() << 23)).from_bits()


def log_256(r: Vector) -> Vector:
    """256 ln(r) for r > 0, error below 0.004: exponent, and a polynomial for 0.707 <= mantissa < 1.414."""
    bits = r.bits()
    exponent = (bits - 0x3F3504F3) >> 23
    x = (bits - (exponent << 23)).from_bits() - 1.0
    x2 = x * x
    low = x * -127.96007537841797 + 256.0036926269531
    middle = x * -65.24756622314453 + 85.0539779663086
    high = x * -36.429771423339844 + 57.15332794189453
    return exponent.to_float() * 177.4456787109375 + x * (low + x2 * (middle + x2 * high))
