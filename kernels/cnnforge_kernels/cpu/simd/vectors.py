"""SIMD functions for Numba code: vectors of float32 values and of int32 indices.

A lane is one value of a vector. A load reads only the first ``valid`` lanes, and sets the other
lanes to a constant. A store writes only the first ``valid`` lanes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I32,
    I64,
    Vector,
    fma,
    lane_mask,
    literals,
    masked_load,
    masked_store,
    pointer_to,
    splat,
    zeros,
)


@intrinsic
def load_float(typingctx: Any, address: Any) -> Any:
    """Load the float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(pointer_to(builder, args[0], F32), align=4)

    return types.float32(types.int64), codegen


@intrinsic
def store_float(typingctx: Any, address: Any, value: Any) -> Any:
    """Store ``value`` as the float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], pointer_to(builder, args[0], F32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def load_byte(typingctx: Any, address: Any) -> Any:
    """Load the unsigned byte at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer_to(builder, args[0], ir.IntType(8)))
        return builder.zext(value, I64)

    return types.int64(types.int64), codegen


@intrinsic(prefer_literal=True)
def vector_splat(typingctx: Any, value: Any, lanes: Any) -> Any:
    """Return a vector with the float32 ``value`` in each lane."""
    shape = literals(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat(builder, args[0], ir.VectorType(F32, shape[0]))

    return Vector("f32", shape[0])(types.float32, lanes), codegen


@intrinsic(prefer_literal=True)
def index_splat(typingctx: Any, value: Any, lanes: Any) -> Any:
    """Return an int32 vector with ``value`` in each lane."""
    shape = literals(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat(builder, builder.trunc(args[0], I32), ir.VectorType(I32, shape[0]))

    return Vector("i32", shape[0])(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)
def vector_load(typingctx: Any, address: Any, valid: Any, lanes: Any) -> Any:
    """Load ``valid`` float32 values at ``address``; the other lanes are zero."""
    shape = literals(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(F32, shape[0])
        pointer = pointer_to(builder, args[0], kind)
        whole = builder.icmp_signed(">=", args[1], ir.Constant(I64, shape[0]))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                all_lanes, then_block = builder.load(pointer, align=4), builder.block
            with otherwise:
                mask = lane_mask(builder, args[1], shape[0])
                some_lanes = masked_load(builder, pointer, mask, zeros(kind))
                otherwise_block = builder.block
        result = builder.phi(kind)
        result.add_incoming(all_lanes, then_block)
        result.add_incoming(some_lanes, otherwise_block)
        return result

    return Vector("f32", shape[0])(types.int64, types.int64, lanes), codegen


@intrinsic
def vector_store(typingctx: Any, vector: Any, address: Any, valid: Any) -> Any:
    """Store the first ``valid`` lanes of a float32 vector at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(builder, args[1], args[0].type)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(I64, vector.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(args[0], pointer, align=4)
            with otherwise:
                mask = lane_mask(builder, args[2], vector.lanes)
                masked_store(builder, args[0], pointer, mask)
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64), codegen


def _binary(name: str, summary: str, emit: Any) -> Any:
    def typing(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return left(left, right), codegen

    typing.__name__ = typing.__qualname__ = name
    typing.__doc__ = summary
    return intrinsic(typing)


vector_add = _binary(
    "vector_add",
    "Return ``left + right``, two vectors of floats.",
    lambda builder, x, y: builder.fadd(x, y),
)
vector_subtract = _binary(
    "vector_subtract",
    "Return ``left - right``, two vectors of floats.",
    lambda builder, x, y: builder.fsub(x, y),
)
index_add = _binary(
    "index_add",
    "Return ``left + right``, two vectors of indices.",
    lambda builder, x, y: builder.add(x, y),
)
vector_multiply = _binary(
    "vector_multiply",
    "Return ``left * right``, two vectors of floats.",
    lambda builder, x, y: builder.fmul(x, y),
)
vector_larger = _binary(
    "vector_larger",
    "Return the maximum of two vectors of floats that are not NaN.",
    lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y),
)
vector_divide = _binary(
    "vector_divide",
    "Return ``left / right``, two vectors of floats.",
    lambda builder, x, y: builder.fdiv(x, y),
)


@intrinsic
def vector_multiply_add(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Return ``x * y + z``, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return fma(builder, *args)

    return z(x, y, z), codegen


@intrinsic
def vector_maximum(typingctx: Any, best: Any, argmax: Any, candidate: Any, index: Any) -> Any:
    """Return the new maximum and argmax after ``candidate``, which is cell ``index`` of the window.

    Of equal maxima the first is kept. If a value is NaN, the maximum is the first NaN.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        best, argmax, candidate, index = args
        better = builder.fcmp_unordered(">", candidate, best)
        better = builder.and_(better, builder.fcmp_ordered("ord", best, best))
        cells = splat(builder, builder.trunc(index, I32), argmax.type)
        values = [
            builder.select(better, candidate, best),
            builder.select(better, cells, argmax),
        ]
        return context.make_tuple(builder, signature.return_type, values)

    pair = types.Tuple((best, argmax))
    return pair(best, argmax, candidate, types.int64), codegen


@intrinsic(prefer_literal=True)
def vector_relu(typingctx: Any, best: Any, argmax: Any, off: Any) -> Any:
    """Return two vectors: ``max(best, 0)``, and ``argmax``, or ``off`` if ``best`` is not positive.

    The maximum of NaN and 0 is NaN; the second vector is then ``off``.
    """
    shape = literals(off)
    if shape is None:
        return None
    pair = types.Tuple((best, argmax))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = zeros(args[0].type)
        value = builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])
        none = ir.Constant(args[1].type, [shape[0]] * best.lanes)
        index = builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], none)
        return context.make_tuple(builder, pair, [value, index])

    return pair(best, argmax, off), codegen


@intrinsic
def vector_where_equal(typingctx: Any, argmax: Any, index: Any, values: Any) -> Any:
    """Return ``values`` in the lanes whose ``argmax`` is ``index``, zero in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cells = splat(builder, builder.trunc(args[1], I32), args[0].type)
        chosen = builder.icmp_signed("==", args[0], cells)
        return builder.select(chosen, args[2], zeros(args[2].type))

    return values(argmax, types.int64, values), codegen


@intrinsic
def index_where_equal(typingctx: Any, argmax: Any, index: Any, value: Any, otherwise: Any) -> Any:
    """Return ``value`` in the lanes whose ``argmax`` is ``index``, ``otherwise`` in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        cells, values = (splat(builder, builder.trunc(arg, I32), kind) for arg in args[1:3])
        return builder.select(builder.icmp_signed("==", args[0], cells), values, args[3])

    return otherwise(argmax, types.int64, types.int64, otherwise), codegen


@intrinsic(prefer_literal=True)
def index_ramp(typingctx: Any, first: Any, step: Any, lanes: Any) -> Any:
    """Return the int32 vector ``first``, ``first + step``, ``first + 2 * step``, and so on."""
    shape = literals(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(I32, shape[0])
        start, slope = (splat(builder, builder.trunc(arg, I32), kind) for arg in args[:2])
        return builder.add(start, builder.mul(slope, ir.Constant(kind, list(range(shape[0])))))

    return Vector("i32", shape[0])(types.int64, types.int64, lanes), codegen


@intrinsic
def vector_twice(typingctx: Any, vector: Any) -> Any:
    """Return a vector with each lane twice: (a, b) becomes (a, a, b, b)."""
    wide = Vector(vector.element, 2 * vector.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = [lane // 2 for lane in range(wide.lanes)]
        mask = ir.Constant(ir.VectorType(I32, wide.lanes), lanes)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), mask)

    return wide(vector), codegen


@intrinsic
def vector_where_not(typingctx: Any, argmax: Any, index: Any, values: Any) -> Any:
    """Return ``values`` in the lanes whose ``argmax`` is not ``index``, zero in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cells = splat(builder, builder.trunc(args[1], I32), args[0].type)
        chosen = builder.icmp_signed("==", args[0], cells)
        return builder.select(chosen, zeros(args[2].type), args[2])

    return values(argmax, types.int64, values), codegen


@intrinsic
def vector_where_positive(typingctx: Any, gate: Any, values: Any) -> Any:
    """Return ``values`` in the lanes whose ``gate`` is positive, zero in the others.

    NaN is not positive.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = zeros(args[0].type)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], zero)

    return values(gate, values), codegen


@intrinsic
def vector_where_between(typingctx: Any, gate: Any, limit: Any, values: Any) -> Any:
    """Return ``values`` in the lanes whose ``gate`` is between 0 and ``limit``, zero in the others.

    NaN is not between them. NaN as ``limit`` means no limit.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = zeros(args[0].type)
        positive = builder.fcmp_ordered(">", args[0], zero)
        below = builder.fcmp_unordered("<", args[0], args[1])
        return builder.select(builder.and_(positive, below), args[2], zero)

    return values(gate, limit, values), codegen


@intrinsic
def vector_clip(typingctx: Any, values: Any, limit: Any) -> Any:
    """Return ``min(max(values, 0), limit)``; NaN stays NaN.

    NaN as ``limit`` means no limit.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, most = args
        zero = zeros(value.type)
        value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
        return builder.select(builder.fcmp_ordered(">", value, most), most, value)

    return values(values, limit), codegen


@intrinsic(prefer_literal=True)
def index_store(typingctx: Any, vector: Any, address: Any, valid: Any, width: Any) -> Any:
    """Store the first ``valid`` lanes of an int32 vector as integers of ``width`` bytes, 1 or 4."""
    shape = literals(width)
    if shape is None or not isinstance(vector, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(8 * shape[0])
        kind = ir.VectorType(element, vector.lanes)
        value = args[0] if shape[0] == 4 else builder.trunc(args[0], kind)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(I64, vector.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(value, pointer_to(builder, args[1], kind), align=1)
            with otherwise:
                for lane in range(vector.lanes):
                    inside = builder.icmp_signed("<", ir.Constant(I64, lane), args[2])
                    with builder.if_then(inside):
                        item = builder.extract_element(value, ir.Constant(I32, lane))
                        pointer = pointer_to(builder, args[1], element, shape[0] * lane)
                        builder.store(item, pointer, align=1)
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64, width), codegen


@intrinsic(prefer_literal=True)
def index_load(typingctx: Any, address: Any, valid: Any, width: Any, lanes: Any) -> Any:
    """Load ``valid`` integers of ``width`` bytes, 1 or 4, at ``address``; other lanes are -1."""
    shape = literals(width, lanes)
    if shape is None:
        return None
    width_, lanes_ = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(8 * width_)
        kind = ir.VectorType(element, lanes_)
        wide = ir.VectorType(I32, lanes_)
        result = cgutils.alloca_once(builder, wide)
        whole = builder.icmp_signed(">=", args[1], ir.Constant(I64, lanes_))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                value = builder.load(pointer_to(builder, args[0], kind), align=1)
                builder.store(value if width_ == 4 else builder.zext(value, wide), result)
            with otherwise:
                builder.store(ir.Constant(wide, [-1] * lanes_), result)
                for lane in range(lanes_):
                    inside = builder.icmp_signed("<", ir.Constant(I64, lane), args[1])
                    with builder.if_then(inside):
                        pointer = pointer_to(builder, args[0], element, width_ * lane)
                        item = builder.load(pointer, align=1)
                        item = item if width_ == 4 else builder.zext(item, I32)
                        so_far = builder.load(result)
                        position = ir.Constant(I32, lane)
                        builder.store(builder.insert_element(so_far, item, position), result)
        return builder.load(result)

    return Vector("i32", lanes_)(types.int64, types.int64, width, lanes), codegen
