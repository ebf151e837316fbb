"""The kernel of `SeparableBlock2D`, which `run_kernel` runs on several threads.

A task computes one row of one image. First it computes the depthwise convolution of the row and
stores it in scratch memory. Here each SIMD instruction works on neighbouring channels. Then the
task computes the pointwise convolution, which is a sum over channels. It keeps a tile of sums in
SIMD registers: R pixels by G registers of L filters. For each channel it broadcasts R values and
loads G registers of weights, for R * G multiply-adds. A kernel is compiled for one size of the
tile. This is done when a shape first needs the kernel, and the compiled code is kept on disk.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import carray

from cnnforge_example._simd import depthwise_tile, pointwise_tile
from cnnforge_kernels.authoring import (
    KERNEL_SIGNATURE,
    address_of,
    cached_cfunc,
    cached_njit,
    kernel_family,
    run_kernel,
    vector_lanes,
    vector_registers,
)

# Indices of the values in the argument block of the kernel: addresses in bytes, and sizes.
SOURCE, HEIGHT, WIDTH, CHANNELS, FILTERS, TABLE, TAPS = range(7)
WEIGHTS, BIAS, TARGET, FIELDS = range(7, 11)

_LANES, _REGISTERS = vector_lanes(), vector_registers()
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
_MAX_PIXELS = 14
_INNER = 4  # the number of pixels that the depthwise part computes at a time
_TILES = _MAX_PIXELS * 4 * 2


@kernel_family(_TILES * 4)
def _KERNEL(number: int) -> Any:
    R, G = number % _MAX_PIXELS + 1, number // _MAX_PIXELS % 4 + 1
    L = 8 << number // (4 * _MAX_PIXELS) % 2
    D = (1, 4, 8, 16)[number // _TILES]  # the lanes of the depthwise part, which are channels
    F = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _separable_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        height, width, channels, filters = a[HEIGHT], a[WIDTH], a[CHANNELS], a[FILTERS]
        pixel = 4 * channels
        scratch = np.empty(width * channels, np.float32)
        middle = address_of(scratch)
        for task in range(begin, end):
            row = task % height
            first, last = (1 if row == 0 else 0), (2 if row == height - 1 else 3)
            source = a[SOURCE] + task * width * pixel
            # The address of the table for columns that are not at the border. If the window begins
            # above the image, skip the three entries of the window's first row.
            inner = a[TABLE] + 48 * first
            column = 0
            while column < width:
                whole = column > 0 and column + _INNER < width
                here, there = source + column * pixel, middle + column * pixel
                kind = (1 if column == 0 else 0) + (2 if column == width - 1 else 0)
                columns = 3 - (kind & 1) - (kind >> 1)
                c = 0
                while c < channels:
                    # Move the last vector back, so that it ends at the last channel. Some channels
                    # are then computed twice.
                    c = min(c, channels - D)
                    at, taps, to = here + 4 * c, a[TAPS] + 4 * c, there + 4 * c
                    if whole:
                        depthwise_tile(at, taps, inner, 3 * (last - first), pixel, to, _INNER, D)
                    else:
                        table = a[TABLE] + 144 * kind + 16 * columns * first
                        depthwise_tile(at, taps, table, columns * (last - first), pixel, to, 1, D)
                    c += D
                column += _INNER if whole else 1
            out = a[TARGET] + 4 * task * width * filters
            for block in range((filters + F - 1) // F):
                weights, bias = a[WEIGHTS] + 4 * block * channels * F, a[BIAS] + 4 * block * F
                column = 0
                while column < width:
                    column = min(column, width - R)
                    pointwise_tile(
                        middle + column * pixel,
                        pixel,
                        weights,
                        bias,
                        channels,
                        out + 4 * (column * filters + block * F),
                        4 * filters,
                        filters - block * F,
                        R,
                        G,
                        L,
                    )
                    column += R
        # The functions above got only the address of `scratch`. Numba frees an array after its last
        # use, so use `scratch` here, to keep it until the loops have finished.
        scratch[:0] = np.float32(0)

    return _separable_kernel


@numba.njit(cache=True)
def _number(width: int, channels: int, filters: int) -> int:
    """Return the index of the kernel whose tile fits the SIMD registers and a shape best."""
    lanes = 16 if _LANES == 16 and filters > 8 else 8
    needed = (filters + lanes - 1) // lanes
    blocks = (needed + _MAX_VECTORS - 1) // _MAX_VECTORS
    vectors = (needed + blocks - 1) // blocks
    limit = min((_REGISTERS - 2 - vectors) // vectors, _MAX_PIXELS)
    parts = (width + limit - 1) // limit
    pixels = (width + parts - 1) // parts
    fitting = min(channels, _LANES)
    depthwise = 3 if fitting == 16 else 2 if fitting >= 8 else 1 if fitting >= 4 else 0
    return pixels - 1 + _MAX_PIXELS * (vectors - 1 + 4 * (lanes // 16)) + _TILES * depthwise


@numba.njit(cache=True)
def _tables(width: int, channels: int) -> Any:
    """Return four tables of the cells of a 3 x 3 window, as one array (4, 9, 2) int64.

    An entry is a pair of byte offsets of a cell: the offset of its input, relative to the input of
    the central cell, and the offset of its weights. The cells are in row-major order. The first
    table has all columns of the window. The others are for pixels at the border of the image: they
    lack the first column, the last column, or both.
    """
    tables = np.zeros((4, 9, 2), np.int64)
    for kind in range(4):
        pairs = 0
        for i in range(3):
            for j in range(kind & 1, 3 - (kind >> 1)):
                tables[kind, pairs, 0] = 4 * ((i - 1) * width + j - 1) * channels
                tables[kind, pairs, 1] = 4 * (3 * i + j) * channels
                pairs += 1
    return tables


@cached_njit()
def run(inputs: Any, depthwise: Any, pointwise: Any, bias: Any, outputs: Any) -> None:
    """Compute a depthwise convolution, a pointwise convolution and a ReLU.

    Args:
        inputs: (N, H, W, C) float32. All arrays must be float32 and C-contiguous.
        depthwise: (3, 3, C, 1), weights of the depthwise convolution.
        pointwise: (C, F), weights of the pointwise convolution.
        bias: (F,), added after the pointwise convolution.
        outputs: (N, H, W, F), which the function writes.
    """
    images, height, width, channels = inputs.shape
    filters = outputs.shape[3]
    if outputs.size == 0:
        return
    number = _number(width, channels, filters)
    block = (number // _MAX_PIXELS % 4 + 1) * (8 << number // (4 * _MAX_PIXELS) % 2)
    blocks = (filters + block - 1) // block
    tables = _tables(width, channels)
    packed = np.zeros(blocks * channels * block, np.float32)
    for index in range(blocks):
        for c in range(channels):
            for f in range(min(block, filters - index * block)):
                packed[(index * channels + c) * block + f] = pointwise[c, index * block + f]
    packed_bias = np.zeros(blocks * block, np.float32)
    packed_bias[:filters] = bias
    args = np.zeros(FIELDS, np.int64)
    args[SOURCE], args[TARGET] = address_of(inputs), address_of(outputs)
    args[HEIGHT], args[WIDTH], args[CHANNELS], args[FILTERS] = height, width, channels, filters
    args[TABLE], args[TAPS] = address_of(tables), address_of(depthwise)
    args[WEIGHTS], args[BIAS] = address_of(packed), address_of(packed_bias)
    # A thread should run tasks for 20 us at a time. At 32 multiply-adds per nanosecond these are
    # 640 000 multiply-adds.
    work = width * channels * (blocks * block + 2 * 9)
    run_kernel(_KERNEL + number, args, images * height, max(1, 640_000 // work))
    # The kernel got only the addresses of these three arrays. Numba frees an array after its last
    # use, so use the arrays here, to keep them until the kernel has finished.
    tables[:0], packed[:0], packed_bias[:0] = 0, 0, 0
