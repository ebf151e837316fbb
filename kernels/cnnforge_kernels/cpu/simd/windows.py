"""The micro-kernel of depthwise convolutions whose window has neighbouring columns."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import F32, I64, Loop, fma, literals, pointer_to, unpack


@intrinsic(prefer_literal=True)
def windows_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    line: Any,
    pixel: Any,
    first: Any,
    after: Any,
    zeros: Any,
    weights: Any,
    weight_line: Any,
    rows: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
    window: Any,
    step: Any,
) -> Any:
    """Add the products of ``rows`` rows of a window to a tile of neighbouring channels.

    For each i < ``rows`` and j < ``window``:
    ``tile[t][v] += source[i * line + (t * step + j) * pixel][v] * weights[i * weight_line + j *
    pixel][v]``. All strides are in bytes. A value of the source is loaded once for all positions
    that need it.

    The source's columns, counted from that at ``source``, are inside the image from ``first`` to
    ``after - 1``. Of the columns that are not, there are at most ``window - 1`` on each side. In
    place of them ``vectors * lanes`` zeros are read at the address ``zeros``.
    """
    shape = literals(positions, vectors, lanes, window, step)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, L, W, S = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, line, pixel, first, after, zeros, weights, weight_line, rows = args[:10]
        kind = ir.VectorType(F32, L)
        columns = (T - 1) * S + W
        steps = [builder.mul(pixel, ir.Constant(I64, q)) for q in range(columns)]
        inside = {}
        for q in range(columns):
            if q < W - 1 or q >= columns - W + 1:
                number = ir.Constant(I64, q)
                inside[q] = builder.and_(
                    builder.icmp_signed("<=", first, number),
                    builder.icmp_signed("<", number, after),
                )
        loop = Loop(builder, rows, [*unpack(builder, start, T * G), source, weights])
        *results, here, weight = loop.values
        factors = [
            builder.load(
                pointer_to(builder, builder.add(weight, steps[j]), kind, 4 * L * v), align=4
            )
            for j in range(W)
            for v in range(G)
        ]
        for q in range(columns):
            uses = [j for j in range(W) if (q - j) % S == 0 and 0 <= (q - j) // S < T]
            if not uses:
                continue
            place = builder.add(here, steps[q])
            if q in inside:
                place = builder.select(inside[q], place, zeros)
            for v in range(G):
                value = builder.load(pointer_to(builder, place, kind, 4 * L * v), align=4)
                for j in uses:
                    index = (q - j) // S * G + v
                    results[index] = fma(builder, value, factors[j * G + v], results[index])
        following = [builder.add(here, line), builder.add(weight, weight_line)]
        return context.make_tuple(builder, tile, loop.finish([*results, *following])[:-2])

    integer = types.int64
    shapes = (positions, vectors, lanes, window, step)
    return tile(tile, *[integer] * 9, *shapes), codegen
