"""Prepare a sweep: choose its register tile and its tasks, and pack its weights.

Training prepares a sweep (``sweep.py``) at each call, because its weights change. A trained network
prepares it once, and then runs it many times (``cpu/prepared/convolution.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv import sweep_tiles as st
from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import floats_at, words_at
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

# The number of multiply-adds of 20 us, at 32 per nanosecond. A thread gets this work at a time.
_GRAIN_WORK = 640_000
# A trained network often computes one image at a time. This is the number of tasks that a sweep
# should have, if each of them is work for a thread.
_TASKS = 16
# The weights of a block of filters should stay in a second-level cache of 1 MiB.
_MAX_BLOCK_BYTES = 768 * 1024
# The maximum size of the scratch memory of tasks that share the rows of an image, and not its
# filters.
_SHARED_BYTES = 384 * 1024


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


@cached_njit()
def _divide(args: Any, unit: int) -> None:
    """Divide a sweep with few tasks into more tasks, by rows or by filters."""
    weights = args[s.FILTER_BLOCKS] * args[s.BLOCK_BYTES]
    work = args[s.IMAGES] * args[s.ROWS] * args[s.COLUMNS] * args[s.GROUPS] * (weights // 4)
    wanted = min(work // _GRAIN_WORK, _TASKS)
    tasks = args[s.IMAGES] * args[s.BLOCKS] * args[s.GROUPS]
    if tasks >= wanted:
        return
    memory = ((args[s.ROWS] - 1) * args[s.ROW_STEP] + args[s.ROW_SPAN]) * args[s.ROW_BYTES]
    if weights > memory and memory <= _SHARED_BYTES and args[s.FILTER_BLOCKS] > 1:
        # Each task reads its own weights. It packs all rows, so it has two blocks or more.
        args[s.BLOCK_ROWS], args[s.BLOCKS] = args[s.ROWS], 1
        each = args[s.IMAGES] * args[s.GROUPS]
        parts = min((wanted + each - 1) // each, (args[s.FILTER_BLOCKS] + 1) // 2)
        args[s.PART_BLOCKS] = (args[s.FILTER_BLOCKS] + parts - 1) // parts
        args[s.PARTS] = (args[s.FILTER_BLOCKS] + args[s.PART_BLOCKS] - 1) // args[s.PART_BLOCKS]
        return
    units = args[s.ROWS] // unit
    parts = min((wanted * args[s.BLOCKS] + tasks - 1) // tasks, units)
    args[s.BLOCK_ROWS] = (units + parts - 1) // parts * unit
    args[s.BLOCKS] = (args[s.ROWS] + args[s.BLOCK_ROWS] - 1) // args[s.BLOCK_ROWS]


@kernel_family(1)
def CHOOSE(_: int) -> Any:
    """Choose the register tile and the tasks of a sweep.

    The caller has set the fields of the argument block that describe the source, the target, the
    taps and the pool. This sets all other fields but three addresses: those of the offsets, the
    packed weights and the packed bias.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _choose(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, s.FIELDS)
        taps, channels, filters = args[s.TAPS], args[s.CHANNELS], args[s.FILTERS]
        row_taps = carray(words_at(args[s.ROW_TAPS]), taps)
        column_taps = carray(words_at(args[s.COLUMN_TAPS]), taps)
        pooled = args[s.POOL_ROWS] == 2 and args[s.POOL_COLUMNS] == 2
        window = _window(args[s.COLUMN_STEP], row_taps, column_taps)
        tile, vectors, lanes, pairs, window = choose_tile(
            args[s.COLUMNS], filters, window, 2 if pooled else 1, True
        )
        if args[s.INFERENCE] != 0 and 4 * taps * channels * vectors * lanes > _MAX_BLOCK_BYTES:
            # Each row of outputs reads all weights of a block.
            vectors = min(vectors, 2)
        tile = min(tile, args[s.COLUMNS] // pairs)
        args[s.ROW_ORIGIN], args[s.ROW_SPAN] = s.origin_and_span(row_taps)
        args[s.COLUMN_ORIGIN], args[s.COLUMN_SPAN] = s.origin_and_span(column_taps)
        step = args[s.COLUMN_STEP]
        if in_planes(vectors, pairs):
            args[s.PLANE] = 4 * (args[s.COLUMNS] + (args[s.COLUMN_SPAN] - 1) // step)
            args[s.ROW_BYTES] = args[s.PLANE] * step * channels
        else:
            args[s.PLANE] = 0
            args[s.SCRATCH_PIXEL] = 4 * channels
            args[s.ROW_BYTES] = ((args[s.COLUMNS] - 1) * step + args[s.COLUMN_SPAN]) * 4 * channels
        width = vectors * lanes // pairs
        blocks = (filters + width - 1) // width
        count = taps * channels
        args[s.COUNT] = count // window
        args[s.WINDOW], args[s.FILTER_BLOCKS] = window, blocks
        args[s.TILE_FILTERS], args[s.TILE_FLOATS] = width, vectors * lanes
        args[s.BLOCK_BYTES] = 4 * count * vectors * lanes
        fitting = (_SCRATCH_BYTES // max(args[s.ROW_BYTES], 1) - args[s.ROW_SPAN]) // args[
            s.ROW_STEP
        ] + 1
        unit = max(args[s.POOL_ROWS], 1)  # a task computes all rows of a pool window
        units = args[s.ROWS] // unit
        parts = (units + max(fitting // unit, 1) - 1) // max(fitting // unit, 1)
        args[s.BLOCK_ROWS] = (units + parts - 1) // parts * unit
        args[s.BLOCKS] = (args[s.ROWS] + args[s.BLOCK_ROWS] - 1) // args[s.BLOCK_ROWS]
        args[s.PARTS], args[s.PART_BLOCKS] = 1, blocks
        if args[s.INFERENCE] != 0:
            _divide(args, unit)
        args[s.TASKS] = args[s.IMAGES] * args[s.BLOCKS] * args[s.PARTS] * args[s.GROUPS]
        # A thread gets GRAIN tasks at a time: 20 us of work, at 32 multiply-adds per nanosecond.
        work = args[s.BLOCK_ROWS] * args[s.COLUMNS] * max(count, 1) * args[s.PART_BLOCKS] * width
        args[s.GRAIN] = max(1, _GRAIN_WORK // max(work, 1))
        kind, pool = st.PLAIN, st.PLAIN
        if args[s.POOL_ROWS] != 0:
            kind = pool = st.IN_REGISTERS if pooled else st.IN_MEMORY
        args[s.TILE_ROWS] = 2 if pooled else 1
        if args[s.INFERENCE] != 0:
            kind = st.INFERENCE_POOL if pooled else st.INFERENCE if kind == st.PLAIN else kind
        number = tile_number(tile, vectors, lanes, pairs) + TILES * window_number(window)
        args[s.TILE_KERNEL] = st.SWEEP_TILES + number + TILES * len(WINDOWS) * kind
        args[s.POOL] = 0
        if pool == st.IN_MEMORY:
            lanes_each = lanes // pairs
            args[s.POOL] = st.POOL_MAPS + (0 if lanes_each == 4 else 1 if lanes_each == 8 else 2)
            if args[s.INFERENCE] != 0:
                args[s.POOL] += 3

    return _choose


@kernel_family(1)
def FILL_OFFSETS(_: int) -> Any:
    """Write the offsets of a sweep: COUNT int64 at the address OFFSETS."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _fill_offsets(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, s.FIELDS)
        taps, channels, step = args[s.TAPS], args[s.CHANNELS], args[s.COLUMN_STEP]
        window = args[s.WINDOW]
        row_taps = carray(words_at(args[s.ROW_TAPS]), taps)
        column_taps = carray(words_at(args[s.COLUMN_TAPS]), taps)
        offsets = carray(words_at(args[s.OFFSETS]), args[s.COUNT])
        for tap in range(0, taps, window):
            shift = column_taps[tap] - args[s.COLUMN_ORIGIN]
            place = (row_taps[tap] - args[s.ROW_ORIGIN]) * args[s.ROW_BYTES]
            next_channel = 4
            if args[s.PLANE] != 0:
                place += (shift % step) * args[s.PLANE] + 4 * (shift // step)
                next_channel = step * args[s.PLANE]
            else:
                place += shift * args[s.SCRATCH_PIXEL]
            for c in range(channels):
                offsets[tap // window * channels + c] = place + c * next_channel

    return _fill_offsets


@kernel_family(1)
def PACK(_: int) -> Any:
    """Pack the weights and the bias of filter blocks ``begin`` to ``end - 1`` of all groups.

    A block has BLOCK_BYTES bytes at the address WEIGHTS, and TILE_FLOATS floats at BIAS. Their
    layout depends only on TILE_FILTERS, TILE_FLOATS and WINDOW.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pack_blocks(block: Any, begin: int, end: int) -> None:
        args = carray(block, s.FIELDS)
        taps, channels = args[s.TAPS], args[s.CHANNELS]
        groups, filters = args[s.GROUPS], args[s.FILTERS]
        window, width = args[s.WINDOW], args[s.TILE_FILTERS]
        floats, block_bytes, blocks = (
            args[s.TILE_FLOATS],
            args[s.BLOCK_BYTES],
            args[s.FILTER_BLOCKS],
        )
        pairs = floats // width
        for number in range(begin, end):
            group, first = number // blocks, number % blocks * width
            valid = min(width, filters - first)
            target = args[s.WEIGHTS] + number * block_bytes
            if valid < width:
                values = carray(floats_at(target), block_bytes // 4)
                for index in range(values.size):
                    values[index] = np.float32(0)
            for run in range(0, taps, window):
                for c in range(channels):
                    for tap in range(run, run + window):
                        place = ((tap * channels + c) * groups + group) * filters + first
                        _pack(target, args[s.FACTORS] + 4 * place, valid, pairs)
                        target += 4 * floats
            bias = carray(floats_at(args[s.BIAS] + 4 * number * floats), floats)
            for index in range(floats):
                bias[index] = np.float32(0)
            if args[s.BIAS_SOURCE] != 0:
                source = args[s.BIAS_SOURCE] + 4 * (group * filters + first)
                _pack(args[s.BIAS] + 4 * number * floats, source, valid, pairs)

    return _pack_blocks
