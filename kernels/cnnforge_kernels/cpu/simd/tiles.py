"""Register tiles, and the micro-kernel that adds products to them.

A *tile* holds one value for each of some positions, which are neighbouring pixels (or taps of the
window), and each of some filters. It is a tuple of ``positions * vectors`` vectors of ``lanes``
float32 values. The vectors of the first position come first.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I32,
    I64,
    Loop,
    fma,
    lane_mask,
    literals,
    masked_store,
    pointer_to,
    splat,
    tile_type,
    unpack,
    zeros,
)


@intrinsic(prefer_literal=True)
def tile_broadcast(typingctx: Any, address: Any, positions: Any, vectors: Any, lanes: Any) -> Any:
    """Load the ``vectors * lanes`` float32 values at ``address`` into each position of a tile."""
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    tile = tile_type(*shape)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(F32, shape[2])
        row = [
            builder.load(pointer_to(builder, args[0], kind, 4 * shape[2] * v), align=4)
            for v in range(shape[1])
        ]
        return context.make_tuple(builder, tile, row * shape[0])

    return tile(types.int64, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_load(
    typingctx: Any, address: Any, stride: Any, positions: Any, vectors: Any, lanes: Any
) -> Any:
    """Load a tile; position t is at ``address + t * stride``, in bytes."""
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    tile = tile_type(*shape)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(F32, shape[2])
        values = []
        for t in range(shape[0]):
            start = builder.add(args[0], builder.mul(args[1], ir.Constant(I64, t)))
            for v in range(shape[1]):
                pointer = pointer_to(builder, start, kind, 4 * shape[2] * v)
                values.append(builder.load(pointer, align=4))
        return context.make_tuple(builder, tile, values)

    return tile(types.int64, types.int64, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    offsets: Any,
    weights: Any,
    count: Any,
    line: Any,
    pixel: Any,
    rows: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
    pairs: Any,
    window: Any,
) -> Any:
    """Run the micro-kernel: ``tile[t] += source[offsets[k] + (t + j) * pixel] * weights[k][j]``.

    It sums over k < ``count`` and j < ``window``. The tile has ``rows`` rows of ``positions``
    positions. In the source, ``line`` is the number of bytes from a row to the next, ``pixel`` that
    from a position to the next. ``source``, ``offsets`` and ``weights`` are addresses. The offsets
    are int64, in bytes. ``weights[k][j]`` are ``vectors * lanes`` floats. A value of the source is
    loaded only once for all j, although several positions need it.

    If ``pairs`` is 2, each vector holds two positions, 2t in its even lanes and 2t + 1 in its odd
    lanes, and contains each weight twice. So a few filters fill a wide register. The two positions
    must be neighbouring floats in the source, because one 64-bit broadcast loads both.
    """
    shape = literals(rows, positions, vectors, lanes, pairs, window)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    R, T, G, L, P, W = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, offsets, weights, count, line, pixel = args[:7]
        kind = ir.VectorType(F32, L)
        steps = [builder.mul(pixel, ir.Constant(I64, q)) for q in range(T * P + W - 1)]
        loop = Loop(builder, count, [*unpack(builder, start, R * T * G), weights])
        weight = loop.values[-1]
        table = builder.inttoptr(offsets, I64.as_pointer())
        position = builder.add(source, builder.load(builder.gep(table, [loop.index])))
        row = [
            builder.load(pointer_to(builder, weight, kind, 4 * L * v), align=4)
            for v in range(G * W)
        ]
        results = list(loop.values[:-1])
        for r in range(R):
            if r > 0:
                position = builder.add(position, line)
            for q in range(T * P + W - 1):
                # Tap j of the window needs this value for position q - j, if the tile has a vector
                # that begins at this position.
                uses = [j for j in range(W) if 0 <= q - j <= (T - 1) * P and (q - j) % P == 0]
                if not uses:
                    continue
                here = builder.add(position, steps[q])
                if P == 1:
                    value = splat(
                        builder, builder.load(pointer_to(builder, here, F32), align=4), kind
                    )
                else:
                    both = builder.load(pointer_to(builder, here, I64), align=4)
                    both = splat(builder, both, ir.VectorType(I64, L // 2))
                    value = builder.bitcast(both, kind)
                for j in uses:
                    for v in range(G):
                        index = (r * T + (q - j) // P) * G + v
                        results[index] = fma(builder, value, row[j * G + v], results[index])
        next_weight = builder.add(weight, ir.Constant(I64, 4 * L * G * W))
        final = loop.finish([*results, next_weight])[:-1]
        return context.make_tuple(builder, tile, final)

    integer = types.int64
    signature = tile(tile, *[integer] * 5, pixel, rows, positions, vectors, lanes, pairs, window)
    return signature, codegen


@intrinsic
def tile_relu(typingctx: Any, tile: Any) -> Any:
    """Return ``max(tile, 0)``; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for value in unpack(builder, args[0], tile.count):
            zero = zeros(value.type)
            values.append(builder.select(builder.fcmp_ordered("<", value, zero), zero, value))
        return context.make_tuple(builder, tile, values)

    return tile(tile), codegen


@intrinsic(prefer_literal=True)
def tile_store_after(
    typingctx: Any,
    tile: Any,
    address: Any,
    stride: Any,
    valid: Any,
    skipped: Any,
    positions: Any,
    vectors: Any,
) -> Any:
    """Store the first ``valid`` filters of each position t >= ``skipped`` of a tile.

    Position t is stored at ``address + t * stride``, in bytes.
    """
    shape = literals(positions, vectors)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G = shape
    L = tile.dtype.lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address, stride, valid, skipped = args[:5]
        kind = ir.VectorType(F32, L)
        items = unpack(builder, values, T * G)
        starts = [builder.add(address, builder.mul(stride, ir.Constant(I64, t))) for t in range(T)]
        whole = builder.and_(
            builder.icmp_signed(">=", valid, ir.Constant(I64, G * L)),
            builder.icmp_signed("==", skipped, ir.Constant(I64, 0)),
        )
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for t in range(T):
                    for v in range(G):
                        pointer = pointer_to(builder, starts[t], kind, 4 * L * v)
                        builder.store(items[t * G + v], pointer, align=4)
            with otherwise:
                for t in range(T):
                    stored = builder.icmp_signed(">=", ir.Constant(I64, t), skipped)
                    count = builder.select(stored, valid, ir.Constant(I64, 0))
                    for v in range(G):
                        left = builder.sub(count, ir.Constant(I64, L * v))
                        pointer = pointer_to(builder, starts[t], kind, 4 * L * v)
                        masked_store(
                            builder, items[t * G + v], pointer, lane_mask(builder, left, L)
                        )
        return context.get_dummy_value()

    integer = types.int64
    return types.void(tile, *[integer] * 4, positions, vectors), codegen


@intrinsic(prefer_literal=True)
def tile_store(
    typingctx: Any,
    tile: Any,
    address: Any,
    stride: Any,
    valid: Any,
    positions: Any,
    vectors: Any,
    pairs: Any,
) -> Any:
    """Store the first ``valid`` filters of position t at ``address + t * stride``, in bytes."""
    shape = literals(positions, vectors, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    P = shape[2]
    T, G = shape[0] * P, shape[1]
    L = tile.dtype.lanes // P

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address, stride, valid = args[:4]
        kind = ir.VectorType(F32, L)
        items = unpack(builder, values, shape[0] * G)
        if P == 2:
            # The even lanes are one position, the odd lanes are the next position. Separate them.
            number = ir.VectorType(I32, L)
            undefined = ir.Constant(items[0].type, ir.Undefined)
            items = [
                builder.shuffle_vector(
                    items[t * G + v],
                    undefined,
                    ir.Constant(number, [2 * lane + odd for lane in range(L)]),
                )
                for t in range(shape[0])
                for odd in (0, 1)
                for v in range(G)
            ]
        starts = [builder.add(address, builder.mul(stride, ir.Constant(I64, t))) for t in range(T)]
        whole = builder.icmp_signed(">=", valid, ir.Constant(I64, G * L))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for t in range(T):
                    for v in range(G):
                        pointer = pointer_to(builder, starts[t], kind, 4 * L * v)
                        builder.store(items[t * G + v], pointer, align=4)
            with otherwise:
                for v in range(G):
                    left = builder.sub(valid, ir.Constant(I64, L * v))
                    mask = lane_mask(builder, left, L)
                    for t in range(T):
                        pointer = pointer_to(builder, starts[t], kind, 4 * L * v)
                        masked_store(builder, items[t * G + v], pointer, mask)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(tile, integer, integer, integer, positions, vectors, pairs), codegen
