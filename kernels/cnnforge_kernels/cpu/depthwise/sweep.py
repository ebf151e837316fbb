"""Compute a depthwise convolution, or the gradient of its inputs.

The algorithm is called *sweep*. A sweep computes

    outputs[p, c] = bias[c] + sum over k of source[p + offset_k, c] * weights[k, c]

for pixel p, tap k and channel c. The forward pass is one sweep over the inputs. The gradient of the
inputs is one sweep over the gradient of the outputs for each phase of the stride: the inputs whose
row and column have the same remainders modulo the strides.

The SIMD lanes are channels, which are neighbours in memory, so that the source need not be packed.
Each value of the source is loaded from the first-level cache once for each tap. These loads, and
the memory, limit the speed. Taps outside the image are left out. If some rows of taps are outside,
the table of taps begins later or ends earlier. Output columns that have taps outside are computed
one at a time.

Source rows are copied to scratch rows only if there is a mask or if the depth multiplier M is above
1; then the copy has each channel M times. The scratch rows are a ring buffer: a new row overwrites
the oldest. The weights are not packed, because their layout is (tap, C * M) already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray
from numba.extending import register_jitable

from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, load_int64
from cnnforge_kernels.cpu.simd.channels import channels_store, taps_accumulate
from cnnforge_kernels.cpu.simd.epilogues import NO_ACTIVATION, tile_activate
from cnnforge_kernels.cpu.simd.streams import end_streams, tile_stream
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.tiles import tile_broadcast
from cnnforge_kernels.cpu.simd.vectors import (
    load_float,
    store_float,
    vector_load,
    vector_store,
    vector_where_positive,
)

# Fields of the argument block. Addresses, and strides of the target, are in bytes. WIDE is the
# number of channels that a tile computes, C * M. The source has WIDE / REPEAT channels, the target
# WIDE / SUMMED. Outputs in columns INNER to AFTER_INNER - 1 read no padding. RELU is an activation
# of `tile_activate`. STREAM is 1 if the target is written past the caches, else 0.
SOURCE, MASK, IMAGES, HEIGHT, WIDTH, WIDE, REPEAT, SUMMED = range(8)
TAP_ROWS, ROW_STEP, ROW_ORIGIN, ROW_DILATION = range(8, 12)
TAP_COLUMNS, COLUMN_STEP, COLUMN_ORIGIN, COLUMN_DILATION = range(12, 16)
TABLE, WEIGHTS, BIAS, RELU = range(16, 20)
TARGET, TARGET_IMAGE, TARGET_ROW, TARGET_COLUMN = range(20, 24)
ROWS, COLUMNS, INNER, AFTER_INNER, BLOCK_ROWS, BLOCKS, ZEROS, STREAM = range(24, 32)
FIELDS = 32

_REGISTERS = vector_registers()
MAX_POSITIONS = 8
MAX_VECTORS = 4 if _REGISTERS == 32 else 2
_WIDTHS = 5  # the number of possible vector sizes: 1, 2, 4, 8 and 16 lanes


@register_jitable
def choose_lanes(channels: int, most_vectors: int) -> tuple[int, int]:
    """Return two numbers: the number of vectors in a block of channels, and the lanes of a vector.

    A block never has more lanes than there are channels. The caller moves the last block back, so
    that it ends at the last channel. So loads and stores need no mask.
    """
    lanes = MAX_LANES
    while lanes > channels:
        lanes //= 2
    needed = (channels + lanes - 1) // lanes
    blocks = (needed + most_vectors - 1) // most_vectors
    vectors = (needed + blocks - 1) // blocks
    return min(vectors, channels // lanes), lanes


@register_jitable
def width_number(lanes: int) -> int:
    """Return the base-2 logarithm of ``lanes``, which is a power of two."""
    number = 0
    while 1 << number < lanes:
        number += 1
    return number


@cached_njit(inline="never")
def _copy_row(a: Any, source: int, mask: int, target: int) -> None:
    """Copy one row of the source to a scratch row.

    If ``mask`` is not 0, values whose mask is not positive become zero; else each channel is
    written REPEAT times.
    """
    repeat = a[REPEAT]
    count = a[WIDTH] * (a[WIDE] // repeat)
    if mask == 0:
        for index in range(count):
            value = load_float(source + 4 * index)
            for copy in range(repeat):
                store_float(target + 4 * (index * repeat + copy), value)
        return
    for index in range(0, count, MAX_LANES):
        gate = vector_load(mask + 4 * index, count - index, MAX_LANES)
        value = vector_load(source + 4 * index, count - index, MAX_LANES)
        value = vector_where_positive(gate, value)
        vector_store(value, target + 4 * index, count - index)


@kernel_family(MAX_POSITIONS * 4 * _WIDTHS)
def SWEEP(number: int) -> Any:
    """Compute a sweep; a task computes BLOCK_ROWS rows of the target."""
    T, G = number % MAX_POSITIONS + 1, number // MAX_POSITIONS % 4 + 1
    L = 1 << (number // (4 * MAX_POSITIONS))

    @cached_cfunc(KERNEL_SIGNATURE)
    def _depthwise_sweep_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide, taps = a[WIDE], a[TAP_COLUMNS]
        line, pixel, activation = 4 * a[WIDTH] * wide, 4 * wide, a[RELU]
        copied = a[MASK] != 0 or a[REPEAT] > 1
        ring = (a[TAP_ROWS] - 1) * a[ROW_DILATION] + 1
        scratch = np.empty((ring if copied else 0) * line // 4 + 1, np.float32)
        places = np.empty(a[TAP_ROWS] * taps * 2 if copied else 0, np.int64)
        spare = np.empty((a[COLUMNS] * wide if a[SUMMED] > 1 else 0) + 1, np.float32)
        for task in range(begin, end):
            image = task // a[BLOCKS]
            row0 = (task % a[BLOCKS]) * a[BLOCK_ROWS]
            source = a[SOURCE] + image * a[HEIGHT] * line // a[REPEAT]
            filled = max(0, row0 * a[ROW_STEP] + a[ROW_ORIGIN])
            for row in range(row0, min(row0 + a[BLOCK_ROWS], a[ROWS])):
                top = row * a[ROW_STEP] + a[ROW_ORIGIN]
                first_row = max(0, (a[ROW_DILATION] - 1 - top) // a[ROW_DILATION])
                rows = (a[HEIGHT] - top + a[ROW_DILATION] - 1) // a[ROW_DILATION]
                rows = max(min(a[TAP_ROWS], rows) - first_row, 0)
                base = source + top * line
                table = a[TABLE] + 16 * first_row * taps
                if copied:
                    while rows > 0 and filled <= top + (first_row + rows - 1) * a[ROW_DILATION]:
                        here = source + filled * line // a[REPEAT]
                        mask = a[MASK] + here - a[SOURCE] if a[MASK] != 0 else 0
                        _copy_row(a, here, mask, address_of(scratch) + filled % ring * line)
                        filled += 1
                    # The source rows of each output row are at other places of the ring buffer, so
                    # make a new table of offsets.
                    base = address_of(scratch)
                    for i in range(rows):
                        y = top + (first_row + i) * a[ROW_DILATION]
                        for j in range(taps):
                            column = a[COLUMN_ORIGIN] + j * a[COLUMN_DILATION]
                            place = 2 * (i * taps + j)
                            places[place] = y % ring * line + column * pixel
                            places[place + 1] = load_int64(table + 8 * place + 8)
                    table = address_of(places)
                target, step = a[TARGET] + image * a[TARGET_IMAGE], a[TARGET_COLUMN]
                target += row * a[TARGET_ROW]
                if a[SUMMED] > 1:
                    target, step = address_of(spare), pixel
                column = 0
                while column < a[COLUMNS]:
                    if a[INNER] <= column < a[AFTER_INNER]:
                        column = min(column, a[AFTER_INNER] - T)
                        here = base + column * a[COLUMN_STEP] * pixel
                        c = 0
                        while c < wide:
                            c = min(c, wide - G * L)
                            tile = tile_broadcast(a[BIAS] + 4 * c, T, G, L)
                            tile = taps_accumulate(
                                tile,
                                here + 4 * c,
                                a[WEIGHTS] + 4 * c,
                                table,
                                rows * taps,
                                a[COLUMN_STEP] * pixel,
                                T,
                                G,
                                L,
                            )
                            if activation != NO_ACTIVATION:
                                tile = tile_activate(tile, activation)
                            place = target + column * step + 4 * c
                            if a[STREAM] != 0:
                                tile_stream(tile, place, step, T, G)
                            else:
                                channels_store(tile, place, step, T, G)
                            c += G * L
                        column += T
                        continue
                    left = column * a[COLUMN_STEP] + a[COLUMN_ORIGIN]
                    first = max(0, (a[COLUMN_DILATION] - 1 - left) // a[COLUMN_DILATION])
                    count = (a[WIDTH] - left + a[COLUMN_DILATION] - 1) // a[COLUMN_DILATION]
                    count = min(taps, count) - first
                    here = base + column * a[COLUMN_STEP] * pixel
                    c = 0
                    while c < wide:
                        c = min(c, wide - G * L)
                        tile = tile_broadcast(a[BIAS] + 4 * c, 1, G, L)
                        for i in range(rows):
                            entry = table + 16 * (i * taps + first)
                            tile = taps_accumulate(
                                tile, here + 4 * c, a[WEIGHTS] + 4 * c, entry, count, 0, 1, G, L
                            )
                        if activation != NO_ACTIVATION:
                            tile = tile_activate(tile, activation)
                        channels_store(tile, target + column * step + 4 * c, step, 1, G)
                        c += G * L
                    column += 1
                if a[SUMMED] > 1:
                    target = a[TARGET] + image * a[TARGET_IMAGE] + row * a[TARGET_ROW]
                    for column in range(a[COLUMNS]):
                        for c in range(wide // a[SUMMED]):
                            total = np.float32(0)
                            for copy in range(a[SUMMED]):
                                total += spare[column * wide + c * a[SUMMED] + copy]
                            store_float(target + column * a[TARGET_COLUMN] + 4 * c, total)
        end_streams()
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        scratch[:0] = np.float32(0)
        places[:0] = 0
        spare[:0] = np.float32(0)

    return _depthwise_sweep_kernel
