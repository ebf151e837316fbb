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
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
    words_at,
)
from cnnforge_kernels.cpu.parallel import run_kernel
from cnnforge_kernels.cpu.planes import copy_floats
from cnnforge_kernels.cpu.simd import (
    index_splat,
    index_store,
    load_float,
    store_float,
    vector_load,
    vector_maximum,
    vector_relu,
    vector_splat,
    vector_store,
)
from cnnforge_kernels.cpu.simd_blocks import tile_pool_store
from cnnforge_kernels.cpu.simd_tiles import (
    tile_accumulate,
    tile_broadcast,
    tile_relu,
    tile_store,
)
from cnnforge_kernels.cpu.sweep_rows import (
    BIAS,
    BIAS_SOURCE,
    BLOCK_ROWS,
    BLOCKS,
    CHANNELS,
    COLUMN_ORIGIN,
    COLUMN_SPAN,
    COLUMN_STEP,
    COLUMN_TAPS,
    COLUMNS,
    COUNT,
    FACTORS,
    FIELDS,
    FILTERS,
    GROUPS,
    HEIGHT,
    IMAGES,
    NOT_FINITE,
    OFFSETS,
    PLANE,
    POOL_COLUMNS,
    POOL_ROWS,
    RELU,
    ROW_BYTES,
    ROW_ORIGIN,
    ROW_SPAN,
    ROW_STEP,
    ROW_TAPS,
    ROWS,
    SCRATCH_PIXEL,
    TAPS,
    TARGET,
    TARGET_COLUMN,
    TARGET_IMAGE,
    TARGET_ROW,
    UNPOOL_ROWS,
    WEIGHTS,
    WIDTH,
    WINNERS,
    fill_row,
    origin_and_span,
)
from cnnforge_kernels.cpu.tiles import (
    TILES,
    WINDOWS,
    choose_tile,
    in_planes,
    longest_window,
    tile_number,
    tile_of_number,
    window_number,
)
from cnnforge_kernels.cpu.winners import NO_WINNER
from cnnforge_kernels.cpu.winograd import LAUNCH as _WINOGRAD_LAUNCH
from cnnforge_kernels.cpu.winograd import winograd_fits

# Scratch for the rows of a task: half of a 512 KiB second-level cache at the most.
_SCRATCH_BYTES = 128 * 1024


@kernel_family(TILES * len(WINDOWS) * 2)
def _SWEEP(number: int) -> Any:
    T, G, L, P = tile_of_number(number % TILES)
    W = WINDOWS[number // TILES % len(WINDOWS)]
    R = number // TILES // len(WINDOWS) + 1  # 2: the tile is pooled before it leaves the registers
    RT = R * T
    PLANAR = in_planes(G, P)
    F_LANES = L // P  # filters of a vector
    F_WIDTH = G * L // P  # filters of a tile

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sweep_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        plane, row_bytes = a[PLANE], a[ROW_BYTES]
        rows_held = (a[BLOCK_ROWS] - 1) * a[ROW_STEP] + a[ROW_SPAN]
        scratch = aligned_floats(rows_held * row_bytes // 4 + 1)
        base = address_of(scratch)
        # One row of a window's maps, or of an unpooled gradient.
        spare = aligned_floats(
            (2 - R) * a[POOL_ROWS] * a[COLUMNS] * F_WIDTH
            + a[UNPOOL_ROWS] * a[WIDTH] * a[CHANNELS]
            + 1
        )
        spare_at = address_of(spare)
        spare_row = 4 * a[COLUMNS] * F_WIDTH
        next_line = a[ROW_STEP] * row_bytes
        pixel = a[COLUMN_STEP] * a[SCRATCH_PIXEL]
        filter_blocks = (a[FILTERS] + F_WIDTH - 1) // F_WIDTH
        block_bytes = a[COUNT] * W * G * L * 4
        for task in range(begin, end):
            group = task % a[GROUPS]
            image = task // a[GROUPS] // a[BLOCKS]
            row0 = (task // a[GROUPS] % a[BLOCKS]) * a[BLOCK_ROWS]
            row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
            scratch[:] = np.float32(0)
            top = row0 * a[ROW_STEP] + a[ROW_ORIGIN]
            for held in range((row1 - 1 - row0) * a[ROW_STEP] + a[ROW_SPAN]):
                if 0 <= top + held < a[HEIGHT]:
                    fill_row(a, top + held, image, group, base + held * row_bytes, plane, spare_at)
            for block in range(filter_blocks):
                weights = a[WEIGHTS] + (group * filter_blocks + block) * block_bytes
                bias = a[BIAS] + 4 * (group * filter_blocks + block) * G * L
                valid = a[FILTERS] - block * F_WIDTH
                first_filter = 4 * (group * a[FILTERS] + block * F_WIDTH)
                out = a[TARGET] + image * a[TARGET_IMAGE] + first_filter
                for row in range(row0, row1, R):
                    line = base + (row - row0) * a[ROW_STEP] * row_bytes
                    target, step, stored = out + row * a[TARGET_ROW], a[TARGET_COLUMN], valid
                    pooled = out + row // max(a[POOL_ROWS], 1) * a[TARGET_ROW]
                    if a[POOL_ROWS] != 0:
                        target = spare_at + (row % a[POOL_ROWS]) * spare_row
                        step, stored = 4 * F_WIDTH, F_WIDTH
                    column = 0
                    while column < a[COLUMNS]:
                        column = min(column, a[COLUMNS] - T * P)
                        tile = tile_broadcast(bias, RT, G, L)
                        if PLANAR:
                            tile = tile_accumulate(
                                tile,
                                line + 4 * column,
                                a[OFFSETS],
                                weights,
                                a[COUNT],
                                next_line,
                                4,
                                R,
                                T,
                                G,
                                L,
                                P,
                                W,
                            )
                        else:
                            tile = tile_accumulate(
                                tile,
                                line + pixel * column,
                                a[OFFSETS],
                                weights,
                                a[COUNT],
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
                            place = pooled + column // 2 * a[TARGET_COLUMN]
                            byte = a[WINNERS] + (place - a[TARGET]) // 4
                            tile_pool_store(
                                tile, place, byte, a[TARGET_COLUMN], valid, T, G, P, NO_WINNER
                            )
                        else:
                            if a[RELU] != 0:
                                tile = tile_relu(tile)
                            tile_store(tile, target + column * step, step, stored, T, G, P)
                        column += T * P
                    if R == 2 or a[POOL_ROWS] == 0 or row % a[POOL_ROWS] != a[POOL_ROWS] - 1:
                        continue
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
def _window(step: int, row_taps: Any, column_taps: Any) -> int:
    """How many neighbouring taps a micro-kernel may take at a time: all runs are so long."""
    taps = row_taps.size
    if step != 1 or taps == 0:
        return 1
    run = 1
    while run < taps and row_taps[run] == row_taps[0]:
        run += 1
    if taps % run != 0:
        return 1
    for tap in range(taps):
        first = tap - tap % run
        if row_taps[tap] != row_taps[first] or column_taps[tap] != column_taps[first] + tap - first:
            return 1
    return longest_window(run)


@cached_njit()
def _pack(target: int, source: int, count: int, pairs: int) -> None:
    """Copy ``count`` floats, each ``pairs`` times."""
    if pairs == 1:
        copy_floats(target, source, count)
        return
    for index in range(count):
        value = load_float(source + 4 * index)
        store_float(target + 8 * index, value)
        store_float(target + 8 * index + 4, value)


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Fill in what follows from the shapes, pack the weights, and run."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_sweep(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, FIELDS)
        taps, channels = args[TAPS], args[CHANNELS]
        groups, filters = args[GROUPS], args[FILTERS]
        row_taps = carray(words_at(args[ROW_TAPS]), taps)
        column_taps = carray(words_at(args[COLUMN_TAPS]), taps)
        pooled = args[POOL_ROWS] == 2 and args[POOL_COLUMNS] == 2
        window = _window(args[COLUMN_STEP], row_taps, column_taps)
        tile, vectors, lanes, pairs, window = choose_tile(
            args[COLUMNS], filters, window, 2 if pooled else 1, True
        )
        tile = min(tile, args[COLUMNS] // pairs)
        args[ROW_ORIGIN], args[ROW_SPAN] = origin_and_span(row_taps)
        args[COLUMN_ORIGIN], args[COLUMN_SPAN] = origin_and_span(column_taps)
        step = args[COLUMN_STEP]
        if in_planes(vectors, pairs):
            args[PLANE] = 4 * (args[COLUMNS] + (args[COLUMN_SPAN] - 1) // step)
            args[ROW_BYTES] = args[PLANE] * step * channels
        else:
            args[PLANE] = 0
            args[SCRATCH_PIXEL] = 4 * channels
            args[ROW_BYTES] = ((args[COLUMNS] - 1) * step + args[COLUMN_SPAN]) * 4 * channels
        row_bytes = args[ROW_BYTES]
        args[COUNT] = taps // window * channels
        offsets = np.empty(args[COUNT], np.int64)
        for tap in range(0, taps, window):
            shift = column_taps[tap] - args[COLUMN_ORIGIN]
            place = (row_taps[tap] - args[ROW_ORIGIN]) * row_bytes
            next_channel = 4
            if args[PLANE] != 0:
                place += (shift % step) * args[PLANE] + 4 * (shift // step)
                next_channel = step * args[PLANE]
            else:
                place += shift * args[SCRATCH_PIXEL]
            for c in range(channels):
                offsets[tap // window * channels + c] = place + c * next_channel
        width = vectors * lanes // pairs
        blocks = (filters + width - 1) // width
        count = taps * channels
        packed = aligned_floats(groups * blocks * count * width * pairs)
        packed[:] = np.float32(0)
        packed_bias = np.zeros(groups * blocks * width * pairs, np.float32)
        for block in range(groups * blocks):
            group, first = block // blocks, block % blocks * width
            valid = min(width, filters - first)
            target = address_of(packed) + 4 * block * count * width * pairs
            for run in range(0, taps, window):
                for c in range(channels):
                    for tap in range(run, run + window):
                        place = ((tap * channels + c) * groups + group) * filters + first
                        _pack(target, args[FACTORS] + 4 * place, valid, pairs)
                        target += 4 * width * pairs
            if args[BIAS_SOURCE] != 0:
                source = args[BIAS_SOURCE] + 4 * (group * filters + first)
                _pack(address_of(packed_bias) + 4 * block * width * pairs, source, valid, pairs)
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
        number = tile_number(tile, vectors, lanes, pairs) + TILES * window_number(window)
        if pooled:
            number += TILES * len(WINDOWS)
        run_kernel(_SWEEP + number, args, tasks, grain)
        offsets[:] = 0  # keeps the tables alive until here
        packed_bias[:0] = np.float32(0)
        packed[:0] = np.float32(0)

    return _launch_sweep


@cached_njit()
def sweep(args: Any, row_taps: Any, column_taps: Any, weights: Any, bias: Any) -> None:
    """Run a sweep.

    Args:
        args: int64 block; every field is set up to IMAGES that does not follow from these.
        row_taps: for each tap, the source row that output (0, 0) reads.
        column_taps: for each tap, the source column that output (0, 0) reads.
        weights: (taps, channels of a group, groups, filters of a group), C-contiguous.
        bias: (groups * filters of a group,), or empty: zero.
    """
    args[TAPS], args[CHANNELS], args[GROUPS], args[FILTERS] = weights.shape
    args[ROW_TAPS], args[COLUMN_TAPS] = address_of(row_taps), address_of(column_taps)
    args[FACTORS] = address_of(weights)
    args[BIAS_SOURCE] = address_of(bias) if bias.size > 0 else 0
    args[NOT_FINITE] = 1
    if winograd_fits(args):
        call_once(_WINOGRAD_LAUNCH, args)
    if args[NOT_FINITE] != 0:
        call_once(_LAUNCH, args)
