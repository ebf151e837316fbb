"""Explicit SIMD for Numba: vector values, register tiles, and the few operations the kernels need.

LLVM does not find these loops by itself: plain loops over few channels stay scalar. Every
operation here takes addresses as integers (bytes) and the tile's shape as literal integers, so a
kernel factory only has to close over numbers, which Numba can cache on disk.

A *tile* is a tuple of ``positions * vectors`` vectors of ``lanes`` float32 values, position-major:
``positions`` neighbouring pixels (or filter taps) by ``vectors * lanes`` filters.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

_F32 = ir.FloatType()
_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


class Vector(types.Type):
    """A SIMD register of ``lanes`` float32 or int32 values."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm_type(vector))


def _llvm_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_F32 if vector.element == "f32" else _I32, vector.lanes)


def _literal(*values: Any) -> tuple[int, ...] | None:
    """The values of literal integer types; ``None`` when one is not literal."""
    if all(isinstance(value, types.IntegerLiteral) for value in values):
        return tuple(value.literal_value for value in values)
    return None


def _pointer(builder: Any, address: Any, element: Any, byte_offset: int = 0) -> Any:
    if byte_offset:
        address = builder.add(address, ir.Constant(_I64, byte_offset))
    return builder.inttoptr(address, element.as_pointer())


def _splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _zero(vector: ir.VectorType) -> Any:
    return ir.Constant(vector, [0.0] * vector.count)


def _lane_mask(builder: Any, valid: Any, lanes: int) -> Any:
    """``lane < valid`` for every lane."""
    numbers = ir.VectorType(_I32, lanes)
    count = _splat(builder, builder.trunc(valid, _I32), numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(lanes))), count)


def _masked(builder: Any, operation: str, vector: ir.VectorType, args: list[Any]) -> Any:
    lanes = vector.count
    mask = ir.VectorType(ir.IntType(1), lanes)
    name = f"v{lanes}{'f32' if vector.element == _F32 else 'i8'}"
    pointer = vector.as_pointer()
    if operation == "load":
        kind = ir.FunctionType(vector, [pointer, _I32, mask, vector])
    else:
        kind = ir.FunctionType(ir.VoidType(), [vector, pointer, _I32, mask])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.{operation}.{name}.p0"
    )
    return builder.call(function, args)


def _masked_load(builder: Any, pointer: Any, mask: Any, otherwise: Any) -> Any:
    return _masked(
        builder, "load", otherwise.type, [pointer, ir.Constant(_I32, 1), mask, otherwise]
    )


def _masked_store(builder: Any, value: Any, pointer: Any, mask: Any) -> Any:
    return _masked(builder, "store", value.type, [value, pointer, ir.Constant(_I32, 1), mask])


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fma.v{x.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


def _tile_type(positions: int, vectors: int, lanes: int) -> types.UniTuple:
    return types.UniTuple(Vector("f32", lanes), positions * vectors)


def _unpack(builder: Any, tile: Any, count: int) -> list[Any]:
    return [builder.extract_value(tile, index) for index in range(count)]


@intrinsic(prefer_literal=True)
def tile_broadcast(typingctx: Any, address: Any, positions: Any, vectors: Any, lanes: Any) -> Any:
    """A tile whose every position holds the ``vectors * lanes`` float32 values at ``address``."""
    shape = _literal(positions, vectors, lanes)
    if shape is None:
        return None
    tile = _tile_type(*shape)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_F32, shape[2])
        row = [
            builder.load(_pointer(builder, args[0], kind, 4 * shape[2] * v), align=4)
            for v in range(shape[1])
        ]
        return context.make_tuple(builder, tile, row * shape[0])

    return tile(types.int64, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_load(typingctx: Any, address: Any, positions: Any, vectors: Any, lanes: Any) -> Any:
    """The tile stored at ``address``, positions one after the other."""
    shape = _literal(positions, vectors, lanes)
    if shape is None:
        return None
    tile = _tile_type(*shape)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_F32, shape[2])
        values = [
            builder.load(_pointer(builder, args[0], kind, 4 * shape[2] * index), align=4)
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

    The loop is built here, with one phi for each accumulator, so that no optimiser pass decides
    whether the tile stays in registers.
    """
    shape = _literal(rows, positions, vectors, lanes, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    R, T, G, L, P = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, offsets, weights, count, line = args[:6]
        kind = ir.VectorType(_F32, L)
        initial = _unpack(builder, start, R * T * G)
        before = builder.block
        loop = builder.append_basic_block("tile.loop")
        after = builder.append_basic_block("tile.end")
        some = builder.icmp_signed(">", count, ir.Constant(_I64, 0))
        builder.cbranch(some, loop, after)

        builder.position_at_end(loop)
        index = builder.phi(_I64)
        weight = builder.phi(_I64)
        sums = [builder.phi(kind) for _ in range(R * T * G)]
        table = builder.inttoptr(offsets, _I64.as_pointer())
        position = builder.add(source, builder.load(builder.gep(table, [index])))
        row = [builder.load(_pointer(builder, weight, kind, 4 * L * v), align=4) for v in range(G)]
        results = []
        for r in range(R):
            if r > 0:
                position = builder.add(position, line)
            for t in range(T):
                if P == 1:
                    value = builder.load(_pointer(builder, position, _F32, 4 * t), align=4)
                    value = _splat(builder, value, kind)
                else:
                    value = builder.load(_pointer(builder, position, _I64, 8 * t), align=4)
                    value = _splat(builder, value, ir.VectorType(_I64, L // 2))
                    value = builder.bitcast(value, kind)
                first = (r * T + t) * G
                results += [_fma(builder, value, row[v], sums[first + v]) for v in range(G)]
        following = builder.add(index, ir.Constant(_I64, 1))
        next_weight = builder.add(weight, ir.Constant(_I64, 4 * L * G))
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        index.add_incoming(ir.Constant(_I64, 0), before)
        index.add_incoming(following, loop)
        weight.add_incoming(weights, before)
        weight.add_incoming(next_weight, loop)
        for phi, first, result in zip(sums, initial, results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, loop)

        builder.position_at_end(after)
        final = []
        for first, result in zip(initial, results, strict=True):
            phi = builder.phi(kind)
            phi.add_incoming(first, before)
            phi.add_incoming(result, loop)
            final.append(phi)
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
    shape = _literal(rows, vectors, lanes)
    if shape is None or not isinstance(sums, types.UniTuple):
        return None
    R, V, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, offsets, cells, winners, factors, step, count, line = args[:9]
        kind = ir.VectorType(_F32, L)
        initial = _unpack(builder, start, R * V)
        before = builder.block
        loop = builder.append_basic_block("sparse.loop")
        after = builder.append_basic_block("sparse.end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(_I64, 0)), loop, after)

        builder.position_at_end(loop)
        index = builder.phi(_I64)
        place = builder.phi(_I64)
        totals = [builder.phi(kind) for _ in range(R * V)]
        winner = builder.load(_pointer(builder, builder.add(winners, place), _I8))
        table = builder.inttoptr(cells, _I64.as_pointer())
        cell = builder.load(builder.gep(table, [builder.zext(winner, _I64)]))
        places = builder.inttoptr(offsets, _I64.as_pointer())
        position = builder.add(source, builder.load(builder.gep(places, [index])))
        position = builder.add(position, cell)
        scale = builder.add(factors, builder.shl(place, ir.Constant(_I64, 2)))
        factor = _splat(builder, builder.load(_pointer(builder, scale, _F32), align=4), kind)
        results = []
        for r in range(R):
            if r > 0:
                position = builder.add(position, line)
            for v in range(V):
                value = builder.load(_pointer(builder, position, kind, 4 * L * v), align=4)
                results.append(_fma(builder, factor, value, totals[r * V + v]))
        following = builder.add(index, ir.Constant(_I64, 1))
        next_place = builder.add(place, step)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        zero = ir.Constant(_I64, 0)
        for phi, first, result in (
            (index, zero, following),
            (place, zero, next_place),
            *zip(totals, initial, results, strict=True),
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(result, loop)

        builder.position_at_end(after)
        final = []
        for first, result in zip(initial, results, strict=True):
            phi = builder.phi(kind)
            phi.add_incoming(first, before)
            phi.add_incoming(result, loop)
            final.append(phi)
        return context.make_tuple(builder, sums, final)

    integer = types.int64
    signature = sums(sums, *[integer] * 8, rows, vectors, lanes)
    return signature, codegen


@intrinsic
def tile_relu(typingctx: Any, tile: Any) -> Any:
    """``max(tile, 0)``; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = []
        for value in _unpack(builder, args[0], tile.count):
            zero = _zero(value.type)
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
    shape = _literal(positions, vectors, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    P = shape[2]
    T, G = shape[0] * P, shape[1]
    L = tile.dtype.lanes // P

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address, stride, valid = args[:4]
        kind = ir.VectorType(_F32, L)
        items = _unpack(builder, values, shape[0] * G)
        if P == 2:
            # Even lanes are one position, odd lanes the next.
            number = ir.VectorType(_I32, L)
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
        starts = [builder.add(address, builder.mul(stride, ir.Constant(_I64, t))) for t in range(T)]
        whole = builder.icmp_signed(">=", valid, ir.Constant(_I64, G * L))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for t in range(T):
                    for v in range(G):
                        pointer = _pointer(builder, starts[t], kind, 4 * L * v)
                        builder.store(items[t * G + v], pointer, align=4)
            with otherwise:
                for v in range(G):
                    left = builder.sub(valid, ir.Constant(_I64, L * v))
                    mask = _lane_mask(builder, left, L)
                    for t in range(T):
                        pointer = _pointer(builder, starts[t], kind, 4 * L * v)
                        _masked_store(builder, items[t * G + v], pointer, mask)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(tile, integer, integer, integer, positions, vectors, pairs), codegen


@intrinsic
def load_float(typingctx: Any, address: Any) -> Any:
    """The float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0], _F32), align=4)

    return types.float32(types.int64), codegen


@intrinsic
def store_float(typingctx: Any, address: Any, value: Any) -> Any:
    """Store ``value`` as the float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0], _F32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic(prefer_literal=True)
def vector_splat(typingctx: Any, value: Any, lanes: Any) -> Any:
    """A vector whose every lane is ``value`` (a float32)."""
    shape = _literal(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], ir.VectorType(_F32, shape[0]))

    return Vector("f32", shape[0])(types.float32, lanes), codegen


@intrinsic(prefer_literal=True)
def index_splat(typingctx: Any, value: Any, lanes: Any) -> Any:
    """An int32 vector whose every lane is ``value``."""
    shape = _literal(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, builder.trunc(args[0], _I32), ir.VectorType(_I32, shape[0]))

    return Vector("i32", shape[0])(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)
def vector_load(typingctx: Any, address: Any, valid: Any, lanes: Any) -> Any:
    """The float32 vector at ``address``; lanes from ``valid`` on are zero and not read."""
    shape = _literal(lanes)
    if shape is None:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_F32, shape[0])
        pointer = _pointer(builder, args[0], kind)
        whole = builder.icmp_signed(">=", args[1], ir.Constant(_I64, shape[0]))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                all_lanes, then_block = builder.load(pointer, align=4), builder.block
            with otherwise:
                mask = _lane_mask(builder, args[1], shape[0])
                some_lanes = _masked_load(builder, pointer, mask, _zero(kind))
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
        pointer = _pointer(builder, args[1], args[0].type)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(_I64, vector.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(args[0], pointer, align=4)
            with otherwise:
                mask = _lane_mask(builder, args[2], vector.lanes)
                _masked_store(builder, args[0], pointer, mask)
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64), codegen


def _binary(name: str, emit: Any) -> Any:
    def typing(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return left(left, right), codegen

    typing.__name__ = name
    return intrinsic(typing)


vector_add = _binary("vector_add", lambda builder, x, y: builder.fadd(x, y))
vector_divide = _binary("vector_divide", lambda builder, x, y: builder.fdiv(x, y))


@intrinsic
def vector_maximum(typingctx: Any, best: Any, winner: Any, candidate: Any, index: Any) -> Any:
    """(best, winner) after ``candidate``, cell ``index`` of the window, was looked at.

    A tie keeps the earlier cell. The first NaN wins and stays.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        best, winner, candidate, index = args
        better = builder.fcmp_unordered(">", candidate, best)
        better = builder.and_(better, builder.fcmp_ordered("ord", best, best))
        cells = _splat(builder, builder.trunc(index, _I32), winner.type)
        values = [
            builder.select(better, candidate, best),
            builder.select(better, cells, winner),
        ]
        return context.make_tuple(builder, signature.return_type, values)

    pair = types.Tuple((best, winner))
    return pair(best, winner, candidate, types.int64), codegen


@intrinsic(prefer_literal=True)
def vector_relu(typingctx: Any, best: Any, winner: Any, off: Any) -> Any:
    """``max(best, 0)``, and ``winner`` with the index ``off`` where ``best`` is not positive.

    NaN stays NaN, and has no gradient.
    """
    shape = _literal(off)
    if shape is None:
        return None
    pair = types.Tuple((best, winner))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = _zero(args[0].type)
        value = builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])
        none = ir.Constant(args[1].type, [shape[0]] * best.lanes)
        index = builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], none)
        return context.make_tuple(builder, pair, [value, index])

    return pair(best, winner, off), codegen


@intrinsic
def vector_where_equal(typingctx: Any, winner: Any, index: Any, values: Any) -> Any:
    """``values`` in the lanes whose ``winner`` is ``index``, zero in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cells = _splat(builder, builder.trunc(args[1], _I32), args[0].type)
        chosen = builder.icmp_signed("==", args[0], cells)
        return builder.select(chosen, args[2], _zero(args[2].type))

    return values(winner, types.int64, values), codegen


@intrinsic
def vector_twice(typingctx: Any, vector: Any) -> Any:
    """Every lane twice, side by side: (a, b) becomes (a, a, b, b)."""
    wide = Vector(vector.element, 2 * vector.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = [lane // 2 for lane in range(wide.lanes)]
        mask = ir.Constant(ir.VectorType(_I32, wide.lanes), lanes)
        return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), mask)

    return wide(vector), codegen


@intrinsic
def vector_where_not(typingctx: Any, winner: Any, index: Any, values: Any) -> Any:
    """``values`` in the lanes whose ``winner`` is not ``index``, zero in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cells = _splat(builder, builder.trunc(args[1], _I32), args[0].type)
        chosen = builder.icmp_signed("==", args[0], cells)
        return builder.select(chosen, _zero(args[2].type), args[2])

    return values(winner, types.int64, values), codegen


@intrinsic
def vector_where_positive(typingctx: Any, gate: Any, values: Any) -> Any:
    """``values`` in the lanes where ``gate`` is positive, zero in the others (and where NaN)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = _zero(args[0].type)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], zero)

    return values(gate, values), codegen


@intrinsic(prefer_literal=True)
def index_store(typingctx: Any, vector: Any, address: Any, valid: Any, width: Any) -> Any:
    """Store the first ``valid`` lanes of an int32 vector as integers of ``width`` bytes (1, 4)."""
    shape = _literal(width)
    if shape is None or not isinstance(vector, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(8 * shape[0])
        kind = ir.VectorType(element, vector.lanes)
        value = args[0] if shape[0] == 4 else builder.trunc(args[0], kind)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(_I64, vector.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(value, _pointer(builder, args[1], kind), align=1)
            with otherwise:
                for lane in range(vector.lanes):
                    inside = builder.icmp_signed("<", ir.Constant(_I64, lane), args[2])
                    with builder.if_then(inside):
                        item = builder.extract_element(value, ir.Constant(_I32, lane))
                        pointer = _pointer(builder, args[1], element, shape[0] * lane)
                        builder.store(item, pointer, align=1)
        return context.get_dummy_value()

    return types.void(vector, types.int64, types.int64, width), codegen


@intrinsic(prefer_literal=True)
def index_load(typingctx: Any, address: Any, valid: Any, width: Any, lanes: Any) -> Any:
    """The int32 vector of ``valid`` integers of ``width`` bytes at ``address``; others are -1."""
    shape = _literal(width, lanes)
    if shape is None:
        return None
    width_, lanes_ = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = ir.IntType(8 * width_)
        kind = ir.VectorType(element, lanes_)
        wide = ir.VectorType(_I32, lanes_)
        result = cgutils.alloca_once(builder, wide)
        whole = builder.icmp_signed(">=", args[1], ir.Constant(_I64, lanes_))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                value = builder.load(_pointer(builder, args[0], kind), align=1)
                builder.store(value if width_ == 4 else builder.zext(value, wide), result)
            with otherwise:
                builder.store(ir.Constant(wide, [-1] * lanes_), result)
                for lane in range(lanes_):
                    inside = builder.icmp_signed("<", ir.Constant(_I64, lane), args[1])
                    with builder.if_then(inside):
                        pointer = _pointer(builder, args[0], element, width_ * lane)
                        item = builder.load(pointer, align=1)
                        item = item if width_ == 4 else builder.zext(item, _I32)
                        so_far = builder.load(result)
                        position = ir.Constant(_I32, lane)
                        builder.store(builder.insert_element(so_far, item, position), result)
        return builder.load(result)

    return Vector("i32", lanes_)(types.int64, types.int64, width, lanes), codegen
