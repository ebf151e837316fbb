"""The two inner loops of the separable block, written as LLVM code with SIMD instructions.

The arguments that are addresses or steps between addresses are integers, in bytes. The arguments
that are shapes (`pixels`, `vectors` and `lanes`) must be literal integers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.authoring import (
    F32,
    I64,
    Loop,
    fma,
    lane_mask,
    literals,
    masked_store,
    pointer_to,
    splat,
    zeros,
)


@intrinsic(prefer_literal=True)
def depthwise_tile(
    typingctx: Any,
    source: Any,
    taps: Any,
    table: Any,
    count: Any,
    step: Any,
    target: Any,
    pixels: Any,
    lanes: Any,
) -> Any:
    """Write ``target[t] = sum of source[offset_k + t * step] * taps[place_k]`` over k < count.

    This is done for each t < ``pixels`` and for ``lanes`` neighbouring channels. ``table`` is the
    address of ``count`` pairs of int64 values, (offset_k, place_k), in bytes.
    """
    shape = literals(pixels, lanes)
    if shape is None:
        return None
    T, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, taps, table, count, step, target = args[:6]
        kind = ir.VectorType(F32, L)
        loop = Loop(builder, count, [zeros(kind)] * T)
        entry = builder.add(table, builder.shl(loop.index, ir.Constant(I64, 4)))
        here = builder.add(source, builder.load(pointer_to(builder, entry, I64)))
        place = builder.add(taps, builder.load(pointer_to(builder, entry, I64, 8)))
        factor = builder.load(pointer_to(builder, place, kind), align=4)
        results = []
        for t in range(T):
            position = builder.add(here, builder.mul(step, ir.Constant(I64, t)))
            value = builder.load(pointer_to(builder, position, kind), align=4)
            results.append(fma(builder, value, factor, loop.values[t]))
        for t, value in enumerate(loop.finish(results)):
            position = builder.add(target, builder.mul(step, ir.Constant(I64, t)))
            builder.store(value, pointer_to(builder, position, kind), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, pixels, lanes), codegen


@intrinsic(prefer_literal=True)
def pointwise_tile(
    typingctx: Any,
    source: Any,
    step: Any,
    weights: Any,
    bias: Any,
    count: Any,
    target: Any,
    target_step: Any,
    valid: Any,
    pixels: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Write ``target[t] = relu(bias + sum of source[t * step][k] * weights[k])`` over k < count.

    This is done for each t < ``pixels`` and for ``vectors * lanes`` filters. Only the results of
    the first ``valid`` filters are written. The ReLU of NaN is NaN.
    """
    shape = literals(pixels, vectors, lanes)
    if shape is None:
        return None
    R, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, step, weights, bias, count, target, target_step, valid = args[:8]
        kind = ir.VectorType(F32, L)

        def row(address: Any) -> list[Any]:
            places = (pointer_to(builder, address, kind, 4 * L * v) for v in range(G))
            return [builder.load(place, align=4) for place in places]

        steps = [builder.mul(step, ir.Constant(I64, t)) for t in range(R)]
        loop = Loop(builder, count, [*row(bias) * R, weights])
        factors = row(loop.values[-1])
        here = builder.add(source, builder.shl(loop.index, ir.Constant(I64, 2)))
        results = []
        for t in range(R):
            place = pointer_to(builder, builder.add(here, steps[t]), F32)
            value = splat(builder, builder.load(place, align=4), kind)
            for v in range(G):
                results.append(fma(builder, value, factors[v], loop.values[t * G + v]))
        following = builder.add(loop.values[-1], ir.Constant(I64, 4 * L * G))
        sums = loop.finish([*results, following])[:-1]
        zero = zeros(kind)
        sums = [builder.select(builder.fcmp_ordered("<", sum_, zero), zero, sum_) for sum_ in sums]
        for v in range(G):
            mask = lane_mask(builder, builder.sub(valid, ir.Constant(I64, L * v)), L)
            for t in range(R):
                place = builder.add(target, builder.mul(target_step, ir.Constant(I64, t)))
                pointer = pointer_to(builder, place, kind, 4 * L * v)
                masked_store(builder, sums[t * G + v], pointer, mask)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8, pixels, vectors, lanes), codegen
