"""Kernels for the passes of Winograd's F(4x4, 3x3) over the planes of a task.

``inference.py`` describes the algorithm and calls the passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.conv.winograd import forward_passes as p
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, store_int64, words_at
from cnnforge_kernels.cpu.simd.epilogues import tile_activate
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES, tile_of_number
from cnnforge_kernels.cpu.simd.tile_choice import TILES as REGISTER_TILES
from cnnforge_kernels.cpu.simd.tiles import tile_accumulate, tile_broadcast, tile_load, tile_store
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_larger,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
)

# Fields of the argument block. Addresses and strides are in bytes. ROWS x COLUMNS is the size of
# the outputs before the pool. HIGH x WIDE are the tiles of an image, and CHUNK the tiles of a task.
SOURCE, IMAGE, ROW, HEIGHT, WIDTH, CHANNELS, TOP, LEFT = range(8)
ROWS, COLUMNS, FILTERS, HIGH, WIDE, TILES, CHUNK = range(8, 15)
TARGET, TARGET_IMAGE, TARGET_ROW, TARGET_COLUMN, ADDED, ACTIVATION = range(15, 21)
# FACTORS is the address of the weights (3, 3, channel, filter), WEIGHTS that of the transformed
# weights (block of filters, plane, channel, filter of the block), BIAS that of the bias, which has
# as many values as all blocks together have filters.
FACTORS, WEIGHTS, BIAS, BLOCK_FILTERS, BLOCKS = range(21, 26)
# Addresses of the int64 that is set to 1 if a sum is not finite, and of kernels. INPUTS is the
# address of the transformed inputs of all tiles, if there is a call of its own for them.
NOT_FINITE, SPREAD_KERNEL, MULTIPLY_KERNEL, JOIN_KERNEL, INPUTS = range(26, 31)
FIELDS = 31

SIDE = 6  # inputs of a tile in a row
STEP = 4  # outputs of a tile in a row
PLANES = SIDE * SIDE
# Number of unused bytes between two planes, see `forward.py`.
APART = 128
# A register tile may read inputs beyond the last tile.
BEYOND = 32

# Fields of a block for some tiles and a block of filters: the address of the argument block, the
# index of the first tile, the number of tiles, the planes of inputs and of products, the block of
# filters, and the address of as many zeros as a block has filters.
TASK_PLAN, TASK_FIRST, TASK_TILES, TASK_INPUTS, TASK_INPUT_PLANE, TASK_SUMS = range(6)
TASK_SUM_PLANE, TASK_BLOCK, TASK_ZEROS = range(6, 9)
# The offset in bytes of each channel, which is an int64.
TASK_OFFSETS = 9
TASK_FIELDS = 10

# The numbers of channels for which `MULTIPLY` is compiled with constant distances. Without them, a
# register tile needs a register for the address of each position (see `tile_choice.py`).
CHANNELS_KNOWN = (0, 16, 32)

_LOW, _HIGH = np.float32(0.5**0.5), np.float32(2**0.5)


@cached_njit()
def input_plane(tiles: int, channels: int) -> int:
    """Return the number of bytes from a plane of transformed inputs to the next."""
    return 4 * (tiles + BEYOND) * channels + APART


@cached_njit()
def _spread(v: Any, L: Any) -> Any:
    """Return six vectors: the transform of one row or column of a tile of inputs."""
    low, high = vector_splat(_LOW, L), vector_splat(_HIGH, L)
    minus_low, minus_high = vector_splat(-_LOW, L), vector_splat(-_HIGH, L)
    minus_half, minus_two = vector_splat(np.float32(-0.5), L), vector_splat(np.float32(-2), L)
    both = vector_splat(np.float32(-2.5), L)
    even, odd = (
        vector_multiply_add(v[2], minus_two, v[4]),
        vector_multiply_add(v[1], minus_two, v[3]),
    )
    far, further = (
        vector_multiply_add(v[2], minus_half, v[4]),
        vector_multiply_add(v[1], minus_half, v[3]),
    )
    return (
        vector_multiply_add(v[2], both, vector_add(v[0], v[4])),
        vector_multiply_add(odd, low, even),
        vector_multiply_add(odd, minus_low, even),
        vector_multiply_add(further, high, far),
        vector_multiply_add(further, minus_high, far),
        vector_multiply_add(v[3], both, vector_add(v[1], v[5])),
    )


@cached_njit()
def _join(v: Any, L: Any) -> Any:
    """Return four vectors: the transform of one row or column of the products of a tile."""
    near, far = vector_add(v[1], v[2]), vector_add(v[3], v[4])
    low, high = vector_subtract(v[1], v[2]), vector_subtract(v[3], v[4])
    half, two = vector_splat(np.float32(0.5), L), vector_splat(np.float32(2), L)
    # The factors of `low` and `high` are first and third powers of the points.
    first = vector_multiply(vector_splat(_LOW, L), low)
    second = vector_multiply(vector_splat(_HIGH, L), high)
    return (
        vector_add(vector_add(v[0], near), far),
        vector_add(first, second),
        vector_multiply_add(near, half, vector_multiply(far, two)),
        vector_multiply_add(first, half, vector_multiply_add(second, two, v[5])),
    )


@cached_njit()
def _weigh(v: Any, L: Any) -> Any:
    """Return six vectors: the transform of one row or column of the weights of a window.

    Point a with the square s, where t is the square of the other points, gives
    ``(v0 + a * v1 + s * v2) / (2 * s * (s - t))``.
    """
    near, far = vector_splat(np.float32(-2 / 3), L), vector_splat(np.float32(1 / 6), L)
    half, two = vector_splat(np.float32(0.5), L), vector_splat(np.float32(2), L)
    low = vector_multiply(vector_multiply_add(v[2], half, v[0]), near)
    high = vector_multiply(vector_multiply_add(v[2], two, v[0]), far)
    first = vector_multiply(v[1], vector_splat(np.float32(-2 / 3) * _LOW, L))
    second = vector_multiply(v[1], vector_splat(np.float32(1 / 6) * _HIGH, L))
    return (
        v[0],
        vector_add(low, first),
        vector_subtract(low, first),
        vector_add(high, second),
        vector_subtract(high, second),
        v[2],
    )


@cached_njit()
def _column(source: int, step: int, valid: int, L: Any) -> Any:
    return (
        vector_load(source, valid, L),
        vector_load(source + step, valid, L),
        vector_load(source + 2 * step, valid, L),
    )


@cached_njit()
def _sum(v: Any) -> Any:
    return vector_add(vector_add(v[0], v[1]), vector_add(v[2], v[3]))


@kernel_family(2)
def SPREAD(half: int) -> Any:
    """Transform the inputs of tiles ``begin`` to ``end - 1`` to planes (tile, channel)."""
    L = p.MIN_LANES if half else MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_tiles(task: Any, begin: int, end: int) -> None:
        t = carray(task, TASK_FIELDS)
        a = carray(words_at(t[TASK_PLAN]), FIELDS)
        pixel, plane = 4 * a[CHANNELS], t[TASK_INPUT_PLANE]
        each = a[HIGH] * a[WIDE]
        edge = aligned_floats(PLANES * a[CHANNELS])
        for tile in range(begin, end):
            row = tile % each // a[WIDE] * STEP - a[TOP]
            column = tile % a[WIDE] * STEP - a[LEFT]
            line = a[ROW]
            source = a[SOURCE] + tile // each * a[IMAGE] + row * line + column * pixel
            inside = min(row, column) >= 0
            if not (inside and row + SIDE <= a[HEIGHT] and column + SIDE <= a[WIDTH]):
                # Copy the tile, with zeros around the image.
                edge[:] = np.float32(0)
                first, after = max(-column, 0), min(a[WIDTH] - column, SIDE)
                for i in range(max(-row, 0), min(a[HEIGHT] - row, SIDE)):
                    if first < after:
                        place = address_of(edge) + (i * SIDE + first) * pixel
                        count = (after - first) * a[CHANNELS]
                        copy_floats(place, source + i * line + first * pixel, count)
                source, line = address_of(edge), SIDE * pixel
            target = t[TASK_INPUTS] + (tile - t[TASK_FIRST]) * pixel
            for c in range(0, pixel, 4 * L):
                v0 = _spread(tile_load(source + c, line, SIDE, 1, L), L)
                v1 = _spread(tile_load(source + pixel + c, line, SIDE, 1, L), L)
                v2 = _spread(tile_load(source + 2 * pixel + c, line, SIDE, 1, L), L)
                v3 = _spread(tile_load(source + 3 * pixel + c, line, SIDE, 1, L), L)
                v4 = _spread(tile_load(source + 4 * pixel + c, line, SIDE, 1, L), L)
                v5 = _spread(tile_load(source + 5 * pixel + c, line, SIDE, 1, L), L)
                here = target + c
                wide = (v0[0], v1[0], v2[0], v3[0], v4[0], v5[0])
                tile_store(_spread(wide, L), here, plane, L, SIDE, 1, 1)
                wide = (v0[1], v1[1], v2[1], v3[1], v4[1], v5[1])
                tile_store(_spread(wide, L), here + SIDE * plane, plane, L, SIDE, 1, 1)
                wide = (v0[2], v1[2], v2[2], v3[2], v4[2], v5[2])
                tile_store(_spread(wide, L), here + 2 * SIDE * plane, plane, L, SIDE, 1, 1)
                wide = (v0[3], v1[3], v2[3], v3[3], v4[3], v5[3])
                tile_store(_spread(wide, L), here + 3 * SIDE * plane, plane, L, SIDE, 1, 1)
                wide = (v0[4], v1[4], v2[4], v3[4], v4[4], v5[4])
                tile_store(_spread(wide, L), here + 4 * SIDE * plane, plane, L, SIDE, 1, 1)
                wide = (v0[5], v1[5], v2[5], v3[5], v4[5], v5[5])
                tile_store(_spread(wide, L), here + 5 * SIDE * plane, plane, L, SIDE, 1, 1)
        # Numba frees an array after its last use.
        edge[:0] = np.float32(0)

    return _spread_tiles


@kernel_family(REGISTER_TILES * len(CHANNELS_KNOWN))
def MULTIPLY(number: int) -> Any:
    """Multiply planes ``begin`` to ``end - 1`` of the inputs by those of a block of weights.

    A plane of the inputs has the axes (tile, channel), a plane of the weights (channel, filter).
    """
    T, G, L, _ = tile_of_number(number % REGISTER_TILES)
    KNOWN = CHANNELS_KNOWN[number // REGISTER_TILES]

    @cached_cfunc(KERNEL_SIGNATURE)
    def _multiply_planes(task: Any, begin: int, end: int) -> None:
        t = carray(task, TASK_FIELDS)
        a = carray(words_at(t[TASK_PLAN]), FIELDS)
        channels = np.int64(KNOWN) if KNOWN else a[CHANNELS]
        block = 4 * channels * G * L
        tiles, zeros, offsets = t[TASK_TILES], t[TASK_ZEROS], t[TASK_OFFSETS]
        for plane in range(begin, end):
            weights = a[WEIGHTS] + (t[TASK_BLOCK] * PLANES + plane) * block
            source = t[TASK_INPUTS] + plane * t[TASK_INPUT_PLANE]
            target = t[TASK_SUMS] + plane * t[TASK_SUM_PLANE]
            first = 0
            while first < tiles:
                # Let the last register tile end at the last tile.
                first = max(min(first, tiles - T), 0)
                place = source + 4 * first * channels
                tile = tile_broadcast(zeros, T, G, L)
                tile = tile_accumulate(
                    tile, place, offsets, weights, channels, 0, 4 * channels, 1, T, G, L, 1, 1
                )
                tile_store(tile, target + 4 * first * G * L, 4 * G * L, G * L, T, G, 1)
                first += T

    return _multiply_planes


@kernel_family(2)
def JOIN(pooled: int) -> Any:
    """Compute the outputs of tiles ``begin`` to ``end - 1`` for a block of filters.

    Apply 2x2 max pooling if ``pooled``. Also set the int64 at ``NOT_FINITE`` to 1 if an output is
    not finite.
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _join_tiles(task: Any, begin: int, end: int) -> None:
        t = carray(task, TASK_FIELDS)
        a = carray(words_at(t[TASK_PLAN]), FIELDS)
        plane, width = t[TASK_SUM_PLANE], a[BLOCK_FILTERS]
        step, activation, added = a[TARGET_COLUMN], a[ACTIVATION], a[ADDED]
        each = a[HIGH] * a[WIDE]
        first_filter = t[TASK_BLOCK] * width
        filters = min(a[FILTERS] - first_filter, width)
        zero = vector_splat(np.float32(0), L)
        seen = zero
        memory = aligned_floats(STEP * STEP * L)
        kept = address_of(memory)
        unit = STEP // 2 if pooled else STEP
        rows = a[ROWS] // 2 if pooled else a[ROWS]
        columns = a[COLUMNS] // 2 if pooled else a[COLUMNS]
        for tile in range(begin, end):
            row, column = unit * (tile % each // a[WIDE]), unit * (tile % a[WIDE])
            below, right = rows - row, columns - column
            corner = a[TARGET] + tile // each * a[TARGET_IMAGE] + 4 * first_filter
            corner += row * a[TARGET_ROW] + column * step
            for f in range(0, filters, L):
                place = t[TASK_SUMS] + 4 * ((tile - t[TASK_FIRST]) * width + f)
                v0 = _join(tile_load(place, SIDE * plane, SIDE, 1, L), L)
                v1 = _join(tile_load(place + plane, SIDE * plane, SIDE, 1, L), L)
                v2 = _join(tile_load(place + 2 * plane, SIDE * plane, SIDE, 1, L), L)
                v3 = _join(tile_load(place + 3 * plane, SIDE * plane, SIDE, 1, L), L)
                v4 = _join(tile_load(place + 4 * plane, SIDE * plane, SIDE, 1, L), L)
                v5 = _join(tile_load(place + 5 * plane, SIDE * plane, SIDE, 1, L), L)
                o0 = _join((v0[0], v1[0], v2[0], v3[0], v4[0], v5[0]), L)
                o1 = _join((v0[1], v1[1], v2[1], v3[1], v4[1], v5[1]), L)
                o2 = _join((v0[2], v1[2], v2[2], v3[2], v4[2], v5[2]), L)
                o3 = _join((v0[3], v1[3], v2[3], v3[3], v4[3], v5[3]), L)
                total = vector_add(_sum(o0), _sum(o1))
                total = vector_add(total, vector_add(_sum(o2), _sum(o3)))
                # Zero times infinity or NaN is NaN. So `seen` is NaN from the first value that is
                # not finite.
                seen = vector_multiply_add(total, zero, seen)
                # Keep the outputs in memory: there are too few registers for them and what follows.
                tile_store(o0, kept, 4 * L, L, STEP, 1, 1)
                tile_store(o1, kept + 4 * L * STEP, 4 * L, L, STEP, 1, 1)
                tile_store(o2, kept + 8 * L * STEP, 4 * L, L, STEP, 1, 1)
                tile_store(o3, kept + 12 * L * STEP, 4 * L, L, STEP, 1, 1)
                bias = vector_load(a[BIAS] + 4 * (first_filter + f), L, L)
                here, valid = corner + 4 * f, filters - f
                for i in range(min(below, unit)):
                    cell = kept + 4 * L * i * (2 * STEP if pooled else STEP)
                    for j in range(min(right, unit)):
                        place = here + i * a[TARGET_ROW] + j * step
                        value = vector_load(cell, L, L)
                        if pooled:
                            other = vector_load(cell + 4 * L, L, L)
                            value = vector_larger(value, other)
                            other = vector_load(cell + 4 * L * STEP, L, L)
                            value = vector_larger(value, other)
                            other = vector_load(cell + 4 * L * (STEP + 1), L, L)
                            value = vector_larger(value, other)
                            cell += 4 * L
                        value = vector_add(value, bias)
                        if added != 0:
                            value = vector_add(value, vector_load(place + added, valid, L))
                        vector_store(tile_activate((value,), activation)[0], place, valid)
                        cell += 4 * L
        lanes = np.empty(L, np.float32)
        vector_store(seen, address_of(lanes), L)
        for lane in range(L):
            if lanes[lane] != 0:
                store_int64(a[NOT_FINITE], 1)
        # Numba frees an array after its last use.
        memory[:0] = np.float32(0)

    return _join_tiles


@kernel_family(1)
def SPREAD_WEIGHTS(_: int) -> Any:
    """Transform the weights of channels ``begin`` to ``end - 1`` to planes."""
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_factors(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        channels, filters, width = a[CHANNELS], a[FILTERS], a[BLOCK_FILTERS]
        tap, plane = 4 * channels * filters, 4 * channels * width
        for c in range(begin, end):
            for f in range(0, a[BLOCKS] * width, L):
                source = a[FACTORS] + 4 * (c * filters + f)
                target = a[WEIGHTS] + f // width * PLANES * plane + 4 * (c * width + f % width)
                valid = filters - f
                left = _weigh(_column(source, 3 * tap, valid, L), L)
                middle = _weigh(_column(source + tap, 3 * tap, valid, L), L)
                right = _weigh(_column(source + 2 * tap, 3 * tap, valid, L), L)
                row = _weigh((left[0], middle[0], right[0]), L)
                tile_store(row, target, plane, L, SIDE, 1, 1)
                row = _weigh((left[1], middle[1], right[1]), L)
                tile_store(row, target + SIDE * plane, plane, L, SIDE, 1, 1)
                row = _weigh((left[2], middle[2], right[2]), L)
                tile_store(row, target + 2 * SIDE * plane, plane, L, SIDE, 1, 1)
                row = _weigh((left[3], middle[3], right[3]), L)
                tile_store(row, target + 3 * SIDE * plane, plane, L, SIDE, 1, 1)
                row = _weigh((left[4], middle[4], right[4]), L)
                tile_store(row, target + 4 * SIDE * plane, plane, L, SIDE, 1, 1)
                row = _weigh((left[5], middle[5], right[5]), L)
                tile_store(row, target + 5 * SIDE * plane, plane, L, SIDE, 1, 1)

    return _spread_factors
