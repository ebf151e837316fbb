"""Kernels for the passes of Winograd's F(3x3, 2x2), which compute the gradient of 3x3 weights.

``weights.py`` describes the algorithm and calls the passes: transform the inputs and the gradient
to 16 planes, multiply the planes, and transform the products to taps. The inputs are transformed by
a kernel of ``forward_passes.py``. Here *spread* is the transform of the gradient to planes, and
*join* is the transform of the products to taps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.winograd import forward_passes as p
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES, TILES, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import tile_accumulate, tile_broadcast, tile_load, tile_store
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_load,
    vector_multiply,
    vector_splat,
    vector_store,
    vector_subtract,
    vector_where_positive,
)

# Fields of a task's argument block. They follow the fields of forward_passes.py. SUMS is here the
# address of the planes of the gradient, and TARGET the address of the gradient itself. GATE is the
# number of bytes from a value of the gradient to the output of the ReLU with the same index.
# PRODUCTS is the address of the products, which are summed over all tiles.
GATE, WIDTH, BLOCK_BYTES, PRODUCTS, PRODUCT_PLANE, PADDED = range(p.FIELDS, p.FIELDS + 6)
FRESH = p.FIELDS + 6  # whether the products begin at zero
FIELDS = p.FIELDS + 7


@cached_njit()
def _spread(v0: Any, v1: Any) -> Any:
    """Return four vectors: the transform of one row or column of a tile of the gradient.

    The last value has the wrong sign, which ``_join`` corrects.
    """
    return v0, vector_add(v0, v1), vector_subtract(v0, v1), v1


@cached_njit()
def _join(v0: Any, v1: Any, v2: Any, v3: Any, half: Any) -> Any:
    """Return three vectors: the transform of one row or column of the products."""
    plus = vector_multiply(vector_add(v1, v2), half)
    minus = vector_multiply(vector_subtract(v1, v2), half)
    return vector_add(v0, plus), minus, vector_subtract(plus, v3)


@kernel_family(2)
def SPREAD_GRADIENT(masked: int) -> Any:
    """Transform the gradient of tile rows ``begin`` to ``end - 1`` to 16 planes (tile, filter).

    Also add the gradient to the sums of the bias.
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_gradient_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        pixel, row, plane, width = w[p.TARGET_COLUMN], w[p.TARGET_ROW], w[p.SUM_PLANE], w[WIDTH]
        for i in range(begin, end):
            below = L if 2 * i + 1 < w[p.BELOW] else 0
            # The loops read the gradient in the order of its addresses. With the loop over filters
            # outside, this took 0.9 ms in place of 0.5 ms (16x32x32 pixels, 64 filters).
            for j in range(w[p.WIDE]):
                right = L if 2 * j + 1 < w[p.LEFT] else 0
                corner = min(right, below)
                first = w[p.TARGET] + 2 * i * row + 2 * j * pixel
                tile = w[p.SUMS] + 4 * (i * w[p.WIDE] + j) * width
                for f in range(0, w[p.FILTERS], L):
                    source = first + 4 * f
                    target = tile + f // width * w[BLOCK_BYTES] + 4 * (f % width)
                    v00 = vector_load(source, L, L)
                    v01 = vector_load(source + pixel, right, L)
                    v10 = vector_load(source + row, below, L)
                    v11 = vector_load(source + row + pixel, corner, L)
                    if masked:
                        gate = source + w[GATE]
                        v00 = vector_where_positive(vector_load(gate, L, L), v00)
                        v01 = vector_where_positive(vector_load(gate + pixel, right, L), v01)
                        v10 = vector_where_positive(vector_load(gate + row, below, L), v10)
                        other = vector_load(gate + row + pixel, corner, L)
                        v11 = vector_where_positive(other, v11)
                    left, right_ = _spread(v00, v10), _spread(v01, v11)
                    line = _spread(left[0], right_[0])
                    tile_store(line, target, plane, L, 4, 1, 1)
                    line = _spread(left[1], right_[1])
                    tile_store(line, target + 4 * plane, plane, L, 4, 1, 1)
                    total = vector_add(vector_load(w[p.BIAS] + 4 * f, L, L), line[1])
                    vector_store(total, w[p.BIAS] + 4 * f, L)
                    line = _spread(left[2], right_[2])
                    tile_store(line, target + 8 * plane, plane, L, 4, 1, 1)
                    line = _spread(left[3], right_[3])
                    tile_store(line, target + 12 * plane, plane, L, 4, 1, 1)

    return _spread_gradient_kernel


@kernel_family(TILES)
def ADD_PRODUCTS(number: int) -> Any:
    """Multiply planes ``begin`` to ``end - 1``, and add the products to the sums.

    A plane of the inputs has the axes (tile, channel), a plane of the gradient (tile, filter), and
    a plane of the sums (channel, filter).
    """
    T, G, L, _ = tile_of_number(number)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _add_products_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        blocks = (w[p.FILTERS] + G * L - 1) // (G * L)
        for plane in range(begin, end):
            target = w[PRODUCTS] + plane * w[PRODUCT_PLANE]
            for block in range(blocks):
                factors = w[p.SUMS] + plane * w[p.SUM_PLANE] + block * w[BLOCK_BYTES]
                source = w[p.INPUTS] + plane * w[p.INPUT_PLANE]
                for _ in range(0, w[PADDED], T):
                    if w[FRESH] != 0:
                        tile = tile_broadcast(w[p.ZEROS], T, G, L)
                    else:
                        tile = tile_load(target, 4 * G * L, T, G, L)
                    tile = tile_accumulate(
                        tile,
                        source,
                        w[p.OFFSETS],
                        factors,
                        w[p.TILES],
                        np.int64(0),
                        4,
                        1,
                        T,
                        G,
                        L,
                        1,
                        1,
                    )
                    tile_store(tile, target, 4 * G * L, G * L, T, G, 1)
                    source += 4 * T
                    target += 4 * T * G * L

    return _add_products_kernel


@kernel_family(1)
def JOIN_PRODUCTS(_: int) -> Any:
    """Compute the taps of channels ``begin`` to ``end - 1`` from the sums of the products.

    The taps are written to TARGET, with the axes (tap, channel, filter).
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _join_products_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        plane, width = w[PRODUCT_PLANE], w[WIDTH]
        tap = w[p.PIXEL] * w[p.FILTERS]
        half = vector_splat(np.float32(0.5), L)
        for c in range(begin, end):
            for f in range(0, w[p.FILTERS], L):
                source = w[PRODUCTS] + 4 * ((f // width * w[PADDED] + c) * width + f % width)
                target = w[p.TARGET] + 4 * (c * w[p.FILTERS] + f)
                first = _join(*tile_load(source, plane, 4, 1, L), half)
                second = _join(*tile_load(source + 4 * plane, plane, 4, 1, L), half)
                third = _join(*tile_load(source + 8 * plane, plane, 4, 1, L), half)
                fourth = _join(*tile_load(source + 12 * plane, plane, 4, 1, L), half)
                column = _join(first[0], second[0], third[0], fourth[0], half)
                tile_store(column, target, 3 * tap, L, 3, 1, 1)
                column = _join(first[1], second[1], third[1], fourth[1], half)
                tile_store(column, target + tap, 3 * tap, L, 3, 1, 1)
                column = _join(first[2], second[2], third[2], fourth[2], half)
                tile_store(column, target + 2 * tap, 3 * tap, L, 3, 1, 1)

    return _join_products_kernel
