"""What depends on the tile of a sweep: its register tiles over some rows, and a pool behind them.

Compiling one of these takes 0.2 s, and all that they have in common is in
``sweep.py``: another shape costs its tiles only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.argmax import NO_WINNER
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

# Fields of the block of some rows and one block of filters. Addresses and strides are in bytes;
# WINNERS is where the byte of a value at address 0 would lie.
LINE, NEXT_LINE, PIXEL, OFFSETS, COUNT, WEIGHTS, BIAS = range(7)
TARGET, TARGET_ROW, TARGET_COLUMN, FILTERS, COLUMNS, RELU, WINNERS = range(7, 14)
# Where a pool does not happen in registers: the maps of the rows of one window.
MAPS, MAPS_ROW, POOL_ROWS, POOL_COLUMNS, WIDTH = range(14, 19)
FIELDS = 19

# What happens behind a tile: nothing; a 2x2 pool in its registers, which then has two rows; a pool
# of another size once the maps of its rows are in memory.
NO_POOL, IN_REGISTERS, IN_MEMORY = range(3)


@kernel_family(TILES * len(WINDOWS) * 3)
def SWEEP_TILES(number: int) -> Any:
    """Rows ``begin`` to ``end - 1`` of tiles, all columns of one block of filters."""
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
                # The last tile of a row is moved back to fit.
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
                    byte = t[WINNERS] + place // 4
                    tile_pool_store(tile, place, byte, step, valid, T, G, P, NO_WINNER)
                else:
                    if t[RELU] != 0:
                        tile = tile_relu(tile)
                    tile_store(tile, target + column * step, step, valid, T, G, P)
                column += T * P

    return _sweep_tiles_kernel


@kernel_family(3)
def POOL_MAPS(kind: int) -> Any:
    """Windows ``begin`` to ``end - 1`` of a row of windows: ReLU and max pooling of the maps."""
    L = 4 << kind

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pool_maps_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, FIELDS)
        rows, columns, pixel = t[POOL_ROWS], t[POOL_COLUMNS], 4 * t[WIDTH]
        for cell in range(begin, end):
            for first in range(0, min(t[WIDTH], t[FILTERS]), L):
                best = vector_splat(np.float32(-np.inf), L)
                winner = index_splat(0, L)
                here = t[MAPS] + cell * columns * pixel + 4 * first
                for i in range(rows):
                    for j in range(columns):
                        value = vector_load(here + i * t[MAPS_ROW] + j * pixel, L, L)
                        best, winner = vector_maximum(best, winner, value, i * columns + j)
                best, winner = vector_relu(best, winner, NO_WINNER)
                place = t[TARGET] + cell * t[TARGET_COLUMN] + 4 * first
                valid = t[FILTERS] - first
                vector_store(best, place, valid)
                index_store(winner, t[WINNERS] + place // 4, valid, 1)

    return _pool_maps_kernel
