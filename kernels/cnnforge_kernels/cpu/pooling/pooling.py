"""Compute 2D max and average pooling and their gradients on the CPU, for float32 NHWC arrays.

Max pooling also stores the argmax of each window: the row-major index of the maximum in the window.
The argmax has one byte, or four bytes if a window has more than 256 cells. The gradient of max
pooling needs only the argmax, not the inputs. Padding cells are never the maximum of a window, and
the mean of a window does not include them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.pooling.kernels import (
    ARGMAX,
    AVERAGE_POOL,
    AVERAGE_POOL_GRAD,
    CHANNELS,
    COLUMN_STEP,
    COLUMNS,
    FIELDS,
    HEIGHT,
    INPUTS,
    LEFT,
    MAX_POOL,
    MAX_POOL_GRAD,
    OUTPUTS,
    ROW_STEP,
    ROWS,
    TOP,
    WIDTH,
    WINDOW_COLUMNS,
    WINDOW_ROWS,
    kind_number,
)
from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.geometry import padding_before

_GRAIN_FLOATS = 64 * 1024


@cached_njit()
def _block(
    inputs: Any, outputs: Any, pool_size: tuple[int, int], strides: tuple[int, int], same: bool
) -> Any:
    args = np.zeros(FIELDS, np.int64)
    args[INPUTS], args[OUTPUTS] = address_of(inputs), address_of(outputs)
    _, args[HEIGHT], args[WIDTH], args[CHANNELS] = inputs.shape
    _, args[ROWS], args[COLUMNS], _ = outputs.shape
    args[WINDOW_ROWS], args[WINDOW_COLUMNS] = pool_size
    args[ROW_STEP], args[COLUMN_STEP] = strides
    args[TOP] = padding_before(inputs.shape[1], pool_size[0], strides[0], 1, same)
    args[LEFT] = padding_before(inputs.shape[2], pool_size[1], strides[1], 1, same)
    return args


@cached_njit()
def _run(family: int, args: Any, argmax_bytes: int, images: int, backward: bool) -> None:
    kind = kind_number(args, argmax_bytes)
    general = kind < 6
    rows = args[HEIGHT] if backward and general else args[ROWS]
    row_floats = max(1, args[WIDTH] * args[CHANNELS])
    if rows == args[ROWS]:
        row_floats *= args[ROW_STEP]
    grain = max(1, _GRAIN_FLOATS // row_floats)
    run_kernel(family + kind, args, images * rows, grain)


@cached_njit()
def max_pool2d_forward(
    inputs: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    same: bool,
    outputs: Any,
    argmax: Any,
) -> None:
    """Compute the maximum and the argmax of each window.

    The argmax is the row-major index of the maximum in the window.

    Args:
        inputs: (N, H, W, C) float32. All arrays must be C-contiguous.
        pool_size: Numbers of rows and columns of the window.
        strides: Strides of rows and columns.
        same: Whether the padding is SAME; otherwise it is VALID.
        outputs: (N, OH, OW, C) float32, which the function writes.
        argmax: (N, OH, OW, C), which the function writes: uint8, or int32 if a window has more than
            256 cells.
    """
    if outputs.size == 0:
        return
    args = _block(inputs, outputs, pool_size, strides, same)
    args[ARGMAX] = address_of(argmax)
    _run(MAX_POOL, args, argmax.itemsize, inputs.shape[0], False)


@cached_njit()
def max_pool2d_grad_inputs(
    inputs: Any,
    argmax: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of the inputs of max pooling.

    The function reads only the number of images from ``inputs``. The other arguments are those of
    ``max_pool2d_forward``, and the gradients have the shapes of ``inputs`` and ``outputs``.
    """
    if grad_outputs.size == 0:
        grad_inputs[:] = np.float32(0)
        return
    args = _block(grad_inputs, grad_outputs, pool_size, strides, same)
    args[ARGMAX] = address_of(argmax)
    _run(MAX_POOL_GRAD, args, argmax.itemsize, inputs.shape[0], True)


@cached_njit()
def average_pool2d_forward(
    inputs: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    same: bool,
    outputs: Any,
) -> None:
    """Compute the mean of each window without its padding.

    The arguments are those of ``max_pool2d_forward`` except ``argmax``.
    """
    if outputs.size == 0:
        return
    args = _block(inputs, outputs, pool_size, strides, same)
    _run(AVERAGE_POOL, args, 1, inputs.shape[0], False)


@cached_njit()
def average_pool2d_grad_inputs(
    inputs: Any,
    pool_size: tuple[int, int],
    strides: tuple[int, int],
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of the inputs of average pooling.

    The function reads only the number of images from ``inputs``. The other arguments are those of
    ``average_pool2d_forward``, and the gradients have the shapes of ``inputs`` and ``outputs``.
    """
    if grad_outputs.size == 0:
        grad_inputs[:] = np.float32(0)
        return
    args = _block(grad_inputs, grad_outputs, pool_size, strides, same)
    _run(AVERAGE_POOL_GRAD, args, 1, inputs.shape[0], True)
