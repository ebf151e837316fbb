"""Compute the gradients of a dense layer on the CPU.

    grad_inputs = grad_outputs @ weights.T
    grad_weights = inputs.T @ grad_outputs
    grad_bias = the sum of grad_outputs over the samples

The lanes of a register tile (``simd/tiles.py``) are samples for the first product, and filters for
the second one. Its positions are channels. So the large matrix, the weights or their gradient, is
read or written at its place, once, and only the small matrices are copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.dense import GRAIN_WORK
from cnnforge_kernels.cpu.conv.gather import add_parts, whole_lines
from cnnforge_kernels.cpu.conv.packing import copy_floats, pack_planes
from cnnforge_kernels.cpu.conv.product import product_positions, product_width
from cnnforge_kernels.cpu.conv.product_packing import add_columns, pack_columns
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
from cnnforge_kernels.cpu.simd.tiles import tile_broadcast, tile_load, tile_store_after

# Fields of the argument block: addresses, and the sizes of the matrices. MASK is the address of a
# ReLU's outputs, or 0. PACKED is the address of the packed gradient, which has BLOCKS blocks of
# WIDTH columns. SUMS is the address of the sums of each part of the gradient, or 0. The tasks of
# the gradient of the weights divide the blocks into GROUPS groups.
_INPUTS, _WEIGHTS, _GRADIENT, _MASK = range(4)
_GRAD_INPUTS, _GRAD_WEIGHTS, _GRAD_BIAS = range(4, 7)
_SAMPLES, _CHANNELS, _FILTERS = range(7, 10)
_PACKED, _BLOCKS, _WIDTH, _SUMS, _GROUPS = range(10, 15)
_FIELDS = 15

# The number of channels of a task, and the number of terms that are summed before the next ones are
# read. The sums and the copies of a task fit a second-level cache of 512 KiB.
_TASK_CHANNELS = 64
_TERMS = 256
# The minimum number of tasks of the gradient of the weights, if there are enough filters.
_MIN_TASKS = 8
# The number of floats of the packed gradient that a task reads again and again.
_GROUP_FLOATS = 64 * 1024


@kernel_family(TILES)
def _GRAD_INPUTS_KERNEL(number: int) -> Any:
    """Compute the gradient of some channels of the inputs: tasks ``begin`` to ``end - 1``."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dense_inputs_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, _FIELDS)
        channels, filters, blocks = a[_CHANNELS], a[_FILTERS], a[_BLOCKS]
        # The sums have the axes (channel, sample).
        sums_row = 4 * blocks * WIDTH
        sums = aligned_floats(_TASK_CHANNELS * blocks * WIDTH)
        zeros = aligned_floats(WIDTH)
        zeros[:] = np.float32(0)
        for task in range(begin, end):
            first = task * _TASK_CHANNELS
            count = min(_TASK_CHANNELS, channels - first)
            for begun in range(0, filters, _TERMS):
                terms = min(_TERMS, filters - begun)
                for number in range(blocks):
                    gradient = a[_PACKED] + 4 * (number * filters + begun) * WIDTH
                    for place in range(0, count, T):
                        # The last tile ends at the last channel. It overlaps the tile before it,
                        # and does not store those channels again.
                        skipped = max(0, place + T - count)
                        at = place - skipped
                        target = address_of(sums) + at * sums_row + 4 * number * WIDTH
                        if begun == 0:
                            tile = tile_broadcast(address_of(zeros), T, G, L)
                        else:
                            tile = tile_load(target, sums_row, T, G, L)
                        tile = product_accumulate(
                            tile,
                            a[_WEIGHTS] + 4 * ((first + at) * filters + begun),
                            gradient,
                            terms,
                            4 * filters,
                            4,
                            T,
                            G,
                            L,
                        )
                        tile_store_after(tile, target, sums_row, WIDTH, skipped, T, G)
            # Zeros and ones as variables, because Numba would compile the function for literals.
            zero, one = np.int64(0), np.int64(1)
            pack_planes(
                a[_GRAD_INPUTS] + 4 * first,
                4 * channels,
                one,
                address_of(sums),
                zero,
                sums_row,
                zero,
                zero,
                count,
                a[_SAMPLES],
            )
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        sums[:0] = np.float32(0)
        zeros[:0] = np.float32(0)

    return _dense_inputs_kernel


@kernel_family(1)
def _LAUNCH_INPUTS(_: int) -> Any:
    """Transpose the gradient of the outputs, and run the tasks of the gradient of the inputs."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_dense_inputs(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, _FIELDS)
        samples, channels, filters = a[_SAMPLES], a[_CHANNELS], a[_FILTERS]
        zero, one = np.int64(0), np.int64(1)
        vectors, lanes = product_width(samples)
        width = vectors * lanes
        a[_BLOCKS] = (samples + width - 1) // width
        # The packed gradient has the axes (block, filter, sample).
        packed = aligned_floats(a[_BLOCKS] * filters * width)
        if samples % width != 0:
            packed[(a[_BLOCKS] - 1) * filters * width :] = np.float32(0)
        a[_PACKED] = address_of(packed)
        for number in range(a[_BLOCKS]):
            offset = 4 * number * width * filters
            pack_planes(
                a[_PACKED] + offset,
                4 * width,
                one,
                a[_GRADIENT] + offset,
                a[_MASK] + offset if a[_MASK] != 0 else zero,
                4 * filters,
                zero,
                zero,
                min(width, samples - number * width),
                filters,
            )
        positions = product_positions(min(_TASK_CHANNELS, channels), vectors)
        last = channels % _TASK_CHANNELS
        if last != 0:
            positions = min(positions, last)
        tasks = (channels + _TASK_CHANNELS - 1) // _TASK_CHANNELS
        work = channels * filters * a[_BLOCKS] * width
        grain = max(1, GRAIN_WORK * tasks // max(work, 1))
        run_kernel(_GRAD_INPUTS_KERNEL + tile_number(positions, vectors, lanes, 1), a, tasks, grain)
        packed[:0] = np.float32(0)

    return _launch_dense_inputs


@cached_njit()
def dense_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of ``inputs``; ``inputs`` is not read.

    ``outputs`` is read only if ``relu``, because a ReLU passes a gradient only if its output is
    positive.
    """
    if grad_outputs.size == 0 or grad_inputs.size == 0:
        grad_inputs[:] = np.float32(0)
        return
    a = np.zeros(_FIELDS, np.int64)
    a[_WEIGHTS], a[_GRADIENT] = address_of(weights), address_of(grad_outputs)
    a[_MASK] = address_of(outputs) if relu else 0
    a[_GRAD_INPUTS] = address_of(grad_inputs)
    a[_SAMPLES], a[_CHANNELS] = grad_inputs.shape
    a[_FILTERS] = weights.shape[1]
    call_once(_LAUNCH_INPUTS, a)


@kernel_family(1)
def _PACK_KERNEL(_: int) -> Any:
    """Pack and sum parts ``begin`` to ``end - 1`` of the gradient, of _TERMS samples each.

    A packed part has the axes (block, sample, filter).
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dense_pack_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, _FIELDS)
        filters, width, blocks = a[_FILTERS], a[_WIDTH], a[_BLOCKS]
        places = np.empty(_TERMS, np.int64)
        for row in range(_TERMS):
            places[row] = row * 4 * filters
        for part in range(begin, end):
            first = part * _TERMS
            count = min(_TERMS, a[_SAMPLES] - first)
            packed = a[_PACKED] + 4 * first * blocks * width
            offset = 4 * first * filters
            pack_columns(
                packed,
                width,
                a[_GRADIENT] + offset,
                a[_MASK] + offset if a[_MASK] != 0 else 0,
                address_of(places),
                count,
                filters,
                width,
            )
            if a[_SUMS] != 0:
                sums = a[_SUMS] + 4 * part * whole_lines(blocks * width)
                add_columns(sums, packed, blocks, width, width, count)
        places[:0] = 0

    return _dense_pack_kernel


@kernel_family(TILES)
def _GRAD_WEIGHTS_KERNEL(number: int) -> Any:
    """Compute the gradient of the weights of some channels: tasks ``begin`` to ``end - 1``."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dense_weights_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, _FIELDS)
        samples, channels, filters = a[_SAMPLES], a[_CHANNELS], a[_FILTERS]
        packed = aligned_floats(_TERMS * _TASK_CHANNELS)
        zeros = aligned_floats(WIDTH)
        zeros[:] = np.float32(0)
        places = np.empty(_TERMS, np.int64)
        for row in range(_TERMS):
            places[row] = row * 4 * channels
        groups = a[_GROUPS]
        for task in range(begin, end):
            first = task // groups * _TASK_CHANNELS
            count = min(_TASK_CHANNELS, channels - first)
            begin_block = task % groups * a[_BLOCKS] // groups
            end_block = (task % groups + 1) * a[_BLOCKS] // groups
            for begun in range(0, samples, _TERMS):
                terms = min(_TERMS, samples - begun)
                pack_columns(
                    address_of(packed),
                    _TASK_CHANNELS,
                    a[_INPUTS] + 4 * (begun * channels + first),
                    0,
                    address_of(places),
                    terms,
                    count,
                    _TASK_CHANNELS,
                )
                gradient = a[_PACKED] + 4 * begun * a[_BLOCKS] * WIDTH
                group = max(1, _GROUP_FLOATS // (terms * WIDTH))
                for first_block in range(begin_block, end_block, group):
                    last_block = min(first_block + group, end_block)
                    for place in range(0, count, T):
                        # The last tile ends at the last channel. It overlaps the tile before it,
                        # and does not store those channels again.
                        skipped = max(0, place + T - count)
                        at = place - skipped
                        for number in range(first_block, last_block):
                            valid = filters - number * WIDTH
                            column = number * WIDTH
                            target = a[_GRAD_WEIGHTS] + 4 * ((first + at) * filters + column)
                            tile = product_accumulate(
                                tile_broadcast(address_of(zeros), T, G, L),
                                address_of(packed) + 4 * at,
                                gradient + 4 * number * terms * WIDTH,
                                terms,
                                4,
                                4 * _TASK_CHANNELS,
                                T,
                                G,
                                L,
                            )
                            if begun > 0:
                                tile = tile_add_stored(tile, target, 4 * filters, valid, T, G, 1)
                            tile_store_after(tile, target, 4 * filters, valid, skipped, T, G)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        packed[:0] = np.float32(0)
        zeros[:0] = np.float32(0)
        places[:0] = 0

    return _dense_weights_kernel


@kernel_family(1)
def _LAUNCH_WEIGHTS(_: int) -> Any:
    """Pack the gradient of the outputs, and run the tasks of the gradient of the weights."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_dense_weights(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, _FIELDS)
        samples, channels, filters = a[_SAMPLES], a[_CHANNELS], a[_FILTERS]
        vectors, lanes = product_width(filters)
        width = vectors * lanes
        a[_BLOCKS] = (filters + width - 1) // width
        a[_WIDTH] = width
        packed = aligned_floats(a[_BLOCKS] * samples * width)
        parts = (samples + _TERMS - 1) // _TERMS
        each = whole_lines(a[_BLOCKS] * width)
        sums = aligned_floats(parts * each if a[_GRAD_BIAS] != 0 else 0)
        sums[:] = np.float32(0)
        a[_PACKED], a[_SUMS] = address_of(packed), address_of(sums) if sums.size > 0 else 0
        run_kernel(_PACK_KERNEL, a, parts, 1)
        if sums.size > 0:
            add_parts(sums.reshape(parts, 1, each))
            copy_floats(a[_GRAD_BIAS], address_of(sums), filters)
        positions = product_positions(min(_TASK_CHANNELS, channels), vectors)
        last = channels % _TASK_CHANNELS
        if last != 0:
            positions = min(positions, last)
        tasks = (channels + _TASK_CHANNELS - 1) // _TASK_CHANNELS
        # If there are few channels, divide the filters too. Each group packs the inputs again.
        a[_GROUPS] = min((_MIN_TASKS + tasks - 1) // tasks, a[_BLOCKS])
        tasks *= a[_GROUPS]
        work = samples * channels * a[_BLOCKS] * width
        grain = max(1, GRAIN_WORK * tasks // max(work, 1))
        run_kernel(
            _GRAD_WEIGHTS_KERNEL + tile_number(positions, vectors, lanes, 1), a, tasks, grain
        )
        packed[:0] = np.float32(0)
        sums[:0] = np.float32(0)

    return _launch_dense_weights


@cached_njit()
def dense_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute the gradients of ``weights`` and ``bias``, which are not read.

    ``outputs`` is read only if ``relu``, because a ReLU passes a gradient only if its output is
    positive.
    """
    if grad_outputs.size == 0:
        grad_weights[:] = np.float32(0)
        grad_bias[:] = np.float32(0)
        return
    a = np.zeros(_FIELDS, np.int64)
    a[_INPUTS], a[_GRADIENT] = address_of(inputs), address_of(grad_outputs)
    a[_MASK] = address_of(outputs) if relu else 0
    a[_GRAD_WEIGHTS] = address_of(grad_weights)
    a[_GRAD_BIAS] = address_of(grad_bias) if grad_bias.size > 0 else 0
    a[_SAMPLES], a[_CHANNELS] = inputs.shape
    a[_FILTERS] = grad_outputs.shape[1]
    call_once(_LAUNCH_WEIGHTS, a)
