"""The sweep: outputs[n, r, c, f] = bias[f] + sum of source[position + offset_k] * weights[k, f].

The forward pass is one sweep; the gradient of the inputs is one sweep for each phase of the stride.
A task is some rows of one image for one group of channels: it copies the rows it reads into
planes (``planes.py``), then moves the register tile over them. A table of K byte offsets into
that scratch says where each factor of the sum lies: the indirection of Dukhan, "The Indirect
Convolution Algorithm" (2019), used for taps and channels alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.compiled import (
    KERNEL_SIGNATURE,
    address_of,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.parallel import run_kernel
from cnnforge_kernels.cpu.planes import fill_planes
from cnnforge_kernels.cpu.simd import (
    index_load,
    index_splat,
    index_store,
    vector_load,
    vector_maximum,
    vector_relu,
    vector_splat,
    vector_store,
    vector_where_equal,
)
from cnnforge_kernels.cpu.simd_tiles import tile_accumulate, tile_broadcast, tile_relu, tile_store
from cnnforge_kernels.cpu.tiles import TILES, choose_tile, tile_number, tile_of_number

# Fields of a sweep's argument block. Addresses and strides are in bytes.
SOURCE, MASK, IMAGE_STRIDE, ROW_STRIDE, PIXEL_STRIDE = range(5)
HEIGHT, WIDTH, CHANNELS, GROUPS = range(5, 9)
ROW_STEP, ROW_ORIGIN, ROW_SPAN, COLUMN_STEP, COLUMN_ORIGIN, COLUMN_SPAN = range(9, 15)
OFFSETS, COUNT, WEIGHTS, BIAS = range(15, 19)
TARGET, TARGET_IMAGE, TARGET_ROW, TARGET_COLUMN = range(19, 23)
ROWS, COLUMNS, FILTERS, RELU, BLOCK_ROWS, BLOCKS, IMAGES = range(23, 30)
# A pool behind the convolution: its window (also its stride), and its winners, one byte each. In
# the forward pass (POOL_ROWS > 0) the outputs are pooled; in the backward pass (UNPOOL_ROWS > 0)
# the source is a pooled gradient, and HEIGHT x WIDTH is the map that was pooled.
POOL_ROWS, POOL_COLUMNS, UNPOOL_ROWS, UNPOOL_COLUMNS, WINNERS = range(30, 35)
FIELDS = 35

_UNPOOL_LANES = 8
NO_WINNER = 255  # the ReLU let nothing through: no cell of the window has a gradient

# Scratch for the rows of a task: half of a 512 KiB second-level cache at the most.
_SCRATCH_BYTES = 128 * 1024


@cached_njit(inline="never")
def _fill_row(
    a: Any, row: int, image: int, group: int, target: int, plane: int, spare: int
) -> None:
    """Copy row ``row`` of the source, as far as any output reads it, into planes at ``target``."""
    channels = a[CHANNELS]
    first = max(0, a[COLUMN_ORIGIN])
    after = a[COLUMN_ORIGIN] + (a[COLUMNS] - 1) * a[COLUMN_STEP] + a[COLUMN_SPAN]
    last = min(a[WIDTH], after)
    shift, step = -a[COLUMN_ORIGIN], a[COLUMN_STEP]
    if a[UNPOOL_ROWS] == 0:
        place = image * a[IMAGE_STRIDE] + row * a[ROW_STRIDE] + 4 * group * channels
        mask = a[MASK] + place if a[MASK] != 0 else 0
        source, pixel = a[SOURCE] + place, a[PIXEL_STRIDE]
        fill_planes(target, plane, step, source, mask, pixel, shift, first, last, channels)
        return
    # Each value of the pooled gradient goes to the cell that won, all other cells are zero.
    cells = a[UNPOOL_COLUMNS]
    pooled = row // a[UNPOOL_ROWS]
    start = image * a[IMAGE_STRIDE] + pooled * a[ROW_STRIDE] + 4 * group * channels
    for column in range(a[WIDTH] // cells):
        here = start + column * a[PIXEL_STRIDE]
        for c in range(0, channels, _UNPOOL_LANES):
            valid = channels - c
            value = vector_load(a[SOURCE] + here + 4 * c, valid, _UNPOOL_LANES)
            winner = index_load(a[WINNERS] + here // 4 + c, valid, 1, _UNPOOL_LANES)
            for j in range(cells):
                cell = (row - pooled * a[UNPOOL_ROWS]) * cells + j
                place = spare + 4 * ((column * cells + j) * channels + c)
                vector_store(vector_where_equal(winner, cell, value), place, valid)
    no_mask = np.int64(0)  # a literal would have the function compiled once more
    fill_planes(target, plane, step, spare, no_mask, 4 * channels, shift, first, last, channels)


@kernel_family(TILES)
def _SWEEP(number: int) -> Any:
    T, G, L, P = tile_of_number(number)
    F_LANES = L // P  # filters of a vector
    F_WIDTH = G * L // P  # filters of a tile

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sweep_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        plane = 4 * (a[COLUMNS] + (a[COLUMN_SPAN] - 1) // a[COLUMN_STEP])
        row_bytes = plane * a[COLUMN_STEP] * a[CHANNELS]
        rows_held = (a[BLOCK_ROWS] - 1) * a[ROW_STEP] + a[ROW_SPAN]
        scratch = np.empty(rows_held * row_bytes // 4 + 1, np.float32)
        base = address_of(scratch)
        # One row of a window's maps, or of an unpooled gradient.
        spare = np.empty(
            a[POOL_ROWS] * a[COLUMNS] * F_WIDTH + a[UNPOOL_ROWS] * a[WIDTH] * a[CHANNELS] + 1,
            np.float32,
        )
        spare_at = address_of(spare)
        spare_row = 4 * a[COLUMNS] * F_WIDTH
        filter_blocks = (a[FILTERS] + F_WIDTH - 1) // F_WIDTH
        block_bytes = a[COUNT] * G * L * 4
        for task in range(begin, end):
            group = task % a[GROUPS]
            image = task // a[GROUPS] // a[BLOCKS]
            row0 = (task // a[GROUPS] % a[BLOCKS]) * a[BLOCK_ROWS]
            row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
            scratch[:] = np.float32(0)
            top = row0 * a[ROW_STEP] + a[ROW_ORIGIN]
            for held in range((row1 - 1 - row0) * a[ROW_STEP] + a[ROW_SPAN]):
                if 0 <= top + held < a[HEIGHT]:
                    _fill_row(a, top + held, image, group, base + held * row_bytes, plane, spare_at)
            for block in range(filter_blocks):
                weights = a[WEIGHTS] + (group * filter_blocks + block) * block_bytes
                bias = a[BIAS] + 4 * (group * filter_blocks + block) * G * L
                valid = a[FILTERS] - block * F_WIDTH
                first_filter = 4 * (group * a[FILTERS] + block * F_WIDTH)
                out = a[TARGET] + image * a[TARGET_IMAGE] + first_filter
                for row in range(row0, row1):
                    line = base + (row - row0) * a[ROW_STEP] * row_bytes
                    target, step, stored = out + row * a[TARGET_ROW], a[TARGET_COLUMN], valid
                    if a[POOL_ROWS] != 0:
                        target = spare_at + (row % a[POOL_ROWS]) * spare_row
                        step, stored = 4 * F_WIDTH, F_WIDTH
                    column = 0
                    while column < a[COLUMNS]:
                        column = min(column, a[COLUMNS] - T * P)
                        tile = tile_broadcast(bias, T, G, L)
                        tile = tile_accumulate(
                            tile, line + 4 * column, a[OFFSETS], weights, a[COUNT], 0, 1, T, G, L, P
                        )
                        if a[RELU] != 0:
                            tile = tile_relu(tile)
                        tile_store(tile, target + column * step, step, stored, T, G, P)
                        column += T * P
                    if a[POOL_ROWS] == 0 or row % a[POOL_ROWS] != a[POOL_ROWS] - 1:
                        continue
                    pooled = out + row // a[POOL_ROWS] * a[TARGET_ROW]
                    for column in range(a[COLUMNS] // a[POOL_COLUMNS]):
                        for v in range(G):
                            best = vector_splat(np.float32(-np.inf), F_LANES)
                            winner = index_splat(0, F_LANES)
                            here = spare_at + 4 * (column * a[POOL_COLUMNS] * G + v) * F_LANES
                            for i in range(a[POOL_ROWS]):
                                for j in range(a[POOL_COLUMNS]):
                                    value = vector_load(
                                        here + i * spare_row + 4 * j * F_WIDTH, F_LANES, F_LANES
                                    )
                                    best, winner = vector_maximum(
                                        best, winner, value, i * a[POOL_COLUMNS] + j
                                    )
                            best, winner = vector_relu(best, winner, NO_WINNER)
                            place = pooled + column * a[TARGET_COLUMN] + 4 * v * F_LANES
                            vector_store(best, place, valid - v * F_LANES)
                            byte = a[WINNERS] + (place - a[TARGET]) // 4
                            index_store(winner, byte, valid - v * F_LANES, 1)
        scratch[:0] = np.float32(0)  # keeps the scratch alive until here
        spare[:0] = np.float32(0)

    return _sweep_kernel


@cached_njit()
def _origin_and_span(taps: Any) -> tuple[int, int]:
    """The least of some integers, and how many there are from it to the largest."""
    if taps.size == 0:
        return 0, 1
    least = largest = taps[0]
    for tap in taps:
        least, largest = min(least, tap), max(largest, tap)
    return least, largest - least + 1


@cached_njit()
def sweep(args: Any, row_taps: Any, column_taps: Any, weights: Any, bias: Any) -> None:
    """Fill in what follows from the shapes, pack the weights, and run.

    Args:
        args: int64 block; every field is set but those set here.
        row_taps: for each tap, the source row that output (0, 0) reads.
        column_taps: for each tap, the source column that output (0, 0) reads.
        weights: (taps, channels of a group, groups, filters of a group), any strides.
        bias: (groups * filters of a group,), or empty: zero.
    """
    taps, channels, groups, filters = weights.shape
    tile, vectors, lanes, pairs = choose_tile(args[COLUMNS], filters)
    tile = min(tile, args[COLUMNS] // pairs)
    args[ROW_ORIGIN], args[ROW_SPAN] = _origin_and_span(row_taps)
    args[COLUMN_ORIGIN], args[COLUMN_SPAN] = _origin_and_span(column_taps)
    args[CHANNELS], args[GROUPS], args[FILTERS] = channels, groups, filters
    step = args[COLUMN_STEP]
    plane = 4 * (args[COLUMNS] + (args[COLUMN_SPAN] - 1) // step)
    row_bytes = plane * step * channels
    count = taps * channels
    args[COUNT] = count
    offsets = np.empty(count, np.int64)
    for tap in range(taps):
        shift = column_taps[tap] - args[COLUMN_ORIGIN]
        place = (row_taps[tap] - args[ROW_ORIGIN]) * row_bytes
        place += (shift % step) * plane + 4 * (shift // step)
        for c in range(channels):
            offsets[tap * channels + c] = place + c * step * plane
    width = vectors * lanes // pairs
    blocks = (filters + width - 1) // width
    # One-dimensional, because Numba takes long to compile for more dimensions.
    packed = np.zeros(groups * blocks * count * width * pairs, np.float32)
    packed_bias = np.zeros(groups * blocks * width * pairs, np.float32)
    for group in range(groups):
        for block in range(blocks):
            first = block * width
            valid = min(width, filters - first)
            row = (group * blocks + block) * count * width * pairs
            for tap in range(taps):
                for c in range(channels):
                    for f in range(valid):
                        for pair in range(pairs):
                            packed[row + f * pairs + pair] = weights[tap, c, group, first + f]
                    row += width * pairs
            if bias.size > 0:
                row = (group * blocks + block) * width * pairs
                for f in range(valid):
                    for pair in range(pairs):
                        packed_bias[row + f * pairs + pair] = bias[group * filters + first + f]
    args[OFFSETS] = address_of(offsets)
    args[WEIGHTS] = address_of(packed)
    args[BIAS] = address_of(packed_bias)
    fitting = (_SCRATCH_BYTES // max(row_bytes, 1) - args[ROW_SPAN]) // args[ROW_STEP] + 1
    unit = max(args[POOL_ROWS], 1)  # the rows of a window stay together
    units = args[ROWS] // unit
    parts = (units + max(fitting // unit, 1) - 1) // max(fitting // unit, 1)
    args[BLOCK_ROWS] = (units + parts - 1) // parts * unit
    args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
    tasks = args[IMAGES] * args[BLOCKS] * groups
    # About 20 us of work (at 32 multiply-adds a nanosecond) is worth handing out.
    work = args[BLOCK_ROWS] * args[COLUMNS] * max(count, 1) * blocks * width
    grain = max(1, 640_000 // max(work, 1))
    run_kernel(_SWEEP + tile_number(tile, vectors, lanes, pairs), args, tasks, grain)
    offsets[:] = 0  # keeps the tables alive until here
    packed_bias[:0] = np.float32(0)
    packed[:0] = np.float32(0)
