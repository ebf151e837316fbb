"""Depthwise convolutions together with the 1x1 convolutions before and after them.

The block of a MobileNet is a 1x1 convolution that makes many channels (*expansion*), a depthwise
convolution, and a 1x1 convolution that makes few channels again (*projection*). One after another,
these layers write and read large arrays. Here a task computes some rows of the block's output after
another: the expanded rows and the rows of the depthwise convolution are in scratch memory that the
second-level cache holds. The task calls the kernels of the three layers for these rows.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import product as p
from cnnforge_kernels.cpu.depthwise import sweep as s
from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.prepared.scratch import (
    free_scratch,
    scratch_address,
    scratch_pool,
    take_scratch,
)
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    compile_kernel,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import (
    address_of,
    call_kernel,
    load_int64,
    store_int64,
)
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import vector_load, vector_store

# Fields of the argument block. The layers are given by the address of a kernel, 0 if there is no
# such layer, and the address of an argument block, of which each task makes a copy. A task computes
# STRIP rows of the target, GROUP rows at a time. Rows are in bytes. Output row r reads the REACH
# expanded rows from r * STEP + ORIGIN on.
_SOURCE, _TARGET, _ADDED, _HEIGHT, _WIDTH, _ROWS, _COLUMNS = range(7)
_EXPAND, _EXPAND_ARGS, _SWEEP, _SWEEP_ARGS, _PROJECT, _PROJECT_ARGS = range(7, 13)
_SOURCE_ROW, _EXPANDED_ROW, _SWEPT_ROW, _TARGET_ROW = range(13, 17)
_STEP, _ORIGIN, _REACH, _STRIP, _STRIPS, _GROUP, _SCRATCH = range(17, 24)
_FIELDS = 24

_SCRATCH_BYTES = 320 * 1024
_TASKS_PER_THREAD = 2
_MAX_POSITIONS = 8
_MANY_PIXELS = 240
_MIN_STRIP = 8


@kernel_family(1)
def _BLOCK(_: int) -> Any:
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _depthwise_block_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        step, origin, reach = a[_STEP], a[_ORIGIN], a[_REACH]
        line, swept_line = a[_EXPANDED_ROW], a[_SWEPT_ROW]
        held_bytes = ((a[_GROUP] - 1) * step + reach) * line if a[_EXPAND] != 0 else 0
        slot = take_scratch(a[_SCRATCH])
        held = scratch_address(a[_SCRATCH], slot)
        swept = held + held_bytes
        blocks = np.empty(2 * p.FIELDS + s.FIELDS, np.int64)
        for index in range(p.FIELDS):
            if a[_EXPAND] != 0:
                blocks[index] = load_int64(a[_EXPAND_ARGS] + 8 * index)
            if a[_PROJECT] != 0:
                blocks[p.FIELDS + index] = load_int64(a[_PROJECT_ARGS] + 8 * index)
        for index in range(s.FIELDS):
            blocks[2 * p.FIELDS + index] = load_int64(a[_SWEEP_ARGS] + 8 * index)
        expansion = address_of(blocks)
        projection = expansion + 8 * p.FIELDS
        sweep = projection + 8 * p.FIELDS
        for task in range(begin, end):
            image, strip = task // a[_STRIPS], task % a[_STRIPS]
            source = a[_SOURCE] + image * a[_HEIGHT] * a[_SOURCE_ROW]
            end_row = min((strip + 1) * a[_STRIP], a[_ROWS])
            held_first, held_after = 0, 0
            for row in range(strip * a[_STRIP], end_row, a[_GROUP]):
                after = min(row + a[_GROUP], end_row)
                if a[_EXPAND] != 0:
                    first = max(0, row * step + origin)
                    last = max(first, min(a[_HEIGHT], (after - 1) * step + origin + reach))
                    # Keep the expanded rows that the last group of rows read too.
                    kept = max(0, held_after - first)
                    moved = held + (first - held_first) * line
                    for index in range(0, kept * line, 4 * L):
                        valid = (kept * line - index) // 4
                        vector_store(vector_load(moved + index, valid, L), held + index, valid)
                    pixels = (last - first - kept) * a[_WIDTH]
                    if pixels > 0:
                        place = source + (first + kept) * a[_SOURCE_ROW]
                        store_int64(expansion + 8 * p.SOURCE, place)
                        store_int64(expansion + 8 * p.TARGET, held + kept * line)
                        store_int64(expansion + 8 * p.PIXELS, pixels)
                        call_kernel(a[_EXPAND], expansion, 0, 1)
                    held_first, held_after = first, last
                    store_int64(sweep + 8 * s.SOURCE, held - first * line)
                else:
                    store_int64(sweep + 8 * s.SOURCE, source)
                target = (image * a[_ROWS] + row) * a[_TARGET_ROW]
                if a[_PROJECT] != 0:
                    store_int64(sweep + 8 * s.TARGET, swept - row * swept_line)
                else:
                    store_int64(sweep + 8 * s.TARGET, a[_TARGET] + target - row * swept_line)
                call_kernel(a[_SWEEP], sweep, row, after)
                if a[_PROJECT] != 0:
                    store_int64(projection + 8 * p.SOURCE, swept)
                    store_int64(projection + 8 * p.TARGET, a[_TARGET] + target)
                    store_int64(projection + 8 * p.PIXELS, (after - row) * a[_COLUMNS])
                    if a[_ADDED] != 0:
                        store_int64(projection + 8 * p.ADDED, a[_ADDED] + target)
                    call_kernel(a[_PROJECT], projection, 0, 1)
        free_scratch(a[_SCRATCH], slot)
        # The calls above get only the address of this array. Numba frees an array after its last
        # use, so use the array here: it must not be freed earlier.
        blocks[:0] = 0

    return _depthwise_block_kernel


def _like(*shape: int) -> np.ndarray:
    """Return an array of this shape whose memory is not used."""
    return np.broadcast_to(np.float32(0), shape)


def _strips(images: int, rows: int, most: int) -> int:
    """Return the number of strips of an image, at least 1 and at most ``most`` if that is possible.

    Neighbouring strips both expand the rows between them. So there are only as many as the threads
    need, and the same number for each thread.
    """
    threads = numba.get_num_threads()
    strips = max(1, min(-(-_TASKS_PER_THREAD * threads // images), most, rows))
    while strips > 1 and images * strips > threads and images * strips % threads:
        strips -= 1
    return strips


class DepthwiseBlock:
    """A depthwise convolution with the 1x1 convolutions before and after it.

    Args:
        depthwise: The depthwise convolution.
        expansion: The 1x1 convolution before it, or ``None``.
        projection: The 1x1 convolution after it, or ``None``.
    """

    def __init__(
        self,
        depthwise: DepthwiseConvolution,
        *,
        expansion: Product | None = None,
        projection: Product | None = None,
    ) -> None:
        self._depthwise, self._expansion, self._projection = depthwise, expansion, projection

    def bind(
        self, source: np.ndarray, target: np.ndarray, added: np.ndarray | None = None
    ) -> list[Call]:
        """Return the calls that write the result of the three layers to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, OH, OW, F) float32, C-contiguous.
            added: float32 array of the shape of ``target``, added before the activation of the
                projection; or ``None``.

        Raises:
            ValueError: The shapes do not fit, or something is added without a projection.
        """
        images, height, width, channels = source.shape
        _, rows, columns, filters = target.shape
        expanded, wide = self._depthwise.channels
        if added is not None and (self._projection is None or added.shape != target.shape):
            raise ValueError(
                f"the target is {target.shape}, but the added array is {added.shape}"
                if self._projection
                else "only a block with a projection can add an array"
            )
        if len(target) != images or (self._projection is None and filters != wide):
            raise ValueError(f"the target is {target.shape}, but the source is {source.shape}")
        if self._expansion is None and channels != expanded:
            raise ValueError(f"the source has {channels} channels, but needs {expanded}")
        if target.size == 0:
            return []
        sweep = self._depthwise.bind(
            _like(1, height, width, expanded), _like(1, rows, columns, wide), cached=True
        )[0]
        # A task of the sweep must be a row of the target.
        sweep.args[s.BLOCK_ROWS], sweep.args[s.BLOCKS] = 1, rows
        args = np.zeros(_FIELDS, np.int64)
        args[_SOURCE], args[_TARGET] = source.ctypes.data, target.ctypes.data
        args[_ADDED] = 0 if added is None else added.ctypes.data
        args[_HEIGHT], args[_WIDTH], args[_ROWS], args[_COLUMNS] = height, width, rows, columns
        args[_SWEEP], args[_SWEEP_ARGS] = compile_kernel(sweep.slot), sweep.args.ctypes.data
        args[_SOURCE_ROW], args[_EXPANDED_ROW] = 4 * width * channels, 4 * width * expanded
        args[_SWEPT_ROW], args[_TARGET_ROW] = 4 * columns * wide, 4 * columns * filters
        args[_STEP], args[_ORIGIN] = sweep.args[s.ROW_STEP], sweep.args[s.ROW_ORIGIN]
        args[_REACH] = (sweep.args[s.TAP_ROWS] - 1) * sweep.args[s.ROW_DILATION] + 1
        keeps: list[Any] = [source, target, added, sweep]
        for layer, kernel, fields, pixels, sizes in (
            (self._expansion, _EXPAND, _EXPAND_ARGS, width, (channels, expanded)),
            (self._projection, _PROJECT, _PROJECT_ARGS, columns, (wide, filters)),
        ):
            if layer is None:
                continue
            # The tile must not have more pixels than the smallest group of rows.
            pixels = _MANY_PIXELS if pixels >= _MAX_POSITIONS else pixels
            call = layer.bind(_like(pixels, sizes[0]), _like(pixels, sizes[1]))[0]
            call.args[p.PARTS] = call.args[p.COLUMNS] = 1
            if call.args[p.CHUNK] == pixels:
                call.args[p.CHUNK] = 1 << 40
            args[kernel], args[fields] = compile_kernel(call.slot), call.args.ctypes.data
            keeps.append(call)
        step = int(args[_STEP])
        row_bytes = int(args[_SWEPT_ROW]) * (self._projection is not None)
        row_bytes += int(args[_EXPANDED_ROW]) * step * (self._expansion is not None)
        group = max(1, min(rows, _SCRATCH_BYTES // max(row_bytes, 1)))
        strips = _strips(images, rows, rows * step // _MIN_STRIP)
        args[_STRIP] = strip = -(-rows // strips)
        # Groups of equal size.
        args[_GROUP] = -(-strip // -(-strip // group))
        args[_STRIPS] = strips = -(-rows // strip)
        held = (int(args[_GROUP]) - 1) * step + int(args[_REACH])
        args[_SCRATCH] = scratch_pool(
            held * int(args[_EXPANDED_ROW]) + int(args[_GROUP]) * int(args[_SWEPT_ROW])
        )
        return [Call(_BLOCK, args, images * strips, 1, keeps)]
