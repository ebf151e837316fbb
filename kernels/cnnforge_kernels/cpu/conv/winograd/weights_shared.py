"""Winograd's F(3x3, 2x2) for small images with many channels and filters.

The algorithm is that of ``weights.py``, divided in another way. There, each part of the images has
sums of its own for all weights. If the weights are large and the images small, these sums are
larger than the caches, and they are written and read again after a few tiles. Here a first kernel
transforms the gradient of all images to planes, which all threads share. A task of the second
kernel transforms some channels of the inputs of all images, and sums over all tiles for these
channels. If there are too many images for the caches, this is repeated for some images at a time.

Each sum adds the tiles in their order. So the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import gather as g
from cnnforge_kernels.cpu.conv.winograd import forward_passes as p
from cnnforge_kernels.cpu.conv.winograd import weights_passes as q
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel, floats_at, store_int64
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.tile_choice import (
    MAX_LANES,
    MAX_POSITIONS,
    choose_tile,
    tile_number,
)
from cnnforge_kernels.cpu.simd.vectors import (
    vector_load,
    vector_multiply_add,
    vector_splat,
    vector_store,
)

# Fields of the argument block after those of `gather.py`. COLUMNS is here the number of columns
# rounded up to whole tiles, _COLUMNS the number not rounded. FIRST and COUNT are the images whose
# gradient is transformed; LAST is 1 if they are the last ones. The planes of the gradient are at
# PLANES, and the sums of each task at PRODUCTS; 0 if they are needed only within the task.
_COLUMNS, _FIRST, _COUNT, _LAST, _NOT_FINITE = range(g.FIELDS, g.FIELDS + 5)
_PLANES, _GRADIENT_PLANE, _PRODUCTS, _PRODUCT_PLANE = range(g.FIELDS + 5, g.FIELDS + 9)
_POSITIONS, _VECTORS = g.FIELDS + 9, g.FIELDS + 10
# Addresses of the kernels that a task calls (see `weights.py`).
_INPUTS_KERNEL, _GRADIENT_KERNEL = g.FIELDS + 11, g.FIELDS + 12
_PRODUCTS_KERNEL, _JOIN_KERNEL = g.FIELDS + 13, g.FIELDS + 14
_FIELDS = g.FIELDS + 15

# The sums of a part in `weights.py` have 64 bytes for each channel and filter. If they are larger
# than a second-level cache and an image has at most _MAX_TILES tiles, the sums are shared.
_MIN_SUM_BYTES = 8 * 1024 * 1024
_MAX_TILES = 64
# The number of channels of a task, and the maximum number of tiles that it transforms together.
# Their planes have 1 MiB.
_TASK_CHANNELS, _MAX_TOGETHER = 64, 256
# The number of unused bytes between two planes, see `weights.py`.
_APART = 128


@cached_njit()
def sums_are_shared(args: Any) -> bool:
    """Return whether the sums are so large, and the images so small, that this module is faster."""
    tiles = (args[g.ROWS] + 1) // 2 * ((args[g.COLUMNS] + 1) // 2)
    sum_bytes = 4 * p.PLANES * args[g.CHANNELS] * args[g.FILTERS]
    return args[g.GROUPS] == 1 and tiles <= _MAX_TILES and sum_bytes > _MIN_SUM_BYTES


@cached_njit()
def _passes_block(a: Any) -> Any:
    """Return the argument block of the passes, with the fields that are the same for all tasks."""
    w = np.zeros(q.FIELDS, np.int64)
    pairs, wide = (a[g.ROWS] + 1) // 2, a[g.COLUMNS] // 2
    w[p.FILTERS], w[p.WIDE] = a[g.FILTERS], wide
    w[p.TILES] = a[_COUNT] * pairs * wide
    w[q.WIDTH] = a[_VECTORS] * MAX_LANES
    w[q.BLOCK_BYTES] = 4 * w[p.TILES] * w[q.WIDTH]
    w[p.SUMS], w[p.SUM_PLANE] = a[_PLANES], a[_GRADIENT_PLANE]
    return w


@kernel_family(1)
def _SPREAD(_: int) -> Any:
    """Transform the gradient of images ``FIRST + begin`` to ``FIRST + end - 1`` to planes."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_images(block: Any, begin: int, end: int) -> None:
        a = carray(block, _FIELDS)
        w = _passes_block(a)
        pairs = (a[g.ROWS] + 1) // 2
        tiles = pairs * w[p.WIDE]
        w[p.TARGET_COLUMN] = 4 * a[g.FILTERS]
        w[p.TARGET_ROW] = w[p.TARGET_COLUMN] * a[_COLUMNS]
        w[p.LEFT], w[p.BELOW] = a[_COLUMNS], a[g.ROWS]
        w[q.GATE] = a[g.MASK] - a[g.GRADIENT]
        for held in range(begin, end):
            image = a[_FIRST] + held
            w[p.SUMS] = a[_PLANES] + 4 * held * tiles * w[q.WIDTH]
            w[p.TARGET] = a[g.GRADIENT] + image * a[g.ROWS] * w[p.TARGET_ROW]
            w[p.BIAS] = a[g.SUMS] + 4 * image * a[g.FILTERS]
            call_kernel(a[_GRADIENT_KERNEL], address_of(w), 0, pairs)
        # The calls above get only the address of this array. Numba frees an array after its last
        # use, so use the array here: it must not be freed earlier.
        w[:0] = 0

    return _spread_images


@kernel_family(1)
def _SUM(_: int) -> Any:
    """Add the products of all tiles, for the channels of tasks ``begin`` to ``end - 1``.

    After the last tile, write the gradient of these channels. If it is not finite, set the int64 at
    ``_NOT_FINITE`` to 1.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sum_channels(block: Any, begin: int, end: int) -> None:
        given = carray(block, _FIELDS)
        # A copy, in which the channels of a task are a group.
        a = given.copy()
        channels, filters = a[g.CHANNELS], a[g.FILTERS]
        w = _passes_block(a)
        pairs = (a[g.ROWS] + 1) // 2
        tiles = pairs * w[p.WIDE]
        most = min(_TASK_CHANNELS, channels)
        a[g.GROUP_CHANNELS] = most
        scratch = aligned_floats(g.source_lines(a, 2 * pairs) * g.source_line(a))
        w[p.INPUT_PLANE] = 4 * w[p.TILES] * most + _APART
        # A register tile may read values beyond the last channel, so allocate more. Their sums are
        # not used.
        inputs = aligned_floats(p.PLANES * w[p.INPUT_PLANE] // 4 + MAX_POSITIONS)
        own = p.PLANES * a[_PRODUCT_PLANE] // 4 if a[_PRODUCTS] == 0 else 1
        products = aligned_floats(own)
        offsets = np.empty(w[p.TILES], np.int64)
        zeros = np.zeros(4 * MAX_LANES, np.float32)
        w[p.SCRATCH] = address_of(scratch)
        w[p.OFFSETS], w[p.ZEROS] = address_of(offsets), address_of(zeros)
        w[q.PRODUCT_PLANE] = a[_PRODUCT_PLANE]
        w[q.FRESH] = 1 if a[_FIRST] == 0 else 0
        zero = vector_splat(np.float32(0), MAX_LANES)
        seen = zero
        # Variables, because Numba would compile the called function again for literals.
        group, row0 = np.int64(0), np.int64(0)
        for task in range(begin, end):
            first = task * _TASK_CHANNELS
            count = min(_TASK_CHANNELS, channels - first)
            a[g.GROUP_CHANNELS], a[g.SOURCE] = count, given[g.SOURCE] + 4 * first
            w[p.PIXEL], w[p.LINE] = 4 * count, 4 * g.source_line(a)
            for tile in range(w[p.TILES]):
                offsets[tile] = tile * w[p.PIXEL]
            for held in range(a[_COUNT]):
                scratch[:] = np.float32(0)
                g.pack_source(a, w[p.SCRATCH], a[_FIRST] + held, group, row0, 2 * pairs)
                w[p.INPUTS] = address_of(inputs) + held * tiles * w[p.PIXEL]
                call_kernel(a[_INPUTS_KERNEL], address_of(w), 0, pairs)
            w[p.INPUTS] = address_of(inputs)
            w[q.PADDED] = (count + a[_POSITIONS] - 1) // a[_POSITIONS] * a[_POSITIONS]
            w[q.PRODUCTS] = address_of(products)
            if a[_PRODUCTS] != 0:
                w[q.PRODUCTS] = a[_PRODUCTS] + task * p.PLANES * a[_PRODUCT_PLANE]
            call_kernel(a[_PRODUCTS_KERNEL], address_of(w), 0, p.PLANES)
            if a[_LAST] == 0:
                continue
            w[p.TARGET], w[p.PIXEL] = a[g.GRAD_WEIGHTS] + 4 * first * filters, 4 * channels
            call_kernel(a[_JOIN_KERNEL], address_of(w), 0, count)
            for tap in range(9):
                place = w[p.TARGET] + 4 * tap * channels * filters
                for index in range(0, count * filters, MAX_LANES):
                    # Zero times infinity or NaN is NaN. So `seen` is NaN from the first value that
                    # is not finite.
                    value = vector_load(place + 4 * index, MAX_LANES, MAX_LANES)
                    seen = vector_multiply_add(value, zero, seen)
        found = np.empty(MAX_LANES, np.float32)
        vector_store(seen, address_of(found), MAX_LANES)
        for lane in range(MAX_LANES):
            if found[lane] != 0:
                store_int64(a[_NOT_FINITE], 1)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        scratch[:0], inputs[:0], zeros[:0] = np.float32(0), np.float32(0), np.float32(0)
        products[:0], offsets[:0], w[:0] = np.float32(0), 0, 0

    return _sum_channels


@kernel_family(1)
def LAUNCH_SHARED(_: int) -> Any:
    """Compute the gradients of weights and bias. The block is that of ``LAUNCH`` (``weights.py``).

    The field after those of ``gather.py`` that is named ``NOT_FINITE`` there is set as by
    ``LAUNCH``.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_shared(block: Any, _begin: int, _end: int) -> None:
        given = carray(block, g.FIELDS + 1)
        a = np.zeros(_FIELDS, np.int64)
        # Copy field by field: Numba takes 2 s to compile an assignment to a slice.
        for field in range(g.FIELDS):
            a[field] = given[field]
        images, channels, filters = a[g.IMAGES], a[g.CHANNELS], a[g.FILTERS]
        a[g.GROUP_FILTERS] = filters
        a[_COLUMNS] = a[g.COLUMNS]
        a[g.COLUMNS] = (a[g.COLUMNS] + 1) // 2 * 2
        tiles = (a[g.ROWS] + 1) // 2 * (a[g.COLUMNS] // 2)
        some = min(_TASK_CHANNELS, channels)
        positions, vectors, lanes, _, _ = choose_tile(some, filters, 1, 1, True)
        width = vectors * lanes
        blocks = (filters + width - 1) // width
        a[_POSITIONS], a[_VECTORS] = positions, vectors
        padded = (some + positions - 1) // positions * positions
        rounds = (images * tiles + _MAX_TOGETHER - 1) // _MAX_TOGETHER
        together = (images + rounds - 1) // rounds
        a[_GRADIENT_PLANE] = 4 * together * tiles * blocks * width + _APART
        a[_PRODUCT_PLANE] = 4 * blocks * padded * width + _APART
        tasks = (channels + _TASK_CHANNELS - 1) // _TASK_CHANNELS
        planes = aligned_floats(p.PLANES * a[_GRADIENT_PLANE] // 4)
        kept = tasks * p.PLANES * a[_PRODUCT_PLANE] // 4 if rounds > 1 else 1
        products = aligned_floats(kept)
        bias = np.zeros(images * filters, np.float32)
        found = np.zeros(1, np.int64)
        a[_PLANES], a[_PRODUCTS] = address_of(planes), address_of(products) if rounds > 1 else 0
        a[g.SUMS] = address_of(bias)
        a[_NOT_FINITE] = address_of(found)
        half = 0 if channels % MAX_LANES == 0 else 1
        a[_INPUTS_KERNEL] = kernel_address(p.SPREAD_INPUTS + half)
        a[_GRADIENT_KERNEL] = kernel_address(q.SPREAD_GRADIENT + (1 if a[g.MASK] != 0 else 0))
        a[_PRODUCTS_KERNEL] = kernel_address(
            q.ADD_PRODUCTS + tile_number(positions, vectors, lanes, 1)
        )
        a[_JOIN_KERNEL] = kernel_address(q.JOIN_PRODUCTS)
        for first in range(0, images, together):
            a[_FIRST], a[_COUNT] = first, min(together, images - first)
            a[_LAST] = 1 if first + together >= images else 0
            run_kernel(_SPREAD, a, a[_COUNT], 1)
            run_kernel(_SUM, a, tasks, 1)
        if a[g.GRAD_BIAS] != 0:
            grad_bias = carray(floats_at(a[g.GRAD_BIAS]), filters)
            for f in range(filters):
                total = np.float32(0)
                for image in range(images):
                    total += bias[image * filters + f]
                grad_bias[f] = total
                if not np.isfinite(total):
                    found[0] = 1
        given[g.FIELDS] = found[0]
        # The kernels got only the addresses of these arrays. Numba frees an array after its last
        # use, so use the arrays here: they must not be freed earlier.
        planes[:0], products[:0], bias[:0] = np.float32(0), np.float32(0), np.float32(0)

    return _launch_shared
