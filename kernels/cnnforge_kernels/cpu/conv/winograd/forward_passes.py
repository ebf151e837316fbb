"""Kernels for the passes of Winograd's F(2x2, 3x3) over the planes of a task.

``forward.py`` describes the algorithm and calls the passes: transform the inputs and the weights to
16 planes, multiply the planes, and transform the products to outputs. Here *spread* is the
transform to planes, and *join* is the transform to outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv.argmax import NO_CELL
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, store_int64, words_at
from cnnforge_kernels.cpu.simd.pooled_tiles import tile_pool_store
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES, tile_of_number
from cnnforge_kernels.cpu.simd.tile_choice import TILES as REGISTER_TILES
from cnnforge_kernels.cpu.simd.tiles import (
    tile_accumulate,
    tile_broadcast,
    tile_load,
    tile_relu,
    tile_store,
)
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
)

# Fields of a task's argument block, which all passes read. Addresses and strides are in bytes.
SCRATCH, LINE, PIXEL, FILTERS, WIDE, TILES = range(6)
INPUTS, INPUT_PLANE, SUMS, SUM_PLANE, FACTORS, OFFSETS, ZEROS = range(6, 13)
BIAS, TARGET, TARGET_ROW, TARGET_COLUMN, ARGMAX, LEFT, BELOW = range(13, 20)
RELU, NOT_FINITE, FACTOR_PLANE = 20, 21, 22
FIELDS = 23

PLANES = 16
# The number of channels is a multiple of MIN_LANES, the number of filters one of MAX_LANES.
MIN_LANES = min(MAX_LANES, 8)
# Index of the plane whose products are added, with a factor of 1, to each output of a tile.
_PLAIN = 5


@cached_njit()
def _spread(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """Return four vectors: the transform of one row or column of a tile of inputs."""
    return (
        vector_subtract(v0, v2),
        vector_add(v1, v2),
        vector_subtract(v2, v1),
        vector_subtract(v1, v3),
    )


@cached_njit()
def _join(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """Return two vectors: the transform of one row or column of the products of a tile."""
    return vector_add(vector_add(v0, v1), v2), vector_subtract(vector_subtract(v1, v2), v3)


@cached_njit()
def _weigh(v: Any, half: Any) -> Any:
    """Return four vectors: the transform of one row or column of the weights of a window."""
    outer = vector_add(v[0], v[2])
    plus = vector_multiply(vector_add(outer, v[1]), half)
    minus = vector_multiply(vector_subtract(outer, v[1]), half)
    return v[0], plus, minus, v[2]


@cached_njit()
def _column(source: int, order: Any, column: int, L: Any) -> Any:
    """Load the three weights of a column of the window; ``order`` has the offset of each tap."""
    return (
        vector_load(source + order[column], L, L),
        vector_load(source + order[3 + column], L, L),
        vector_load(source + order[6 + column], L, L),
    )


@kernel_family(2)
def SPREAD_INPUTS(half: int) -> Any:
    """Transform the inputs of tile rows ``begin`` to ``end - 1`` to planes (tile, channel)."""
    L = MIN_LANES if half else MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_inputs_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        line, pixel, plane = w[LINE], w[PIXEL], w[INPUT_PLANE]
        for i in range(begin, end):
            for c in range(0, pixel, 4 * L):
                source = w[SCRATCH] + 2 * i * line + c
                target = w[INPUTS] + i * w[WIDE] * pixel + c
                # Neighbouring tiles have two columns in common, so keep the transforms of these
                # columns.
                first = _spread(*tile_load(source, line, 4, 1, L))
                second = _spread(*tile_load(source + pixel, line, 4, 1, L))
                for _ in range(w[WIDE]):
                    third = _spread(*tile_load(source + 2 * pixel, line, 4, 1, L))
                    fourth = _spread(*tile_load(source + 3 * pixel, line, 4, 1, L))
                    row = _spread(first[0], second[0], third[0], fourth[0])
                    tile_store(row, target, plane, L, 4, 1, 1)
                    row = _spread(first[1], second[1], third[1], fourth[1])
                    tile_store(row, target + 4 * plane, plane, L, 4, 1, 1)
                    row = _spread(first[2], second[2], third[2], fourth[2])
                    tile_store(row, target + 8 * plane, plane, L, 4, 1, 1)
                    row = _spread(first[3], second[3], third[3], fourth[3])
                    tile_store(row, target + 12 * plane, plane, L, 4, 1, 1)
                    first, second = third, fourth
                    source += 2 * pixel
                    target += pixel

    return _spread_inputs_kernel


@kernel_family(REGISTER_TILES)
def MULTIPLY(number: int) -> Any:
    """Multiply planes ``begin`` to ``end - 1`` of the inputs by those of the weights.

    A plane of the inputs has the axes (tile, channel), a plane of the weights (channel, filter).
    """
    T, G, L, _ = tile_of_number(number)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _multiply_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        pixel, out_pixel, width = w[PIXEL], 4 * w[FILTERS], 4 * G * L
        block_bytes = pixel * G * L
        blocks = (out_pixel + width - 1) // width
        for plane in range(begin, end):
            for block in range(blocks):
                weights = w[FACTORS] + plane * w[FACTOR_PLANE] + block * block_bytes
                source = w[INPUTS] + plane * w[INPUT_PLANE]
                # This plane is added once to each output of a tile, so add the bias here.
                begins = w[BIAS] + block * width if plane == _PLAIN else w[ZEROS]
                target = w[SUMS] + plane * w[SUM_PLANE] + block * width
                valid = w[FILTERS] - block * G * L
                first = 0
                while first < w[TILES]:
                    first = max(min(first, w[TILES] - T), 0)
                    tile = tile_accumulate(
                        tile_broadcast(begins, T, G, L),
                        source + first * pixel,
                        w[OFFSETS],
                        weights,
                        pixel // 4,
                        pixel,
                        pixel,
                        1,
                        T,
                        G,
                        L,
                        1,
                        1,
                    )
                    tile_store(tile, target + first * out_pixel, out_pixel, valid, T, G, 1)
                    first += T

    return _multiply_kernel


@kernel_family(2)
def JOIN_SUMS(pooled: int) -> Any:
    """Compute the outputs of tiles ``begin`` to ``end - 1`` from the planes of products.

    Apply 2x2 max pooling if ``pooled``. Also set the int64 at ``NOT_FINITE`` to 1 if an output is
    not finite.
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _join_sums_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, FIELDS)
        plane, filters = w[SUM_PLANE], 4 * w[FILTERS]
        zero = vector_splat(np.float32(0), L)
        seen = zero
        for tile in range(begin, end):
            i, j = tile // w[WIDE], tile % w[WIDE]
            source = w[SUMS] + tile * filters
            cell = w[TARGET] + i * w[TARGET_ROW] + j * w[TARGET_COLUMN]
            corner = cell + i * w[TARGET_ROW] + j * w[TARGET_COLUMN]
            right, below = 2 * j + 1 < w[LEFT], 2 * i + 1 < w[BELOW]
            for f in range(0, filters, 4 * L):
                place = source + f
                first = _join(*tile_load(place, plane, 4, 1, L))
                second = _join(*tile_load(place + 4 * plane, plane, 4, 1, L))
                third = _join(*tile_load(place + 8 * plane, plane, 4, 1, L))
                fourth = _join(*tile_load(place + 12 * plane, plane, 4, 1, L))
                even = _join(first[0], second[0], third[0], fourth[0])
                odd = _join(first[1], second[1], third[1], fourth[1])
                outputs = even[0], odd[0], even[1], odd[1]
                total = vector_add(
                    vector_add(outputs[0], outputs[1]), vector_add(outputs[2], outputs[3])
                )
                # Zero times infinity or NaN is NaN. So `seen` is NaN from the first value that is
                # not finite.
                seen = vector_multiply_add(total, zero, seen)
                if pooled:
                    byte = w[ARGMAX] + (cell + f - w[TARGET]) // 4
                    tile_pool_store(outputs, cell + f, byte, L, L, 2, 1, 1, NO_CELL)
                    continue
                if w[RELU] != 0:
                    outputs = tile_relu(outputs)
                here, row = corner + f, w[TARGET_ROW]
                vector_store(outputs[0], here, L)
                if right:
                    vector_store(outputs[1], here + w[TARGET_COLUMN], L)
                if below:
                    vector_store(outputs[2], here + row, L)
                    if right:
                        vector_store(outputs[3], here + row + w[TARGET_COLUMN], L)
        lanes = np.empty(L, np.float32)
        vector_store(seen, address_of(lanes), L)
        for lane in range(L):
            if lanes[lane] != 0:
                store_int64(w[NOT_FINITE], 1)

    return _join_sums_kernel


@kernel_family(1)
def SPREAD_WEIGHTS(_: int) -> Any:
    """Transform weights to 16 planes, for indices ``begin`` to ``end - 1`` of (channel, group).

    ``args`` is the argument block of the sweep, followed by the number of vectors of filters of a
    register tile.
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_weights_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, s.FIELDS + 1)
        width = a[s.FIELDS] * L
        channels, groups, filters = a[s.CHANNELS], a[s.GROUPS], a[s.FILTERS]
        plane = a[s.PLANE]
        tap = 4 * channels * groups * filters
        rows, columns = carray(words_at(a[s.ROW_TAPS]), 9), carray(words_at(a[s.COLUMN_TAPS]), 9)
        order = np.empty(9, np.int64)
        for index in range(9):
            i, j = rows[index] - a[s.ROW_ORIGIN], columns[index] - a[s.COLUMN_ORIGIN]
            order[3 * i + j] = index * tap
        half = vector_splat(np.float32(0.5), L)
        for channel in range(begin, end):
            c, group = channel // groups, channel % groups
            for f in range(0, filters, L):
                at = a[s.FACTORS] + 4 * ((c * groups + group) * filters + f)
                block, inside = f // width, f % width
                target = a[s.WEIGHTS] + PLANES * group * plane
                target += 4 * ((block * channels + c) * width + inside)
                left = _weigh(_column(at, order, 0, L), half)
                middle = _weigh(_column(at, order, 1, L), half)
                right = _weigh(_column(at, order, 2, L), half)
                row = _weigh((left[0], middle[0], right[0]), half)
                tile_store(row, target, plane, L, 4, 1, 1)
                row = _weigh((left[1], middle[1], right[1]), half)
                tile_store(row, target + 4 * plane, plane, L, 4, 1, 1)
                row = _weigh((left[2], middle[2], right[2]), half)
                tile_store(row, target + 8 * plane, plane, L, 4, 1, 1)
                row = _weigh((left[3], middle[3], right[3]), half)
                tile_store(row, target + 12 * plane, plane, L, 4, 1, 1)

    return _spread_weights_kernel
