"""Compute a convolution, or the gradient of its inputs, by moving a register tile over rows.

This is called a *sweep*. A sweep computes

    outputs[n, r, c, f] = bias[f] + sum over k of source[position + offset_k] * weights[k, f]

for image n, row r, column c and filter f. The index k is that of a tap and a channel, and the
position is that of (n, r, c) in the source. The forward pass is one sweep over the inputs. The
gradient of the inputs is one sweep over the gradient of the outputs for each phase of the stride:
the inputs whose row and column have the same remainders modulo the strides.

A task computes some rows of one image for one group of channels. It packs the source rows that it
reads into scratch memory (``packing.py``), then moves the register tile over them. A table has, for
each k, the byte offset in the scratch memory. M. Dukhan, "The Indirect Convolution Algorithm",
2019, describes such a table for taps; here it has an offset for each tap and channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import sweep_tiles as st
from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.conv.sweep_rows import (
    ARGMAX,
    BIAS,
    BIAS_SOURCE,
    BLOCK_BYTES,
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
    POOL,
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
    TILE_FILTERS,
    TILE_FLOATS,
    TILE_KERNEL,
    TILE_ROWS,
    UNPOOL_ROWS,
    WEIGHTS,
    WIDTH,
    origin_and_span,
    pack_row,
)
from cnnforge_kernels.cpu.conv.winograd.forward import LAUNCH as _WINOGRAD_LAUNCH
from cnnforge_kernels.cpu.conv.winograd.forward import winograd_fits
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel, words_at
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.tile_choice import (
    TILES,
    WINDOWS,
    choose_tile,
    in_planes,
    longest_window,
    tile_number,
    window_number,
)
from cnnforge_kernels.cpu.simd.vectors import load_float, store_float

# The maximum size of the scratch memory of a task: a quarter of a second-level cache of 512 KiB.
_SCRATCH_BYTES = 128 * 1024


@kernel_family(1)
def _SWEEP(_: int) -> Any:
    """Run tasks ``begin`` to ``end - 1`` of a sweep; ``sweep_tiles.py`` computes the tiles."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sweep_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        row_bytes, width = a[ROW_BYTES], a[TILE_FILTERS]
        rows_held = (a[BLOCK_ROWS] - 1) * a[ROW_STEP] + a[ROW_SPAN]
        scratch = aligned_floats(rows_held * row_bytes // 4 + 1)
        base = address_of(scratch)
        # `spare` holds the outputs of one row of pool windows before they are pooled. In the
        # backward pass it holds one row of the gradient before the pool.
        in_memory = a[POOL_ROWS] if a[POOL] != 0 else 0
        spare = aligned_floats(
            in_memory * a[COLUMNS] * width + a[UNPOOL_ROWS] * a[WIDTH] * a[CHANNELS] + 1
        )
        spare_at = address_of(spare)
        t = np.zeros(st.FIELDS, np.int64)
        block_at = address_of(t)
        t[st.NEXT_LINE] = a[ROW_STEP] * row_bytes
        t[st.PIXEL] = a[COLUMN_STEP] * a[SCRATCH_PIXEL]
        t[st.OFFSETS], t[st.COUNT] = a[OFFSETS], a[COUNT]
        t[st.COLUMNS], t[st.RELU] = a[COLUMNS], a[RELU]
        t[st.ARGMAX] = a[ARGMAX] - a[TARGET] // 4
        t[st.TARGET_ROW], t[st.TARGET_COLUMN] = a[TARGET_ROW], a[TARGET_COLUMN]
        t[st.MAPS], t[st.MAPS_ROW] = spare_at, 4 * a[COLUMNS] * width
        t[st.POOL_ROWS], t[st.POOL_COLUMNS] = a[POOL_ROWS], a[POOL_COLUMNS]
        t[st.WIDTH] = width
        unit = max(a[POOL_ROWS], 1)
        filter_blocks = (a[FILTERS] + width - 1) // width
        for task in range(begin, end):
            group = task % a[GROUPS]
            image = task // a[GROUPS] // a[BLOCKS]
            row0 = (task // a[GROUPS] % a[BLOCKS]) * a[BLOCK_ROWS]
            row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
            scratch[:] = np.float32(0)
            top = row0 * a[ROW_STEP] + a[ROW_ORIGIN]
            for held in range((row1 - 1 - row0) * a[ROW_STEP] + a[ROW_SPAN]):
                if 0 <= top + held < a[HEIGHT]:
                    place = base + held * row_bytes
                    pack_row(a, top + held, image, group, place, a[PLANE], spare_at)
            for block in range(filter_blocks):
                number = group * filter_blocks + block
                t[st.WEIGHTS] = a[WEIGHTS] + number * a[BLOCK_BYTES]
                t[st.BIAS] = a[BIAS] + 4 * number * a[TILE_FLOATS]
                t[st.FILTERS] = a[FILTERS] - block * width
                t[st.TARGET] = a[TARGET] + image * a[TARGET_IMAGE] + row0 // unit * a[TARGET_ROW]
                t[st.TARGET] += 4 * (group * a[FILTERS] + block * width)
                t[st.LINE] = base
                if in_memory == 0:
                    call_kernel(a[TILE_KERNEL], block_at, 0, (row1 - row0) // a[TILE_ROWS])
                    continue
                for _ in range(row0, row1, unit):
                    call_kernel(a[TILE_KERNEL], block_at, 0, unit)
                    call_kernel(a[POOL], block_at, 0, a[COLUMNS] // a[POOL_COLUMNS])
                    t[st.LINE] += unit * t[st.NEXT_LINE]
                    t[st.TARGET] += a[TARGET_ROW]
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        scratch[:0] = np.float32(0)
        spare[:0] = np.float32(0)
        t[:0] = 0

    return _sweep_kernel


@cached_njit()
def _window(step: int, row_taps: Any, column_taps: Any) -> int:
    """Return the number of neighbouring taps that one step of the micro-kernel may multiply.

    The micro-kernel is ``tile_accumulate``, and its argument ``window`` is this number.
    """
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
    """Copy ``count`` floats to address ``target``; if ``pairs`` is 2, write each float twice."""
    if pairs == 1:
        copy_floats(target, source, count)
        return
    for index in range(count):
        value = load_float(source + 4 * index)
        store_float(target + 8 * index, value)
        store_float(target + 8 * index + 4, value)


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Set the remaining arguments, pack the weights, and run the tasks of a sweep."""

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
        unit = max(args[POOL_ROWS], 1)  # a task computes all rows of a pool window
        units = args[ROWS] // unit
        parts = (units + max(fitting // unit, 1) - 1) // max(fitting // unit, 1)
        args[BLOCK_ROWS] = (units + parts - 1) // parts * unit
        args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
        tasks = args[IMAGES] * args[BLOCKS] * groups
        # A thread gets `grain` tasks at a time: 20 us of work, at 32 multiply-adds per nanosecond.
        work = args[BLOCK_ROWS] * args[COLUMNS] * max(count, 1) * blocks * width
        grain = max(1, 640_000 // max(work, 1))
        args[TILE_FILTERS], args[TILE_FLOATS] = width, vectors * lanes
        args[BLOCK_BYTES] = 4 * count * width * pairs
        kind = st.IN_REGISTERS if pooled else st.IN_MEMORY if args[POOL_ROWS] != 0 else st.NO_POOL
        args[TILE_ROWS] = 2 if pooled else 1
        number = tile_number(tile, vectors, lanes, pairs) + TILES * window_number(window)
        args[TILE_KERNEL] = kernel_address(st.SWEEP_TILES + number + TILES * len(WINDOWS) * kind)
        args[POOL] = 0
        if kind == st.IN_MEMORY:
            lanes_each = lanes // pairs
            args[POOL] = kernel_address(
                st.POOL_MAPS + (0 if lanes_each == 4 else 1 if lanes_each == 8 else 2)
            )
        run_kernel(_SWEEP, args, tasks, grain)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        offsets[:] = 0
        packed_bias[:0] = np.float32(0)
        packed[:0] = np.float32(0)

    return _launch_sweep


@cached_njit()
def sweep(args: Any, row_taps: Any, column_taps: Any, weights: Any, bias: Any) -> None:
    """Compute a sweep, by Winograd's algorithm if it can compute the sweep and is faster.

    Args:
        args: int64 argument block. The caller has set the source, the target, their sizes and
            strides, the steps, and the ReLU, the mask or the pool.
        row_taps: (taps,) int64, index of the source row that each tap of output (0, 0) reads.
        column_taps: (taps,) int64, index of the source column that each tap of output (0, 0) reads.
        weights: (taps, channels of a group, groups, filters of a group), C-contiguous.
        bias: (groups * filters of a group,); empty if there is no bias.
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
