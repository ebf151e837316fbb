"""Kernels of a sweep whose code depends on the size of the register tile, and its max pool.

A sweep (``sweep.py``) computes a convolution, or the gradient of its inputs. These kernels are
compiled again for each new size of the tile, in 0.2 s, so only the inner loops are here. The code
in ``sweep.py`` is compiled once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.argmax import NO_CELL
from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.simd.pooled_tiles import tile_pool_store
from cnnforge_kernels.cpu.simd.tile_choice import TILES, WINDOWS, in_planes, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import (
    tile_accumulate,
    tile_broadcast,
    tile_relu,
    tile_store,
)
from cnnforge_kernels.cpu.simd.vectors import (
    index_splat,
    index_store,
    vector_load,
    vector_maximum,
    vector_relu,
    vector_splat,
    vector_store,
)

# Fields of the argument block for some rows and one block of filters. Addresses and strides are in
# bytes. An output has four bytes and its argmax one, so ARGMAX + a / 4 is the address of the argmax
# of the output at address a.
LINE, NEXT_LINE, PIXEL, OFFSETS, COUNT, WEIGHTS, BIAS = range(7)
TARGET, TARGET_ROW, TARGET_COLUMN, FILTERS, COLUMNS, RELU, ARGMAX = range(7, 14)
# Only for IN_MEMORY (see below): the address of the outputs before they are pooled, the stride of
# their rows, the window of the pool, and the number of filters of a pixel.
MAPS, MAPS_ROW, POOL_ROWS, POOL_COLUMNS, WIDTH = range(14, 19)
FIELDS = 19

# How the max pool after the convolution is computed: not at all, in registers, or in memory. A tile
# of two rows computes a 2x2 pool in registers. For a pool of another size the tiles are stored in a
# buffer, which POOL_MAPS reads.
NO_POOL, IN_REGISTERS, IN_MEMORY = range(3)


@kernel_family(TILES * len(WINDOWS) * 3)
def SWEEP_TILES(number: int) -> Any:
    """Compute the outputs of tile rows ``begin`` to ``end - 1`` for one block of filters.

    A tile row is R rows of outputs.
    """
    T, G, L, P = tile_of_number(number % TILES)
    W = WINDOWS[number // TILES % len(WINDOWS)]
    behind = number // TILES // len(WINDOWS)
    R = 2 if behind == IN_REGISTERS else 1
    RT = R * T
    PLANAR = in_planes(G, P)
    F_WIDTH = G * L // P  # filters of a tile

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sweep_tiles_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        offsets, weights, count, bias = t[OFFSETS], t[WEIGHTS], t[COUNT], t[BIAS]
        next_line, columns = t[NEXT_LINE], t[COLUMNS]
        step, valid = t[TARGET_COLUMN], t[FILTERS]
        pixel = np.int64(4) if PLANAR else t[PIXEL]
        for row in range(begin, end):
            line = t[LINE] + row * R * next_line
            if behind == IN_MEMORY:
                target, step, valid = t[MAPS] + row * t[MAPS_ROW], 4 * F_WIDTH, F_WIDTH
            else:
                target = t[TARGET] + row * t[TARGET_ROW]
            column = 0
            while column < columns:
                # Let the last tile end at the last column; it may overlap the tile before it.
                column = min(column, columns - T * P)
                tile = tile_accumulate(
                    tile_broadcast(bias, RT, G, L),
                    line + pixel * column,
                    offsets,
                    weights,
                    count,
                    next_line,
                    pixel,
                    R,
                    T,
                    G,
                    L,
                    P,
                    W,
                )
                if R == 2:
                    place = target + column // 2 * step
                    byte = t[ARGMAX] + place // 4
                    tile_pool_store(tile, place, byte, step, valid, T, G, P, NO_CELL)
                else:
                    if t[RELU] != 0:
                        tile = tile_relu(tile)
                    tile_store(tile, target + column * step, step, valid, T, G, P)
                column += T * P

    return _sweep_tiles_kernel


@kernel_family(3)
def POOL_MAPS(kind: int) -> Any:
    """Apply max pooling and ReLU to windows ``begin`` to ``end - 1`` of a row of windows."""
    L = 4 << kind

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pool_maps_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        rows, columns, pixel = t[POOL_ROWS], t[POOL_COLUMNS], 4 * t[WIDTH]
        for cell in range(begin, end):
            for first in range(0, min(t[WIDTH], t[FILTERS]), L):
                best = vector_splat(np.float32(-np.inf), L)
                argmax = index_splat(0, L)
                here = t[MAPS] + cell * columns * pixel + 4 * first
                for i in range(rows):
                    for j in range(columns):
                        value = vector_load(here + i * t[MAPS_ROW] + j * pixel, L, L)
                        best, argmax = vector_maximum(best, argmax, value, i * columns + j)
                best, argmax = vector_relu(best, argmax, NO_CELL)
                place = t[TARGET] + cell * t[TARGET_COLUMN] + 4 * first
                valid = t[FILTERS] - first
                vector_store(best, place, valid)
                index_store(argmax, t[ARGMAX] + place // 4, valid, 1)

    return _pool_maps_kernel
