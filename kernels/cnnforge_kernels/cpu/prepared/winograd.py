"""A 3x3 convolution of a trained network by Winograd's algorithm."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.cpu.conv.winograd import inference
from cnnforge_kernels.cpu.conv.winograd import inference_passes as w
from cnnforge_kernels.cpu.prepared.arrays import aligned_zeros
from cnnforge_kernels.cpu.runtime.call_list import Call, CallList
from cnnforge_kernels.cpu.runtime.compiled import compile_kernel
from cnnforge_kernels.cpu.simd.tile_choice import (
    MAX_ACCUMULATORS,
    MAX_LANES,
    TILES,
    choose_tile,
    tile_number,
)

# The size of the planes of a task that transforms its inputs: three eighths of a second-level cache
# of 1 MiB. If there are several blocks of filters, the weights do not fit this cache. Then a task
# has more tiles, so that the weights are read fewer times.
_TASK_BYTES = 384 * 1024
_TILES_FOR_BLOCKS = 64
# The maximum size of the transformed inputs of all tiles, which should stay in the third-level
# cache.
_ALL_BYTES = 10 * 1024 * 1024
# Estimates in nanoseconds, of one thread: a multiply-add, and the transforms of a tile for 16
# channels or filters. A task takes at least _TASK_TIME, if there is work for two.
_MULTIPLY_ADD, _TRANSFORM, _TASK_TIME = 1 / 120, 60, 5000
# The sweep is used if there are fewer tiles, and the weights are large: the transformed weights
# have four times as many bytes. One image of 7x7x512 took 0.44 ms in place of 0.87 ms.
_MIN_TILES, _MANY_WEIGHTS = 8, 512 * 512
# The sweep is used too if a smaller part of the outputs of the tiles is inside the image. The sweep
# has four times as many multiplications for each output.
_MIN_FULL = 0.35
_SPREAD_GRAIN = 4


@cache
def _register_tile(channels: int, filters: int) -> tuple[int, int]:
    """Return the numbers of positions and vectors of the register tile."""
    tile, vectors, *_ = choose_tile.py_func(1024, filters, 1, 1, False)
    if channels in w.CHANNELS_KNOWN:
        tile = MAX_ACCUMULATORS // vectors
        tile -= tile % 4 if tile > 8 else 0
    return tile, vectors


def sweep_is_faster(outputs: tuple[int, ...], weights: int) -> bool:
    """Return whether Winograd's algorithm would compute too few tiles, or tiles that are not full.

    Args:
        outputs: (N, OH, OW, F), shape of the outputs.
        weights: Number of channels times number of filters.
    """
    images, rows, columns, _ = outputs
    tiles = images * -(-rows // w.STEP) * -(-columns // w.STEP)
    if images * rows * columns < _MIN_FULL * tiles * w.STEP * w.STEP:
        return True
    return tiles < _MIN_TILES and weights >= _MANY_WEIGHTS


class Winograd:
    """The weights of a 3x3 convolution, transformed once.

    Args:
        weights: (3, 3, C, F) float32. C is a multiple of ``MIN_LANES`` of ``forward_passes.py``.
        bias: (F,) float32, or ``None``.
    """

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        _, _, self._channels, self._filters = weights.shape
        self._tile, vectors = _register_tile(self._channels, self._filters)
        self._vectors, self._width = vectors, vectors * MAX_LANES
        self._blocks = -(-self._filters // self._width)
        self._bias = np.zeros(self._blocks * self._width, np.float32)
        if bias is not None:
            self._bias[: self._filters] = bias
        self._weights = aligned_zeros((self._blocks, w.PLANES, self._channels, self._width))
        args = self._block()
        args[w.FACTORS] = weights.ctypes.data
        grain = max(1, 8192 // self._filters)
        CallList([Call(w.SPREAD_WEIGHTS, args, self._channels, grain, weights)])()

    def _block(self) -> NDArray[np.int64]:
        args = np.zeros(w.FIELDS, np.int64)
        args[w.CHANNELS], args[w.FILTERS] = self._channels, self._filters
        args[w.WEIGHTS], args[w.BIAS] = self._weights.ctypes.data, self._bias.ctypes.data
        args[w.BLOCK_FILTERS], args[w.BLOCKS] = self._width, self._blocks
        return args

    def bind(
        self,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        added: NDArray[np.float32] | None,
        before: tuple[int, int],
        sizes: tuple[int, int],
        activation: int,
        pooled: bool,
        found: NDArray[np.int64],
    ) -> list[Call]:
        """Return the calls.

        Args:
            source: (N, H, W, C) float32.
            target: (N, OH, OW, F) float32, written.
            added: Array of the target's shape that is added, or ``None``. It must not be
                ``target``, which may be computed twice.
            before: Rows and columns of zeros before the image.
            sizes: Rows and columns of the outputs before the pool.
            activation: A constant of ``epilogues.py``.
            pooled: Whether a 2x2 max pool follows.
            found: (1,) int64, set to 1 if the outputs have to be computed in another way.
        """
        args = self._block()
        args[w.SOURCE], args[w.IMAGE], args[w.ROW] = source.ctypes.data, *source.strides[:2]
        args[[w.HEIGHT, w.WIDTH]] = source.shape[1:3]
        args[[w.TOP, w.LEFT]] = before
        args[[w.ROWS, w.COLUMNS]] = sizes
        high, wide = (-(-size // w.STEP) for size in sizes)
        tiles = len(source) * high * wide
        args[[w.HIGH, w.WIDE, w.TILES]] = high, wide, tiles
        args[w.TARGET] = target.ctypes.data
        args[[w.TARGET_IMAGE, w.TARGET_ROW, w.TARGET_COLUMN]] = target.strides[:3]
        args[w.ADDED] = 0 if added is None else added.ctypes.data - target.ctypes.data
        args[w.ACTIVATION], args[w.NOT_FINITE] = activation, found.ctypes.data
        chunk, alone = self._chunk(tiles)
        tile = min(self._tile, chunk)
        tile = -(-chunk // -(-chunk // tile))
        args[w.CHUNK] = chunk
        number = tile_number.py_func(tile, self._vectors, MAX_LANES, 1)
        if self._channels in w.CHANNELS_KNOWN:
            number += TILES * w.CHANNELS_KNOWN.index(self._channels)
        half = 0 if self._channels % MAX_LANES == 0 else 1
        args[w.SPREAD_KERNEL] = compile_kernel(w.SPREAD + half)
        args[w.MULTIPLY_KERNEL] = compile_kernel(w.MULTIPLY + number)
        args[w.JOIN_KERNEL] = compile_kernel(w.JOIN + int(pooled))
        keeps = (source, target, added, self._weights, self._bias, found)
        chunks = -(-tiles // chunk)
        if alone:
            return [Call(inference.WINOGRAD + 1, args, chunks, 1, keeps, flag=found)]
        plane = w.input_plane.py_func(tiles, self._channels)
        inputs = aligned_zeros((w.PLANES * plane // 4,))
        args[w.INPUTS] = inputs.ctypes.data
        return [
            Call(inference.SPREAD_ALL, args, tiles, _SPREAD_GRAIN, (keeps, inputs)),
            Call(inference.WINOGRAD, args, chunks * self._blocks, 1, (keeps, inputs), flag=found),
        ]

    def _chunk(self, tiles: int) -> tuple[int, bool]:
        """Return the number of tiles of a task, and whether it transforms its inputs itself."""
        channels, filters = self._channels, self._blocks * self._width
        each = 4 * w.PLANES * channels
        alone = self._blocks == 1 or tiles * each > _ALL_BYTES
        wanted = _TILES_FOR_BLOCKS
        if self._blocks == 1:
            wanted = max(_TASK_BYTES // (each + 4 * w.PLANES * filters), self._tile)
            time = w.PLANES * channels * filters * _MULTIPLY_ADD
            time += (channels + filters) / 16 * _TRANSFORM
            if tiles * time > 2 * _TASK_TIME:
                wanted = min(wanted, max(-(-tiles // 4), int(_TASK_TIME / time)))
        parts = -(-tiles // wanted)
        chunk = -(-tiles // parts)
        return chunk, alone
