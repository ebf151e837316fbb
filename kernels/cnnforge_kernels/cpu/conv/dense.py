"""Compute a dense layer on the CPU, a product of two matrices: ``inputs @ weights + bias``.

The matrix of the weights is much larger than that of the inputs, because a batch has few samples.
So each task copies a part of the weights to scratch memory that fits the caches, and multiplies it
by all samples. A register tile (``simd/tiles.py``) covers some samples and some filters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.conv.product import product_positions, product_width
from cnnforge_kernels.cpu.conv.product_packing import pack_columns
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.epilogues import tile_add_stored
from cnnforge_kernels.cpu.simd.product_tiles import product_accumulate
from cnnforge_kernels.cpu.simd.tile_choice import TILES, tile_number, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import tile_broadcast, tile_relu, tile_store_after

# Fields of the argument block: addresses, the sizes of the matrices, and whether a ReLU is applied.
# The BLOCKS blocks of filters are divided into COLUMNS parts, and the samples into PARTS parts.
_INPUTS, _WEIGHTS, _BIAS, _OUTPUTS = range(4)
_SAMPLES, _CHANNELS, _FILTERS, _RELU = range(4, 8)
_BLOCKS, _COLUMNS, _PARTS = range(8, 11)
_FIELDS = 11

# The number of channels that are multiplied before the next ones are copied, and the number of
# filters of a task. The copied weights fit a quarter of a second-level cache of 512 KiB.
_CHUNK = 128
_TASK_FILTERS = 256
# The number of tasks, if there are enough filters and samples. A task has _PART_SAMPLES samples or
# more, because each task copies its weights.
_TASKS = 8
_PART_SAMPLES = 32
# The number of multiply-adds of a grain, which take 5 us.
GRAIN_WORK = 160_000


@kernel_family(TILES)
def _FORWARD(number: int) -> Any:
    """Multiply some samples by some blocks of filters: tasks ``begin`` to ``end - 1``."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dense_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, _FIELDS)
        channels, filters, columns = a[_CHANNELS], a[_FILTERS], a[_COLUMNS]
        source_row, target_row = 4 * channels, 4 * filters
        blocks_each = (a[_BLOCKS] + columns - 1) // columns
        packed = aligned_floats(_CHUNK * blocks_each * WIDTH)
        bias = aligned_floats(blocks_each * WIDTH)
        places = np.empty(_CHUNK, np.int64)
        for row in range(_CHUNK):
            places[row] = row * target_row
        for task in range(begin, end):
            part, column = task // columns, task % columns
            first = part * a[_SAMPLES] // a[_PARTS]
            last = (part + 1) * a[_SAMPLES] // a[_PARTS]
            first_block = column * a[_BLOCKS] // columns
            last_block = (column + 1) * a[_BLOCKS] // columns
            first_filter = first_block * WIDTH
            valid_filters = min(last_block * WIDTH, filters) - first_filter
            bias[:] = np.float32(0)
            if a[_BIAS] != 0:
                copy_floats(address_of(bias), a[_BIAS] + 4 * first_filter, valid_filters)
            for begun in range(0, channels, _CHUNK):
                count = min(_CHUNK, channels - begun)
                pack_columns(
                    address_of(packed),
                    WIDTH,
                    a[_WEIGHTS] + begun * target_row + 4 * first_filter,
                    0,
                    address_of(places),
                    count,
                    valid_filters,
                    WIDTH,
                )
                rectified = a[_RELU] != 0 and begun + count == channels
                for number in range(last_block - first_block):
                    valid = valid_filters - number * WIDTH
                    weights = address_of(packed) + 4 * number * count * WIDTH
                    for place in range(first, last, T):
                        # The last tile ends at the last sample. It overlaps the tile before it, and
                        # does not store those samples again.
                        skipped = max(0, place + T - last)
                        at = place - skipped
                        target = a[_OUTPUTS] + at * target_row + 4 * (first_filter + number * WIDTH)
                        tile = product_accumulate(
                            tile_broadcast(address_of(bias) + 4 * number * WIDTH, T, G, L),
                            a[_INPUTS] + at * source_row + 4 * begun,
                            weights,
                            count,
                            source_row,
                            4,
                            T,
                            G,
                            L,
                        )
                        if begun > 0:
                            tile = tile_add_stored(tile, target, target_row, valid, T, G, 1)
                        if rectified:
                            tile = tile_relu(tile)
                        tile_store_after(tile, target, target_row, valid, skipped, T, G)
                bias[:] = np.float32(0)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        packed[:0] = np.float32(0)
        bias[:0] = np.float32(0)
        places[:0] = 0

    return _dense_kernel


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Choose the tile, divide the product into tasks, and run them."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_dense(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, _FIELDS)
        samples, filters = a[_SAMPLES], a[_FILTERS]
        vectors, lanes = product_width(filters)
        width = vectors * lanes
        a[_BLOCKS] = (filters + width - 1) // width
        columns = max((filters + _TASK_FILTERS - 1) // _TASK_FILTERS, min(a[_BLOCKS], _TASKS))
        a[_COLUMNS] = min(a[_BLOCKS], columns)
        wanted = (_TASKS + a[_COLUMNS] - 1) // a[_COLUMNS]
        a[_PARTS] = max(1, min(wanted, samples // _PART_SAMPLES))
        positions = product_positions(samples // a[_PARTS], vectors)
        tasks = a[_COLUMNS] * a[_PARTS]
        work = samples * a[_CHANNELS] * a[_BLOCKS] * width
        grain = max(1, GRAIN_WORK * tasks // max(work, 1))
        run_kernel(_FORWARD + tile_number(positions, vectors, lanes, 1), a, tasks, grain)

    return _launch_dense


@cached_njit()
def dense_forward(inputs: Any, weights: Any, bias: Any, relu: bool, outputs: Any) -> None:
    """Multiply ``inputs`` by ``weights``, add the bias, and apply a ReLU if ``relu``.

    Args:
        inputs: (N, C) float32, C-contiguous, as all arrays here.
        weights: (C, F).
        bias: (F,); empty if there is no bias.
        relu: whether a ReLU is applied.
        outputs: (N, F), written.
    """
    if outputs.size == 0:
        return
    if inputs.size == 0:
        for sample in range(len(outputs)):
            for f in range(outputs.shape[1]):
                value = bias[f] if bias.size > 0 else np.float32(0)
                outputs[sample, f] = np.float32(0) if relu and value < 0 else value
        return
    a = np.zeros(_FIELDS, np.int64)
    a[_INPUTS], a[_WEIGHTS], a[_OUTPUTS] = (
        address_of(inputs),
        address_of(weights),
        address_of(outputs),
    )
    a[_BIAS] = address_of(bias) if bias.size > 0 else 0
    a[_SAMPLES], a[_CHANNELS] = inputs.shape
    a[_FILTERS], a[_RELU] = weights.shape[1], 1 if relu else 0
    call_once(_LAUNCH, a)
