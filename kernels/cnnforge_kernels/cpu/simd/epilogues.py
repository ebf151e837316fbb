"""Operations that follow the sums of a register tile (``tiles.py``) in a trained network.

Training needs the argmax of a max pool for its gradient; a trained network does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I32,
    I64,
    lane_mask,
    literals,
    masked_load,
    masked_store,
    pointer_to,
    splat,
    unpack,
    zeros,
)
from cnnforge_kernels.cpu.simd.pooled_tiles import windows_of

# Values of the argument `activation` of `tile_activate`.
NO_ACTIVATION, RELU, RELU6 = range(3)
# The same values by the names of the activations.
ACTIVATION_NUMBERS = {None: NO_ACTIVATION, "relu": RELU, "relu6": RELU6}


@intrinsic
def tile_activate(typingctx: Any, tile: Any, activation: Any) -> Any:
    """Apply NO_ACTIVATION, RELU or RELU6 to all values of a tile; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def bound(number: int, comparison: str, value: float, otherwise: float) -> Any:
            chosen = builder.icmp_signed(comparison, args[1], ir.Constant(I64, number))
            return builder.select(chosen, ir.Constant(F32, value), ir.Constant(F32, otherwise))

        items = unpack(builder, args[0], tile.count)
        low = splat(builder, bound(RELU, ">=", 0.0, -np.inf), items[0].type)
        high = splat(builder, bound(RELU6, "==", 6.0, np.inf), items[0].type)
        values = []
        for value in items:
            value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
            values.append(builder.select(builder.fcmp_ordered(">", value, high), high, value))
        return context.make_tuple(builder, tile, values)

    return tile(tile, types.int64), codegen


@intrinsic(prefer_literal=True)
def tile_add_stored(
    typingctx: Any,
    tile: Any,
    address: Any,
    stride: Any,
    valid: Any,
    positions: Any,
    vectors: Any,
    pairs: Any,
) -> Any:
    """Add to a tile the values that ``tile_store`` would replace at ``address``.

    The arguments are those of ``tile_store``.
    """
    shape = literals(positions, vectors, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, P = shape
    L = tile.dtype.lanes // P

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address, stride, valid = args[:4]
        kind = ir.VectorType(F32, L)
        places = [
            (builder.add(address, builder.mul(stride, ir.Constant(I64, t))), v)
            for t in range(T * P)
            for v in range(G)
        ]
        whole = builder.icmp_signed(">=", valid, ir.Constant(I64, G * L))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                all_lanes = [
                    builder.load(pointer_to(builder, start, kind, 4 * L * v), align=4)
                    for start, v in places
                ]
                then_block = builder.block
            with otherwise:
                masks = [
                    lane_mask(builder, builder.sub(valid, ir.Constant(I64, L * v)), L)
                    for v in range(G)
                ]
                some_lanes = [
                    masked_load(
                        builder, pointer_to(builder, start, kind, 4 * L * v), masks[v], zeros(kind)
                    )
                    for start, v in places
                ]
                otherwise_block = builder.block
        added = []
        for first, second in zip(all_lanes, some_lanes, strict=True):
            value = builder.phi(kind)
            value.add_incoming(first, then_block)
            value.add_incoming(second, otherwise_block)
            added.append(value)
        if P == 2:
            # The even lanes of a vector are one position, the odd lanes are the next position.
            lanes = [lane // 2 + L * (lane % 2) for lane in range(2 * L)]
            order = ir.Constant(ir.VectorType(I32, 2 * L), lanes)
            added = [
                builder.shuffle_vector(added[2 * t * G + v], added[(2 * t + 1) * G + v], order)
                for t in range(T)
                for v in range(G)
            ]
        items = unpack(builder, values, T * G)
        sums = [builder.fadd(item, other) for item, other in zip(items, added, strict=True)]
        return context.make_tuple(builder, tile, sums)

    integer = types.int64
    return tile(tile, integer, integer, integer, positions, vectors, pairs), codegen


@intrinsic(prefer_literal=True)
def tile_max_store(
    typingctx: Any,
    tile: Any,
    address: Any,
    stride: Any,
    valid: Any,
    positions: Any,
    vectors: Any,
    pairs: Any,
) -> Any:
    """Apply 2x2 max pooling to a tile of two rows, and store the maxima.

    A window is two neighbouring columns of the tile. The first ``valid`` filters of output c are
    stored at ``address + c * stride``, in bytes. If a value of a window is NaN, its maximum is NaN.
    """
    shape = literals(positions, vectors, pairs)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, P = shape
    F = tile.dtype.lanes // P

    def maximum(builder: Any, cells: list[Any]) -> list[Any]:
        best = cells[0]
        for cell in cells[1:]:
            better = builder.fcmp_unordered(">", cell, best)
            better = builder.and_(better, builder.fcmp_ordered("ord", best, best))
            best = builder.select(better, cell, best)
        return [best]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = unpack(builder, args[0], 2 * T * G)
        address, stride, valid = args[1:4]
        kind = ir.VectorType(F32, F)
        cells = []
        for c, v, (value,) in windows_of(builder, items, shape, maximum):
            start = builder.add(address, builder.mul(stride, ir.Constant(I64, c)))
            cells.append((v, value, pointer_to(builder, start, kind, 4 * F * v)))
        whole = builder.icmp_signed(">=", valid, ir.Constant(I64, G * F))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for _, value, pointer in cells:
                    builder.store(value, pointer, align=4)
            with otherwise:
                for v, value, pointer in cells:
                    left = builder.sub(valid, ir.Constant(I64, F * v))
                    masked_store(builder, value, pointer, lane_mask(builder, left, F))
        return context.get_dummy_value()

    integer = types.int64
    return types.void(tile, integer, integer, integer, positions, vectors, pairs), codegen
