"""Compute the gradient of the inputs of convolution, ReLU and max pool from the pooled gradient.

These three operations are a *block*, the pooled gradient is that of the pool's outputs, and the
algorithm is called *scatter*. For each pooled pixel and filter, the argmax is the index of the
output that was the maximum of the pool window. The scatter multiplies the filter's weights by the
pooled gradient, and adds the products to the gradient of the inputs that this output had read.

All inputs that the outputs of one pool window had read are a *region*. Its size is (KH + PH - 1) x
(KW + PW - 1) pixels, and a register tile holds the sums of a region. Each filter has a *picture* of
the size of a region: its weights, shifted to the place of the maximum, with zeros around. The
picture, multiplied by the pooled gradient, is added to the tile. A convolution of the gradient
before the pool would take PH * PW times as many multiplications.

A task computes one image and sums in a fixed order, so the result does not depend on the number of
threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.argmax import ARGMAX_LANES, NO_CELL, list_maxima
from cnnforge_kernels.cpu.conv.packing import copy_floats, pack_planes
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, load_int64
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.pooled_tiles import sparse_accumulate
from cnnforge_kernels.cpu.simd.tile_choice import MAX_ACCUMULATORS, MAX_LANES
from cnnforge_kernels.cpu.simd.tiles import tile_load, tile_store
from cnnforge_kernels.cpu.simd.vectors import load_byte, load_float, store_float
from cnnforge_kernels.geometry import padding_before

# Fields of the argument block. Addresses and strides are in bytes; the other fields are numbers of
# elements. TABLE is the address of the pictures. CELLS is the address of a list: for each cell of a
# pool window, the byte offset of the picture for a maximum in this cell.
GRADIENT, ARGMAX, WEIGHTS, TARGET, TABLE, CELLS = range(6)
HEIGHT, WIDTH, CHANNELS, FILTERS, TAP_ROWS, TAP_COLUMNS, TOP, LEFT = range(6, 14)
POOLED_ROWS, POOLED_COLUMNS, POOL_ROWS, POOL_COLUMNS = range(14, 18)
# A picture contains CHUNK channels, and has ROWS rows of ROW bytes. The table has FILTER
# bytes for each filter: COPIES copies of its picture of COPY bytes each. Each copy is shifted by
# one column compared with the copy before it. The first-level cache holds the pictures of
# FILTERS_TOGETHER filters.
CHUNK, CHUNKS, ROWS, ROW, COPIES, COPY, FILTER, FILTERS_TOGETHER = range(18, 26)
IMAGES = 26
FIELDS = 27

_CACHED_BYTES = 24 * 1024
_MAX_ROWS = 8


@kernel_family(1)
def _PICTURES(_: int) -> Any:
    """Write the pictures of all filters for chunks ``begin`` to ``end - 1`` of the channels."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pictures_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        # Variables, because Numba would compile the called functions again for literals.
        zero, one = np.int64(0), np.int64(1)
        pixel = 4 * a[CHUNK]
        for chunk in range(begin, end):
            table = a[TABLE] + chunk * a[FILTERS] * a[FILTER]
            for place in range(0, a[FILTERS] * a[FILTER], 4):
                store_float(table + place, np.float32(0))
            for copy in range(a[COPIES]):
                left = copy if a[COPIES] > 1 else a[POOL_COLUMNS] - 1
                for i in range(a[TAP_ROWS]):
                    row = table + copy * a[COPY] + (i + a[POOL_ROWS] - 1) * a[ROW]
                    for j in range(a[TAP_COLUMNS]):
                        tap = (i * a[TAP_COLUMNS] + j) * a[CHANNELS] + chunk * a[CHUNK]
                        pack_planes(
                            row + (j + left) * pixel,
                            a[FILTER],
                            one,
                            a[WEIGHTS] + 4 * tap * a[FILTERS],
                            zero,
                            4 * a[FILTERS],
                            zero,
                            zero,
                            a[CHUNK],
                            a[FILTERS],
                        )

    return _pictures_kernel


@cached_njit()
def scratch_line(a: Any) -> int:
    """Return the number of floats of a row of the scratch memory.

    The scratch memory holds the gradient of one image's inputs and of their padding, for one chunk
    of channels.
    """
    columns = a[POOLED_COLUMNS] * a[POOL_COLUMNS] - 1 + a[TAP_COLUMNS]
    return columns * a[CHUNK]


@cached_njit(inline="never")
def _add_exactly(a: Any, image: int, chunk: int, scratch: Any) -> None:
    """Compute the gradient of the inputs without pictures, if a pooled gradient is not finite.

    A picture contains zeros, and zero times infinity is NaN. So with pictures, even inputs that the
    maximum had not read would get the gradient NaN.
    """
    line = scratch_line(a)
    cells = a[POOLED_ROWS] * a[POOLED_COLUMNS]
    for cell in range(cells):
        for f in range(a[FILTERS]):
            at = (image * cells + cell) * a[FILTERS] + f
            argmax = load_byte(a[ARGMAX] + at)
            if argmax == NO_CELL:
                continue
            factor = load_float(a[GRADIENT] + 4 * at)
            top = cell // a[POOLED_COLUMNS] * a[POOL_ROWS] + argmax // a[POOL_COLUMNS]
            left = cell % a[POOLED_COLUMNS] * a[POOL_COLUMNS] + argmax % a[POOL_COLUMNS]
            for i in range(a[TAP_ROWS]):
                for j in range(a[TAP_COLUMNS]):
                    tap = (i * a[TAP_COLUMNS] + j) * a[CHANNELS] + chunk * a[CHUNK]
                    for c in range(a[CHUNK]):
                        weight = load_float(a[WEIGHTS] + 4 * ((tap + c) * a[FILTERS] + f))
                        place = (top + i) * line + (left + j) * a[CHUNK] + c
                        scratch[place] += factor * weight


@cached_njit(inline="never")
def _copy_out(a: Any, image: int, chunk: int, scratch: int) -> None:
    """Copy a chunk of channels from scratch memory to the gradient of the inputs.

    The gradient of an input that no window reads is set to zero.
    """
    rows = a[POOLED_ROWS] * a[POOL_ROWS] - 1 + a[TAP_ROWS]
    line = 4 * scratch_line(a)
    last = min(a[WIDTH], line // (4 * a[CHUNK]) - a[LEFT])
    pixel = 4 * a[CHANNELS]
    for h in range(a[HEIGHT]):
        target = a[TARGET] + (image * a[HEIGHT] + h) * a[WIDTH] * pixel + 4 * chunk * a[CHUNK]
        source = scratch + (h + a[TOP]) * line + 4 * a[LEFT] * a[CHUNK]
        filled = last if h + a[TOP] < rows else 0
        if a[CHUNKS] == 1:
            copy_floats(target, source, filled * a[CHUNK])
        else:
            for w in range(filled):
                copy_floats(target + w * pixel, source + 4 * w * a[CHUNK], a[CHUNK])
        for w in range(filled, a[WIDTH]):
            for c in range(a[CHUNK]):
                store_float(target + w * pixel + 4 * c, np.float32(0))


@kernel_family(MAX_ACCUMULATORS * _MAX_ROWS)
def _SCATTER(number: int) -> Any:
    V, R = number % MAX_ACCUMULATORS + 1, number // MAX_ACCUMULATORS + 1
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _scatter_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        filters = a[FILTERS]
        cells = a[POOLED_ROWS] * a[POOLED_COLUMNS]
        padded = (filters + ARGMAX_LANES - 1) // ARGMAX_LANES * ARGMAX_LANES
        factors, places = np.empty(cells * padded, np.float32), np.empty(cells * padded, np.int32)
        factors_at, places_at = address_of(factors), address_of(places)
        bases = np.zeros(cells, np.int64)
        total = np.empty(padded, np.float32)
        window = np.empty(a[POOL_ROWS] * a[POOL_COLUMNS], np.int64)
        for cell in range(window.size):
            window[cell] = load_int64(a[CELLS] + 8 * cell)
        line = scratch_line(a)
        # The vectors of the last region may reach beyond the last row, and add zeros there. So
        # allocate V * L more floats.
        floats = (a[POOLED_ROWS] * a[POOL_ROWS] - 1 + a[TAP_ROWS]) * line
        scratch = aligned_floats(floats + V * L)
        scratch_at = address_of(scratch)
        for image in range(begin, end):
            first = image * cells * filters
            total[:] = np.float32(0)
            list_maxima(
                a[GRADIENT] + 4 * first,
                a[ARGMAX] + first,
                filters,
                filters,
                bases,
                a[FILTER],
                window,
                factors_at,
                places_at,
                address_of(total),
            )
            finite = True
            for f in range(filters):
                finite = finite and np.isfinite(total[f])
            for chunk in range(a[CHUNKS]):
                scratch[:] = np.float32(0)
                if not finite:
                    _add_exactly(a, image, chunk, scratch)
                    _copy_out(a, image, chunk, scratch_at)
                    continue
                table = a[TABLE] + chunk * filters * a[FILTER]
                for f in range(0, filters, a[FILTERS_TOGETHER]):
                    together = min(filters - f, a[FILTERS_TOGETHER])
                    for cell in range(cells):
                        row = cell // a[POOLED_COLUMNS] * a[POOL_ROWS]
                        column = cell % a[POOLED_COLUMNS] * a[POOL_COLUMNS]
                        region = scratch_at + 4 * (row * line + column * a[CHUNK])
                        listed = 4 * (cell * padded + f)
                        for r in range(0, a[ROWS], R):
                            tile = tile_load(region + 4 * r * line, 4 * line, R, V, L)
                            tile = sparse_accumulate(
                                tile,
                                table + r * a[ROW],
                                places_at + listed,
                                factors_at + listed,
                                1,
                                together,
                                a[ROW],
                                R,
                                V,
                                L,
                            )
                            tile_store(tile, region + 4 * r * line, 4 * line, V * L, R, V, 1)
                _copy_out(a, image, chunk, scratch_at)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        factors[:0] = np.float32(0)
        places[:0] = 0
        total[:0] = np.float32(0)
        scratch[:0] = np.float32(0)

    return _scatter_kernel


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Set the remaining arguments, write the pictures, and run the tasks of a scatter."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_scatter(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, FIELDS)
        kh, kw, channels, filters = a[TAP_ROWS], a[TAP_COLUMNS], a[CHANNELS], a[FILTERS]
        # If a pixel fills whole vectors, a picture is shifted by reading it from another address.
        # Else there is a copy of the picture for each shift.
        a[CHUNK] = MAX_LANES if channels % MAX_LANES == 0 else 8
        shiftable = a[CHUNK] % MAX_LANES == 0
        a[CHUNKS] = channels // a[CHUNK]
        region = (kw + a[POOL_COLUMNS] - 1) * a[CHUNK]
        vectors = (region + MAX_LANES - 1) // MAX_LANES
        a[ROWS] = kh + a[POOL_ROWS] - 1
        a[COPIES] = 1 if shiftable else a[POOL_COLUMNS]
        a[ROW] = 4 * vectors * MAX_LANES
        if shiftable:
            a[ROW] += 4 * (a[POOL_COLUMNS] - 1) * a[CHUNK]
        a[COPY] = (kh + 2 * (a[POOL_ROWS] - 1)) * a[ROW]
        a[FILTER] = a[COPIES] * a[COPY]
        a[FILTERS_TOGETHER] = max(8, _CACHED_BYTES // a[FILTER])
        cells = np.empty(a[POOL_ROWS] * a[POOL_COLUMNS], np.int64)
        for i in range(a[POOL_ROWS]):
            for j in range(a[POOL_COLUMNS]):
                shift = 4 * (a[POOL_COLUMNS] - 1 - j) * a[CHUNK] if shiftable else j * a[COPY]
                cells[i * a[POOL_COLUMNS] + j] = (a[POOL_ROWS] - 1 - i) * a[ROW] + shift
        a[CELLS] = address_of(cells)
        table = aligned_floats(a[CHUNKS] * filters * a[FILTER] // 4)
        a[TABLE] = address_of(table)
        rows = 1
        for together in range(2, min(a[ROWS], _MAX_ROWS) + 1):
            if a[ROWS] % together == 0 and together * vectors <= MAX_ACCUMULATORS:
                rows = together
        # A variable, because Numba would compile the called function again for a literal.
        each = np.int64(1)
        run_kernel(_PICTURES, a, a[CHUNKS], each)
        run_kernel(_SCATTER + vectors - 1 + MAX_ACCUMULATORS * (rows - 1), a, a[IMAGES], each)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        cells[:0] = 0
        table[:0] = np.float32(0)

    return _launch_scatter


@cached_njit()
def scatter_fits(weights: Any, pool_size: tuple[int, int]) -> bool:
    """Return whether the scatter can compute a gradient, and is faster than ``sweep.py``.

    The scatter is faster if the window of the convolution has at least 4 taps, and that of the pool
    at least 4 cells.
    """
    kh, kw, channels, _ = weights.shape
    row = (kw + pool_size[1] - 1) * min(channels, MAX_LANES)
    enough = kh * kw >= 4 and pool_size[0] * pool_size[1] >= 4
    return enough and channels % 8 == 0 and (row + MAX_LANES - 1) // MAX_LANES <= MAX_ACCUMULATORS


@cached_njit()
def scatter(
    weights: Any,
    argmax: Any,
    same: bool,
    pool_size: tuple[int, int],
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of the inputs of convolution, ReLU and max pool.

    The strides and the dilation of the convolution are 1, and it has one group.

    Args:
        weights: (KH, KW, C, F) float32, C-contiguous, as all arrays here.
        argmax: (N, PH, PW, F) uint8.
        same: whether the padding of the convolution is SAME; else it is VALID.
        pool_size: window and strides of the pool.
        grad_outputs: (N, PH, PW, F).
        grad_inputs: (N, H, W, C), written.
    """
    kh, kw, channels, filters = weights.shape
    images, height, width, _ = grad_inputs.shape
    a = np.zeros(FIELDS, np.int64)
    a[IMAGES] = images
    a[GRADIENT], a[ARGMAX] = address_of(grad_outputs), address_of(argmax)
    a[WEIGHTS], a[TARGET] = address_of(weights), address_of(grad_inputs)
    a[HEIGHT], a[WIDTH], a[CHANNELS], a[FILTERS] = height, width, channels, filters
    a[TAP_ROWS], a[TAP_COLUMNS] = kh, kw
    a[TOP], a[LEFT] = padding_before(height, kh, 1, 1, same), padding_before(width, kw, 1, 1, same)
    a[POOLED_ROWS], a[POOLED_COLUMNS] = grad_outputs.shape[1], grad_outputs.shape[2]
    a[POOL_ROWS], a[POOL_COLUMNS] = pool_size
    call_once(_LAUNCH, a)
