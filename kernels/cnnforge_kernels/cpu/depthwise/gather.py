"""Compute the gradient of a depthwise convolution's weights by a sum over pixels.

This sum is called *gather*. The gather computes

    sums[k, c] = sum over pixels of source[position(pixel) + offset_k, c] * gradient[pixel, c]

for tap k and channel c. The SIMD lanes are channels. A register tile holds the sums of all taps of
a window, or of some taps of a large window, so that a value of the gradient is loaded once for all
of these taps.

If a row is outside the image, a row of zeros is read in place of it. If the window of an output
reaches beyond the left or right border, the source columns that this output reads are copied to
*strips*, in which the padding is zero; other columns are not copied. With a depth multiplier M
above 1 all columns are copied, with each channel M times.

The images are divided into a fixed number of parts. A task sums one part in a fixed order, and then
the sums of the parts are added in order. So the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.gather import add_parts
from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.depthwise.sweep import choose_lanes, width_number
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.channels import channels_store, pixels_accumulate
from cnnforge_kernels.cpu.simd.tiles import tile_load
from cnnforge_kernels.cpu.simd.vectors import load_float, store_float

# Fields of the argument block. Addresses are in bytes; the other fields are numbers of elements.
# WIDE is the number of output channels, C * M; the source has WIDE / REPEAT channels. Outputs in
# columns INNER to AFTER_INNER - 1 read no padding.
SOURCE, GRADIENT, MASK, SUMS = range(4)
IMAGES, HEIGHT, WIDTH, WIDE, REPEAT, ROWS, COLUMNS = range(4, 11)
TAP_ROWS, ROW_STEP, ROW_DILATION, TOP = range(11, 15)
TAP_COLUMNS, COLUMN_STEP, COLUMN_DILATION, LEFT = range(15, 19)
INNER, AFTER_INNER, BLOCK_ROWS, BLOCKS, PARTS, PART_FLOATS = range(19, 25)
FIELDS = 25

_REGISTERS = vector_registers()
# Maximum number of bytes that a task reads for one block of rows. They should fit the second-level
# cache.
_BLOCK_BYTES = 256 * 1024
_PARTS = 8
_MAX_TAPS = 7  # the maximum number of rows, and of columns, of taps of a tile
_KINDS = _MAX_TAPS * _MAX_TAPS * 4 * 5 * 2


def _kind_of_number(number: int) -> tuple[int, int, int, int, int]:
    """Return five properties of a kernel: tap rows, tap columns, vectors, lanes, masked."""
    taps = number % (_MAX_TAPS * _MAX_TAPS)
    kind = number // (_MAX_TAPS * _MAX_TAPS)
    vectors, lanes = kind // 2 % 4 + 1, 1 << (kind // 8)
    return taps // _MAX_TAPS + 1, taps % _MAX_TAPS + 1, vectors, lanes, kind % 2


@cached_njit()
def _reach(a: Any, columns: int) -> int:
    """Return the number of source columns that ``columns`` neighbouring outputs read."""
    if columns <= 0:
        return 0
    return (columns - 1) * a[COLUMN_STEP] + (a[TAP_COLUMNS] - 1) * a[COLUMN_DILATION] + 1


@cached_njit(inline="never")
def _fill_strip(
    a: Any, image: int, row0: int, row1: int, column: int, columns: int, target: int
) -> None:
    """Copy from source rows ``row0`` to ``row1 - 1`` only the columns that some outputs read.

    The outputs are ``columns`` neighbours, and the first has index ``column``. Each channel is
    written REPEAT times.
    """
    repeat = a[REPEAT]
    channels = a[WIDE] // repeat
    reach = _reach(a, columns)
    left = column * a[COLUMN_STEP] - a[LEFT]
    first, last = max(0, left), min(a[WIDTH], left + reach)
    for row in range(max(0, row0), min(row1, a[HEIGHT])):
        source = a[SOURCE] + 4 * ((image * a[HEIGHT] + row) * a[WIDTH] + first) * channels
        place = target + 4 * ((row - row0) * reach + first - left) * a[WIDE]
        for index in range((last - first) * channels):
            value = load_float(source + 4 * index)
            for copy in range(repeat):
                store_float(place + 4 * (index * repeat + copy), value)


@kernel_family(_KINDS)
def _GATHER(number: int) -> Any:
    KR, KC, V, L, masked = _kind_of_number(number)
    K = KR * KC + 1

    @cached_cfunc(KERNEL_SIGNATURE)
    def _depthwise_gather_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide = a[WIDE]
        pixel = 4 * wide
        row_chunks = (a[TAP_ROWS] + KR - 1) // KR
        column_chunks = (a[TAP_COLUMNS] + KC - 1) // KC
        ends = np.array([0, a[INNER], a[AFTER_INNER], a[COLUMNS]])
        held = (a[BLOCK_ROWS] - 1) * a[ROW_STEP] + (a[TAP_ROWS] - 1) * a[ROW_DILATION] + 1
        left_floats = held * _reach(a, a[INNER]) * wide
        right_floats = held * _reach(a, a[COLUMNS] - a[AFTER_INNER]) * wide
        strips = np.zeros(left_floats + right_floats, np.float32)
        widest = max(a[INNER], a[AFTER_INNER] - a[INNER], a[COLUMNS] - a[AFTER_INNER])
        nothing = np.zeros(_reach(a, widest) * wide, np.float32)
        pointers = np.empty(a[BLOCK_ROWS] * 3 * a[TAP_ROWS], np.int64)
        units = a[IMAGES] * a[BLOCKS]
        for task in range(begin, end):
            sums = a[SUMS] + 4 * task * a[PART_FLOATS]
            for index in range(a[PART_FLOATS]):
                store_float(sums + 4 * index, np.float32(0))
            for unit in range(task * units // a[PARTS], (task + 1) * units // a[PARTS]):
                image = unit // a[BLOCKS]
                row0 = (unit % a[BLOCKS]) * a[BLOCK_ROWS]
                row1 = min(row0 + a[BLOCK_ROWS], a[ROWS])
                top = row0 * a[ROW_STEP] - a[TOP]
                bottom = top + (row1 - 1 - row0) * a[ROW_STEP]
                bottom += (a[TAP_ROWS] - 1) * a[ROW_DILATION] + 1
                for side in range(0, 3, 2):
                    place = address_of(strips) + (4 * left_floats if side == 2 else 0)
                    columns = ends[side + 1] - ends[side]
                    _fill_strip(a, image, top, bottom, ends[side], columns, place)
                for row in range(row0, row1):
                    for segment in range(3):
                        reach = _reach(a, ends[segment + 1] - ends[segment]) * pixel
                        for i in range(a[TAP_ROWS]):
                            y = row * a[ROW_STEP] - a[TOP] + i * a[ROW_DILATION]
                            place = address_of(strips) + (y - top) * reach
                            if y < 0 or y >= a[HEIGHT]:
                                place = address_of(nothing)
                            elif segment == 1:
                                place = (image * a[HEIGHT] + y) * a[WIDTH] - a[LEFT]
                                place = a[SOURCE] + (place + ends[1] * a[COLUMN_STEP]) * pixel
                            elif segment == 2:
                                place += 4 * left_floats
                            pointers[((row - row0) * 3 + segment) * a[TAP_ROWS] + i] = place
                gradient = (image * a[ROWS] + row0) * a[COLUMNS] * pixel
                target = sums
                c = 0
                while c < wide:
                    c = min(c, wide - V * L)
                    for i in range(row_chunks):
                        i = min(i * KR, a[TAP_ROWS] - KR)
                        for j in range(column_chunks):
                            j = min(j * KC, a[TAP_COLUMNS] - KC)
                            tile = tile_load(target, 4 * V * L, K, V, L)
                            for segment in range((row1 - row0) * 3):
                                side = segment % 3
                                place = segment // 3 * a[COLUMNS] + ends[side]
                                place = gradient + place * pixel + 4 * c
                                tile = pixels_accumulate(
                                    tile,
                                    address_of(pointers) + 8 * (segment * a[TAP_ROWS] + i),
                                    4 * c + j * a[COLUMN_DILATION] * pixel,
                                    a[COLUMN_DILATION] * pixel,
                                    a[COLUMN_STEP] * pixel,
                                    a[GRADIENT] + place,
                                    a[MASK] + place,
                                    pixel,
                                    ends[side + 1] - ends[side],
                                    KR,
                                    KC,
                                    V,
                                    L,
                                    masked,
                                )
                            channels_store(tile, target, 4 * V * L, K, V)
                            target += 4 * K * V * L
                    c += V * L
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        strips[:0] = np.float32(0)
        nothing[:0] = np.float32(0)
        pointers[:0] = 0

    return _depthwise_gather_kernel


@cached_njit()
def _choose_taps(rows: int, columns: int, channels: int) -> tuple[int, int, int, int]:
    """Return four numbers for a tile whose sums fit the registers.

    These are the rows of taps, the columns of taps, the vectors of channels, and their lanes.
    """
    limit = _REGISTERS - 4
    parts = (columns + _MAX_TAPS - 1) // _MAX_TAPS
    wide = (columns + parts - 1) // parts
    fitting = min(_MAX_TAPS, (limit - 1) // wide)
    parts = (rows + fitting - 1) // fitting
    high = (rows + parts - 1) // parts
    vectors, lanes = choose_lanes(channels, max(1, min(4, limit // (high * wide + 1))))
    return high, wide, vectors, lanes


@cached_njit()
def gather(args: Any, grad_weights: Any, grad_bias: Any) -> None:
    """Compute the gradients of the weights and of the bias.

    Args:
        args: int64 argument block. The caller has set all fields up to LEFT except SUMS.
        grad_weights: (KH, KW, C, M) float32, written.
        grad_bias: (C * M,) float32, written; empty if there is no bias.
    """
    kh, kw, _, _ = grad_weights.shape
    wide, step = args[WIDE], args[COLUMN_STEP]
    high, broad, vectors, lanes = _choose_taps(kh, kw, wide)
    args[INNER] = args[AFTER_INNER] = args[COLUMNS]
    if args[REPEAT] == 1:
        reach = (kw - 1) * args[COLUMN_DILATION] - args[LEFT]
        args[INNER] = min(args[COLUMNS], (args[LEFT] + step - 1) // step)
        after = min(args[COLUMNS], (args[WIDTH] - reach + step - 1) // step)
        args[AFTER_INNER] = max(args[INNER], after)
    strip = _reach(args, args[INNER]) + _reach(args, args[COLUMNS] - args[AFTER_INNER])
    row_floats = (strip * step + 2 * args[COLUMNS]) * wide
    fitting = min(_BLOCK_BYTES // (4 * row_floats), args[IMAGES] * args[ROWS] // _PARTS)
    fitting = max(1, min(fitting, args[ROWS]))
    blocks = (args[ROWS] + fitting - 1) // fitting
    args[BLOCK_ROWS] = (args[ROWS] + blocks - 1) // blocks
    args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
    args[PARTS] = parts = min(args[IMAGES] * args[BLOCKS], _PARTS)
    width = vectors * lanes
    channel_blocks = (wide + width - 1) // width
    row_chunks, column_chunks = (kh + high - 1) // high, (kw + broad - 1) // broad
    tile_floats = (high * broad + 1) * width
    args[PART_FLOATS] = channel_blocks * row_chunks * column_chunks * tile_floats
    sums = np.empty((parts, 1, args[PART_FLOATS]), np.float32)
    args[SUMS] = address_of(sums)
    number = (width_number(lanes) * 4 + vectors - 1) * 2 + (1 if args[MASK] != 0 else 0)
    number = number * _MAX_TAPS * _MAX_TAPS + (high - 1) * _MAX_TAPS + broad - 1
    work = args[IMAGES] * args[ROWS] * args[COLUMNS] * (kh * kw + 4) * wide
    run_kernel(_GATHER + number, args, parts, max(1, 320_000 * parts // max(work, 1)))
    add_parts(sums)
    taps = grad_weights.reshape(kh * kw, wide)
    total = sums[0, 0]
    place = 0
    for block in range(channel_blocks):
        c = min(block * width, wide - width)
        for row_chunk in range(row_chunks):
            i = min(row_chunk * high, kh - high)
            for column_chunk in range(column_chunks):
                j = min(column_chunk * broad, kw - broad)
                for row in range(i, i + high):
                    for column in range(j, j + broad):
                        target = address_of(taps[row * kw + column, c:])
                        copy_floats(target, address_of(total[place:]), width)
                        place += width
                if grad_bias.size > 0:
                    copy_floats(address_of(grad_bias[c:]), address_of(total[place:]), width)
                place += width
