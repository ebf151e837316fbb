"""Winograd's F(2x2, 3x3): a 3x3 convolution with 16 multiplications for 4 outputs in place of 36.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1. A tile is
2x2 outputs and the 4x4 inputs that they read. A linear transform turns the inputs of a tile, and
the weights, into 16 values each; the values with index i of all tiles are called plane i. For each
plane, the matrix (tiles, channels) is multiplied by the matrix (channels, filters). Another linear
transform turns the 16 products of a tile into its outputs. The factors of the transforms are 1, -1
and 1/2, so that sums of small integers stay exact.

A task computes some rows of tiles of one image for one group of channels. If a 2x2 max pool
follows, a tile of outputs is one window of the pool, and only its maximum is written.

If an input is not finite, the transforms could make all outputs of its tile NaN, even those that do
not read this input. So if any sum is not finite, LAUNCH reports this, and its caller (``sweep.py``)
computes all outputs again without Winograd's algorithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv.winograd import forward_passes as p
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel, floats_at, words_at
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES, choose_tile, tile_number

# The minimum numbers of channels and outputs for which Winograd's algorithm is used. With fewer,
# the transforms cost as much as the products save. Compared with the direct sum of `sweep.py`, it
# took 0.62 to 0.9 of the time with 8 channels and 16 filters (Zen 4), and 0.85 to 0.96 of the time
# with 8 channels, 8 filters and vectors of 8 lanes.
_MIN_CHANNELS, _MIN_OUTPUTS = 8, 64
# For the gradient of the inputs of convolution, ReLU and max pool: the minimum number of vectors of
# the convolution's channels for which Winograd's algorithm is used in place of the scatter
# (`scatter.py`). The scatter skips three quarters of the products if the pool is 2x2. It took 0.96
# to 1.01 times as long as Winograd's algorithm for 16 channels, 1.13 to 1.24 times for 32 channels,
# and 1.26 to 1.33 times for 64 and 128 channels (Zen 4, one thread; 16, 32 or 64 filters).
_MIN_VECTORS_BEHIND_POOL = 2
# The number of unused bytes between two planes. Without this gap all planes could begin at the same
# offset of a memory page, and would compete for a few lines of the first-level cache.
_APART = 128
# Maximum size of the planes of a task: half of a second-level cache of 1 MiB.
_TASK_BYTES = 512 * 1024
# Each task reads all transformed weights. If they are larger than a second-level cache, a task has
# at least _MANY_TILES tiles, of several images if necessary, so that they are read fewer times.
_MAX_WEIGHT_BYTES = 4 * 1024 * 1024
_MANY_TILES = 64
_MIN_TASKS = 4
_WEIGHT_GRAIN = 64
# Fields of the argument block after those of a sweep: the number of vectors of filters of a
# register tile, and the number of images of a task.
_VECTORS, _TOGETHER = s.FIELDS, s.FIELDS + 1
_FIELDS = s.FIELDS + 2


@kernel_family(1)
def _WINOGRAD(_: int) -> Any:
    @cached_cfunc(KERNEL_SIGNATURE)
    def _winograd_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        channels, filters = a[s.CHANNELS], a[s.FILTERS]
        pairs, wide = (a[s.BLOCK_ROWS] + 1) // 2, (a[s.COLUMNS] + 1) // 2
        # A register tile may read inputs beyond the last tile, so allocate 32 more tiles. Their
        # results are not used.
        max_tiles = a[_TOGETHER] * pairs * wide + 32
        scratch = aligned_floats((2 * pairs + 2) * a[s.ROW_BYTES] // 4)
        spare = aligned_floats(a[s.UNPOOL_ROWS] * a[s.WIDTH] * channels + 1)
        w = np.zeros(p.FIELDS, np.int64)
        w[p.INPUT_PLANE] = 4 * max_tiles * channels + _APART
        w[p.SUM_PLANE] = 4 * max_tiles * filters + _APART
        inputs = aligned_floats(p.PLANES * w[p.INPUT_PLANE] // 4)
        sums = aligned_floats(p.PLANES * w[p.SUM_PLANE] // 4)
        offsets = np.empty(channels, np.int64)
        for c in range(channels):
            offsets[c] = 4 * c
        zeros = np.zeros(4 * MAX_LANES, np.float32)
        w[p.SCRATCH], w[p.LINE], w[p.PIXEL] = address_of(scratch), a[s.ROW_BYTES], 4 * channels
        w[p.FILTERS], w[p.WIDE], w[p.FACTOR_PLANE] = filters, wide, a[s.PLANE]
        w[p.OFFSETS], w[p.ZEROS] = address_of(offsets), address_of(zeros)
        w[p.TARGET_ROW], w[p.TARGET_COLUMN] = a[s.TARGET_ROW], a[s.TARGET_COLUMN]
        w[p.LEFT], w[p.RELU], w[p.NOT_FINITE] = a[s.COLUMNS], a[s.RELU], a[s.NOT_FINITE]
        unit = max(a[s.POOL_ROWS], 1)
        no_plane = np.int64(0)
        weights = p.PLANES * a[s.PLANE]
        for task in range(begin, end):
            group = task % a[s.GROUPS]
            first = task // a[s.GROUPS] // a[s.BLOCKS] * a[_TOGETHER]
            images = min(a[_TOGETHER], a[s.IMAGES] - first)
            row0 = (task // a[s.GROUPS] % a[s.BLOCKS]) * a[s.BLOCK_ROWS]
            row1 = min(row0 + a[s.BLOCK_ROWS], a[s.ROWS])
            tiles = (row1 - row0 + 1) // 2 * wide
            w[p.BELOW] = row1 - row0
            w[p.FACTORS] = a[s.WEIGHTS] + group * weights
            w[p.BIAS] = a[s.BIAS] + 4 * group * filters
            for index in range(images):
                scratch[:] = np.float32(0)
                for held in range(row1 - row0 + 2):
                    row = row0 + a[s.ROW_ORIGIN] + held
                    if 0 <= row < a[s.HEIGHT]:
                        place = w[p.SCRATCH] + held * a[s.ROW_BYTES]
                        s.pack_row(a, row, first + index, group, place, no_plane, address_of(spare))
                w[p.INPUTS] = address_of(inputs) + index * tiles * w[p.PIXEL]
                call_kernel(a[s.SPREAD_INPUTS], address_of(w), 0, (row1 - row0 + 1) // 2)
            w[p.TILES], w[p.INPUTS] = images * tiles, address_of(inputs)
            w[p.SUMS] = address_of(sums)
            call_kernel(a[s.MULTIPLY], address_of(w), 0, p.PLANES)
            for index in range(images):
                w[p.SUMS] = address_of(sums) + index * tiles * 4 * filters
                w[p.TARGET] = a[s.TARGET] + (first + index) * a[s.TARGET_IMAGE]
                w[p.TARGET] += 4 * group * filters + row0 // unit * a[s.TARGET_ROW]
                w[p.ARGMAX] = a[s.ARGMAX] + (w[p.TARGET] - a[s.TARGET]) // 4
                call_kernel(a[s.JOIN_SUMS], address_of(w), 0, tiles)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        scratch[:0], spare[:0] = np.float32(0), np.float32(0)
        inputs[:0], sums[:0] = np.float32(0), np.float32(0)
        offsets[:0], zeros[:0] = 0, np.float32(0)

    return _winograd_kernel


@cached_njit()
def winograd_wins(channels: int, filters: int) -> bool:
    """Return whether Winograd's algorithm is faster than the direct sum.

    The caller has checked that the window is 3x3 and the strides are 1.
    """
    whole = channels % p.MIN_LANES == 0 and filters % MAX_LANES == 0
    return whole and channels >= _MIN_CHANNELS and filters > 0


@cached_njit()
def winograd_beats_scatter(channels: int, filters: int) -> bool:
    """Return whether Winograd's algorithm is faster than the scatter for the gradient of inputs.

    The convolution is followed by a max pool. Winograd's algorithm reads the gradient before the
    pool, so ``channels`` is the number of the convolution's filters, and ``filters`` is the number
    of its channels. The scatter (``scatter.py``) reads the gradient after the pool.
    """
    enough = filters >= _MIN_VECTORS_BEHIND_POOL * MAX_LANES
    return enough and winograd_wins(channels, filters)


@cached_njit()
def _is_window(taps: Any) -> bool:
    """Return whether ``taps``, the rows or the columns of all taps, are those of a 3x3 window."""
    return taps.size == 9 and s.origin_and_span(taps)[1] == 3


@cached_njit()
def winograd_fits(args: Any) -> bool:
    """Return whether Winograd's algorithm can compute a sweep, and is faster."""
    if args[s.TAPS] != 9 or args[s.ROW_STEP] != 1 or args[s.COLUMN_STEP] != 1:
        return False
    if args[s.POOL_ROWS] != 0 and (args[s.POOL_ROWS] != 2 or args[s.POOL_COLUMNS] != 2):
        return False
    rows, columns = carray(words_at(args[s.ROW_TAPS]), 9), carray(words_at(args[s.COLUMN_TAPS]), 9)
    enough = min(args[s.ROWS], args[s.COLUMNS]) >= 2
    enough = enough and args[s.IMAGES] * args[s.ROWS] * args[s.COLUMNS] >= _MIN_OUTPUTS
    wins = winograd_wins(args[s.CHANNELS], args[s.FILTERS])
    return enough and wins and _is_window(rows) and _is_window(columns)


@kernel_family(1)
def LAUNCH(_: int) -> Any:
    """Set the remaining arguments, transform the weights, and run the tasks.

    If a sum is not finite, this sets ``NOT_FINITE`` to 1, else to 0. If it is 1, outputs may be
    wrong, so the caller has to compute them again.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_winograd(block: Any, _begin: int, _end: int) -> None:
        given = carray(block, s.FIELDS)
        # Change only a copy of the block: if a sum is not finite, the caller needs the original.
        args = np.empty(_FIELDS, np.int64)
        # Copy field by field: Numba takes 2 s to compile an assignment to a slice.
        for field in range(s.FIELDS):
            args[field] = given[field]
        channels, filters, groups = args[s.CHANNELS], args[s.FILTERS], args[s.GROUPS]
        row_taps = carray(words_at(args[s.ROW_TAPS]), 9)
        column_taps = carray(words_at(args[s.COLUMN_TAPS]), 9)
        args[s.ROW_ORIGIN], args[s.ROW_SPAN] = s.origin_and_span(row_taps)
        args[s.COLUMN_ORIGIN], args[s.COLUMN_SPAN] = s.origin_and_span(column_taps)
        wide = (args[s.COLUMNS] + 1) // 2
        args[s.SCRATCH_PIXEL] = 4 * channels
        args[s.ROW_BYTES] = (2 * wide + 2) * args[s.SCRATCH_PIXEL]
        pairs = (args[s.ROWS] + 1) // 2
        fitting = max(_TASK_BYTES // (4 * p.PLANES * (channels + filters) * wide), 1)
        wanted = 1
        if 4 * p.PLANES * channels * filters > _MAX_WEIGHT_BYTES:
            wanted = _MANY_TILES
            fitting = max(fitting, (wanted + wide - 1) // wide)
        parts = (pairs + fitting - 1) // fitting
        args[s.BLOCK_ROWS] = 2 * ((pairs + parts - 1) // parts)
        args[s.BLOCKS] = (args[s.ROWS] + args[s.BLOCK_ROWS] - 1) // args[s.BLOCK_ROWS]
        tiles = args[s.BLOCK_ROWS] // 2 * wide
        args[_TOGETHER] = 1
        if args[s.BLOCKS] == 1:
            most = args[s.IMAGES] * groups // _MIN_TASKS
            args[_TOGETHER] = max(min(wanted // tiles, most), 1)
        tile, vectors, lanes, _, _ = choose_tile(args[_TOGETHER] * tiles, filters, 1, 1, False)
        args[_VECTORS] = vectors
        width = vectors * lanes
        blocks = (filters + width - 1) // width
        args[s.PLANE] = 4 * blocks * channels * width + _APART
        packed = aligned_floats(p.PLANES * groups * args[s.PLANE] // 4)
        bias = np.zeros(groups * filters + width, np.float32)
        if args[s.BIAS_SOURCE] != 0:
            given_bias = carray(floats_at(args[s.BIAS_SOURCE]), groups * filters)
            for index in range(groups * filters):
                bias[index] = given_bias[index]
        args[s.WEIGHTS], args[s.BIAS] = address_of(packed), address_of(bias)
        run_kernel(p.SPREAD_WEIGHTS, args, channels * groups, _WEIGHT_GRAIN)
        found = np.zeros(1, np.int64)
        args[s.NOT_FINITE] = address_of(found)
        pooled = 1 if args[s.POOL_ROWS] != 0 else 0
        half = 0 if channels % MAX_LANES == 0 else 1
        args[s.SPREAD_INPUTS] = kernel_address(p.SPREAD_INPUTS + half)
        args[s.MULTIPLY] = kernel_address(p.MULTIPLY + tile_number(tile, vectors, lanes, 1))
        args[s.JOIN_SUMS] = kernel_address(p.JOIN_SUMS + pooled)
        images = (args[s.IMAGES] + args[_TOGETHER] - 1) // args[_TOGETHER]
        tasks = images * args[s.BLOCKS] * groups
        work = args[_TOGETHER] * args[s.BLOCK_ROWS] * args[s.COLUMNS] * 4 * channels * filters
        run_kernel(_WINOGRAD, args, tasks, max(1, 640_000 // work))
        given[s.NOT_FINITE] = found[0]
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        bias[:0] = np.float32(0)
        packed[:0] = np.float32(0)

    return _launch_winograd
