"""SIMD functions for Numba code: maxima and minima that keep NaN, and reductions over lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import I32, lane_mask, splat


def _extreme(comparison: str) -> Callable[[Any, Any, Any], Any]:
    def emit(builder: Any, x: Any, y: Any) -> Any:
        # If one value is NaN, the comparison is false, and the result is y.
        chosen = builder.fcmp_ordered(comparison, x, y)
        value = builder.select(chosen, x, y)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

    return emit


_maximum, _minimum = _extreme(">"), _extreme("<")


@intrinsic
def vector_larger(typingctx: Any, x: Any, y: Any) -> Any:
    """Return the maximum of two vectors, lane by lane; it is NaN if one value is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _maximum(builder, *args)

    return x(x, y), codegen


@intrinsic
def vector_smaller(typingctx: Any, x: Any, y: Any) -> Any:
    """Return the minimum of two vectors, lane by lane; it is NaN if one value is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _minimum(builder, *args)

    return x(x, y), codegen


@intrinsic
def vector_first_lanes(typingctx: Any, vector: Any, valid: Any, otherwise: Any) -> Any:
    """Return a vector whose lanes from number ``valid`` on are the float32 ``otherwise``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = lane_mask(builder, args[1], vector.lanes)
        return builder.select(mask, args[0], splat(builder, args[2], args[0].type))

    return vector(vector, types.int64, types.float32), codegen


@intrinsic
def vector_of_indices(typingctx: Any, indices: Any, like: Any) -> Any:
    """Return the int32 vector ``indices`` as float32 values; ``like`` gives the type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], args[1].type)

    return like(indices, like), codegen


def _fold(builder: Any, vector: Any, emit: Callable[[Any, Any, Any], Any]) -> Any:
    """Combine the lower half of the lanes with the upper half until one lane is left."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        kind = ir.VectorType(I32, half)
        parts = [
            builder.shuffle_vector(
                vector,
                ir.Constant(vector.type, ir.Undefined),
                ir.Constant(kind, list(range(first, first + half))),
            )
            for first in (0, half)
        ]
        vector = emit(builder, *parts)
    return builder.extract_element(vector, ir.Constant(I32, 0))


@intrinsic
def lanes_sum(typingctx: Any, vector: Any) -> Any:
    """Return the sum of the lanes, always added in the same order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fold(builder, args[0], lambda builder, x, y: builder.fadd(x, y))

    return types.float32(vector), codegen


@intrinsic
def lanes_maximum(typingctx: Any, vector: Any) -> Any:
    """Return the maximum of the lanes; it is NaN if one lane is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fold(builder, args[0], _maximum)

    return types.float32(vector), codegen
