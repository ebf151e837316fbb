"""SIMD operations over neighbouring channels, for depthwise convolution and global pooling.

In ``tiles.py`` the lanes of a tile are filters, and all are multiplied by one value of the source.
Here the lanes are channels, and each is multiplied by its own value of the source. The type of a
tile is the same, so that its functions ``tile_broadcast``, ``tile_load`` and ``tile_relu`` can be
used here too.
``channels_store`` always stores whole vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I64,
    Loop,
    Vector,
    fma,
    literals,
    pointer_to,
    unpack,
)


def _load(builder: Any, address: Any, kind: Any, byte_offset: int = 0) -> Any:
    return builder.load(pointer_to(builder, address, kind, byte_offset), align=4)


def _integer(builder: Any, address: Any, byte_offset: int = 0) -> Any:
    return builder.load(pointer_to(builder, address, I64, byte_offset))


@intrinsic(prefer_literal=True)
def channels_store(
    typingctx: Any, tile: Any, address: Any, stride: Any, positions: Any, vectors: Any
) -> Any:
    """Store each position t of a tile at ``address + t * stride``, in bytes."""
    shape = literals(positions, vectors)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = unpack(builder, args[0], T * G)
        kind = items[0].type
        for t in range(T):
            start = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, t)))
            for v in range(G):
                place = builder.add(start, ir.Constant(I64, 4 * kind.count * v))
                pointer = builder.inttoptr(place, kind.as_pointer())
                builder.store(items[t * G + v], pointer, align=4)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, positions, vectors), codegen


@intrinsic(prefer_literal=True)
def taps_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    weights: Any,
    table: Any,
    count: Any,
    step: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Add the products of all taps to a tile.

    For each k < ``count``: ``tile[t][v] += source[offset_k + t * step][v] * weights[place_k][v]``.
    ``source``, ``weights`` and ``table`` are addresses. The table has an int64 pair (offset, place)
    for each k. The offsets, the places and ``step`` are in bytes.
    """
    shape = literals(positions, vectors, lanes)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, weights, table, count, step = args[:6]
        kind = ir.VectorType(F32, L)
        steps = [builder.mul(step, ir.Constant(I64, t)) for t in range(T)]
        loop = Loop(builder, count, unpack(builder, start, T * G))
        entry = builder.add(table, builder.shl(loop.index, ir.Constant(I64, 4)))
        here = builder.add(source, _integer(builder, entry))
        place = builder.add(weights, _integer(builder, entry, 8))
        row = [_load(builder, place, kind, 4 * L * v) for v in range(G)]
        results = []
        for t in range(T):
            position = builder.add(here, steps[t])
            for v in range(G):
                value = _load(builder, position, kind, 4 * L * v)
                results.append(fma(builder, value, row[v], loop.values[t * G + v]))
        return context.make_tuple(builder, tile, loop.finish(results))

    integer = types.int64
    return tile(tile, *[integer] * 5, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def pixels_accumulate(
    typingctx: Any,
    tile: Any,
    rows: Any,
    shift: Any,
    column_step: Any,
    step: Any,
    gradient: Any,
    mask: Any,
    gradient_step: Any,
    count: Any,
    tap_rows: Any,
    tap_columns: Any,
    vectors: Any,
    lanes: Any,
    masked: Any,
) -> Any:
    """Add the products of ``count`` pixels to the gradients of some taps and of the bias.

    For each pixel p and tap (i, j):
    ``tile[i, j][v] += source[rows[i] + shift + j * column_step + p * step][v] * gradient[p][v]``.
    The last position of the tile, after all taps, is the sum of ``gradient[p]``. ``rows`` is the
    address of ``tap_rows`` int64 addresses. Steps are in bytes. If ``masked`` is 1, a value of the
    gradient is replaced by zero unless the value at the same place of ``mask`` is positive.
    """
    shape = literals(tap_rows, tap_columns, vectors, lanes, masked)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    KR, KC, V, L, gated = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, rows, shift, column_step, step, gradient, mask, gradient_step, count = args[:9]
        kind = ir.VectorType(F32, L)
        zero = ir.Constant(kind, [0.0] * L)
        bases = [builder.add(_integer(builder, rows, 8 * i), shift) for i in range(KR)]
        columns = [builder.mul(column_step, ir.Constant(I64, j)) for j in range(KC)]
        initial = unpack(builder, start, (KR * KC + 1) * V)
        loop = Loop(builder, count, [*initial, ir.Constant(I64, 0), ir.Constant(I64, 0)])
        moved, place = loop.values[-2:]
        factors = []
        for v in range(V):
            factor = _load(builder, builder.add(gradient, place), kind, 4 * L * v)
            if gated:
                gate = _load(builder, builder.add(mask, place), kind, 4 * L * v)
                factor = builder.select(builder.fcmp_ordered(">", gate, zero), factor, zero)
            factors.append(factor)
        results = []
        for i in range(KR):
            line = builder.add(bases[i], moved)
            for j in range(KC):
                position = builder.add(line, columns[j])
                for v in range(V):
                    total = loop.values[len(results)]
                    value = _load(builder, position, kind, 4 * L * v)
                    results.append(fma(builder, value, factors[v], total))
        for v in range(V):
            results.append(builder.fadd(loop.values[len(results)], factors[v]))
        results += [builder.add(moved, step), builder.add(place, gradient_step)]
        return context.make_tuple(builder, tile, loop.finish(results)[:-2])

    integer = types.int64
    shapes = (tap_rows, tap_columns, vectors, lanes, masked)
    return tile(tile, *[integer] * 8, *shapes), codegen


@intrinsic(prefer_literal=True)
def pixels_sum(
    typingctx: Any,
    address: Any,
    step: Any,
    count: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Return a tile of sums over ``count * positions`` pixels.

    Position t of the tile sums pixels t, t + positions, t + 2 * positions, and so on. ``step`` is
    the number of bytes from a pixel to the next.
    """
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    T, G, L = shape
    tile = types.UniTuple(Vector("f32", L), T * G)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, step, count = args[:3]
        kind = ir.VectorType(F32, L)
        zero = ir.Constant(kind, [0.0] * L)
        steps = [builder.mul(step, ir.Constant(I64, t)) for t in range(T)]
        loop = Loop(builder, count, [zero] * (T * G) + [address])
        here = loop.values[-1]
        results = []
        for t in range(T):
            position = builder.add(here, steps[t])
            for v in range(G):
                value = _load(builder, position, kind, 4 * L * v)
                results.append(builder.fadd(loop.values[t * G + v], value))
        results.append(builder.add(here, builder.mul(step, ir.Constant(I64, T))))
        return context.make_tuple(builder, tile, loop.finish(results)[:-1])

    return tile(types.int64, types.int64, types.int64, positions, vectors, lanes), codegen
