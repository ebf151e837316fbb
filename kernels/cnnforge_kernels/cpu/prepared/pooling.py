"""Pooling in a trained network: maxima without their places, and means, with any padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.depthwise.sweep import choose_lanes, width_number
from cnnforge_kernels.cpu.pooling import global_average as sums
from cnnforge_kernels.cpu.prepared.arrays import aligned_empty
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.simd.reductions import vector_larger
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_divide,
    vector_load,
    vector_splat,
    vector_store,
)

Pair = tuple[int, int]
# Fields of the argument block. The first two are addresses.
_SOURCE, _TARGET, _HEIGHT, _WIDTH, _CHANNELS, _ROWS, _COLUMNS = range(7)
_WINDOW_ROWS, _WINDOW_COLUMNS, _ROW_STEP, _COLUMN_STEP, _TOP, _LEFT = range(7, 13)
_FIELDS = 13

_MAX_VECTORS = 2
_WIDTHS = 5
_GRAIN_FLOATS = 64 * 1024


@kernel_family(2 * _MAX_VECTORS * _WIDTHS)
def _POOL(number: int) -> Any:
    """Compute the maximum or the mean of each window; a task is a row of the target.

    The last block of channels is moved back, so that it ends at the last channel.
    """
    MEAN, G = number % 2, number // 2 % _MAX_VECTORS + 1
    L = 1 << (number // (2 * _MAX_VECTORS))

    @cached_cfunc(KERNEL_SIGNATURE)
    def _prepared_pool_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        channels = a[_CHANNELS]
        pixel, line = 4 * channels, 4 * channels * a[_WIDTH]
        lowest = vector_splat(np.float32(0 if MEAN else -np.inf), L)
        for task in range(begin, end):
            image, row = task // a[_ROWS], task % a[_ROWS]
            top = row * a[_ROW_STEP] - a[_TOP]
            first_row, last_row = max(top, 0), min(top + a[_WINDOW_ROWS], a[_HEIGHT])
            source = a[_SOURCE] + image * a[_HEIGHT] * line
            target = a[_TARGET] + task * a[_COLUMNS] * pixel
            for column in range(a[_COLUMNS]):
                left = column * a[_COLUMN_STEP] - a[_LEFT]
                first, last = max(left, 0), min(left + a[_WINDOW_COLUMNS], a[_WIDTH])
                cells = vector_splat(np.float32((last_row - first_row) * (last - first)), L)
                c = 0
                while c < channels:
                    c = min(c, channels - G * L)
                    low, high = lowest, lowest
                    for y in range(first_row, last_row):
                        place = source + y * line + first * pixel + 4 * c
                        for _ in range(first, last):
                            value = vector_load(place, L, L)
                            low = vector_add(low, value) if MEAN else vector_larger(low, value)
                            if G > 1:
                                value = vector_load(place + 4 * L, L, L)
                                high = (
                                    vector_add(high, value) if MEAN else vector_larger(high, value)
                                )
                            place += pixel
                    if MEAN:
                        low, high = vector_divide(low, cells), vector_divide(high, cells)
                    vector_store(low, target + 4 * c, L)
                    if G > 1:
                        vector_store(high, target + 4 * (c + L), L)
                    c += G * L
                target += pixel

    return _prepared_pool_kernel


@kernel_family(1)
def _MEAN(_: int) -> Any:
    """Add the sums of an image's blocks pairwise, and divide; a task is an image.

    The argument block is that of ``SUM``, but SOURCE is the address of the sums.
    """
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _mean_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, sums.FIELDS)
        channels, blocks = a[sums.CHANNELS], a[sums.BLOCKS]
        pixel = 4 * channels
        pixels = vector_splat(np.float32(a[sums.PIXELS]), L)
        for task in range(begin, end):
            source = a[sums.SOURCE] + task * blocks * pixel
            distance = 1
            while distance < blocks:
                for block in range(0, blocks - distance, 2 * distance):
                    place = source + block * pixel
                    for c in range(0, channels, L):
                        here = place + 4 * c
                        total = vector_load(here, channels - c, L)
                        other = vector_load(here + distance * pixel, channels - c, L)
                        vector_store(vector_add(total, other), here, channels - c)
                distance *= 2
            for c in range(0, channels, L):
                total = vector_load(source + 4 * c, channels - c, L)
                place = a[sums.TARGET] + task * pixel + 4 * c
                vector_store(vector_divide(total, pixels), place, channels - c)

    return _mean_kernel


def _pool(
    mean: bool,
    source: np.ndarray,
    target: np.ndarray,
    window: Pair,
    strides: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
) -> list[Call]:
    images, height, width, channels = source.shape
    sizes = [
        (size + sum(around) - cells) // step + 1
        for size, around, cells, step in zip((height, width), padding, window, strides, strict=True)
    ]
    expected = (images, *(max(size, 0) for size in sizes), channels)
    if target.shape != expected:
        raise ValueError(f"the target has shape {target.shape}, but needs {expected}")
    if target.size == 0:
        return []
    args = np.zeros(_FIELDS, np.int64)
    args[_SOURCE], args[_TARGET] = source.ctypes.data, target.ctypes.data
    args[_HEIGHT], args[_WIDTH], args[_CHANNELS] = height, width, channels
    args[_ROWS], args[_COLUMNS] = sizes
    args[_WINDOW_ROWS], args[_WINDOW_COLUMNS] = window
    args[_ROW_STEP], args[_COLUMN_STEP] = strides
    args[_TOP], args[_LEFT] = padding[0][0], padding[1][0]
    vectors, lanes = choose_lanes(channels, _MAX_VECTORS)
    number = int(mean) + 2 * (vectors - 1 + _MAX_VECTORS * width_number(lanes))
    work = sizes[1] * channels * (window[0] * window[1] + 2)
    grain = max(1, _GRAIN_FLOATS // work)
    return [Call(_POOL + number, args, images * sizes[0], grain, (source, target))]


class _Pooling:
    """Pooling with a window.

    Args:
        window: Numbers of rows and columns of the window.
        strides: Strides of the rows and of the columns.
        padding: ((top, bottom), (left, right)), the numbers of padding rows and columns. A window
            must contain more than padding.
    """

    _mean = False

    def __init__(
        self,
        window: Pair,
        strides: Pair,
        padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    ) -> None:
        self._window, self._strides, self._padding = window, strides, padding

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the pools of ``source`` to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, OH, OW, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        return _pool(self._mean, source, target, self._window, self._strides, self._padding)


class MaxPooling(_Pooling):
    """The maximum of each window. Padding is never the maximum. The maximum of NaN is NaN."""


class AveragePooling(_Pooling):
    """The mean of each window without its padding."""

    _mean = True


class GlobalMaxPooling:
    """The maximum of each channel of each image. The maximum of NaN is NaN."""

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write one value for each image and channel to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, C) or (N, 1, 1, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        return _pool(False, source, _single_pixels(source, target), source.shape[1:3])


class GlobalAveragePooling:
    """The mean of each channel of each image."""

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write one value for each image and channel to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, C) or (N, 1, 1, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        images, height, width, channels = source.shape
        pools = _single_pixels(source, target)
        pixels = height * width
        if pixels <= sums.BLOCK or target.size == 0:
            return _pool(True, source, pools, (height, width))
        # Sums of parts of an image are more accurate, and threads share a large image.
        blocks = -(-pixels // sums.BLOCK)
        parts = aligned_empty((images, blocks, channels))
        args = np.zeros((2, sums.FIELDS), np.int64)
        args[:, sums.CHANNELS], args[:, sums.PIXELS], args[:, sums.BLOCKS] = (
            channels,
            pixels,
            blocks,
        )
        args[0, sums.SOURCE], args[0, sums.TARGET] = source.ctypes.data, parts.ctypes.data
        args[1, sums.SOURCE], args[1, sums.TARGET] = parts.ctypes.data, target.ctypes.data
        vectors, lanes = choose_lanes(channels, sums.MAX_VECTORS)
        number = vectors - 1 + sums.MAX_VECTORS * width_number(lanes)
        grain = max(1, _GRAIN_FLOATS // (sums.BLOCK * channels))
        keeps = (source, target, parts, args)
        return [
            Call(sums.SUM + number, args[0], images * blocks, grain, keeps),
            Call(_MEAN, args[1], images, max(1, _GRAIN_FLOATS // (blocks * channels)), keeps),
        ]


def _single_pixels(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return ``target`` as (N, 1, 1, C)."""
    images, height, width, channels = source.shape
    if target.size != images * channels or height * width == 0:
        raise ValueError(f"images {source.shape} cannot be pooled to {target.shape}")
    return target.reshape(images, 1, 1, channels)
