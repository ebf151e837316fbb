"""SIMD operations over neighbouring channels: what depthwise convolution and global pooling need.

In ``simd.py`` the lanes of a tile are filters, and one value of the source goes to all of them.
Here the lanes are channels, and each has its own value of the source. A tile is the same thing, and
so are its ``tile_broadcast``, ``tile_load`` and ``tile_relu``; nothing is stored under a mask.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.simd import Vector

_F32 = ir.FloatType()
_I64 = ir.IntType(64)


def _literal(*values: Any) -> tuple[int, ...] | None:
    if all(isinstance(value, types.IntegerLiteral) for value in values):
        return tuple(value.literal_value for value in values)
    return None


def _load(builder: Any, address: Any, kind: Any, byte_offset: int = 0) -> Any:
    if byte_offset:
        address = builder.add(address, ir.Constant(_I64, byte_offset))
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _integer(builder: Any, address: Any, byte_offset: int = 0) -> Any:
    if byte_offset:
        address = builder.add(address, ir.Constant(_I64, byte_offset))
    return builder.load(builder.inttoptr(address, _I64.as_pointer()))


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fma.v{x.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


class _Loop:
    """``for index in range(count)`` with values that each pass replaces; one phi for each.

    Built by hand so that no optimiser pass decides whether the tile stays in registers.
    """

    def __init__(self, builder: Any, count: Any, initial: list[Any]) -> None:
        self.builder, self.count, self.initial = builder, count, initial
        self.before = builder.block
        self.body = builder.append_basic_block("channels.loop")
        self.after = builder.append_basic_block("channels.end")
        some = builder.icmp_signed(">", count, ir.Constant(_I64, 0))
        builder.cbranch(some, self.body, self.after)
        builder.position_at_end(self.body)
        self.index = builder.phi(_I64)
        self.values = [builder.phi(value.type) for value in initial]

    def finish(self, results: list[Any]) -> list[Any]:
        """Close the loop; returns the values after it."""
        builder = self.builder
        following = builder.add(self.index, ir.Constant(_I64, 1))
        builder.cbranch(builder.icmp_signed("<", following, self.count), self.body, self.after)
        pairs = [(self.index, ir.Constant(_I64, 0), following)]
        pairs += zip(self.values, self.initial, results, strict=True)
        for phi, first, result in pairs:
            phi.add_incoming(first, self.before)
            phi.add_incoming(result, self.body)
        builder.position_at_end(self.after)
        final = []
        for first, result in zip(self.initial, results, strict=True):
            phi = builder.phi(first.type)
            phi.add_incoming(first, self.before)
            phi.add_incoming(result, self.body)
            final.append(phi)
        return final


def _unpack(builder: Any, tile: Any, count: int) -> list[Any]:
    return [builder.extract_value(tile, index) for index in range(count)]


@intrinsic(prefer_literal=True)
def channels_store(
    typingctx: Any, tile: Any, address: Any, stride: Any, positions: Any, vectors: Any
) -> Any:
    """Store position t of a tile at ``address + t * stride`` (bytes)."""
    shape = _literal(positions, vectors)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = _unpack(builder, args[0], T * G)
        kind = items[0].type
        for t in range(T):
            start = builder.add(args[1], builder.mul(args[2], ir.Constant(_I64, t)))
            for v in range(G):
                place = builder.add(start, ir.Constant(_I64, 4 * kind.count * v))
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
    """``tile[t][v] += source[offset_k + t * step][v] * weights[place_k][v]`` for k < count.

    ``source``, ``weights`` and ``table`` are addresses; the table holds pairs (offset, place) of
    int64. All of them and ``step`` are in bytes.
    """
    shape = _literal(positions, vectors, lanes)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, weights, table, count, step = args[:6]
        kind = ir.VectorType(_F32, L)
        steps = [builder.mul(step, ir.Constant(_I64, t)) for t in range(T)]
        loop = _Loop(builder, count, _unpack(builder, start, T * G))
        entry = builder.add(table, builder.shl(loop.index, ir.Constant(_I64, 4)))
        here = builder.add(source, _integer(builder, entry))
        place = builder.add(weights, _integer(builder, entry, 8))
        row = [_load(builder, place, kind, 4 * L * v) for v in range(G)]
        results = []
        for t in range(T):
            position = builder.add(here, steps[t])
            for v in range(G):
                value = _load(builder, position, kind, 4 * L * v)
                results.append(_fma(builder, value, row[v], loop.values[t * G + v]))
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
    """Gradient of ``tap_rows * tap_columns`` taps, and of the bias, summed over ``count`` pixels.

    ``tile[i, j][v] += source[rows[i] + shift + j * column_step + p * step][v] * gradient[p][v]``
    for p < count, and the last position of the tile is the sum of ``gradient[p]``. ``rows`` is the
    address of ``tap_rows`` int64 addresses. Steps are in bytes. With ``masked`` = 1 the gradient
    counts only where the values at ``mask``, laid out like it, are positive.
    """
    shape = _literal(tap_rows, tap_columns, vectors, lanes, masked)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    KR, KC, V, L, gated = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, rows, shift, column_step, step, gradient, mask, gradient_step, count = args[:9]
        kind = ir.VectorType(_F32, L)
        zero = ir.Constant(kind, [0.0] * L)
        bases = [builder.add(_integer(builder, rows, 8 * i), shift) for i in range(KR)]
        columns = [builder.mul(column_step, ir.Constant(_I64, j)) for j in range(KC)]
        initial = _unpack(builder, start, (KR * KC + 1) * V)
        loop = _Loop(builder, count, [*initial, ir.Constant(_I64, 0), ir.Constant(_I64, 0)])
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
                    results.append(_fma(builder, value, factors[v], total))
        for v in range(V):
            results.append(builder.fadd(loop.values[len(results)], factors[v]))
        results += [builder.add(moved, step), builder.add(place, gradient_step)]
        return context.make_tuple(builder, tile, loop.finish(results)[:-2])

    integer = types.int64
    literals = (tap_rows, tap_columns, vectors, lanes, masked)
    return tile(tile, *[integer] * 8, *literals), codegen


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
    """A tile of sums over ``count * positions`` pixels, ``step`` bytes apart.

    Position t of the tile has every ``positions``-th pixel, beginning with pixel t.
    """
    shape = _literal(positions, vectors, lanes)
    if shape is None:
        return None
    T, G, L = shape
    tile = types.UniTuple(Vector("f32", L), T * G)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, step, count = args[:3]
        kind = ir.VectorType(_F32, L)
        zero = ir.Constant(kind, [0.0] * L)
        steps = [builder.mul(step, ir.Constant(_I64, t)) for t in range(T)]
        loop = _Loop(builder, count, [zero] * (T * G) + [address])
        here = loop.values[-1]
        results = []
        for t in range(T):
            position = builder.add(here, steps[t])
            for v in range(G):
                value = _load(builder, position, kind, 4 * L * v)
                results.append(builder.fadd(loop.values[t * G + v], value))
        results.append(builder.add(here, builder.mul(step, ir.Constant(_I64, T))))
        return context.make_tuple(builder, tile, loop.finish(results)[:-1])

    return tile(types.int64, types.int64, types.int64, positions, vectors, lanes), codegen
