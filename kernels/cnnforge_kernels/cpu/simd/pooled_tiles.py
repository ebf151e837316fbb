"""Operations on register tiles (``tiles.py``) for max pooling after a convolution.

``tile_pool_store`` pools a tile of outputs. ``sparse_accumulate`` sums the products of a gradient.
It visits only the pixels that were maxima.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import (
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
    unpack,
    zeros,
)

# The number of independent sums that a loop should have. Two multiply-adds begin in each cycle and
# take four cycles, so that with fewer than 8 sums a multiply-add waits for its predecessor.
_IN_FLIGHT = 10


@intrinsic(prefer_literal=True)
def sparse_accumulate(
    typingctx: Any,
    sums: Any,
    source: Any,
    places: Any,
    factors: Any,
    step: Any,
    count: Any,
    line: Any,
    rows: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Add ``count`` products to a tile that has ``rows`` rows of ``vectors`` vectors.

    Product p adds ``factors[p] * source[places[p] + r * line]`` to row r. ``source``, ``factors``
    and ``places`` are addresses. The factors are float32. The places are int32 byte offsets, and
    ``line`` is the number of bytes from a row of the source to the next. ``step`` is the number of
    values from a factor to the next, and from a place to the next.
    """
    shape = literals(rows, vectors, lanes)
    if shape is None or not isinstance(sums, types.UniTuple):
        return None
    R, V, L = shape
    # If a tile has fewer sums than _IN_FLIGHT, use several copies of the tile. Neighbouring
    # products are added to different copies, so that they do not wait for each other. The copies
    # are added at the end.
    together = max(1, _IN_FLIGHT // (R * V))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, places, factors, step, count, line = args[:7]
        kind = ir.VectorType(F32, L)
        step = builder.shl(step, ir.Constant(I64, 2))

        def add(sums: list[Any], place: Any) -> list[Any]:
            """Return the sums after one more product; ``place`` is its byte offset in the lists."""
            position = builder.load(pointer_to(builder, builder.add(places, place), I32), align=4)
            position = builder.add(source, builder.zext(position, I64))
            scale = pointer_to(builder, builder.add(factors, place), F32)
            factor = splat(builder, builder.load(scale, align=4), kind)
            results = []
            for r in range(R):
                if r > 0:
                    position = builder.add(position, line)
                for v in range(V):
                    value = builder.load(pointer_to(builder, position, kind, 4 * L * v), align=4)
                    results.append(fma(builder, factor, value, sums[len(results)]))
            return results

        sums, place = unpack(builder, start, R * V), ir.Constant(I64, 0)
        rounds = builder.udiv(count, ir.Constant(I64, together))
        rest = builder.urem(count, ir.Constant(I64, together))
        if together > 1:
            loop = Loop(builder, rounds, [*sums, *[zeros(kind)] * (R * V * (together - 1)), place])
            results, place = [], loop.values[-1]
            for turn in range(together):
                results += add(loop.values[R * V * turn : R * V * (turn + 1)], place)
                place = builder.add(place, step)
            *results, place = loop.finish([*results, place])
            sums = results[: R * V]
            for turn in range(1, together):
                more = results[R * V * turn : R * V * (turn + 1)]
                sums = [builder.fadd(one, other) for one, other in zip(sums, more, strict=True)]
        loop = Loop(builder, rest if together > 1 else count, [*sums, place])
        *before, place = loop.values
        final = loop.finish([*add(before, place), builder.add(place, step)])
        return context.make_tuple(builder, sums_type, final[:-1])

    integer = types.int64
    sums_type = sums
    signature = sums(sums, *[integer] * 6, rows, vectors, lanes)
    return signature, codegen


def _best_of(builder: Any, cells: list[Any], off: int) -> tuple[Any, Any]:
    """Return two vectors: the ReLU of the maximum of some vectors, and the argmax.

    If the maximum is not positive, the argmax is ``off``.
    """
    kind = cells[0].type
    number = ir.VectorType(I32, kind.count)
    best, argmax = cells[0], ir.Constant(number, [0] * kind.count)
    for index, cell in enumerate(cells[1:], 1):
        # Of equal maxima the first is kept. If a value is NaN, the maximum is the first NaN.
        better = builder.fcmp_unordered(">", cell, best)
        better = builder.and_(better, builder.fcmp_ordered("ord", best, best))
        best = builder.select(better, cell, best)
        argmax = builder.select(better, ir.Constant(number, [index] * kind.count), argmax)
    positive = builder.fcmp_ordered(">", best, zeros(kind))
    argmax = builder.select(positive, argmax, ir.Constant(number, [off] * kind.count))
    best = builder.select(builder.fcmp_ordered("<", best, zeros(kind)), zeros(kind), best)
    return best, builder.trunc(argmax, ir.VectorType(I8, kind.count))


def windows_of(
    builder: Any, items: list[Any], shape: tuple[int, int, int], reduce: Any
) -> list[tuple[int, int, list[Any]]]:
    """Reduce each 2x2 window of a tile of two rows.

    Args:
        builder: LLVM builder.
        items: Vectors of the tile.
        shape: Numbers of positions of a row, of vectors, and of positions in a vector.
        reduce: Function of the builder and of the four vectors of a window. It returns a list of
            vectors.

    Returns:
        A tuple for each output and vector: index of the output, index of the vector, and the
        vectors that ``reduce`` returned.
    """
    T, G, P = shape
    L = items[0].type.count
    F = L // P
    found = []
    number = ir.VectorType(I32, L)
    for v in range(G):
        if P == 1:
            for c in range(T // 2):
                quad = [items[(r * T + 2 * c + j) * G + v] for r in (0, 1) for j in (0, 1)]
                found.append((c, v, reduce(builder, quad)))
            continue
        # A vector holds two columns of a row, one in the even lanes and one in the odd lanes. Turn
        # two vectors into one of even lanes and one of odd lanes.
        for t in range(0, T, 2):
            quad = []
            for r in (0, 1):
                one = items[(r * T + t) * G + v]
                other = items[(r * T + t + 1) * G + v] if t + 1 < T else one
                for odd in (0, 1):
                    lanes = ir.Constant(number, [2 * lane + odd for lane in range(L)])
                    quad.append(builder.shuffle_vector(one, other, lanes))
            reduced = reduce(builder, quad)
            for half in range(min(2, T - t)):
                lanes = ir.Constant(ir.VectorType(I32, F), [half * F + lane for lane in range(F)])
                halves = [builder.shuffle_vector(vector, vector, lanes) for vector in reduced]
                found.append((t + half, v, halves))
    return found


@intrinsic(prefer_literal=True)
def tile_pool_store(
    typingctx: Any,
    tile: Any,
    address: Any,
    argmax: Any,
    stride: Any,
    valid: Any,
    positions: Any,
    vectors: Any,
    pairs: Any,
    off: Any,
) -> Any:
    """Apply ReLU and 2x2 max pooling to a tile of two rows, and store the result.

    A window is two neighbouring columns of the tile. The first ``valid`` filters of output c are
    stored at ``address + c * stride``, in bytes. The argmax of each of them is one byte at
    ``argmax + c * stride / 4``: the index of the cell, or ``off`` if the maximum is not positive.
    """
    shape = literals(positions, vectors, pairs, off)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, P, none = shape
    F = tile.dtype.lanes // P

    def best_of(builder: Any, cells: list[Any]) -> list[Any]:
        return list(_best_of(builder, cells, none))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = unpack(builder, args[0], 2 * T * G)
        address, argmax, stride, valid = args[1:5]
        fourth = builder.lshr(stride, ir.Constant(I64, 2))
        cells = windows_of(builder, items, (T, G, P), best_of)
        places = []
        for c, v, _ in cells:
            step = ir.Constant(I64, c)
            value_at = builder.add(address, builder.mul(stride, step))
            byte_at = builder.add(argmax, builder.mul(fourth, step))
            places.append(
                (
                    pointer_to(builder, value_at, ir.VectorType(F32, F), 4 * F * v),
                    pointer_to(builder, byte_at, ir.VectorType(I8, F), F * v),
                )
            )
        whole = builder.icmp_signed(">=", valid, ir.Constant(I64, G * F))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for (_, _, (value, cell)), (value_at, byte_at) in zip(cells, places, strict=True):
                    builder.store(value, value_at, align=4)
                    builder.store(cell, byte_at, align=1)
            with otherwise:
                for (_, v, (value, cell)), (value_at, byte_at) in zip(cells, places, strict=True):
                    mask = lane_mask(builder, builder.sub(valid, ir.Constant(I64, F * v)), F)
                    masked_store(builder, value, value_at, mask)
                    masked_store(builder, cell, byte_at, mask)
        return context.get_dummy_value()

    integer = types.int64
    signature = types.void(tile, integer, integer, integer, integer, positions, vectors, pairs, off)
    return signature, codegen
