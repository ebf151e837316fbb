"""Multiply matrices, as a 1x1 convolution or a dense layer does.

A 1x1 convolution multiplies the matrix of all pixels of all images, (P, C), by the weights, (C, F).
The kernel reads the pixels where they are, without scratch memory, and a register tile
(``simd/tiles.py``) covers neighbouring pixels even if they are in two rows or two images. Each
output is one sum over all channels in their order. So it depends neither on the number of threads
nor on the size of the tile.

The weights are packed in blocks of the filters of a tile. A task multiplies some pixels by some
blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.packing import copy_floats, pack_planes
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
    vector_lanes,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.epilogues import (
    NO_ACTIVATION,
    tile_activate,
    tile_add_stored,
)
from cnnforge_kernels.cpu.simd.product_tiles import product_accumulate, tile_prefetch
from cnnforge_kernels.cpu.simd.streams import end_streams, streams, tile_stream
from cnnforge_kernels.cpu.simd.tile_choice import TILES, tile_number, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import tile_broadcast, tile_store_after

# Fields of the argument block. Addresses and strides are in bytes; the other fields are numbers of
# elements. ADDED is 0 if nothing is added. The pixels are divided into PARTS parts, and the BLOCKS
# blocks of filters into COLUMNS parts. Within a task, the pixels are divided into chunks of CHUNK
# pixels, a multiple of the tile's positions. STREAM is 1 if the target is written past the caches,
# else 0.
SOURCE, SOURCE_PIXEL, PIXELS, COUNT, WEIGHTS, BIAS = range(6)
TARGET, TARGET_PIXEL, ADDED, FILTERS, BLOCKS, ACTIVATION = range(6, 12)
PARTS, COLUMNS, CHUNK, GRAIN, STREAM = range(12, 17)
FIELDS = 17

_LANES = vector_lanes()
_REGISTERS = vector_registers()
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
# A tile needs a register for the address of each position, and the processor has 16 of these.
_MAX_POSITIONS = 8
# The pixels that a task reads should fit a quarter of a second-level cache of 512 KiB.
_TASK_BYTES = 128 * 1024
# Weights of this size stay in a second-level cache of 1 MiB together with a chunk of pixels.
_WEIGHT_BYTES = 384 * 1024
# A chunk of pixels should stay in a first-level cache. With one tile at a time, 64 channels and 256
# filters ran at 182 GFLOP/s, and with this size at 235.
_CHUNK_BYTES = 32 * 1024
# The number of multiply-adds of 5 us, at 32 in a nanosecond. With few and long tasks a thread would
# often wait for the last task of another thread.
_GRAIN_WORK = 160_000
# The minimum number of tasks for each thread, if there are enough tiles.
TASKS_EACH = 4


@kernel_family(TILES)
def PRODUCT(number: int) -> Any:
    """Multiply pixels by weights, for tasks ``begin`` to ``end - 1``."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _product_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, FIELDS)
        pixel, step, activation = a[SOURCE_PIXEL], a[TARGET_PIXEL], a[ACTIVATION]
        count, columns, parts, blocks = a[COUNT], a[COLUMNS], a[PARTS], a[BLOCKS]
        tiles = (a[PIXELS] + T - 1) // T
        for task in range(begin, end):
            part, column = task // columns, task % columns
            first, last = part * tiles // parts * T, (part + 1) * tiles // parts * T
            last = min(last, a[PIXELS])
            first_block, last_block = column * blocks // columns, (column + 1) * blocks // columns
            for begun in range(first, last, a[CHUNK]):
                done = min(begun + a[CHUNK], last)
                for number in range(first_block, last_block):
                    weights = a[WEIGHTS] + 4 * number * count * WIDTH
                    bias = a[BIAS] + 4 * number * WIDTH
                    valid = a[FILTERS] - number * WIDTH
                    for place in range(begun, done, T):
                        # Let the last tile end at the last pixel. It overlaps the tile before it,
                        # so skip what is stored already: `added` may be the same memory as the
                        # target.
                        skipped = max(0, place + T - done)
                        at = place - skipped
                        offset = at * step + 4 * number * WIDTH
                        if a[ADDED] != 0:
                            # What is added often comes from main memory. Fetch it meanwhile.
                            tile_prefetch(a[ADDED] + offset, step, T, G, L)
                        tile = product_accumulate(
                            tile_broadcast(bias, T, G, L),
                            a[SOURCE] + at * pixel,
                            weights,
                            count,
                            pixel,
                            4,
                            T,
                            G,
                            L,
                        )
                        if a[ADDED] != 0:
                            tile = tile_add_stored(tile, a[ADDED] + offset, step, valid, T, G, 1)
                        if activation != NO_ACTIVATION:
                            tile = tile_activate(tile, activation)
                        if a[STREAM] != 0 and skipped == 0 and valid >= WIDTH:
                            tile_stream(tile, a[TARGET] + offset, step, T, G)
                        else:
                            tile_store_after(tile, a[TARGET] + offset, step, valid, skipped, T, G)
        end_streams()

    return _product_kernel


@cached_njit()
def product_width(filters: int) -> tuple[int, int]:
    """Return the vectors of a tile and their lanes for a number of filters.

    The packed weights depend only on these two numbers.
    """
    lanes = _LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    best, vectors = 0, 1
    for wide in range(1, min(needed, _MAX_VECTORS) + 1):
        blocks = (needed + wide - 1) // wide
        # Each vector costs its multiply-adds, and each block costs the loads of the pixels.
        cost = blocks * (8 * wide + 3)
        if best == 0 or cost < best:
            best, vectors = cost, wide
    return vectors, lanes


@cached_njit()
def product_positions(pixels: int, vectors: int) -> int:
    """Return the positions of a tile for a number of pixels."""
    largest = min(_MAX_POSITIONS, (_REGISTERS - vectors - 2) // vectors, pixels)
    best, positions = 0, 1
    for wide in range(largest, 0, -1):
        tiles = (pixels + wide - 1) // wide
        # A tile of few sums waits for the results of its multiply-adds.
        cost = tiles * max(wide * vectors, 8)
        if best == 0 or 32 * cost < 31 * best:
            best, positions = cost, wide
    return positions


@cached_njit()
def divide_product(a: Any, positions: int, width: int, min_tasks: int) -> int:
    """Set the fields that divide a product into tasks, and return the number of tasks.

    ``a`` is the argument block, whose PIXELS, COUNT and BLOCKS are set. ``positions`` and ``width``
    are the pixels and the filters of a tile. ``min_tasks`` is the minimum number of tasks, if there
    are enough tiles.
    """
    pixels, count, blocks = a[PIXELS], a[COUNT], a[BLOCKS]
    a[PARTS], a[COLUMNS], a[CHUNK], a[GRAIN] = 1, 1, max(pixels, 1), 1
    if pixels == 0 or blocks == 0:
        return 0
    tiles = (pixels + positions - 1) // positions
    bytes_each = max(4 * count, 1)
    if blocks * width > pixels and tiles < 64:
        # Few pixels: each task reads its own weights, so that these are read from memory once.
        a[COLUMNS] = blocks
    else:
        wanted = max(_TASK_BYTES // (bytes_each * positions), 1)
        a[PARTS] = (tiles + wanted - 1) // wanted
        a[COLUMNS] = min(blocks, (min_tasks + a[PARTS] - 1) // a[PARTS])
    a[PARTS] = min(tiles, max(a[PARTS], (min_tasks + a[COLUMNS] - 1) // a[COLUMNS]))
    if bytes_each * blocks * width <= _WEIGHT_BYTES:
        # The weights stay in the second-level cache. So compute all filters of some pixels, which
        # stay in the first-level cache with one block of the weights.
        a[CHUNK] = max(_CHUNK_BYTES // (bytes_each * positions), 1) * positions
    tasks = a[PARTS] * a[COLUMNS]
    a[GRAIN] = max(1, _GRAIN_WORK * tasks // max(pixels * count * blocks * width, 1))
    return tasks


# Fields of the argument block of _LAUNCH, after those of a product: the address of the weights and
# of the bias (0 for none), and whether the weights are (filters, channels) and not (channels,
# filters).
_FACTORS, _BIAS_SOURCE, _TURNED = range(FIELDS, FIELDS + 3)
_LAUNCH_FIELDS = FIELDS + 3
_MIN_TASKS = 16


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Pack the weights, set the remaining arguments, and run the tasks of a product."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_product(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, _LAUNCH_FIELDS)
        count, filters, pixels = a[COUNT], a[FILTERS], a[PIXELS]
        # Variables, because Numba would compile the called functions again for literals.
        zero, one, min_tasks = np.int64(0), np.int64(1), np.int64(_MIN_TASKS)
        vectors, lanes = product_width(filters)
        width = vectors * lanes
        a[BLOCKS] = (filters + width - 1) // width
        packed = aligned_floats(a[BLOCKS] * count * width)
        packed_bias = aligned_floats(a[BLOCKS] * width)
        packed_bias[:] = np.float32(0)
        if filters % width != 0:
            packed[(a[BLOCKS] - 1) * count * width :] = np.float32(0)
        for number in range(a[BLOCKS]):
            first = number * width
            valid = min(width, filters - first)
            target = address_of(packed) + 4 * number * count * width
            if a[_TURNED] != 0:
                # Each filter is a row of floats. Write it as a column.
                source = a[_FACTORS] + 4 * first * count
                pack_planes(
                    target, 4 * width, one, source, zero, 4 * count, zero, zero, valid, count
                )
                continue
            for k in range(count):
                source = a[_FACTORS] + 4 * (k * filters + first)
                copy_floats(target + 4 * k * width, source, valid)
        if a[_BIAS_SOURCE] != 0:
            copy_floats(address_of(packed_bias), a[_BIAS_SOURCE], filters)
        a[WEIGHTS], a[BIAS] = address_of(packed), address_of(packed_bias)
        a[SOURCE_PIXEL], a[TARGET_PIXEL] = 4 * count, 4 * filters
        positions = product_positions(pixels, vectors)
        row = 4 * filters
        a[STREAM] = 1 if streams(a[TARGET], row, row * pixels) else 0
        tasks = divide_product(a, positions, width, min_tasks)
        run_kernel(PRODUCT + tile_number(positions, vectors, lanes, 1), a, tasks, a[GRAIN])
        # The kernel got only the addresses of these arrays. Numba frees an array after its last
        # use, so use the arrays here: they must not be freed earlier.
        packed[:0] = np.float32(0)
        packed_bias[:0] = np.float32(0)

    return _launch_product


@cached_njit()
def multiply(
    source: Any, weights: Any, turned: bool, bias: Any, activation: int, target: Any
) -> None:
    """Multiply all pixels of ``source`` by the weights of a 1x1 convolution.

    Args:
        source: (N, H, W, C) float32, C-contiguous, as all arrays here; not empty.
        weights: (1, 1, C, F), or (1, 1, F, C) if ``turned``.
        turned: whether the weights are (1, 1, F, C).
        bias: (F,); empty if there is no bias.
        activation: ``NO_ACTIVATION``, ``RELU`` or ``RELU6`` of ``simd/epilogues.py``.
        target: (N, H, W, F), written; not empty.
    """
    a = np.zeros(_LAUNCH_FIELDS, np.int64)
    a[SOURCE], a[TARGET] = address_of(source), address_of(target)
    a[COUNT], a[FILTERS] = source.shape[3], target.shape[3]
    a[PIXELS] = source.shape[0] * source.shape[1] * source.shape[2]
    a[_FACTORS], a[_TURNED] = address_of(weights), 1 if turned else 0
    a[_BIAS_SOURCE] = address_of(bias) if bias.size > 0 else 0
    a[ACTIVATION] = activation
    call_once(_LAUNCH, a)
