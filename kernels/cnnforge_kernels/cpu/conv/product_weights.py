"""Compute the gradient of a 1x1 convolution's weights, a product of two matrices.

    grad_weights[c, f] = sum over pixels p of inputs[p, c] * grad_outputs[p, f]

The columns of one matrix are the lanes of a register tile, and those of the other matrix are its
positions (``simd/tiles.py``). They are chosen so that the tiles fit both matrices best. A task sums
over some pixels for some columns of both. It packs a chunk of the pixels, so that a tile reads
neighbouring floats.

The sizes of the arrays alone decide how the pixels are divided, and the sums of the parts are added
in order. So the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.gather import add_parts, whole_lines
from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.conv.product_packing import add_columns, pack_columns
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_address,
    kernel_family,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.product_tiles import product_accumulate
from cnnforge_kernels.cpu.simd.tile_choice import (
    MAX_LANES,
    TILES,
    tile_number,
    tile_of_number,
)
from cnnforge_kernels.cpu.simd.tiles import tile_load, tile_store
from cnnforge_kernels.cpu.simd.vectors import load_float, store_float

# Fields of the argument block. Addresses are in bytes; the other fields are numbers of elements.
# The last four fields of the first group are the strides of the inputs in bytes.
INPUTS, GRADIENT, MASK, GRAD_WEIGHTS, GRAD_BIAS = range(5)
IMAGES, ROWS, COLUMNS, CHANNELS, FILTERS = range(5, 10)
COLUMN_BYTES, ROW_BYTES, IMAGE_BYTES = range(10, 13)
# SWAPPED is 1 if the lanes of a tile are channels and not filters. A task has LANE_BLOCKS blocks of
# LANE_WIDTH lanes, and POSITION_BLOCKS blocks of POSITION_WIDTH positions, or fewer. The packed
# positions of a block have PACKED_WIDTH floats.
SWAPPED, LANE_WIDTH, LANE_BLOCKS, LANE_GROUPS = range(13, 17)
POSITION_WIDTH, PACKED_WIDTH, POSITION_BLOCKS, POSITION_GROUPS = range(17, 21)
# The pixels are divided into PARTS parts, whose sums are PART_BYTES bytes from each other.
PARTS, PART_BYTES, TILE_KERNEL = range(21, 24)
FIELDS = 24

# Fields of the argument block of the kernels of a tile: the packed lanes and positions, the sums,
# the number of pixels, and the number of blocks of positions.
_LANES_AT, _POSITIONS_AT, _SUMS_AT, _COUNT, _BLOCKS = range(5)
_TILE_FIELDS = 5

_REGISTERS = vector_registers()
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
_MAX_POSITIONS = 16
# The number of pixels that are packed together, and of the columns of each matrix in a task. The
# packed pixels and the sums of a task fit a second-level cache of 512 KiB.
_CHUNK = 128
_LANE_COLUMNS = 256
_POSITION_COLUMNS = 128
_TASKS = 16


@kernel_family(TILES)
def _TILES(number: int) -> Any:
    """Add the products of some pixels to the sums of blocks ``begin`` to ``end - 1`` of lanes."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L
    PACKED = (T + 7) // 8 * 8

    @cached_cfunc(KERNEL_SIGNATURE)
    def _tiles_kernel(args: Any, begin: int, end: int) -> None:
        t = carray(args, _TILE_FIELDS)
        count, blocks = t[_COUNT], t[_BLOCKS]
        for lane_block in range(begin, end):
            for block in range(blocks):
                sums = t[_SUMS_AT] + 4 * (lane_block * blocks + block) * T * WIDTH
                tile = product_accumulate(
                    tile_load(sums, 4 * WIDTH, T, G, L),
                    t[_POSITIONS_AT] + 4 * block * count * PACKED,
                    t[_LANES_AT] + 4 * lane_block * count * WIDTH,
                    count,
                    4,
                    4 * PACKED,
                    T,
                    G,
                    L,
                )
                tile_store(tile, sums, 4 * WIDTH, WIDTH, T, G, 1)

    return _tiles_kernel


@cached_njit(inline="never")
def _find_pixels(a: Any, input_places: Any, places: Any, first: int, count: int) -> None:
    """Write the byte offsets of ``count`` pixels in the inputs and in the gradient."""
    rows, columns = a[ROWS], a[COLUMNS]
    column, row = first % columns, first // columns
    image, row = row // rows, row % rows
    for pixel in range(count):
        places[pixel] = (first + pixel) * 4 * a[FILTERS]
        input_places[pixel] = image * a[IMAGE_BYTES] + row * a[ROW_BYTES] + column * a[COLUMN_BYTES]
        column += 1
        if column == columns:
            column, row = 0, row + 1
            if row == rows:
                row, image = 0, image + 1


@cached_njit(inline="never")
def _write(
    a: Any, sums: int, target: int, lane0: int, lane1: int, position0: int, position1: int
) -> None:
    """Write the sums of a task to ``target``, which has the axes (channel, filter)."""
    width, tile, filters = a[LANE_WIDTH], a[POSITION_WIDTH], a[FILTERS]
    blocks = (position1 - position0 + tile - 1) // tile
    for lane in range(lane0, lane1, width):
        valid = min(width, lane1 - lane)
        for position in range(position0, position1):
            block = (lane - lane0) // width * blocks + (position - position0) // tile
            row = block * tile + (position - position0) % tile
            source = sums + 4 * row * width
            if a[SWAPPED] == 0:
                copy_floats(target + 4 * (position * filters + lane), source, valid)
                continue
            for c in range(valid):
                place = target + 4 * ((lane + c) * filters + position)
                store_float(place, load_float(source + 4 * c))


@kernel_family(1)
def _WEIGHTS(_: int) -> Any:
    """Sum over some pixels for some columns of both matrices: tasks ``begin`` to ``end - 1``."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _weights_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        width, tile, packed_width = a[LANE_WIDTH], a[POSITION_WIDTH], a[PACKED_WIDTH]
        swapped = a[SWAPPED] != 0
        input_places, gradient_places = np.empty(_CHUNK, np.int64), np.empty(_CHUNK, np.int64)
        lanes, positions = a[FILTERS], a[CHANNELS]
        lane_places, position_places = address_of(gradient_places), address_of(input_places)
        lane_source, position_source = a[GRADIENT], a[INPUTS]
        lane_mask, position_mask = a[MASK], np.int64(0)
        if swapped:
            lanes, positions = positions, lanes
            lane_source, position_source = position_source, lane_source
            lane_mask, position_mask = position_mask, lane_mask
            lane_places, position_places = position_places, lane_places
        lane_floats, position_floats = a[LANE_BLOCKS] * width, a[POSITION_BLOCKS] * packed_width
        packed_lanes = aligned_floats(_CHUNK * lane_floats)
        packed_positions = aligned_floats(_CHUNK * position_floats)
        sums = aligned_floats(lane_floats * a[POSITION_BLOCKS] * tile)
        bias = aligned_floats(max(lane_floats, a[POSITION_BLOCKS] * tile))
        lanes_at, positions_at = address_of(packed_lanes), address_of(packed_positions)
        t = np.zeros(_TILE_FIELDS, np.int64)
        t[_LANES_AT], t[_POSITIONS_AT], t[_SUMS_AT] = lanes_at, positions_at, address_of(sums)
        pixels = a[IMAGES] * a[ROWS] * a[COLUMNS]
        for task in range(begin, end):
            part = task // (a[LANE_GROUPS] * a[POSITION_GROUPS])
            lane_group = task // a[POSITION_GROUPS] % a[LANE_GROUPS]
            position_group = task % a[POSITION_GROUPS]
            lane0 = lane_group * a[LANE_BLOCKS] * width
            lane1 = min(lane0 + a[LANE_BLOCKS] * width, lanes)
            position0 = position_group * a[POSITION_BLOCKS] * tile
            position1 = min(position0 + a[POSITION_BLOCKS] * tile, positions)
            lane_blocks = (lane1 - lane0 + width - 1) // width
            t[_BLOCKS] = (position1 - position0 + tile - 1) // tile
            # One task of each block of filters sums the gradient of the bias.
            biased = a[GRAD_BIAS] != 0
            biased = biased and (lane_group if swapped else position_group) == 0
            sums[:] = np.float32(0)
            bias[:] = np.float32(0)
            first, last = part * pixels // a[PARTS], (part + 1) * pixels // a[PARTS]
            for begun in range(first, last, _CHUNK):
                done = min(begun + _CHUNK, last)
                t[_COUNT] = done - begun
                count = done - begun
                _find_pixels(a, input_places, gradient_places, begun, count)
                pack_columns(
                    lanes_at,
                    width,
                    lane_source + 4 * lane0,
                    lane_mask + 4 * lane0 if lane_mask != 0 else 0,
                    lane_places,
                    count,
                    lane1 - lane0,
                    width,
                )
                pack_columns(
                    positions_at,
                    packed_width,
                    position_source + 4 * position0,
                    position_mask + 4 * position0 if position_mask != 0 else 0,
                    position_places,
                    count,
                    position1 - position0,
                    tile,
                )
                if biased and not swapped:
                    add_columns(address_of(bias), lanes_at, lane_blocks, width, width, done - begun)
                elif biased:
                    add_columns(
                        address_of(bias), positions_at, t[_BLOCKS], packed_width, tile, done - begun
                    )
                call_kernel(a[TILE_KERNEL], address_of(t), 0, lane_blocks)
            offset = part * a[PART_BYTES]
            _write(
                a,
                address_of(sums),
                a[GRAD_WEIGHTS] + offset,
                lane0,
                lane1,
                position0,
                position1,
            )
            if biased:
                begin_filter = position0 if swapped else lane0
                end_filter = position1 if swapped else lane1
                copy_floats(
                    a[GRAD_BIAS] + offset + 4 * begin_filter,
                    address_of(bias),
                    end_filter - begin_filter,
                )
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        packed_lanes[:0] = np.float32(0)
        packed_positions[:0] = np.float32(0)
        sums[:0] = np.float32(0)
        bias[:0] = np.float32(0)
        input_places[:0] = 0
        gradient_places[:0] = 0
        t[:0] = 0

    return _weights_kernel


@cached_njit()
def _choose_tile(lanes: int, positions: int) -> tuple[int, int, int, int]:
    """Return the cost of the best tile for these numbers of columns, and the tile.

    The tile is three numbers: positions, vectors, and lanes of a vector.
    """
    wide = MAX_LANES
    while wide > 4 and lanes <= wide // 2:
        wide //= 2
    needed = (lanes + wide - 1) // wide
    best, tile, vectors = 0, 1, 1
    for columns in range(1, min(needed, _MAX_VECTORS) + 1):
        largest = min(_MAX_POSITIONS, (_REGISTERS - 2 - columns) // columns)
        chunks = (positions + largest - 1) // largest
        rows = (positions + chunks - 1) // chunks
        # Two multiply-adds begin in a cycle, take four cycles, and are faster than loads.
        cost = max(24 * rows * columns, 32 * (rows + columns), 24 * 8)
        cost *= chunks * ((needed + columns - 1) // columns)
        if best == 0 or cost < best:
            best, tile, vectors = cost, rows, columns
    return best, tile, vectors, wide


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Set the remaining arguments, run the tasks, and write the gradients."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_weights(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, FIELDS)
        channels, filters = a[CHANNELS], a[FILTERS]
        cost, tile, vectors, wide = _choose_tile(filters, channels)
        swapped = _choose_tile(channels, filters)
        lanes, positions = filters, channels
        a[SWAPPED] = 0
        if 21 * swapped[0] < 20 * cost:
            lanes, positions = channels, filters
            cost, tile, vectors, wide = swapped
            a[SWAPPED] = 1
        width = vectors * wide
        a[LANE_WIDTH], a[POSITION_WIDTH], a[PACKED_WIDTH] = width, tile, (tile + 7) // 8 * 8
        blocks, chunks = (lanes + width - 1) // width, (positions + tile - 1) // tile
        a[LANE_GROUPS] = (blocks * width + _LANE_COLUMNS - 1) // _LANE_COLUMNS
        a[LANE_BLOCKS] = (blocks + a[LANE_GROUPS] - 1) // a[LANE_GROUPS]
        a[LANE_GROUPS] = (blocks + a[LANE_BLOCKS] - 1) // a[LANE_BLOCKS]
        a[POSITION_GROUPS] = (chunks * tile + _POSITION_COLUMNS - 1) // _POSITION_COLUMNS
        a[POSITION_BLOCKS] = (chunks + a[POSITION_GROUPS] - 1) // a[POSITION_GROUPS]
        a[POSITION_GROUPS] = (chunks + a[POSITION_BLOCKS] - 1) // a[POSITION_BLOCKS]
        groups = a[LANE_GROUPS] * a[POSITION_GROUPS]
        pixels = a[IMAGES] * a[ROWS] * a[COLUMNS]
        a[PARTS] = min((_TASKS + groups - 1) // groups, (pixels + _CHUNK - 1) // _CHUNK)
        a[TILE_KERNEL] = kernel_address(_TILES + tile_number(tile, vectors, wide, 1))
        work = pixels * blocks * width * chunks * tile
        tasks = a[PARTS] * groups
        grain = max(1, 640_000 * tasks // max(work, 1))
        if a[PARTS] == 1:
            run_kernel(_WEIGHTS, a, tasks, grain)
            return
        floats = whole_lines(channels * filters + filters)
        sums = aligned_floats(a[PARTS] * floats).reshape(a[PARTS], 1, floats)
        grad_weights, grad_bias = a[GRAD_WEIGHTS], a[GRAD_BIAS]
        a[GRAD_WEIGHTS], a[PART_BYTES] = address_of(sums), 4 * floats
        if grad_bias != 0:
            a[GRAD_BIAS] = address_of(sums) + 4 * channels * filters
        run_kernel(_WEIGHTS, a, tasks, grain)
        add_parts(sums)
        copy_floats(grad_weights, address_of(sums), channels * filters)
        if grad_bias != 0:
            copy_floats(grad_bias, address_of(sums) + 4 * channels * filters, filters)
        sums[:0] = np.float32(0)

    return _launch_weights


@cached_njit()
def product_grad_weights(
    inputs: Any,
    strides: tuple[int, int],
    mask: int,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute the gradients of the weights and of the bias of a 1x1 convolution.

    Args:
        inputs: (N, H, W, C) float32, C-contiguous, as all arrays here.
        strides: strides of rows and columns.
        mask: address of the ReLU's outputs, or 0. If it is not 0, a value of the gradient counts
            only if its output is positive.
        grad_outputs: (N, OH, OW, F); not empty.
        grad_weights: (1, 1, C, F), written; not empty.
        grad_bias: (F,), written; empty if there is no bias.
    """
    a = np.zeros(FIELDS, np.int64)
    a[INPUTS], a[GRADIENT], a[MASK] = address_of(inputs), address_of(grad_outputs), mask
    a[GRAD_WEIGHTS] = address_of(grad_weights)
    a[GRAD_BIAS] = address_of(grad_bias) if grad_bias.size > 0 else 0
    a[IMAGES], a[ROWS], a[COLUMNS], a[FILTERS] = grad_outputs.shape
    a[CHANNELS] = inputs.shape[3]
    pixel = 4 * inputs.shape[3]
    a[COLUMN_BYTES], a[ROW_BYTES] = pixel * strides[1], pixel * inputs.shape[2] * strides[0]
    a[IMAGE_BYTES] = pixel * inputs.shape[2] * inputs.shape[1]
    call_once(_LAUNCH, a)
