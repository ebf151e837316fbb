"""Launchers of the fused block, convolution to pool, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays as at
from cnnforge_kernels.cpu.conv import conv_block as _conv_block
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Shape,
    bias_array,
    convolution_options,
    pair,
    shape_of_four,
    winners_array,
)

# A winner is one byte, and 255 says that no cell is positive.
_MOST_POOL = 15


def _block_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    pool_size: Any,
    inputs: Shape,
    weights: Shape,
) -> tuple[tuple[Pair, bool, Pair, int, Pair], Shape]:
    """The options of the kernels, and the shape of the outputs."""
    options, (images, rows, columns, filters) = convolution_options(
        strides, padding, dilation_rate, groups, inputs, weights
    )
    pool = pair("pool_size", pool_size)
    if max(pool) > _MOST_POOL:
        raise ValueError(f"`pool_size` must be at most {_MOST_POOL}. Received: {pool}")
    return (*options, pool), (images, rows // pool[0], columns // pool[1], filters)


def conv_block(
    inputs: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    pool_size: int | Pair = (2, 2),
    out: Array | None = None,
    stream: Any = None,
) -> tuple[Array, NDArray]:
    """Convolution, bias, ReLU and max pooling in one pass; the un-pooled map is never written.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C / groups, F) float32.
        bias: (F,) float32.
        strides: of the convolution.
        padding: of the convolution; the pool is always VALID.
        dilation_rate: of the convolution; above 1 only with strides of 1.
        groups: blocks of channels that do not mix.
        pool_size: window of the pool, and its strides; at most 15.
        out: (N, PH, PW, F) float32 buffer to write to.
        stream: for arrays on a device.

    Returns:
        The outputs, (N, PH, PW, F) float32, and the winners, the same shape, uint8: the cell of the
        window that held the maximum, in row-major order, the first of several; 255 where the
        maximum is not positive, so that nothing has a gradient.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.
    """
    inputs = at.array("inputs", inputs, 4, stream)
    weights = at.array("weights", weights, 4, stream)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights.shape
    )
    offsets = bias_array(bias, shape[3], stream)
    outputs = at.out("out", out, shape, (inputs, weights, offsets), stream=stream)
    winners = at.empty((inputs,), shape, np.uint8, stream)
    at.call(
        _conv_block.conv_block_forward,
        *(inputs, weights, offsets, *options, outputs, winners),
        stream=stream,
    )
    return at.result(outputs), at.result(winners)


def conv_block_grad_inputs(
    grad_outputs: Array,
    winners: NDArray,
    weights: Array,
    input_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    pool_size: int | Pair = (2, 2),
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The gradient of ``conv_block``'s inputs, from its winners: (N, H, W, C) float32."""
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    weights = at.array("weights", weights, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, input_shape, weights.shape
    )
    winners = winners_array(winners, grads, shape, options[4], True, stream)
    result = at.out("out", out, input_shape, (grads, weights, winners), stream=stream)
    at.call(
        _conv_block.conv_block_grad_inputs,
        *(result, weights, winners, *options, grads, result),
        stream=stream,
    )
    return at.result(result)


def conv_block_grad_weights(
    inputs: Array,
    grad_outputs: Array,
    winners: NDArray,
    weights_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    pool_size: int | Pair = (2, 2),
    out: Array | None = None,
    stream: Any = None,
) -> tuple[Array, Array]:
    """The gradients of ``conv_block``'s weights, (KH, KW, C / groups, F), and bias, (F,)."""
    inputs = at.array("inputs", inputs, 4, stream)
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    weights_shape = shape_of_four("weights_shape", weights_shape)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights_shape
    )
    winners = winners_array(winners, grads, shape, options[4], True, stream)
    result = at.out("out", out, weights_shape, (inputs, grads, winners), stream=stream)
    bias = at.empty((inputs,), shape[3:], np.float32, stream)
    at.call(
        _conv_block.conv_block_grad_weights,
        *(inputs, result, bias, winners, *options, grads, result, bias),
        stream=stream,
    )
    return at.result(result), at.result(bias)
