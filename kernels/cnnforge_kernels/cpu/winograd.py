"""Winograd's F(2x2, 3x3): a 3x3 convolution in 16 multiplications for 4 outputs, where it takes 36.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1. A tile is
2x2 outputs and the 4x4 inputs under them. Inputs and weights are spread to 16 planes by sums, each
plane is a product of matrices, tiles by channels by filters, and the outputs are sums of the
planes. All factors are 1 and 1/2: the sums of small integers stay exact.

A task is some rows of tiles of one image for one group of channels. A tile of outputs is a window
of a 2x2 pool, which happens before the outputs are written.

A value that is not finite would spoil its neighbours in the tile. Where a sum is not finite, the
launch says so, and the sweep computes all of it once more, without this.
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
    call_kernel,
    floats_at,
    kernel_address,
    kernel_family,
    store_int64,
    words_at,
)
from cnnforge_kernels.cpu.parallel import run_kernel
from cnnforge_kernels.cpu.simd import (
    vector_add,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
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
    FACTORS,
    FIELDS,
    FILTERS,
    GROUPS,
    HEIGHT,
    IMAGES,
    JOIN_SUMS,
    MULTIPLY,
    NOT_FINITE,
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
    SPREAD_INPUTS,
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
from cnnforge_kernels.cpu.tiles import MOST_LANES, TILES, choose_tile, tile_number, tile_of_number
from cnnforge_kernels.cpu.winners import NO_WINNER

# Fields of a task's block, which its three steps share: addresses and strides in bytes.
_SCRATCH, _LINE, _PIXEL, _FILTERS, _WIDE, _TILES = range(6)
_INPUTS, _INPUT_PLANE, _SUMS, _SUM_PLANE, _FACTORS, _OFFSETS, _ZEROS = range(6, 13)
_BIAS, _TARGET, _TARGET_ROW, _TARGET_COLUMN, _WINNERS, _LEFT, _BELOW = range(13, 20)
_RELU, _NOT_FINITE = 20, 21
_TASK_FIELDS = 22

_PLANES = 16
# The one that every output of a tile is a sum of, with a factor of 1.
_PLAIN = 5
# With fewer of them the sums before and after cost as much as the products save; a register tile
# of one vector of filters loads as often as it multiplies.
_FEWEST_CHANNELS, _FEWEST_VECTORS, _FEWEST_OUTPUTS = 16, 2, 64
# Planes that begin at the same place of a page would share few lines of the first-level cache.
_APART = 128
# What a task keeps in planes: half of a second-level cache of 1 MiB.
_TASK_BYTES = 512 * 1024
_WEIGHT_GRAIN = 64


@cached_njit()
def _spread(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """One row of the transform of the inputs."""
    return (
        vector_subtract(v0, v2),
        vector_add(v1, v2),
        vector_subtract(v2, v1),
        vector_subtract(v1, v3),
    )


@cached_njit()
def _join(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """One row of the transform of the sums."""
    return vector_add(vector_add(v0, v1), v2), vector_subtract(vector_subtract(v1, v2), v3)


@cached_njit()
def _four(place: int, step: int) -> Any:
    L = MOST_LANES
    return (
        vector_load(place, L, L),
        vector_load(place + step, L, L),
        vector_load(place + 2 * step, L, L),
        vector_load(place + 3 * step, L, L),
    )


@cached_njit()
def _store_four(values: Any, place: int, step: int) -> None:
    L = MOST_LANES
    vector_store(values[0], place, L)
    vector_store(values[1], place + step, L)
    vector_store(values[2], place + 2 * step, L)
    vector_store(values[3], place + 3 * step, L)


@kernel_family(1)
def _SPREAD_INPUTS(_: int) -> Any:
    """Rows of tiles ``begin`` to ``end - 1``: from the scratch to 16 planes (tile, channel)."""
    L = MOST_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_inputs_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, _TASK_FIELDS)
        line, pixel, plane = w[_LINE], w[_PIXEL], w[_INPUT_PLANE]
        for i in range(begin, end):
            for c in range(0, pixel, 4 * L):
                source = w[_SCRATCH] + 2 * i * line + c
                target = w[_INPUTS] + i * w[_WIDE] * pixel + c
                # Neighbouring tiles have two columns in common.
                first = _spread(*_four(source, line))
                second = _spread(*_four(source + pixel, line))
                for _ in range(w[_WIDE]):
                    third = _spread(*_four(source + 2 * pixel, line))
                    fourth = _spread(*_four(source + 3 * pixel, line))
                    row = _spread(first[0], second[0], third[0], fourth[0])
                    _store_four(row, target, plane)
                    row = _spread(first[1], second[1], third[1], fourth[1])
                    _store_four(row, target + 4 * plane, plane)
                    row = _spread(first[2], second[2], third[2], fourth[2])
                    _store_four(row, target + 8 * plane, plane)
                    row = _spread(first[3], second[3], third[3], fourth[3])
                    _store_four(row, target + 12 * plane, plane)
                    first, second = third, fourth
                    source += 2 * pixel
                    target += pixel

    return _spread_inputs_kernel


@kernel_family(TILES)
def _MULTIPLY(number: int) -> Any:
    """Planes ``begin`` to ``end - 1`` of a task: (tile, channel) by (channel, filter)."""
    T, G, L, _ = tile_of_number(number)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _multiply_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, _TASK_FIELDS)
        pixel, out_pixel, width = w[_PIXEL], 4 * w[_FILTERS], 4 * G * L
        block_bytes = pixel * G * L
        blocks = (out_pixel + width - 1) // width
        for plane in range(begin, end):
            for block in range(blocks):
                weights = w[_FACTORS] + (plane * blocks + block) * block_bytes
                source = w[_INPUTS] + plane * w[_INPUT_PLANE]
                # All outputs of a tile have this plane as it is.
                begins = w[_BIAS] + block * width if plane == _PLAIN else w[_ZEROS]
                target = w[_SUMS] + plane * w[_SUM_PLANE] + block * width
                valid = w[_FILTERS] - block * G * L
                first = 0
                while first < w[_TILES]:
                    first = max(min(first, w[_TILES] - T), 0)
                    tile = tile_accumulate(
                        tile_broadcast(begins, T, G, L),
                        source + first * pixel,
                        w[_OFFSETS],
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
def _JOIN_SUMS(pooled: int) -> Any:
    """Tiles ``begin`` to ``end - 1`` of a task: from the planes to outputs, or to pooled ones."""
    L = MOST_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _join_sums_kernel(args: Any, begin: int, end: int) -> None:
        w = carray(args, _TASK_FIELDS)
        plane, filters = w[_SUM_PLANE], 4 * w[_FILTERS]
        zero = vector_splat(np.float32(0), L)
        seen = zero
        for tile in range(begin, end):
            i, j = tile // w[_WIDE], tile % w[_WIDE]
            source = w[_SUMS] + tile * filters
            cell = w[_TARGET] + i * w[_TARGET_ROW] + j * w[_TARGET_COLUMN]
            corner = cell + i * w[_TARGET_ROW] + j * w[_TARGET_COLUMN]
            right, below = 2 * j + 1 < w[_LEFT], 2 * i + 1 < w[_BELOW]
            for f in range(0, filters, 4 * L):
                place = source + f
                first = _join(*_four(place, plane))
                second = _join(*_four(place + 4 * plane, plane))
                third = _join(*_four(place + 8 * plane, plane))
                fourth = _join(*_four(place + 12 * plane, plane))
                even = _join(first[0], second[0], third[0], fourth[0])
                odd = _join(first[1], second[1], third[1], fourth[1])
                outputs = even[0], odd[0], even[1], odd[1]
                total = vector_add(
                    vector_add(outputs[0], outputs[1]), vector_add(outputs[2], outputs[3])
                )
                # Zero times what is not finite is NaN, and stays.
                seen = vector_multiply_add(total, zero, seen)
                if pooled:
                    byte = w[_WINNERS] + (cell + f - w[_TARGET]) // 4
                    tile_pool_store(outputs, cell + f, byte, L, L, 2, 1, 1, NO_WINNER)
                    continue
                if w[_RELU] != 0:
                    outputs = tile_relu(outputs)
                here, row = corner + f, w[_TARGET_ROW]
                vector_store(outputs[0], here, L)
                if right:
                    vector_store(outputs[1], here + w[_TARGET_COLUMN], L)
                if below:
                    vector_store(outputs[2], here + row, L)
                    if right:
                        vector_store(outputs[3], here + row + w[_TARGET_COLUMN], L)
        lanes = np.empty(L, np.float32)
        vector_store(seen, address_of(lanes), L)
        for lane in range(L):
            if lanes[lane] != 0:
                store_int64(w[_NOT_FINITE], 1)

    return _join_sums_kernel


@kernel_family(1)
def _SPREAD_WEIGHTS(_: int) -> Any:
    """Channels ``begin`` to ``end - 1`` (of all groups) of the weights, to 16 planes.

    ``args`` = the sweep's block; the vectors and lanes of a tile stand behind it.
    """
    L = MOST_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_weights_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS + 1)
        width = a[FIELDS] * L
        channels, groups, filters = a[CHANNELS], a[GROUPS], a[FILTERS]
        blocks = (filters + width - 1) // width
        plane = 4 * blocks * channels * width
        tap = 4 * channels * groups * filters
        rows, columns = carray(words_at(a[ROW_TAPS]), 9), carray(words_at(a[COLUMN_TAPS]), 9)
        order = np.empty(9, np.int64)
        for index in range(9):
            i, j = rows[index] - a[ROW_ORIGIN], columns[index] - a[COLUMN_ORIGIN]
            order[3 * i + j] = index * tap
        half = vector_splat(np.float32(0.5), L)
        for channel in range(begin, end):
            c, group = channel // groups, channel % groups
            for f in range(0, filters, L):
                at = a[FACTORS] + 4 * ((c * groups + group) * filters + f)
                block, inside = f // width, f % width
                target = a[WEIGHTS] + 16 * group * plane
                target += 4 * ((block * channels + c) * width + inside)
                for j in range(3):
                    # A column of the window, spread to four rows; planes 4i + j hold it for now.
                    top = vector_load(at + order[j], L, L)
                    middle = vector_load(at + order[3 + j], L, L)
                    bottom = vector_load(at + order[6 + j], L, L)
                    outer = vector_add(top, bottom)
                    plus = vector_multiply(vector_add(outer, middle), half)
                    minus = vector_multiply(vector_subtract(outer, middle), half)
                    _store_four((top, plus, minus, bottom), target + j * plane, 4 * plane)
                for i in range(4):
                    row = target + 4 * i * plane
                    left = vector_load(row, L, L)
                    middle = vector_load(row + plane, L, L)
                    right = vector_load(row + 2 * plane, L, L)
                    outer = vector_add(left, right)
                    plus = vector_multiply(vector_add(outer, middle), half)
                    minus = vector_multiply(vector_subtract(outer, middle), half)
                    _store_four((left, plus, minus, right), row, plane)

    return _spread_weights_kernel


@kernel_family(1)
def _WINOGRAD(_: int) -> Any:
    @cached_cfunc(KERNEL_SIGNATURE)
    def _winograd_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        channels, filters = a[CHANNELS], a[FILTERS]
        pairs, wide = (a[BLOCK_ROWS] + 1) // 2, (a[COLUMNS] + 1) // 2
        # A register tile may take more tiles than there are: what it reads then, nobody uses.
        most = pairs * wide + 32
        scratch = aligned_floats((2 * pairs + 2) * a[ROW_BYTES] // 4)
        spare = aligned_floats(a[UNPOOL_ROWS] * a[WIDTH] * channels + 1)
        w = np.zeros(_TASK_FIELDS, np.int64)
        w[_INPUT_PLANE] = 4 * most * channels + _APART
        w[_SUM_PLANE] = 4 * most * filters + _APART
        inputs = aligned_floats(_PLANES * w[_INPUT_PLANE] // 4)
        sums = aligned_floats(_PLANES * w[_SUM_PLANE] // 4)
        offsets = np.empty(channels, np.int64)
        for c in range(channels):
            offsets[c] = 4 * c
        zeros = np.zeros(4 * MOST_LANES, np.float32)
        w[_SCRATCH], w[_LINE], w[_PIXEL] = address_of(scratch), a[ROW_BYTES], 4 * channels
        w[_FILTERS], w[_WIDE] = filters, wide
        w[_INPUTS], w[_SUMS] = address_of(inputs), address_of(sums)
        w[_OFFSETS], w[_ZEROS] = address_of(offsets), address_of(zeros)
        w[_TARGET_ROW], w[_TARGET_COLUMN] = a[TARGET_ROW], a[TARGET_COLUMN]
        w[_LEFT], w[_RELU], w[_NOT_FINITE] = a[COLUMNS], a[RELU], a[NOT_FINITE]
        unit = max(a[POOL_ROWS], 1)
        no_plane = np.int64(0)
        weights = _PLANES * a[PLANE]
        for task in range(begin, end):
            group = task % a[GROUPS]
            image = task // a[GROUPS] // a[BLOCKS]
            row0 = (task // a[GROUPS] % a[BLOCKS]) * a[BLOCK_ROWS]
            row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
            tiles = (row1 - row0 + 1) // 2 * wide
            scratch[:] = np.float32(0)
            for held in range(row1 - row0 + 2):
                row = row0 + a[ROW_ORIGIN] + held
                if 0 <= row < a[HEIGHT]:
                    place = w[_SCRATCH] + held * a[ROW_BYTES]
                    fill_row(a, row, image, group, place, no_plane, address_of(spare))
            w[_TILES], w[_BELOW] = tiles, row1 - row0
            w[_FACTORS] = a[WEIGHTS] + group * weights
            w[_BIAS] = a[BIAS] + 4 * group * filters
            w[_TARGET] = a[TARGET] + image * a[TARGET_IMAGE] + 4 * group * filters
            w[_TARGET] += row0 // unit * a[TARGET_ROW]
            w[_WINNERS] = a[WINNERS] + (w[_TARGET] - a[TARGET]) // 4
            call_kernel(a[SPREAD_INPUTS], address_of(w), 0, (row1 - row0 + 1) // 2)
            call_kernel(a[MULTIPLY], address_of(w), 0, _PLANES)
            call_kernel(a[JOIN_SUMS], address_of(w), 0, tiles)
        # Keeps the scratch alive until here.
        scratch[:0], spare[:0] = np.float32(0), np.float32(0)
        inputs[:0], sums[:0] = np.float32(0), np.float32(0)
        offsets[:0], zeros[:0] = 0, np.float32(0)

    return _winograd_kernel


@cached_njit()
def winograd_wins(channels: int, filters: int) -> bool:
    """Whether this is faster for a 3x3 window with steps of 1, from so many channels to filters."""
    whole = channels % MOST_LANES == 0 and filters % MOST_LANES == 0
    return whole and channels >= _FEWEST_CHANNELS and filters >= _FEWEST_VECTORS * MOST_LANES


@cached_njit()
def _is_window(taps: Any) -> bool:
    """Whether three times three integers are a window of three neighbours."""
    return taps.size == 9 and origin_and_span(taps)[1] == 3


@cached_njit()
def winograd_fits(args: Any) -> bool:
    """Whether a sweep is one that this computes, and faster; the block as for a launch."""
    if args[TAPS] != 9 or args[ROW_STEP] != 1 or args[COLUMN_STEP] != 1:
        return False
    if args[POOL_ROWS] != 0 and (args[POOL_ROWS] != 2 or args[POOL_COLUMNS] != 2):
        return False
    rows, columns = carray(words_at(args[ROW_TAPS]), 9), carray(words_at(args[COLUMN_TAPS]), 9)
    enough = min(args[ROWS], args[COLUMNS]) >= 2
    enough = enough and args[IMAGES] * args[ROWS] * args[COLUMNS] >= _FEWEST_OUTPUTS
    wins = winograd_wins(args[CHANNELS], args[FILTERS])
    return enough and wins and _is_window(rows) and _is_window(columns)


@kernel_family(1)
def LAUNCH(_: int) -> Any:
    """Fill in what follows from the shapes, spread the weights, run.

    ``NOT_FINITE`` is 1 afterwards where a sum was not finite: then what was written is not right.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_winograd(block: Any, _begin: int, _end: int) -> None:
        given = carray(block, FIELDS)
        # The block is the sweep's own, which goes on with it where a sum is not finite.
        args = np.empty(FIELDS + 1, np.int64)
        args[:FIELDS] = given
        channels, filters, groups = args[CHANNELS], args[FILTERS], args[GROUPS]
        row_taps, column_taps = (
            carray(words_at(args[ROW_TAPS]), 9),
            carray(words_at(args[COLUMN_TAPS]), 9),
        )
        args[ROW_ORIGIN], args[ROW_SPAN] = origin_and_span(row_taps)
        args[COLUMN_ORIGIN], args[COLUMN_SPAN] = origin_and_span(column_taps)
        wide = (args[COLUMNS] + 1) // 2
        args[SCRATCH_PIXEL] = 4 * channels
        args[ROW_BYTES] = (2 * wide + 2) * args[SCRATCH_PIXEL]
        pairs = (args[ROWS] + 1) // 2
        fitting = max(_TASK_BYTES // (4 * _PLANES * (channels + filters) * wide), 1)
        parts = (pairs + fitting - 1) // fitting
        args[BLOCK_ROWS] = 2 * ((pairs + parts - 1) // parts)
        args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
        tile, vectors, lanes, _, _ = choose_tile(args[BLOCK_ROWS] // 2 * wide, filters, 1, 1, False)
        args[FIELDS] = vectors
        width = vectors * lanes
        blocks = (filters + width - 1) // width
        packed = aligned_floats(_PLANES * groups * blocks * channels * width)
        bias = np.zeros(groups * filters + width, np.float32)
        if args[BIAS_SOURCE] != 0:
            given_bias = carray(floats_at(args[BIAS_SOURCE]), groups * filters)
            for index in range(groups * filters):
                bias[index] = given_bias[index]
        args[WEIGHTS], args[BIAS] = address_of(packed), address_of(bias)
        args[PLANE] = 4 * blocks * channels * width
        run_kernel(_SPREAD_WEIGHTS, args, channels * groups, _WEIGHT_GRAIN)
        found = np.zeros(1, np.int64)
        args[NOT_FINITE] = address_of(found)
        pooled = 1 if args[POOL_ROWS] != 0 else 0
        args[SPREAD_INPUTS] = kernel_address(_SPREAD_INPUTS)
        args[MULTIPLY] = kernel_address(_MULTIPLY + tile_number(tile, vectors, lanes, 1))
        args[JOIN_SUMS] = kernel_address(_JOIN_SUMS + pooled)
        tasks = args[IMAGES] * args[BLOCKS] * groups
        work = args[BLOCK_ROWS] * args[COLUMNS] * 4 * channels * filters
        run_kernel(_WINOGRAD, args, tasks, max(1, 640_000 // work))
        given[NOT_FINITE] = found[0]
        bias[:0] = np.float32(0)  # keeps both alive until here
        packed[:0] = np.float32(0)

    return _launch_winograd
