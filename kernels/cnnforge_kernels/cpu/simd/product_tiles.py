"""Operations on register tiles (``tiles.py``) for products of matrices."""

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
    Loop,
    fma,
    literals,
    pointer_to,
    splat,
    unpack,
)


@intrinsic(prefer_literal=True)
def product_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    weights: Any,
    count: Any,
    pixel: Any,
    step: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Add products to a tile: ``tile[t] += source[t * pixel + k * step] * weights[k]``.

    It sums over k < ``count``. ``source`` and ``weights`` are addresses; ``pixel`` and ``step`` are
    in bytes. ``weights[k]`` are ``vectors * lanes`` floats.
    """
    shape = literals(positions, vectors, lanes)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, weights, count, pixel, step = args[:6]
        kind = ir.VectorType(F32, L)
        steps = [builder.mul(pixel, ir.Constant(I64, t)) for t in range(T)]
        loop = Loop(builder, count, [*unpack(builder, start, T * G), source, weights])
        *sums, here, weight = loop.values
        row = [
            builder.load(pointer_to(builder, weight, kind, 4 * L * v), align=4) for v in range(G)
        ]
        results = []
        for t in range(T):
            place = pointer_to(builder, builder.add(here, steps[t]), F32)
            value = splat(builder, builder.load(place, align=4), kind)
            results += [fma(builder, value, row[v], sums[t * G + v]) for v in range(G)]
        following = [
            builder.add(here, step),
            builder.add(weight, ir.Constant(I64, 4 * L * G)),
        ]
        final = loop.finish([*results, *following])[: T * G]
        return context.make_tuple(builder, tile, final)

    integer = types.int64
    return tile(tile, *[integer] * 5, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_prefetch(
    typingctx: Any, address: Any, stride: Any, positions: Any, vectors: Any, lanes: Any
) -> Any:
    """Prefetch the cache lines of each position t of a tile at ``address + t * stride``."""
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for t in range(T):
            start = builder.add(args[0], builder.mul(args[1], ir.Constant(I64, t)))
            for line in range(0, 4 * G * L, 64):
                place = pointer_to(builder, start, byte, line)
                builder.call(function, [place, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, positions, vectors, lanes), codegen
