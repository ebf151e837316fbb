"""Kernels of the weight gradient whose code depends on the size of the register tile.

They are compiled again for each new size, in 0.2 s, so only the inner loops are here. The other
code is compiled once. It is in ``gather.py``, and in ``conv_block.py`` for the sparse gather: if a
max pool follows the convolution, only the maxima have a gradient.
"""

from __future__ import annotations

from typing import Any

from numba import carray

from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.simd.pooled_tiles import sparse_accumulate
from cnnforge_kernels.cpu.simd.streams import prefetch
from cnnforge_kernels.cpu.simd.tile_choice import MAX_ACCUMULATORS, TILES, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import tile_accumulate, tile_load, tile_store
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_load,
    vector_store,
    vector_twice,
    vector_where_positive,
)

MAX_TILE_ROWS = 7

# Fields of the argument block for some pixels and one block of filters. Addresses and strides are
# in bytes. TAP_LINE is the stride from a row of taps to the next. A run is a sequence of taps that
# are neighbours in the source; TAP_COLUMN is the stride from a run to the next run of the same row.
SOURCE, TARGET, COUNT, TAP_LINE, TAP_COLUMN, OUTER_COLUMNS, CHUNKS = range(7)
# FACTORS is the address of values of the gradient. PLACES is the address of byte offsets in the
# source: the position of each pixel or, in a sparse gather, of each maximum. PADDED is used only in
# a sparse gather: the number of factors from a pixel to the next.
FACTORS, PLACES, PADDED = range(7, 10)
# PACK_GRADIENT copies the gradient from GRADIENT to FACTORS. PIXEL is the stride from a pixel of
# the gradient to the next, VALID the number of filters in this block.
GRADIENT, MASK, PIXEL, VALID, VECTORS, BIAS = range(10, 16)
FIELDS = 16


@kernel_family(TILES * MAX_TILE_ROWS)
def GATHER_TILES(number: int) -> Any:
    """Add the products of all pixels to the sums of tap rows ``begin`` to ``end - 1``.

    A tile holds the sums of R rows of taps.
    """
    R = number // TILES + 1
    T, G, L, P = tile_of_number(number % TILES)
    RT = R * T

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gather_tiles_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        places, factors, count, line = t[PLACES], t[FACTORS], t[COUNT], t[TAP_LINE]
        target = t[TARGET]
        for i in range(begin, end, R):
            for j in range(t[OUTER_COLUMNS]):
                source = t[SOURCE] + i * line + j * t[TAP_COLUMN]
                for _ in range(t[CHUNKS]):
                    tile = tile_accumulate(
                        tile_load(target, 4 * G * L, RT, G, L),
                        source,
                        places,
                        factors,
                        count,
                        line,
                        4,
                        R,
                        T,
                        G,
                        L,
                        P,
                        1,
                    )
                    tile_store(tile, target, 4 * G * L, G * L, RT, G, 1)
                    source += 4 * T * P
                    target += 4 * R * T * G * L

    return _gather_tiles_kernel


@kernel_family(6)
def PACK_GRADIENT(kind: int) -> Any:
    """Copy vectors ``begin`` to ``end - 1`` of the gradient to FACTORS.

    Also add them to the sums of the bias. If there is a mask, values whose mask is not positive
    become zero. The last vector is padded with zeros. If a vector holds two taps, each factor is
    written twice.
    """
    F_LANES, P = 4 << kind % 3, kind // 3 + 1
    L = F_LANES * P

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pack_gradient_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        mask, pixel = t[MASK], t[PIXEL]
        # The next pixels follow these in memory. Fetch them now, because they are read in columns.
        ahead = t[GRADIENT] + t[COUNT] * pixel
        for v in range(begin, end):
            valid = t[VALID] - v * F_LANES
            place = 4 * v * F_LANES
            at = t[BIAS] + place
            total = vector_load(at, F_LANES, F_LANES)
            target = t[FACTORS] + 4 * v * L
            for _ in range(t[COUNT]):
                prefetch(ahead + place)
                value = vector_load(t[GRADIENT] + place, valid, F_LANES)
                if mask != 0:
                    gate = vector_load(mask + place, valid, F_LANES)
                    value = vector_where_positive(gate, value)
                total = vector_add(total, value)
                if P == 1:
                    vector_store(value, target, L)
                else:
                    vector_store(vector_twice(value), target, L)
                place += pixel
                target += 4 * t[VECTORS] * L
            vector_store(total, at, F_LANES)

    return _pack_gradient_kernel


@kernel_family(3 * MAX_ACCUMULATORS * MAX_TILE_ROWS)
def SPARSE_TILES(number: int) -> Any:
    """Add the products of the maxima to the sums of filters ``begin`` to ``end - 1``.

    The field VALID is here the number of rows of taps. A tile holds R of these rows.
    """
    L, V = 4 << (number % 3), number // 3 % MAX_ACCUMULATORS + 1
    R = number // 3 // MAX_ACCUMULATORS + 1

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sparse_tiles_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        places, factors, count, line = t[PLACES], t[FACTORS], t[COUNT], t[TAP_LINE]
        target = t[TARGET]
        for f in range(begin, end):
            for i in range(0, t[VALID], R):
                for j in range(t[OUTER_COLUMNS]):
                    source = t[SOURCE] + i * line + j * t[TAP_COLUMN]
                    for _ in range(t[CHUNKS]):
                        tile = sparse_accumulate(
                            tile_load(target, 4 * V * L, R, V, L),
                            source,
                            places + 4 * f,
                            factors + 4 * f,
                            t[PADDED],
                            count,
                            line,
                            R,
                            V,
                            L,
                        )
                        tile_store(tile, target, 4 * V * L, V * L, R, V, 1)
                        source += 4 * V * L
                        target += 4 * R * V * L

    return _sparse_tiles_kernel
