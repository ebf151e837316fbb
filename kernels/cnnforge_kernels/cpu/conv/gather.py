"""Compute the gradient of the weights by a sum over pixels, which is called *gather* here.

The gather computes

    sums[m, f] = sum over pixels of source[position(pixel) + m] * grad_outputs[pixel, f]

for tap and channel m and filter f. The source is the inputs of the convolution. The sums of some m
and some filters stay in a register tile (``simd/tiles.py``) while the kernel goes over the pixels.
The scratch memory has the axes (row, column, channel) of the source, so that the taps of one row of
the window and their channels are neighbours: if the columns are not dilated, m is the index of
(column tap, channel). If the taps of all KH rows fit the registers, one tile holds them all.

The images are divided into a fixed number of parts. A task sums one part in a fixed order, and then
the sums of the parts are added in order. So the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import gather_tiles as gt
from cnnforge_kernels.cpu.conv.packing import copy_floats, pack_pixels
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
from cnnforge_kernels.cpu.simd.tile_choice import MAX_ACCUMULATORS, TILES, choose_tile, tile_number
from cnnforge_kernels.cpu.simd.vectors import store_float, vector_add, vector_load, vector_store

# Fields of the argument block. Addresses are in bytes; the other fields are numbers of elements.
SOURCE, GRADIENT, MASK, SUMS = range(4)
IMAGES, HEIGHT, WIDTH, CHANNELS, ROWS, COLUMNS, FILTERS = range(4, 11)
GROUPS, GROUP_CHANNELS, GROUP_FILTERS = range(11, 14)
TAP_ROWS, TAP_COLUMNS, ROW_STEP, COLUMN_STEP, ROW_DILATION, COLUMN_DILATION = range(14, 20)
TOP, LEFT, MERGED, BLOCK_ROWS, BLOCKS, PARTS, PART_FLOATS, BIAS = range(20, 28)
GRAD_WEIGHTS, GRAD_BIAS = range(28, 30)
# The kernels of gather_tiles.py and their register tile: the address of the kernel that computes
# the tiles, and of the kernel that packs the gradient; the numbers of taps, of filters, and of
# vectors of filters in a tile; the number of floats that a tile reads for each pixel of the
# gradient.
TILE_KERNEL, PACK_KERNEL, TILE_TAPS, TILE_FILTERS, TILE_VECTORS, TILE_FLOATS = range(30, 36)
FIELDS = 36

# A task loads and stores all sums once for each block of rows, so a block should have at least
# MIN_PIXELS pixels. If the scratch memory for these pixels does not fit the first-level cache
# (_SCRATCH_BYTES), it may have _MAX_SCRATCH_BYTES, which fit the second-level cache.
_SCRATCH_BYTES = 40 * 1024
_MAX_SCRATCH_BYTES = 128 * 1024
MIN_PIXELS = 128
_PARTS = 8
# The number of sums that one task of _ADD, the final addition, adds over all parts.
_ADDED = 1024


@cached_njit()
def source_line(a: Any) -> int:
    """Return the number of floats of a line of the scratch memory.

    A line has all columns of a source row that outputs read.
    """
    columns = (a[COLUMNS] - 1) * a[COLUMN_STEP] + (a[TAP_COLUMNS] - 1) * a[COLUMN_DILATION] + 1
    return columns * a[GROUP_CHANNELS]


@cached_njit()
def source_lines(a: Any, rows: int) -> int:
    """Return the number of source rows that ``rows`` neighbouring output rows read.

    The scratch memory has one line for each of these source rows.
    """
    return (rows - 1) * a[ROW_STEP] + (a[TAP_ROWS] - 1) * a[ROW_DILATION] + 1


@cached_njit()
def source_place(a: Any, row: int, column: int) -> int:
    """Return the byte offset, in the scratch memory, of the value that an output's first tap reads.

    ``row`` and ``column`` are the position of the output in a block of rows.
    """
    pixel = a[GROUP_CHANNELS]
    return 4 * (row * a[ROW_STEP] * source_line(a) + column * a[COLUMN_STEP] * pixel)


@cached_njit(inline="never")
def pack_source(a: Any, target: int, image: int, group: int, row0: int, row1: int) -> None:
    """Copy to scratch memory the source rows that output rows ``row0`` to ``row1 - 1`` read.

    ``target`` is the address of the scratch memory. The caller has set it to zero, so that the
    padding is zero.
    """
    channels, line = a[GROUP_CHANNELS], source_line(a)
    # A variable, because Numba would compile the called function again for a literal.
    no_mask = np.int64(0)
    first = max(0, a[LEFT])
    last = min(a[WIDTH], a[LEFT] + line // channels)
    start = a[SOURCE] + 4 * (image * a[HEIGHT] * a[WIDTH] * a[CHANNELS] + group * channels)
    for held in range(source_lines(a, row1 - row0)):
        row = row0 * a[ROW_STEP] - a[TOP] + held
        if 0 <= row < a[HEIGHT] and first < last:
            pack_pixels(
                target + 4 * (held * line + (first - a[LEFT]) * channels),
                4 * channels,
                start + 4 * (row * a[WIDTH] + first) * a[CHANNELS],
                no_mask,
                4 * a[CHANNELS],
                last - first,
                channels,
            )


@cached_njit()
def taps_block(a: Any, source_at: int) -> Any:
    """Return an argument block for the kernels of ``gather_tiles.py``.

    Only the fields that are the same for all tasks are set.
    """
    t = np.zeros(gt.FIELDS, np.int64)
    pixel, line = a[GROUP_CHANNELS], source_line(a)
    t[gt.SOURCE] = source_at
    t[gt.TAP_LINE] = 4 * a[ROW_DILATION] * line
    t[gt.TAP_COLUMN] = 4 * a[COLUMN_DILATION] * pixel
    t[gt.OUTER_COLUMNS] = a[TAP_COLUMNS] // a[MERGED]
    t[gt.CHUNKS] = (a[MERGED] * pixel + a[TILE_TAPS] - 1) // a[TILE_TAPS]
    return t


@kernel_family(1)
def _GATHER(_: int) -> Any:
    """Run tasks ``begin`` to ``end - 1`` of a gather; ``gather_tiles.py`` computes the tiles."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gather_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        filters, width, tile_floats = a[GROUP_FILTERS], a[TILE_FILTERS], a[TILE_FLOATS]
        line = source_line(a)
        source = aligned_floats(source_lines(a, a[BLOCK_ROWS]) * line + a[TILE_TAPS])
        source_at = address_of(source)
        blocks = (filters + width - 1) // width
        pixels = a[BLOCK_ROWS] * a[COLUMNS]
        gradient = aligned_floats(blocks * pixels * tile_floats)
        offsets = np.empty(pixels, np.int64)
        for row in range(a[BLOCK_ROWS]):
            for column in range(a[COLUMNS]):
                offsets[row * a[COLUMNS] + column] = source_place(a, row, column)
        t = taps_block(a, source_at)
        block_at = address_of(t)
        t[gt.PLACES] = address_of(offsets)
        t[gt.PIXEL], t[gt.VECTORS] = 4 * a[FILTERS], a[TILE_VECTORS]
        # The number of sums of one block of filters, for all taps.
        block_floats = a[TAP_ROWS] * t[gt.OUTER_COLUMNS] * t[gt.CHUNKS] * a[TILE_TAPS] * width
        units = a[IMAGES] * a[BLOCKS]
        for task in range(begin, end):
            group = task % a[GROUPS]
            part = task // a[GROUPS]
            sums = a[SUMS] + 4 * task * a[PART_FLOATS]
            for index in range(a[PART_FLOATS]):
                store_float(sums + 4 * index, np.float32(0))
            for unit in range(part * units // a[PARTS], (part + 1) * units // a[PARTS]):
                image = unit // a[BLOCKS]
                row0 = (unit % a[BLOCKS]) * a[BLOCK_ROWS]
                row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
                source[:] = np.float32(0)
                pack_source(a, source_at, image, group, row0, row1)
                t[gt.COUNT] = (row1 - row0) * a[COLUMNS]
                here = (image * a[ROWS] + row0) * a[COLUMNS] * a[FILTERS] + group * filters
                for block in range(blocks):
                    place = 4 * (here + block * width)
                    t[gt.FACTORS] = address_of(gradient) + 4 * block * pixels * tile_floats
                    t[gt.GRADIENT] = a[GRADIENT] + place
                    t[gt.MASK] = a[MASK] + place if a[MASK] != 0 else 0
                    t[gt.VALID] = filters - block * width
                    t[gt.BIAS] = sums + 4 * (a[BIAS] + block * width)
                    call_kernel(a[PACK_KERNEL], block_at, 0, a[TILE_VECTORS])
                    t[gt.TARGET] = sums + 4 * block * block_floats
                    call_kernel(a[TILE_KERNEL], block_at, 0, a[TAP_ROWS])
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        source[:0] = np.float32(0)
        gradient[:0] = np.float32(0)
        offsets[:0] = 0
        t[:0] = 0

    return _gather_kernel


@cached_njit()
def tap_place(args: Any, i: int, j: int, channels: int) -> tuple[int, int]:
    """Return two numbers for tap (i, j): the index of its run, and its offset in the run.

    A run is a sequence of taps that are neighbours in the scratch memory. The offset is in floats.
    """
    run = i * (args[TAP_COLUMNS] // args[MERGED])
    return (run, j * channels) if args[MERGED] > 1 else (run + j, 0)


@cached_njit()
def cut_rows(args: Any, row_floats: int, unit: int, pixels: int) -> None:
    """Set BLOCK_ROWS, BLOCKS and PARTS so that the scratch of a block of rows fits a cache.

    Args:
        args: argument block.
        row_floats: number of floats of the scratch for one row.
        unit: number of neighbouring rows that must stay in one block, such as the rows of a pool
            window; BLOCK_ROWS is a multiple of this number.
        pixels: number of pixels that a block should have if the second-level cache holds them.
    """
    units = args[ROWS] // unit
    unit_bytes = 4 * row_floats * unit
    wanted = (pixels + args[COLUMNS] * unit - 1) // (args[COLUMNS] * unit)
    wanted = min(wanted, _MAX_SCRATCH_BYTES // unit_bytes)
    fitting = max(1, wanted, _SCRATCH_BYTES // unit_bytes)
    parts = (units + fitting - 1) // fitting
    args[BLOCK_ROWS] = (units + parts - 1) // parts * unit
    args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
    args[PARTS] = min(args[IMAGES] * args[BLOCKS], _PARTS)


@cached_njit()
def new_sums(args: Any) -> Any:
    """Return an array for the sums of all parts, float32 (parts, groups, floats).

    The sums of each part begin at a cache line.
    """
    floats = args[PARTS] * args[GROUPS] * args[PART_FLOATS]
    return aligned_floats(floats).reshape(args[PARTS], args[GROUPS], args[PART_FLOATS])


@cached_njit()
def whole_lines(floats: int) -> int:
    """Round a number of floats up to whole cache lines."""
    return (floats + 15) // 16 * 16


@kernel_family(1)
def _ADD(_: int) -> Any:
    """Add the sums of all other parts to those of the first; one task adds ``_ADDED`` sums.

    ``args`` has the address of the sums, the number of parts and the number of floats of a part.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _add_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, 3)
        for place in range(begin * _ADDED, min(end * _ADDED, a[2]), 16):
            valid = a[2] - place
            total = vector_load(a[0] + 4 * place, valid, 16)
            for part in range(1, a[1]):
                total = vector_add(total, vector_load(a[0] + 4 * (part * a[2] + place), valid, 16))
            vector_store(total, a[0] + 4 * place, valid)

    return _add_kernel


@cached_njit()
def add_parts(sums: Any) -> None:
    """Add all other parts of ``sums``, (parts, groups, floats), to the first part, in order."""
    args = np.empty(3, np.int64)
    args[0], args[1], args[2] = address_of(sums), sums.shape[0], sums[0].size
    run_kernel(_ADD, args, (args[2] + _ADDED - 1) // _ADDED, np.int64(8))


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Set the remaining arguments, run the tasks of a gather, and write the gradients."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_gather(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, FIELDS)
        kh, kw, groups, filters = args[TAP_ROWS], args[TAP_COLUMNS], args[GROUPS], args[FILTERS]
        channels = args[CHANNELS] // groups
        grad_weights = carray(floats_at(args[GRAD_WEIGHTS]), (kh, kw, channels, filters))
        per_group = filters // groups
        args[MERGED] = kw if args[COLUMN_DILATION] == 1 else 1
        taps, runs = args[MERGED] * channels, kh * (kw // args[MERGED])
        tile, vectors, lanes, pairs, _ = choose_tile(taps, per_group, 1, 1, True)
        width = vectors * lanes // pairs
        blocks = (per_group + width - 1) // width
        covered = tile * pairs
        padded = (taps + covered - 1) // covered * covered
        weight_floats = blocks * runs * padded * width
        # Let a tile hold all rows of the window if it can, because it is then loaded and stored
        # only once.
        tile_rows = 1
        one_run = runs == kh and padded == covered
        if one_run and kh <= gt.MAX_TILE_ROWS and kh * tile * vectors <= MAX_ACCUMULATORS:
            tile_rows = kh
        args[GROUP_CHANNELS], args[GROUP_FILTERS] = channels, per_group
        args[BIAS] = weight_floats
        args[PART_FLOATS] = whole_lines(weight_floats + blocks * width)
        pixel_floats = args[COLUMN_STEP] * channels + blocks * width * pairs
        cut_rows(args, args[COLUMNS] * pixel_floats, 1, MIN_PIXELS)
        parts = args[PARTS]
        sums = new_sums(args)
        args[SUMS] = address_of(sums)
        work = args[IMAGES] * args[ROWS] * args[COLUMNS] * padded * runs
        grain = max(1, 640_000 * parts // max(work * blocks * width, 1))
        number = tile_number(tile, vectors, lanes, pairs) + TILES * (tile_rows - 1)
        args[TILE_KERNEL] = kernel_address(gt.GATHER_TILES + number)
        each = lanes // pairs
        kind = (0 if each == 4 else 1 if each == 8 else 2) + 3 * (pairs - 1)
        args[PACK_KERNEL] = kernel_address(gt.PACK_GRADIENT + kind)
        args[TILE_TAPS], args[TILE_FILTERS] = covered, width
        args[TILE_VECTORS], args[TILE_FLOATS] = vectors, vectors * lanes
        run_kernel(_GATHER, args, parts * groups, grain)
        add_parts(sums)
        for group in range(groups):
            total = sums[0, group]
            for block in range(blocks):
                first = group * per_group + block * width
                valid = min(width, per_group - block * width)
                for i in range(kh):
                    for j in range(kw):
                        run, place = tap_place(args, i, j, channels)
                        place += (block * runs + run) * padded
                        for c in range(channels):
                            if pairs == 1:
                                source = address_of(total) + 4 * (place + c) * width
                                copy_floats(
                                    address_of(grad_weights[i, j, c, first:]), source, valid
                                )
                                continue
                            # A vector holds two taps: one in the even lanes, one in the odd lanes.
                            row, odd = (place + c) // pairs, (place + c) % pairs
                            for f in range(valid):
                                grad_weights[i, j, c, first + f] = total[
                                    (row * width + f) * pairs + odd
                                ]
            if args[GRAD_BIAS] != 0:
                grad_bias = carray(floats_at(args[GRAD_BIAS]), filters)
                for f in range(per_group):
                    grad_bias[group * per_group + f] = total[weight_floats + f]

    return _launch_gather


@cached_njit()
def gather(args: Any, grad_weights: Any, grad_bias: Any) -> None:
    """Compute the gradients of the weights and of the bias.

    Args:
        args: int64 argument block. ``gather_block`` (``conv2d.py``) has set the fields of the
            convolution, and the caller has set GRADIENT and MASK.
        grad_weights: (KH, KW, C / groups, F) float32, written.
        grad_bias: (F,) float32, written; empty if there is no bias.
    """
    args[GRAD_WEIGHTS] = address_of(grad_weights)
    args[GRAD_BIAS] = address_of(grad_bias) if grad_bias.size > 0 else 0
    call_once(_LAUNCH, args)
