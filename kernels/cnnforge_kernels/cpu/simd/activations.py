"""SIMD activation functions for Numba code, and the exponential function that they need.

The functions are accurate to about two units in the last place. They keep NaN, and infinity gives
the limit, or NaN if Keras' formula has 0 times infinity (``silu`` of minus infinity).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import F32, I32, Vector, literals, splat

# The position of a name is the number that `vector_activation` takes. `None` changes nothing.
ACTIVATIONS = (
    None,
    "relu",
    "relu6",
    "leaky_relu",
    "sigmoid",
    "silu",
    "hard_sigmoid",
    "hard_silu",
    "tanh",
    "gelu",
    "gelu_tanh",
    "elu",
    "selu",
    "exponential",
    "softsign",
)

# Added to a float32 of up to 2 ** 22, this number leaves the rounded value in the last bits.
_ROUNDING = 12582912.0
_ROUNDING_BITS = 0x4B400000
_SIGN = -(2**31)
# Coefficients of polynomials, the highest power first. The first three are those of S. Moshier's
# library Cephes (expf.c and tanhf.c). The fraction of `erf` is that of the library Eigen.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
_ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


class _Lanes:
    """Emit arithmetic on the vectors of one LLVM type; numbers become constant vectors."""

    def __init__(self, builder: Any, kind: ir.VectorType) -> None:
        self.builder, self.kind = builder, kind
        self.integers = ir.VectorType(I32, kind.count)

    def _float(self, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return ir.Constant(self.kind, [float(value)] * self.kind.count)
        return value

    def _integer(self, value: Any) -> Any:
        if isinstance(value, int):
            return ir.Constant(self.integers, [value] * self.kind.count)
        return value

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(self._float(x), self._float(y))

    def subtract(self, x: Any, y: Any) -> Any:
        return self.builder.fsub(self._float(x), self._float(y))

    def multiply(self, x: Any, y: Any) -> Any:
        return self.builder.fmul(self._float(x), self._float(y))

    def divide(self, x: Any, y: Any) -> Any:
        return self.builder.fdiv(self._float(x), self._float(y))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """Return ``x * y + z``, rounded once if the processor has an instruction for that."""
        values = [self._float(value) for value in (x, y, z)]
        name = f"llvm.fmuladd.v{self.kind.count}f32"
        kind = ir.FunctionType(self.kind, [self.kind] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, values)

    def polynomial(self, x: Any, coefficients: tuple[float, ...]) -> Any:
        total = self._float(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.multiply_add(total, x, coefficient)
        return total

    def where_less(self, x: Any, y: Any, yes: Any, no: Any) -> Any:
        """Return ``yes`` in the lanes with x < y, else ``no``; NaN is not less."""
        chosen = self.builder.fcmp_ordered("<", self._float(x), self._float(y))
        return self.builder.select(chosen, self._float(yes), self._float(no))

    def clamp(self, x: Any, low: float, high: float) -> Any:
        x = self.where_less(x, low, low, x)
        return self.where_less(high, x, high, x)

    def bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.integers)

    def power_of_two(self, exponent: Any) -> Any:
        biased = self.builder.add(exponent, self._integer(127))
        return self.builder.bitcast(self.builder.shl(biased, self._integer(23)), self.kind)

    def absolute(self, x: Any) -> Any:
        bits = self.builder.and_(self.bits(x), self._integer(2**31 - 1))
        return self.builder.bitcast(bits, self.kind)

    def with_sign_of(self, x: Any, sign: Any) -> Any:
        """Return ``x``, which is not negative, with the sign of ``sign``."""
        bits = self.builder.and_(self.bits(sign), self._integer(_SIGN))
        return self.builder.bitcast(self.builder.or_(self.bits(x), bits), self.kind)

    def exponent_and_rest(self, x: Any) -> tuple[Any, Any]:
        """Return integers n and ``exp(r) - 1`` for ``x = n * log(2) + r`` with a small r."""
        moved = self.multiply_add(x, 1.4426950408889634, _ROUNDING)
        n = self.subtract(moved, _ROUNDING)
        r = self.multiply_add(n, -0.693359375, x)
        r = self.multiply_add(n, 2.12194440e-4, r)
        rest = self.multiply_add(self.multiply(r, r), self.polynomial(r, _EXP), r)
        return self.builder.sub(self.bits(moved), self._integer(_ROUNDING_BITS)), rest

    def exp(self, x: Any) -> Any:
        n, rest = self.exponent_and_rest(self.clamp(x, -104.0, 89.0))
        # The result, but not 2 ** n, can be subnormal, so multiply by two powers.
        half = self.builder.ashr(n, self._integer(1))
        other = self.builder.sub(n, half)
        value = self.multiply(self.add(rest, 1.0), self.power_of_two(half))
        return self.multiply(value, self.power_of_two(other))

    def expm1_below_zero(self, x: Any) -> Any:
        """Return ``exp(x) - 1`` for x of at most 0, accurate near 0 too."""
        n, rest = self.exponent_and_rest(self.clamp(x, -25.0, 0.0))
        power = self.power_of_two(n)
        return self.multiply_add(power, rest, self.subtract(power, 1.0))

    def sigmoid(self, x: Any) -> Any:
        return self.divide(1.0, self.add(self.exp(self.subtract(-0.0, x)), 1.0))

    def tanh(self, x: Any) -> Any:
        size = self.absolute(x)
        square = self.multiply(x, x)
        near = self.multiply(self.multiply(self.polynomial(square, _TANH), square), x)
        far = self.divide(2.0, self.add(self.exp(self.add(size, size)), 1.0))
        far = self.with_sign_of(self.subtract(1.0, far), x)
        return self.where_less(size, 0.625, self.add(near, x), far)

    def erf(self, x: Any) -> Any:
        near = self.clamp(x, -4.0, 4.0)
        square = self.multiply(near, near)
        above = self.multiply(near, self.polynomial(square, _ERF_ABOVE))
        value = self.divide(above, self.polynomial(square, _ERF_BELOW))
        value = self.where_less(x, -3.9, -1.0, value)
        return self.where_less(3.9, x, 1.0, value)

    def hard_sigmoid(self, x: Any) -> Any:
        return self.multiply(self.clamp(self.add(x, 3.0), 0.0, 6.0), 1 / 6)

    def activation(self, name: str | None, x: Any, alpha: Any) -> Any:
        if name is None:
            return x
        if name == "relu":
            return self.where_less(x, 0.0, 0.0, x)
        if name == "relu6":
            return self.clamp(x, 0.0, 6.0)
        if name == "leaky_relu":
            return self.where_less(x, 0.0, self.multiply(x, alpha), x)
        if name == "sigmoid":
            return self.sigmoid(x)
        if name == "silu":
            return self.multiply(x, self.sigmoid(x))
        if name == "hard_sigmoid":
            return self.hard_sigmoid(x)
        if name == "hard_silu":
            return self.multiply(x, self.hard_sigmoid(x))
        if name == "tanh":
            return self.tanh(x)
        if name == "gelu":
            erf = self.erf(self.multiply(x, 0.7071067811865476))
            return self.multiply(self.multiply(x, 0.5), self.add(erf, 1.0))
        if name == "gelu_tanh":
            inner = self.multiply_add(self.multiply(x, x), 0.044715, 1.0)
            inner = self.tanh(self.multiply(self.multiply(x, 0.7978845608028654), inner))
            return self.multiply(self.multiply(x, 0.5), self.add(inner, 1.0))
        if name == "elu":
            return self.where_less(x, 0.0, self.multiply(self.expm1_below_zero(x), alpha), x)
        if name == "selu":
            below = self.multiply(self.expm1_below_zero(x), 1.6732632423543772)
            return self.multiply(self.where_less(x, 0.0, below, x), 1.0507009873554805)
        if name == "exponential":
            return self.exp(x)
        if name == "softsign":
            return self.divide(x, self.add(self.absolute(x), 1.0))
        raise ValueError(f"no activation {name!r}")


@intrinsic(prefer_literal=True)
def vector_activation(typingctx: Any, vector: Any, alpha: Any, number: Any) -> Any:
    """Return the activation ``ACTIVATIONS[number]`` of a vector.

    ``alpha`` is a float32: the slope of ``leaky_relu``, or the factor of ``elu``.
    """
    chosen = literals(number)
    if chosen is None or not isinstance(vector, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(F32, vector.lanes)
        lanes = _Lanes(builder, kind)
        factor = splat(builder, args[1], kind)
        return lanes.activation(ACTIVATIONS[chosen[0]], args[0], factor)

    return vector(vector, types.float32, number), codegen


@intrinsic
def vector_exp(typingctx: Any, vector: Any) -> Any:
    """Return the exponential function of a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _Lanes(builder, ir.VectorType(F32, vector.lanes)).exp(args[0])

    return vector(vector), codegen
