"""Winograd's F(3x3, 2x2): the gradient of 3x3 weights, 16 multiplications a tile in place of 36.

The algorithm is that of ``forward.py``, but it sums over tiles and not over channels. A tile is 2x2
values of the gradient and the 4x4 inputs that these outputs had read. A linear transform turns both
into 16 planes. For each plane, the matrix (channels, tiles) is multiplied by the matrix (tiles,
filters), which sums over the tiles. Another linear transform turns the 16 products into the 3x3
taps. The factors of the transforms are 1, -1 and 1/2, so that sums of small integers stay exact.

As in ``gather.py``, a task sums over a part of the images for one group of channels, and the sums
of the parts are added in order. If any sum is not finite, LAUNCH reports this, and then
``gather.py`` computes the gradients again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import gather as g
from cnnforge_kernels.cpu.conv.winograd import forward_passes as p
from cnnforge_kernels.cpu.conv.winograd import weights_passes as q
from cnnforge_kernels.cpu.conv.winograd.weights_shared import LAUNCH_SHARED, sums_are_shared
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
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES, choose_tile, tile_number
from cnnforge_kernels.cpu.simd.vectors import (
    vector_load,
    vector_multiply_add,
    vector_splat,
    vector_store,
)

# Fields of the argument block. They follow the fields of `gather.py`. COLUMNS is here the number of
# columns rounded up to whole tiles, _COLUMNS the number not rounded. A task transforms _TOGETHER
# blocks of BLOCK_ROWS rows, then multiplies their planes. The register tile has _POSITIONS channels
# by _VECTORS vectors of filters.
_NOT_FINITE, _COLUMNS, _TOGETHER, _POSITIONS, _VECTORS = range(g.FIELDS, g.FIELDS + 5)
# Addresses of the kernels that a task calls. LAUNCH looks up the addresses before the tasks start,
# because a lookup may compile the kernel, and a worker thread cannot do this while the calling
# thread waits for it.
_INPUTS_KERNEL, _GRADIENT_KERNEL, _PRODUCTS_KERNEL, _JOIN_KERNEL = range(g.FIELDS + 5, g.FIELDS + 9)
_FIELDS = g.FIELDS + 9

# The minimum numbers of channels and outputs for which Winograd's algorithm is used. It was
# 1.4 times as fast as `gather.py` with 8 channels and 16 filters. It was 1.5 times as fast with 16
# channels, 16 filters and images of 8x8 pixels. It was twice as fast with 64 channels and 64
# filters, and with 128 and 128 (Zen 4, one thread).
_MIN_CHANNELS, _MIN_OUTPUTS = 8, 64
_PARTS = 8
# The number of unused bytes between two planes. Without this gap all planes could begin at the same
# offset of a memory page, and would compete for a few lines of the first-level cache.
_APART = 128
# The minimum and maximum numbers of tiles that one matrix product sums. Between these limits it is
# the number of tiles whose planes fit _PLANE_BYTES, half of a second-level cache of 1 MiB. With
# fewer than _MIN_TOGETHER tiles the sums would be loaded and stored too often, so a part of the
# images also has at least as many tiles.
_MIN_TOGETHER, _MAX_TOGETHER = 64, 128
_PLANE_BYTES = 512 * 1024


@kernel_family(1)
def _GATHER(_: int) -> Any:
    @cached_cfunc(KERNEL_SIGNATURE)
    def _gather_tiles_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        channels, filters = a[g.GROUP_CHANNELS], a[g.GROUP_FILTERS]
        pixel, line = 4 * channels, g.source_line(a)
        wide, width = a[g.COLUMNS] // 2, a[_VECTORS] * MAX_LANES
        blocks = (filters + width - 1) // width
        max_tiles = a[_TOGETHER] * a[g.BLOCK_ROWS] // 2 * wide
        scratch = aligned_floats(g.source_lines(a, a[g.BLOCK_ROWS]) * line)
        w = np.zeros(q.FIELDS, np.int64)
        w[q.PADDED] = (channels + a[_POSITIONS] - 1) // a[_POSITIONS] * a[_POSITIONS]
        w[q.BLOCK_BYTES] = 4 * max_tiles * width
        w[p.INPUT_PLANE] = max_tiles * pixel + _APART
        w[p.SUM_PLANE] = blocks * w[q.BLOCK_BYTES] + _APART
        w[q.PRODUCT_PLANE] = 4 * blocks * w[q.PADDED] * width + _APART
        # A register tile may read values beyond the last channel and filter, so allocate more.
        # Their sums are not used.
        inputs = aligned_floats(p.PLANES * w[p.INPUT_PLANE] // 4 + w[q.PADDED])
        gradient = aligned_floats(p.PLANES * w[p.SUM_PLANE] // 4)
        products = aligned_floats(p.PLANES * w[q.PRODUCT_PLANE] // 4)
        offsets = np.empty(max_tiles, np.int64)
        for tile in range(max_tiles):
            offsets[tile] = tile * pixel
        zeros = np.zeros(4 * MAX_LANES, np.float32)
        w[p.ZEROS] = address_of(zeros)
        w[p.SCRATCH], w[p.LINE], w[p.PIXEL] = address_of(scratch), 4 * line, pixel
        w[p.FILTERS], w[p.WIDE], w[q.WIDTH] = filters, wide, width
        w[p.OFFSETS], w[q.PRODUCTS] = address_of(offsets), address_of(products)
        w[p.TARGET_COLUMN] = 4 * a[g.FILTERS]
        w[p.TARGET_ROW] = w[p.TARGET_COLUMN] * a[_COLUMNS]
        w[p.LEFT], w[q.GATE] = a[_COLUMNS], a[g.MASK] - a[g.GRADIENT]
        units = a[g.IMAGES] * a[g.BLOCKS]
        for task in range(begin, end):
            group, part = task % a[g.GROUPS], task // a[g.GROUPS]
            sums = a[g.SUMS] + 4 * task * a[g.PART_FLOATS]
            w[p.BIAS] = sums + 4 * a[g.BIAS]
            bias = carray(floats_at(w[p.BIAS]), filters)
            bias[:] = np.float32(0)
            w[p.TILES], w[q.FRESH], held = 0, 1, 0
            last = (part + 1) * units // a[g.PARTS] - 1
            for unit in range(part * units // a[g.PARTS], last + 1):
                image = unit // a[g.BLOCKS]
                row0 = unit % a[g.BLOCKS] * a[g.BLOCK_ROWS]
                row1 = min(row0 + a[g.BLOCK_ROWS], a[g.ROWS])
                pairs = (row1 - row0 + 1) // 2
                scratch[:] = np.float32(0)
                g.pack_source(a, w[p.SCRATCH], image, group, row0, row0 + 2 * pairs)
                w[p.INPUTS] = address_of(inputs) + w[p.TILES] * pixel
                w[p.SUMS] = address_of(gradient) + 4 * w[p.TILES] * width
                w[p.TARGET] = a[g.GRADIENT] + 4 * group * filters
                w[p.TARGET] += (image * a[g.ROWS] + row0) * w[p.TARGET_ROW]
                w[p.BELOW] = row1 - row0
                call_kernel(a[_INPUTS_KERNEL], address_of(w), 0, pairs)
                call_kernel(a[_GRADIENT_KERNEL], address_of(w), 0, pairs)
                w[p.TILES] += pairs * wide
                held += 1
                if held == a[_TOGETHER] or unit == last:
                    w[p.INPUTS], w[p.SUMS] = address_of(inputs), address_of(gradient)
                    call_kernel(a[_PRODUCTS_KERNEL], address_of(w), 0, p.PLANES)
                    w[p.TILES], w[q.FRESH], held = 0, 0, 0
            w[p.TARGET] = sums
            call_kernel(a[_JOIN_KERNEL], address_of(w), 0, channels)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        scratch[:0], zeros[:0], offsets[:0] = np.float32(0), np.float32(0), 0
        inputs[:0], gradient[:0], products[:0] = np.float32(0), np.float32(0), np.float32(0)

    return _gather_tiles_kernel


@cached_njit()
def _fits(args: Any) -> bool:
    """Return whether Winograd's algorithm can compute the gradients, and is faster."""
    if args[g.TAP_ROWS] != 3 or args[g.TAP_COLUMNS] != 3:
        return False
    if args[g.ROW_STEP] != 1 or args[g.COLUMN_STEP] != 1:
        return False
    if args[g.ROW_DILATION] != 1 or args[g.COLUMN_DILATION] != 1:
        return False
    channels, filters = args[g.CHANNELS] // args[g.GROUPS], args[g.FILTERS] // args[g.GROUPS]
    enough = min(args[g.ROWS], args[g.COLUMNS]) >= 2
    enough = enough and args[g.IMAGES] * args[g.ROWS] * args[g.COLUMNS] >= _MIN_OUTPUTS
    whole = channels % p.MIN_LANES == 0 and filters % MAX_LANES == 0
    return enough and whole and channels >= _MIN_CHANNELS


@kernel_family(1)
def LAUNCH(_: int) -> Any:
    """Set the remaining arguments, run the tasks, add the parts, and write the gradients.

    If a sum is not finite, this sets ``_NOT_FINITE`` to 1, else to 0. If it is 1, gradients may be
    wrong, so they have to be computed again.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_gather_tiles(block: Any, _begin: int, _end: int) -> None:
        given = carray(block, _FIELDS)
        args = given.copy()
        groups = args[g.GROUPS]
        channels, filters = args[g.CHANNELS] // groups, args[g.FILTERS] // groups
        args[g.GROUP_CHANNELS], args[g.GROUP_FILTERS] = channels, filters
        args[_COLUMNS] = args[g.COLUMNS]
        args[g.COLUMNS] = (args[g.COLUMNS] + 1) // 2 * 2
        wide, pairs = args[g.COLUMNS] // 2, (args[g.ROWS] + 1) // 2
        fitting = _PLANE_BYTES // (4 * p.PLANES * (channels + filters))
        wanted = max(min(fitting, _MAX_TOGETHER), _MIN_TOGETHER)
        cuts = (pairs * wide + wanted - 1) // wanted
        args[g.BLOCK_ROWS] = 2 * ((pairs + cuts - 1) // cuts)
        args[g.BLOCKS] = (args[g.ROWS] + args[g.BLOCK_ROWS] - 1) // args[g.BLOCK_ROWS]
        args[_TOGETHER] = max(wanted // (args[g.BLOCK_ROWS] // 2 * wide), 1)
        tiles = args[g.IMAGES] * pairs * wide
        parts = min(args[g.IMAGES] * args[g.BLOCKS], _PARTS, max(tiles // _MIN_TOGETHER, 1))
        args[g.PARTS] = parts
        positions, vectors, lanes, _, _ = choose_tile(channels, filters, 1, 1, True)
        args[_POSITIONS], args[_VECTORS] = positions, vectors
        args[g.BIAS] = 9 * channels * filters
        args[g.PART_FLOATS] = g.whole_lines(args[g.BIAS] + filters)
        sums = g.new_sums(args)
        args[g.SUMS] = address_of(sums)
        half = 0 if channels % MAX_LANES == 0 else 1
        number = tile_number(positions, vectors, lanes, 1)
        masked = 1 if args[g.MASK] != 0 else 0
        args[_INPUTS_KERNEL] = kernel_address(p.SPREAD_INPUTS + half)
        args[_GRADIENT_KERNEL] = kernel_address(q.SPREAD_GRADIENT + masked)
        args[_PRODUCTS_KERNEL] = kernel_address(q.ADD_PRODUCTS + number)
        args[_JOIN_KERNEL] = kernel_address(q.JOIN_PRODUCTS)
        work = args[g.IMAGES] * args[g.ROWS] * args[g.COLUMNS] * 4 * channels * filters
        run_kernel(_GATHER, args, parts * groups, max(1, 640_000 * parts // work))
        g.add_parts(sums)
        zero = vector_splat(np.float32(0), MAX_LANES)
        seen = zero
        for group in range(groups):
            total = address_of(sums[0, group])
            place = 4 * group * filters
            for row in range(9 * channels + 1):
                if row < 9 * channels:
                    target = args[g.GRAD_WEIGHTS] + 4 * row * args[g.FILTERS] + place
                elif args[g.GRAD_BIAS] != 0:
                    target = args[g.GRAD_BIAS] + place
                else:
                    continue
                for f in range(0, filters, MAX_LANES):
                    value = vector_load(total + 4 * (row * filters + f), MAX_LANES, MAX_LANES)
                    # Zero times infinity or NaN is NaN. So `seen` is NaN from the first value that
                    # is not finite.
                    seen = vector_multiply_add(value, zero, seen)
                    vector_store(value, target + 4 * f, MAX_LANES)
        found = np.empty(MAX_LANES, np.float32)
        vector_store(seen, address_of(found), MAX_LANES)
        given[_NOT_FINITE] = 0
        for lane in range(MAX_LANES):
            if found[lane] != 0:
                given[_NOT_FINITE] = 1

    return _launch_gather_tiles


@cached_njit()
def gather_tiles(args: Any, grad_weights: Any, grad_bias: Any) -> bool:
    """Compute the gradients of weights and bias if Winograd's algorithm applies and is faster.

    Args:
        args: int64 argument block, as for ``gather``.
        grad_weights: (3, 3, C / groups, F) float32, written.
        grad_bias: (F,) float32, written; empty if there is no bias.

    Returns:
        True if the gradients are computed. False if Winograd's algorithm was not used, or if a sum
        was not finite: then the caller has to call ``gather``.
    """
    if not _fits(args):
        return False
    block = np.zeros(_FIELDS, np.int64)
    # Copy field by field: Numba takes 2 s to compile an assignment to a slice.
    for field in range(g.FIELDS):
        block[field] = args[field]
    block[g.GRAD_WEIGHTS] = address_of(grad_weights)
    block[g.GRAD_BIAS] = address_of(grad_bias) if grad_bias.size > 0 else 0
    if sums_are_shared(block):
        call_once(LAUNCH_SHARED, block)
    else:
        call_once(LAUNCH, block)
    return block[_NOT_FINITE] == 0
