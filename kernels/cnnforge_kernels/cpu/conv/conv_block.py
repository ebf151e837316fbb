"""Convolution, bias, ReLU and max pooling in one pass, and the gradients of this block.

The outputs before pooling are never written to an array: a task keeps the outputs of one row of
pool windows in cache, and writes only the maxima and their argmax. The argmax is one byte: the
index of the cell in the window, in row-major order. If the maximum is not positive, the ReLU is off
and the argmax is 255.

Only the cell of the maximum has a gradient. So if the window of the pool has 2 x 2 cells, the
gradient of the weights needs a quarter of the multiplications that it needs without a pool.

The padding of the pool is VALID. Its strides equal its window, which is at most 15 x 15.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import gather as g
from cnnforge_kernels.cpu.conv import gather_tiles as gt
from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv.argmax import ARGMAX_LANES, list_maxima
from cnnforge_kernels.cpu.conv.conv2d import BACK_FIELDS, convolve, convolve_back, gather_block
from cnnforge_kernels.cpu.conv.scatter import scatter, scatter_fits
from cnnforge_kernels.cpu.conv.winograd.forward import winograd_beats_scatter
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel, floats_at
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.tile_choice import MAX_ACCUMULATORS, MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import store_float

# Fields of the argument block of the sparse gather, the kernel of the weight gradient in this
# module. They follow the fields of `gather.py`. ROWS x COLUMNS is here the size of the part of the
# convolution's outputs that the windows of the pool cover.
ARGMAX, POOL_ROWS, POOL_COLUMNS = range(g.FIELDS, g.FIELDS + 3)
FIELDS = g.FIELDS + 3


@kernel_family(1)
def _SPARSE(_: int) -> Any:
    """Run tasks of the sparse gather: the weight gradient of a convolution before a max pool.

    The gather is sparse because it visits only one output of each pool window and filter: the
    maximum. The kernels of ``gather_tiles.py`` compute the sums.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sparse_gather_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        filters = a[g.GROUP_FILTERS]
        source = aligned_floats(
            g.source_lines(a, a[g.BLOCK_ROWS]) * g.source_line(a) + a[g.TILE_TAPS]
        )
        source_at = address_of(source)
        rows, columns = a[g.BLOCK_ROWS] // a[POOL_ROWS], a[g.COLUMNS] // a[POOL_COLUMNS]
        padded = (filters + ARGMAX_LANES - 1) // ARGMAX_LANES * ARGMAX_LANES
        factors = np.empty(rows * columns * padded, np.float32)
        factors_at = address_of(factors)
        places = np.empty(rows * columns * padded, np.int32)
        places_at = address_of(places)
        offsets = np.empty(rows * columns, np.int64)
        for row in range(rows):
            for column in range(columns):
                offsets[row * columns + column] = g.source_place(
                    a, row * a[POOL_ROWS], column * a[POOL_COLUMNS]
                )
        # A variable, because Numba would compile the called function again for a literal.
        no_step = np.int64(0)
        cells = np.empty(a[POOL_ROWS] * a[POOL_COLUMNS], np.int64)
        for i in range(a[POOL_ROWS]):
            for j in range(a[POOL_COLUMNS]):
                cells[i * a[POOL_COLUMNS] + j] = g.source_place(a, i, j)
        t = g.taps_block(a, source_at)
        t[gt.PLACES], t[gt.FACTORS], t[gt.PADDED] = places_at, factors_at, padded
        t[gt.VALID] = a[g.TAP_ROWS]
        units = a[g.IMAGES] * a[g.BLOCKS]
        for task in range(begin, end):
            group = task % a[g.GROUPS]
            part = task // a[g.GROUPS]
            sums = a[g.SUMS] + 4 * task * a[g.PART_FLOATS]
            for index in range(a[g.PART_FLOATS]):
                store_float(sums + 4 * index, np.float32(0))
            t[gt.TARGET] = sums
            for unit in range(part * units // a[g.PARTS], (part + 1) * units // a[g.PARTS]):
                image = unit // a[g.BLOCKS]
                row0 = (unit % a[g.BLOCKS]) * a[g.BLOCK_ROWS]
                row1 = min(row0 + a[g.BLOCK_ROWS], a[g.ROWS])
                source[:] = np.float32(0)
                g.pack_source(a, source_at, image, group, row0, row1)
                count = (row1 - row0) // a[POOL_ROWS] * columns
                here = (image * (a[g.ROWS] // a[POOL_ROWS]) + row0 // a[POOL_ROWS]) * columns
                here = here * a[g.FILTERS] + group * filters
                list_maxima(
                    a[g.GRADIENT] + 4 * here,
                    a[ARGMAX] + here,
                    a[g.FILTERS],
                    filters,
                    offsets[:count],
                    no_step,
                    cells,
                    factors_at,
                    places_at,
                    sums + 4 * a[g.BIAS],
                )
                t[gt.COUNT] = count
                call_kernel(a[g.TILE_KERNEL], address_of(t), 0, filters)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        source[:0] = np.float32(0)
        factors[:0] = np.float32(0)
        places[:0] = 0
        offsets[:0] = 0
        cells[:0] = 0
        t[:0] = 0

    return _sparse_gather_kernel


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Set the remaining arguments, run the tasks of a sparse gather, and write the gradients.

    Each task sums a part of the images; the sums of the parts are added at the end.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_sparse_gather(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, FIELDS)
        kh, kw = args[g.TAP_ROWS], args[g.TAP_COLUMNS]
        groups, filters = args[g.GROUPS], args[g.FILTERS]
        channels = args[g.CHANNELS] // groups
        grad_weights = carray(floats_at(args[g.GRAD_WEIGHTS]), (kh, kw, channels, filters))
        per_group = filters // groups
        args[g.MERGED] = kw if args[g.COLUMN_DILATION] == 1 else 1
        taps, runs = args[g.MERGED] * channels, kh * (kw // args[g.MERGED])
        # Wide vectors need fewer loads. But use vectors of half the width if a row of taps would
        # leave at least half of the last vector empty.
        lanes = MAX_LANES
        while lanes > 4 and (taps + lanes - 1) // lanes * lanes - taps >= lanes // 2:
            lanes //= 2
        needed = (taps + lanes - 1) // lanes
        chunks = (needed + MAX_ACCUMULATORS - 1) // MAX_ACCUMULATORS
        vectors = (needed + chunks - 1) // chunks
        run_floats = chunks * vectors * lanes
        tile_rows = 1
        if runs == kh and chunks == 1:
            for rows_together in range(2, min(kh, gt.MAX_TILE_ROWS) + 1):
                if kh % rows_together == 0 and rows_together * vectors <= MAX_ACCUMULATORS:
                    tile_rows = rows_together
        args[g.GROUP_CHANNELS], args[g.GROUP_FILTERS] = channels, per_group
        args[g.BIAS] = per_group * runs * run_floats
        padded = (per_group + ARGMAX_LANES - 1) // ARGMAX_LANES * ARGMAX_LANES
        args[g.PART_FLOATS] = g.whole_lines(args[g.BIAS] + padded)
        pool_cells = args[POOL_ROWS] * args[POOL_COLUMNS]
        columns = args[g.COLUMNS]
        pixel_floats = args[g.COLUMN_STEP] * channels + 3 * padded // pool_cells
        g.cut_rows(args, columns * pixel_floats, args[POOL_ROWS], 0)
        parts = args[g.PARTS]
        sums = g.new_sums(args)
        args[g.SUMS] = address_of(sums)
        work = args[g.IMAGES] * args[g.ROWS] * columns // pool_cells * per_group * runs * run_floats
        grain = max(1, 640_000 * parts // max(work, 1))
        width = 0 if lanes == 4 else 1 if lanes == 8 else 2
        number = width + 3 * (vectors - 1 + MAX_ACCUMULATORS * (tile_rows - 1))
        args[g.TILE_KERNEL] = kernel_address(gt.SPARSE_TILES + number)
        args[g.TILE_TAPS] = vectors * lanes
        run_kernel(_SPARSE, args, parts * groups, grain)
        g.add_parts(sums)
        for group in range(groups):
            total = sums[0, group]
            for f in range(per_group):
                for i in range(kh):
                    for j in range(kw):
                        run, place = g.tap_place(args, i, j, channels)
                        place += (f * runs + run) * run_floats
                        for c in range(channels):
                            grad_weights[i, j, c, group * per_group + f] = total[place + c]
                if args[g.GRAD_BIAS] != 0:
                    grad_bias = carray(floats_at(args[g.GRAD_BIAS]), filters)
                    grad_bias[group * per_group + f] = total[args[g.BIAS] + f]

    return _launch_sparse_gather


@cached_njit()
def conv_block_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    pool_size: tuple[int, int],
    outputs: Any,
    argmax: Any,
) -> None:
    """Convolve ``inputs`` with ``weights``, add the bias, and apply ReLU and max pooling.

    Args:
        inputs: (N, H, W, C) float32, C-contiguous, as all arrays here.
        weights: (KH, KW, C / groups, F).
        bias: (F,); empty if there is no bias.
        strides: strides of the convolution's rows and columns.
        same: whether the padding of the convolution is SAME; else it is VALID.
        dilation_rate: dilation of rows and columns.
        groups: number of groups of channels.
        pool_size: window and strides of the pool, whose padding is VALID.
        outputs: (N, PH, PW, F), written.
        argmax: (N, PH, PW, F) uint8, written: index of the maximum's cell in its window, or 255 if
            the maximum is not positive.
    """
    if outputs.size == 0:
        return
    args = np.zeros(s.FIELDS, np.int64)
    args[s.POOL_ROWS], args[s.POOL_COLUMNS] = pool_size
    args[s.ARGMAX] = address_of(argmax)
    args[s.ROWS] = outputs.shape[1] * pool_size[0]
    args[s.COLUMNS] = outputs.shape[2] * pool_size[1]
    convolve(args, inputs, weights, bias, strides, same, dilation_rate, groups, outputs)


@cached_njit()
def conv_block_grad_inputs(
    inputs: Any,
    weights: Any,
    argmax: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    pool_size: tuple[int, int],
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of ``inputs``; the values of ``inputs`` are not read."""
    if grad_outputs.size == 0:
        grad_inputs[:] = np.float32(0)
        return
    kh, kw, channels, filters = weights.shape
    plain = strides == (1, 1) and dilation_rate == (1, 1) and groups == 1
    dense = kh == 3 and kw == 3 and winograd_beats_scatter(filters, channels)
    if plain and not dense and scatter_fits(weights, pool_size):
        scatter(weights, argmax, same, pool_size, grad_outputs, grad_inputs)
        return
    args = np.zeros(BACK_FIELDS, np.int64)
    args[s.UNPOOL_ROWS], args[s.UNPOOL_COLUMNS] = pool_size
    args[s.ARGMAX] = address_of(argmax)
    args[s.HEIGHT] = grad_outputs.shape[1] * pool_size[0]
    args[s.WIDTH] = grad_outputs.shape[2] * pool_size[1]
    convolve_back(args, weights, strides, same, dilation_rate, groups, grad_outputs, grad_inputs)


@cached_njit()
def conv_block_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    argmax: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    pool_size: tuple[int, int],
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute the gradients of ``weights`` and ``bias``.

    Only the shape of ``weights`` is used, and ``bias`` is not read.
    """
    if grad_outputs.size == 0 or grad_weights.size == 0:
        grad_weights[:] = np.float32(0)
        grad_bias[:] = np.float32(0)
        return
    args = np.zeros(FIELDS, np.int64)
    args[ARGMAX] = address_of(argmax)
    args[POOL_ROWS], args[POOL_COLUMNS] = pool_size
    rows, columns = grad_outputs.shape[1] * pool_size[0], grad_outputs.shape[2] * pool_size[1]
    gather_block(args, inputs, weights, strides, same, dilation_rate, groups, rows, columns)
    args[g.GRADIENT] = address_of(grad_outputs)
    args[g.GRAD_WEIGHTS] = address_of(grad_weights)
    args[g.GRAD_BIAS] = address_of(grad_bias) if grad_bias.size > 0 else 0
    call_once(_LAUNCH, args)
