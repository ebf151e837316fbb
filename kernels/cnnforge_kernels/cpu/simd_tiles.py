"""Register tiles, and the micro-kernel that accumulates into them.

A *tile* is a tuple of ``positions * vectors`` vectors of ``lanes`` float32 values, position-major:
``positions`` neighbouring pixels (or filter taps) by ``vectors * lanes`` filters.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.llvm import (
    F32,
    I8,
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
    """A tile whose every position holds the ``vectors * lanes`` float32 values at ``address``."""
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
def tile_load(typingctx: Any, address: Any, positions: Any, vectors: Any, lanes: Any) -> Any:
    """The tile stored at ``address``, positions one after the other."""
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    tile = tile_type(*shape)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(F32, shape[2])
        values = [
            builder.load(pointer_to(builder, args[0], kind, 4 * shape[2] * index), align=4)
            for index in range(shape[0] * shape[1])
        ]
        return context.make_tuple(builder, tile, values)

    return tile(types.int64, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    offsets: Any,
    weights: Any,
    count: Any,
    line: Any,
    rows: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
    pairs: Any,
) -> Any:
    """The micro-kernel: ``tile[t][v] += source[offsets[k] + t] * weights[k][v]`` for k < count.

    ``source``, ``offsets`` (int64, in bytes) and ``weights`` (``vectors * lanes`` values a step)
    are addresses. The positions of each of ``rows`` rows are neighbours; the rows lie ``line``
    bytes apart. With ``pairs`` of 2 each vector holds two positions, 2t in its even lanes and
    2t + 1 in its odd ones, and the weights stand there twice: so few filters fill a wide register,
    and both positions are loaded by one 64-bit broadcast.
    """
    shape = literals(rows, positions, vectors, lanes, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    R, T, G, L, P = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, offsets, weights, count, line = args[:6]
        kind = ir.VectorType(F32, L)
        loop = Loop(builder, count, [*unpack(builder, start, R * T * G), weights])
        weight = loop.values[-1]
        table = builder.inttoptr(offsets, I64.as_pointer())
        position = builder.add(source, builder.load(builder.gep(table, [loop.index])))
        row = [
            builder.load(pointer_to(builder, weight, kind, 4 * L * v), align=4) for v in range(G)
        ]
        results = []
        for r in range(R):
            if r > 0:
                position = builder.add(position, line)
            for t in range(T):
                if P == 1:
                    value = builder.load(pointer_to(builder, position, F32, 4 * t), align=4)
                    value = splat(builder, value, kind)
                else:
                    value = builder.load(pointer_to(builder, position, I64, 8 * t), align=4)
                    value = splat(builder, value, ir.VectorType(I64, L // 2))
                    value = builder.bitcast(value, kind)
                for v in range(G):
                    results.append(fma(builder, value, row[v], loop.values[len(results)]))
        next_weight = builder.add(weight, ir.Constant(I64, 4 * L * G))
        final = loop.finish([*results, next_weight])[:-1]
        return context.make_tuple(builder, tile, final)

    integer = types.int64
    signature = tile(tile, *[integer] * 5, rows, positions, vectors, lanes, pairs)
    return signature, codegen


@intrinsic(prefer_literal=True)
def sparse_accumulate(
    typingctx: Any,
    sums: Any,
    source: Any,
    offsets: Any,
    cells: Any,
    winners: Any,
    factors: Any,
    step: Any,
    count: Any,
    line: Any,
    rows: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """``sums[v] += factors[p] * source[offsets[p] + cells[winners[p]] + v * lanes]`` for p < count.

    The tile of ``rows`` rows (``line`` bytes apart) by ``vectors`` vectors is the gradient of one
    filter's taps; ``p`` counts pooled pixels. ``source``, ``offsets`` and ``cells`` (int64, in
    bytes) are addresses, ``winners`` the address of bytes and ``factors`` that of float32, both
    ``step`` values apart.
    """
    shape = literals(rows, vectors, lanes)
    if shape is None or not isinstance(sums, types.UniTuple):
        return None
    R, V, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, offsets, cells, winners, factors, step, count, line = args[:9]
        kind = ir.VectorType(F32, L)
        initial = unpack(builder, start, R * V)
        loop = Loop(builder, count, [*initial, ir.Constant(I64, 0)])
        place = loop.values[-1]
        winner = builder.load(pointer_to(builder, builder.add(winners, place), I8))
        table = builder.inttoptr(cells, I64.as_pointer())
        cell = builder.load(builder.gep(table, [builder.zext(winner, I64)]))
        places = builder.inttoptr(offsets, I64.as_pointer())
        position = builder.add(source, builder.load(builder.gep(places, [loop.index])))
        position = builder.add(position, cell)
        scale = builder.add(factors, builder.shl(place, ir.Constant(I64, 2)))
        factor = splat(builder, builder.load(pointer_to(builder, scale, F32), align=4), kind)
        results = []
        for r in range(R):
            if r > 0:
                position = builder.add(position, line)
            for v in range(V):
                value = builder.load(pointer_to(builder, position, kind, 4 * L * v), align=4)
                results.append(fma(builder, factor, value, loop.values[len(results)]))
        final = loop.finish([*results, builder.add(place, step)])[:-1]
        return context.make_tuple(builder, sums, final)

    integer = types.int64
    signature = sums(sums, *[integer] * 8, rows, vectors, lanes)
    return signature, codegen


@intrinsic
def tile_relu(typingctx: Any, tile: Any) -> Any:
    """``max(tile, 0)``; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for value in unpack(builder, args[0], tile.count):
            zero = zeros(value.type)
            values.append(builder.select(builder.fcmp_ordered("<", value, zero), zero, value))
        return context.make_tuple(builder, tile, values)

    return tile(tile), codegen


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
    """Store position t at ``address + t * stride`` (bytes): its first ``valid`` filters only."""
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
            # Even lanes are one position, odd lanes the next.
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
