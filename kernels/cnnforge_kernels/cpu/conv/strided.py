"""Copy the pixels that a 1x1 convolution with strides reads, and put gradients back to them.

Such a convolution is a product over these pixels. The product, and its gradients, are faster if the
pixels are neighbours in memory, and copying them takes much less time than the product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.packing import copy_floats
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, floats_at
from cnnforge_kernels.cpu.runtime.parallel import run_kernel

# Fields of the argument block: the addresses of the array of all pixels and of the array of the
# pixels that are read; the height and the width of both; the strides; the number of channels.
_ALL, _READ, _HEIGHT, _WIDTH, _ROWS, _COLUMNS, _ROW_STEP, _COLUMN_STEP, _CHANNELS = range(9)
_FIELDS = 9
# A task copies at least this number of bytes.
_TASK_BYTES = 64 * 1024


@cached_njit()
def _clear(target: int, count: int) -> None:
    """Set ``count`` floats at the address ``target`` to zero."""
    carray(floats_at(target), count)[:] = np.float32(0)


@kernel_family(1)
def _COPY(_: int) -> Any:
    """Copy the pixels that are read of the rows ``begin`` to ``end - 1``."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _copy_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        pixel = 4 * a[_CHANNELS]
        for row in range(begin, end):
            image, row_in_image = row // a[_ROWS], row % a[_ROWS]
            source_row = image * a[_HEIGHT] + row_in_image * a[_ROW_STEP]
            source = a[_ALL] + source_row * a[_WIDTH] * pixel
            target = a[_READ] + row * a[_COLUMNS] * pixel
            for _column in range(a[_COLUMNS]):
                copy_floats(target, source, a[_CHANNELS])
                source += a[_COLUMN_STEP] * pixel
                target += pixel

    return _copy_kernel


@kernel_family(1)
def _SPREAD(_: int) -> Any:
    """Write the rows ``begin`` to ``end - 1`` of all pixels: those not read become zero."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        channels = a[_CHANNELS]
        pixel = 4 * channels
        for row in range(begin, end):
            image, row_in_image = row // a[_HEIGHT], row % a[_HEIGHT]
            target = a[_ALL] + row * a[_WIDTH] * pixel
            if row_in_image % a[_ROW_STEP] != 0:
                _clear(target, a[_WIDTH] * channels)
                continue
            source_row = image * a[_ROWS] + row_in_image // a[_ROW_STEP]
            source = a[_READ] + source_row * a[_COLUMNS] * pixel
            for column in range(0, a[_WIDTH], a[_COLUMN_STEP]):
                copy_floats(target, source, channels)
                others = min(a[_COLUMN_STEP], a[_WIDTH] - column) - 1
                _clear(target + pixel, others * channels)
                source += pixel
                target += a[_COLUMN_STEP] * pixel

    return _spread_kernel


@cached_njit()
def _run(family: int, every: Any, read: Any, strides: tuple[int, int], rows: int) -> None:
    a = np.empty(_FIELDS, np.int64)
    a[_ALL], a[_READ] = address_of(every), address_of(read)
    _, a[_HEIGHT], a[_WIDTH], a[_CHANNELS] = every.shape
    a[_ROWS], a[_COLUMNS] = read.shape[1], read.shape[2]
    a[_ROW_STEP], a[_COLUMN_STEP] = strides
    grain = max(1, _TASK_BYTES // max(4 * a[_CHANNELS] * a[_COLUMNS], 1))
    run_kernel(family, a, rows, grain)


@cached_njit()
def pixels_read(inputs: Any, strides: tuple[int, int], rows: int, columns: int) -> Any:
    """Return a copy of the pixels that a 1x1 convolution reads.

    Args:
        inputs: (N, H, W, C) float32, C-contiguous.
        strides: strides of rows and columns.
        rows: number of rows of the outputs.
        columns: number of columns of the outputs.

    Returns:
        (N, rows, columns, C).
    """
    images, _, _, channels = inputs.shape
    read = np.empty((images, rows, columns, channels), np.float32)
    _run(_COPY, inputs, read, strides, images * rows)
    return read


@cached_njit()
def spread_pixels(read: Any, strides: tuple[int, int], target: Any) -> None:
    """Write pixels to the places at which a 1x1 convolution reads them, and zeros between them.

    Args:
        read: (N, OH, OW, C) float32, C-contiguous.
        strides: strides of rows and columns.
        target: (N, H, W, C), written.
    """
    _run(_SPREAD, target, read, strides, target.shape[0] * target.shape[1])
