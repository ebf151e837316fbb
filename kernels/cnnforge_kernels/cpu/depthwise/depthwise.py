"""Depthwise 2D convolution on the CPU: forward pass and gradients, float32, NHWC.

The weights are (KH, KW, C, M): output channel c * M + m is the convolution of input channel c with
``weights[:, :, c, m]``. M is the depth multiplier; the kernels are faster if M is 1. The functions
here are compiled and check no arguments; the functions in ``launch`` check them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.depthwise import gather as g
from cnnforge_kernels.cpu.depthwise import sweep as s
from cnnforge_kernels.cpu.depthwise.sweep_setup import sweep
from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.geometry import padding_before


@cached_njit()
def depthwise_conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    relu: bool,
    outputs: Any,
) -> None:
    """Convolve each channel with its own weights, add the bias, and apply a ReLU if ``relu``.

    Args:
        inputs: (N, H, W, C) float32, C-contiguous, as all arrays here.
        weights: (KH, KW, C, M).
        bias: (C * M,); empty if there is no bias.
        strides: strides of rows and columns.
        same: whether the padding is SAME; else it is VALID.
        dilation_rate: dilation of rows and columns.
        relu: whether a ReLU is applied.
        outputs: (N, OH, OW, C * M), written.
    """
    if outputs.size == 0:
        return
    kh, kw, _, multiplier = weights.shape
    args = np.zeros(s.FIELDS, np.int64)
    args[s.SOURCE] = address_of(inputs)
    args[s.IMAGES], args[s.HEIGHT], args[s.WIDTH] = inputs.shape[:3]
    args[s.WIDE], args[s.REPEAT], args[s.SUMMED] = outputs.shape[3], multiplier, 1
    args[s.TAP_ROWS], args[s.TAP_COLUMNS] = kh, kw
    args[s.ROW_STEP], args[s.COLUMN_STEP] = strides
    args[s.ROW_DILATION], args[s.COLUMN_DILATION] = dilation_rate
    top = padding_before(inputs.shape[1], kh, strides[0], dilation_rate[0], same)
    left = padding_before(inputs.shape[2], kw, strides[1], dilation_rate[1], same)
    args[s.ROW_ORIGIN], args[s.COLUMN_ORIGIN] = -top, -left
    no_bias = np.zeros(0 if bias.size > 0 else outputs.shape[3], np.float32)
    args[s.WEIGHTS] = address_of(weights)
    args[s.BIAS] = address_of(bias) if bias.size > 0 else address_of(no_bias)
    args[s.RELU] = 1 if relu else 0
    args[s.ROWS], args[s.COLUMNS] = outputs.shape[1], outputs.shape[2]
    args[s.TARGET] = address_of(outputs)
    args[s.TARGET_COLUMN] = 4 * outputs.shape[3]
    args[s.TARGET_ROW] = args[s.TARGET_COLUMN] * outputs.shape[2]
    args[s.TARGET_IMAGE] = args[s.TARGET_ROW] * outputs.shape[1]
    sweep(args, 0, kw, 1)
    # The calls above get only the address of this array. Numba frees an array after its last use,
    # so use the array here: it must not be freed earlier.
    no_bias[:0] = np.float32(0)


@cached_njit()
def _phase_taps(
    phase: int, before: int, window: int, stride: int, dilation: int
) -> tuple[int, int, int, int, int]:
    """Return five numbers that describe which outputs and taps read the inputs of one phase.

    The inputs of a phase are the rows (or columns) with index ``phase + r * stride``.

    Returns:
        (taps, last, step, origin, dilation). For k from 0 to ``taps - 1``, output
        ``r + origin + k * dilation`` reads input ``phase + r * stride`` and multiplies it by tap
        ``last + k * step``.
    """
    taps, last, step, origin, distance = 0, 0, -1, 0, 1
    for tap in range(window - 1, -1, -1):
        place = phase + before - tap * dilation
        if place % stride == 0:
            if taps == 0:
                last, origin = tap, place // stride
            elif taps == 1:
                step, distance = tap - last, place // stride - origin
            taps += 1
    return taps, last, step, origin, distance


@cached_njit()
def depthwise_conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of ``inputs`` by one sweep for each phase of the stride.

    ``inputs`` is not read. ``outputs`` is read only if ``relu``, because a ReLU passes a gradient
    only if its output is positive.
    """
    if grad_inputs.size == 0:
        return
    if grad_outputs.size == 0:
        grad_inputs[:] = np.float32(0)
        return
    kh, kw, channels, multiplier = weights.shape
    _, height, width, _ = grad_inputs.shape
    top = padding_before(height, kh, strides[0], dilation_rate[0], same)
    left = padding_before(width, kw, strides[1], dilation_rate[1], same)
    args = np.zeros(s.FIELDS, np.int64)
    args[s.SOURCE] = address_of(grad_outputs)
    args[s.MASK] = address_of(outputs) if relu else 0
    args[s.IMAGES], args[s.HEIGHT], args[s.WIDTH] = grad_outputs.shape[:3]
    args[s.WIDE], args[s.REPEAT] = channels * multiplier, 1
    args[s.SUMMED] = multiplier
    args[s.ROW_STEP], args[s.COLUMN_STEP] = 1, 1
    no_bias = np.zeros(channels * multiplier, np.float32)
    args[s.WEIGHTS], args[s.BIAS] = address_of(weights), address_of(no_bias)
    column_bytes = 4 * channels
    row_bytes = column_bytes * width
    args[s.TARGET_IMAGE] = row_bytes * height
    args[s.TARGET_ROW] = row_bytes * strides[0]
    args[s.TARGET_COLUMN] = column_bytes * strides[1]
    for row in range(min(strides[0], height)):
        rows, i, row_tap, args[s.ROW_ORIGIN], args[s.ROW_DILATION] = _phase_taps(
            row, top, kh, strides[0], dilation_rate[0]
        )
        args[s.TAP_ROWS] = rows
        args[s.ROWS] = (height - row + strides[0] - 1) // strides[0]
        for column in range(min(strides[1], width)):
            columns, j, column_tap, args[s.COLUMN_ORIGIN], args[s.COLUMN_DILATION] = _phase_taps(
                column, left, kw, strides[1], dilation_rate[1]
            )
            args[s.TAP_COLUMNS] = columns
            args[s.COLUMNS] = (width - column + strides[1] - 1) // strides[1]
            args[s.TARGET] = address_of(grad_inputs) + row * row_bytes + column * column_bytes
            sweep(args, i * kw + j, row_tap * kw, column_tap)
    # The calls above get only the address of this array. Numba frees an array after its last use,
    # so use the array here: it must not be freed earlier.
    no_bias[:0] = np.float32(0)


@cached_njit()
def depthwise_conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute the gradients of ``weights`` and ``bias`` in one pass over inputs and gradient.

    ``weights`` and ``bias`` are not read. ``outputs`` is read only if ``relu``, because a ReLU
    passes a gradient only if its output is positive.
    """
    if grad_outputs.size == 0 or grad_weights.size == 0:
        grad_weights[:] = np.float32(0)
        grad_bias[:] = np.float32(0)
        return
    kh, kw, _, multiplier = grad_weights.shape
    args = np.zeros(g.FIELDS, np.int64)
    args[g.SOURCE], args[g.GRADIENT] = address_of(inputs), address_of(grad_outputs)
    args[g.MASK] = address_of(outputs) if relu else 0
    args[g.IMAGES], args[g.HEIGHT], args[g.WIDTH] = inputs.shape[:3]
    _, args[g.ROWS], args[g.COLUMNS], args[g.WIDE] = grad_outputs.shape
    args[g.REPEAT] = multiplier
    args[g.TAP_ROWS], args[g.TAP_COLUMNS] = kh, kw
    args[g.ROW_STEP], args[g.COLUMN_STEP] = strides
    args[g.ROW_DILATION], args[g.COLUMN_DILATION] = dilation_rate
    args[g.TOP] = padding_before(inputs.shape[1], kh, strides[0], dilation_rate[0], same)
    args[g.LEFT] = padding_before(inputs.shape[2], kw, strides[1], dilation_rate[1], same)
    g.gather(args, grad_weights, grad_bias)
