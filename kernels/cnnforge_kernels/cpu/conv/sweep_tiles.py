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
from cnnforge_kernels.cpu.simd.epilogues import tile_activate, tile_add_stored, tile_max_store
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
# Only for INFERENCE (see below): the number of bytes from an output to the value that is added to
# it, or 0.
ADDED = 19
FIELDS = 20

# What follows the sums. PLAIN: a ReLU or nothing. IN_REGISTERS and IN_MEMORY: a ReLU and a max pool
# that is computed in registers or in memory. A tile of two rows computes a 2x2 pool in registers.
# For a pool of another size the tiles are stored in a buffer, which POOL_MAPS reads. INFERENCE: an
# addition or nothing, and any activation. INFERENCE_POOL: any activation, and a 2x2 max pool
# without argmax.
PLAIN, IN_REGISTERS, IN_MEMORY, INFERENCE, INFERENCE_POOL = range(5)


@kernel_family(TILES * len(WINDOWS) * 5)
def SWEEP_TILES(number: int) -> Any:
    """Compute the outputs of tile rows ``begin`` to ``end - 1`` for one block of filters.

    A tile row is R rows of outputs.
    """
    T, G, L, P = tile_of_number(number % TILES)
    W = WINDOWS[number // TILES % len(WINDOWS)]
    behind = number // TILES // len(WINDOWS)
    R = 2 if behind in (IN_REGISTERS, INFERENCE_POOL) else 1
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
                if behind == INFERENCE_POOL:
                    tile = tile_activate(tile, t[RELU])
                    tile_max_store(tile, target + column // 2 * step, step, valid, T, G, P)
                elif R == 2:
                    place = target + column // 2 * step
                    byte = t[ARGMAX] + place // 4
                    tile_pool_store(tile, place, byte, step, valid, T, G, P, NO_CELL)
                elif behind == INFERENCE:
                    place = target + column * step
                    if t[ADDED] != 0:
                        tile = tile_add_stored(tile, place + t[ADDED], step, valid, T, G, P)
                    tile = tile_activate(tile, t[RELU])
                    tile_store(tile, place, step, valid, T, G, P)
                else:
                    if t[RELU] != 0:
                        tile = tile_relu(tile)
                    tile_store(tile, target + column * step, step, valid, T, G, P)
                column += T * P

    return _sweep_tiles_kernel


@kernel_family(6)
def POOL_MAPS(kind: int) -> Any:
    """Apply an activation and max pooling to windows ``begin`` to ``end - 1`` of a row of windows.

    Kinds 0 to 2 apply a ReLU and write the argmax. Kinds 3 to 5 apply any activation and write no
    argmax.
    """
    L = 4 << kind % 3
    inference = kind >= 3

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
                place = t[TARGET] + cell * t[TARGET_COLUMN] + 4 * first
                valid = t[FILTERS] - first
                if inference:
                    vector_store(tile_activate((best,), t[RELU])[0], place, valid)
                else:
                    best, argmax = vector_relu(best, argmax, NO_CELL)
                    vector_store(best, place, valid)
                    index_store(argmax, t[ARGMAX] + place // 4, valid, 1)

    return _pool_maps_kernel
