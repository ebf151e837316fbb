"""The public functions of the block: convolution, bias, ReLU and max pooling in one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu.conv import conv_block as cpu
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Shape,
    argmax_array,
    bias_array,
    convolution_options,
    pair,
    shape_of_four,
)
from cnnforge_kernels.launch.problem import Problem

# The maximum size of a window. The argmax is one byte, and 255 means that no cell is positive.
_MAX_POOL = 15


def _block_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    pool_size: Any,
    inputs: Shape,
    weights: Shape,
) -> tuple[tuple[Pair, bool, Pair, int, Pair], Shape]:
    """Check the options; return a tuple of the kernels' options, and the shape of the outputs."""
    options, (images, rows, columns, filters) = convolution_options(
        strides, padding, dilation_rate, groups, inputs, weights
    )
    pool = pair("pool_size", pool_size)
    if max(pool) > _MAX_POOL:
        raise ValueError(f"`pool_size` must be at most {_MAX_POOL}. Received: {pool}")
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
    """Compute convolution, bias, ReLU and max pooling in one pass.

    The outputs before pooling are never written to an array.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C / groups, F) float32.
        bias: (F,) float32.
        strides: strides of the convolution.
        padding: padding of the convolution, ``"valid"`` or ``"same"``; the pool is always VALID.
        dilation_rate: dilation of the convolution; above 1 only with strides of 1.
        groups: number of groups of channels.
        pool_size: window of the pool, and its strides; 1 to 15.
        out: (N, PH, PW, F) float32 buffer to write to.
        stream: stream for arrays on a device.

    Returns:
        The outputs, (N, PH, PW, F) float32, and the argmax, of the same shape, uint8. The argmax is
        the index, in row-major order, of the first cell of the window that has the maximum. It is
        255 if the maximum is not positive, so that no cell has a gradient.

    Raises:
        ValueError: a rank, dtype, shape or option is wrong.
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights.shape
    )
    problem = Problem(inputs.shape, shape, options, stream)
    known = inputs, weights, bias_array(bias, shape[3], stream)
    return problem.forward(cpu.conv_block_forward, known, out, argmax=np.uint8)


def conv_block_grad_inputs(
    grad_outputs: Array,
    argmax: NDArray,
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
    """Return the gradient of ``conv_block``'s inputs from its argmax: (N, H, W, C) float32."""
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, input_shape, weights.shape
    )
    problem = Problem(input_shape, shape, options, stream)
    known = weights, argmax_array(argmax, grads, shape, options[4], True, stream)
    return problem.grad_inputs(cpu.conv_block_grad_inputs, known, grads, out)


def conv_block_grad_weights(
    inputs: Array,
    grad_outputs: Array,
    argmax: NDArray,
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
    """Return the gradients of the weights, (KH, KW, C / groups, F), and of the bias, (F,)."""
    inputs = arrays.array("inputs", inputs, 4, stream)
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights_shape = shape_of_four("weights_shape", weights_shape)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights_shape
    )
    problem = Problem(inputs.shape, shape, options, stream)
    argmax = argmax_array(argmax, grads, shape, options[4], True, stream)
    return problem.grad_weights(
        cpu.conv_block_grad_weights, inputs, weights_shape, argmax, grads, out
    )
