"""The public functions that compute convolution, bias, ReLU and max pooling in one kernel."""

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

# The maximum number of rows and of columns of a pooling window. The argmax is one byte, and its
# value 255 means that no cell is positive. So a window can have 255 cells; 16 x 16 is too large.
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
    """Check the options, and return two values: the kernels' options, and the outputs' shape."""
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
        pool_size: size of the pooling window, 1 to 15; the strides of the pool are the same.
        out: (N, PH, PW, F) float32 buffer to write to.
        stream: stream for arrays on a device.

    Returns:
        Two arrays: the outputs, (N, PH, PW, F) float32, and the argmax, (N, PH, PW, F) uint8. The
        argmax is the row-major index of the first maximum in the window. It is 255 if the maximum
        is not positive; then no cell of the window has a gradient.

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
    """Return the gradient of the inputs of ``conv_block``: (N, H, W, C) float32.

    ``argmax`` is the one that ``conv_block`` returned. The other arguments and the errors are those
    of ``conv_block``.
    """
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
    """Return the gradients of the weights, (KH, KW, C / groups, F), and of the bias, (F,).

    ``argmax`` is the one that ``conv_block`` returned. The other arguments and the errors are those
    of ``conv_block``. The gradients are float32.
    """
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
