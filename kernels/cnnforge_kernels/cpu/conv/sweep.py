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
from cnnforge_kernels.cpu.conv.sweep_rows import (
    ADDED,
    ARGMAX,
    BIAS,
    BIAS_SOURCE,
    BLOCK_BYTES,
    BLOCK_ROWS,
    BLOCKS,
    CHANNELS,
    COLUMN_STEP,
    COLUMN_TAPS,
    COLUMNS,
    COUNT,
    FACTORS,
    FIELDS,
    FILTER_BLOCKS,
    FILTERS,
    GRAIN,
    GROUPS,
    HEIGHT,
    NOT_FINITE,
    OFFSETS,
    PART_BLOCKS,
    PARTS,
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
    TASKS,
    TILE_FILTERS,
    TILE_FLOATS,
    TILE_KERNEL,
    TILE_ROWS,
    UNPOOL_ROWS,
    WEIGHTS,
    WIDTH,
    pack_row,
)
from cnnforge_kernels.cpu.conv.sweep_setup import CHOOSE, FILL_OFFSETS, PACK
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
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel
from cnnforge_kernels.cpu.runtime.parallel import run_kernel


@kernel_family(1)
def SWEEP(_: int) -> Any:
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
        t[st.ADDED] = a[ADDED] - a[TARGET] if a[ADDED] != 0 else 0
        t[st.TARGET_ROW], t[st.TARGET_COLUMN] = a[TARGET_ROW], a[TARGET_COLUMN]
        t[st.MAPS], t[st.MAPS_ROW] = spare_at, 4 * a[COLUMNS] * width
        t[st.POOL_ROWS], t[st.POOL_COLUMNS] = a[POOL_ROWS], a[POOL_COLUMNS]
        t[st.WIDTH] = width
        unit = max(a[POOL_ROWS], 1)
        filter_blocks = a[FILTER_BLOCKS]
        for task in range(begin, end):
            group = task % a[GROUPS]
            part = task // a[GROUPS] % a[PARTS]
            image = task // a[GROUPS] // a[PARTS] // a[BLOCKS]
            row0 = (task // a[GROUPS] // a[PARTS] % a[BLOCKS]) * a[BLOCK_ROWS]
            row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
            scratch[:] = np.float32(0)
            top = row0 * a[ROW_STEP] + a[ROW_ORIGIN]
            for held in range((row1 - 1 - row0) * a[ROW_STEP] + a[ROW_SPAN]):
                if 0 <= top + held < a[HEIGHT]:
                    place = base + held * row_bytes
                    pack_row(a, top + held, image, group, place, a[PLANE], spare_at)
            first_block = part * a[PART_BLOCKS]
            for block in range(first_block, min(first_block + a[PART_BLOCKS], filter_blocks)):
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


@kernel_family(1)
def LAUNCH(_: int) -> Any:
    """Prepare a sweep (``sweep_setup.py``), and run its tasks."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_sweep(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, FIELDS)
        call_once(CHOOSE, args)
        blocks = args[GROUPS] * args[FILTER_BLOCKS]
        offsets = np.empty(args[COUNT], np.int64)
        packed = aligned_floats(blocks * args[BLOCK_BYTES] // 4)
        bias = aligned_floats(blocks * args[TILE_FLOATS])
        args[OFFSETS], args[WEIGHTS] = address_of(offsets), address_of(packed)
        args[BIAS] = address_of(bias)
        call_once(FILL_OFFSETS, args)
        call_kernel(kernel_address(PACK), address_of(args), 0, blocks)
        args[TILE_KERNEL] = kernel_address(args[TILE_KERNEL])
        if args[POOL] != 0:
            args[POOL] = kernel_address(args[POOL])
        run_kernel(SWEEP, args, args[TASKS], args[GRAIN])
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        offsets[:0] = 0
        bias[:0] = np.float32(0)
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
        call_once(LAUNCH, args)
