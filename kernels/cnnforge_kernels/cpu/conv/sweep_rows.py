"""Define the argument block of a sweep, and pack a row of its source into scratch memory.

A sweep (``sweep.py``) computes a convolution, or the gradient of its inputs. The constants are the
indices of the fields of its argument block, an int64 array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.conv.packing import pack_pixels, pack_planes
from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.simd.vectors import (
    index_load,
    vector_load,
    vector_store,
    vector_where_equal,
)

# Fields of a sweep's argument block. Addresses and strides are in bytes.
SOURCE, MASK, IMAGE_STRIDE, ROW_STRIDE, PIXEL_STRIDE = range(5)
HEIGHT, WIDTH, CHANNELS, GROUPS = range(5, 9)
ROW_STEP, ROW_ORIGIN, ROW_SPAN, COLUMN_STEP, COLUMN_ORIGIN, COLUMN_SPAN = range(9, 15)
OFFSETS, COUNT, WEIGHTS, BIAS = range(15, 19)
TARGET, TARGET_IMAGE, TARGET_ROW, TARGET_COLUMN = range(19, 23)
ROWS, COLUMNS, FILTERS, RELU, BLOCK_ROWS, BLOCKS, IMAGES = range(23, 30)
# A max pool after the convolution. Its strides equal its window. ARGMAX is the address of one byte
# for each maximum. In the forward pass (POOL_ROWS > 0) the outputs are pooled. In the backward pass
# (UNPOOL_ROWS > 0) the source is a pooled gradient, and HEIGHT x WIDTH is the size before pooling.
POOL_ROWS, POOL_COLUMNS, UNPOOL_ROWS, UNPOOL_COLUMNS, ARGMAX = range(30, 35)
# The numbers of bytes of a row, a plane and a pixel of the scratch memory. PLANE is 0 if the
# scratch memory has the axes (row, column, channel), and so no planes; only then SCRATCH_PIXEL is
# used.
ROW_BYTES, PLANE, SCRATCH_PIXEL = range(35, 38)
# The number of taps, and the addresses of four arrays: the rows that the taps read, the columns
# that they read, the weights, and the bias. The functions of sweep.py and winograd/forward.py
# repack weights and bias.
TAPS, ROW_TAPS, COLUMN_TAPS, FACTORS, BIAS_SOURCE = range(38, 43)
# Addresses of the kernels of winograd/forward_passes.py. NOT_FINITE is 1 if Winograd's algorithm
# was not used or found a sum that is not finite; then the direct sum has to compute the outputs.
# winograd/forward.py makes a copy of the argument block. In the copy, NOT_FINITE is the address of
# such a number.
SPREAD_INPUTS, MULTIPLY, JOIN_SUMS, NOT_FINITE = range(43, 47)
# The kernels of sweep_tiles.py and their register tile: the address of the kernel that computes the
# tiles; the numbers of rows and filters of a tile, and of floats in its vectors of filters; the
# number of bytes of the weights of a block of filters; the address of POOL_MAPS, or 0 if it is not
# used.
TILE_KERNEL, TILE_ROWS, TILE_FILTERS, TILE_FLOATS, BLOCK_BYTES, POOL = range(47, 53)
# What `sweep_setup.py` chooses: the number of neighbouring taps that one step multiplies, the
# number of blocks of filters of a group, the number of tasks, and the number of tasks that a thread
# runs at a time.
WINDOW, FILTER_BLOCKS, TASKS, GRAIN = range(53, 57)
# INFERENCE is 1 if the argmax of a pool is not needed. Then RELU is any activation of
# `simd/epilogues.py`, and ADDED is the address of an array that is added before the activation, or
# 0. The array has the shape and the strides of the target.
INFERENCE, ADDED = 57, 58
# A task computes PART_BLOCKS of the FILTER_BLOCKS blocks of filters, and PARTS tasks all of them.
PARTS, PART_BLOCKS = 59, 60
FIELDS = 61


_UNPOOL_LANES = 8


@cached_njit(inline="never")
def pack_row(a: Any, row: int, image: int, group: int, target: int, plane: int, spare: int) -> None:
    """Copy from source row ``row`` to scratch memory only the columns that outputs read.

    ``target`` is the address in the scratch memory. ``plane`` is the number of bytes of a plane, or
    0 for the axes (column, channel). ``spare`` is the address of a buffer for one row of the
    gradient before the pool.
    """
    channels = a[CHANNELS]
    first = max(0, a[COLUMN_ORIGIN])
    after = a[COLUMN_ORIGIN] + (a[COLUMNS] - 1) * a[COLUMN_STEP] + a[COLUMN_SPAN]
    last = min(a[WIDTH], after)
    shift, step = -a[COLUMN_ORIGIN], a[COLUMN_STEP]
    if a[UNPOOL_ROWS] == 0:
        place = image * a[IMAGE_STRIDE] + row * a[ROW_STRIDE] + 4 * group * channels
        mask = a[MASK] + place if a[MASK] != 0 else 0
        source, pixel = a[SOURCE] + place, a[PIXEL_STRIDE]
        if plane != 0:
            pack_planes(target, plane, step, source, mask, pixel, shift, first, last, channels)
        else:
            here, skipped = target + (first + shift) * a[SCRATCH_PIXEL], first * pixel
            gate = mask + skipped if mask != 0 else 0
            pack_pixels(
                here, a[SCRATCH_PIXEL], source + skipped, gate, pixel, last - first, channels
            )
        return
    # Compute the gradient before the pool: each value goes to the cell of its argmax, and the other
    # cells are zero.
    cells = a[UNPOOL_COLUMNS]
    pooled = row // a[UNPOOL_ROWS]
    start = image * a[IMAGE_STRIDE] + pooled * a[ROW_STRIDE] + 4 * group * channels
    for column in range(a[WIDTH] // cells):
        here = start + column * a[PIXEL_STRIDE]
        for c in range(0, channels, _UNPOOL_LANES):
            valid = channels - c
            value = vector_load(a[SOURCE] + here + 4 * c, valid, _UNPOOL_LANES)
            argmax = index_load(a[ARGMAX] + here // 4 + c, valid, 1, _UNPOOL_LANES)
            for j in range(cells):
                cell = (row - pooled * a[UNPOOL_ROWS]) * cells + j
                place = spare + 4 * ((column * cells + j) * channels + c)
                vector_store(vector_where_equal(argmax, cell, value), place, valid)
    # A variable, because Numba would compile the called functions again for a literal.
    no_mask = np.int64(0)
    pixel = 4 * channels
    if plane != 0:
        pack_planes(target, plane, step, spare, no_mask, pixel, shift, first, last, channels)
    else:
        here = target + (first + shift) * pixel
        pack_pixels(here, pixel, spare + first * pixel, no_mask, pixel, last - first, channels)


@cached_njit()
def origin_and_span(taps: Any) -> tuple[int, int]:
    """Return two numbers: the minimum of ``taps``, and maximum - minimum + 1."""
    if taps.size == 0:
        return 0, 1
    lowest = highest = taps[0]
    for tap in taps:
        lowest, highest = min(lowest, tap), max(highest, tap)
    return lowest, highest - lowest + 1
