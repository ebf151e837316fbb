"""Launchers of convolution and its gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from cnnforge_kernels import arrays as at
from cnnforge_kernels.cpu.conv import conv2d as _conv2d
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Precision,
    bias_array,
    convolution_options,
    is_relu,
    relu_mask,
    shape_of_four,
)


def conv2d(
    inputs: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    activation: Literal["relu"] | None = None,
    out: Array | None = None,
    stream: Any = None,
    precision: Precision = "float32",
) -> Array:
    """2D convolution (cross-correlation), with bias and ReLU in the same pass.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C / groups, F) float32.
        bias: (F,) float32.
        strides: of rows and columns, or one number for both.
        padding: ``"valid"`` or ``"same"``.
        dilation_rate: of rows and columns; above 1 only with strides of 1.
        groups: blocks of channels that do not mix.
        activation: ``"relu"`` or ``None``.
        out: (N, OH, OW, F) float32 buffer to write to.
        stream: for arrays on a device.
        precision: of the operands, for arrays on a device: ``"float32"``, or ``"tf32"`` or
            ``"bfloat16"`` on tensor cores.

    Returns:
        (N, OH, OW, F) float32; an axis on which the window does not fit has length 0.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.

    Example:
        >>> import numpy as np
        >>> edges = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32).reshape(3, 3, 1, 1)
        >>> conv2d(np.ones((1, 5, 5, 1), np.float32), edges)[0, :, :, 0].max()
        np.float32(0.0)
    """
    inputs = at.array("inputs", inputs, 4, stream)
    weights = at.array("weights", weights, 4, stream)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape, weights.shape
    )
    relu, offsets = is_relu(activation), bias_array(bias, shape[3], stream)
    outputs = at.out("out", out, shape, (inputs, weights, offsets), stream=stream)
    at.call(
        _conv2d.conv2d_forward,
        *(inputs, weights, offsets, *options, relu, outputs),
        stream=stream,
        precision=precision,
    )
    return at.result(outputs)


def conv2d_grad_inputs(
    grad_outputs: Array,
    weights: Array,
    input_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    outputs: Array | None = None,
    out: Array | None = None,
    stream: Any = None,
    precision: Precision = "float32",
) -> Array:
    """The gradient of ``conv2d``'s inputs, (N, H, W, C) = ``input_shape``, float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``conv2d``.
    """
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    weights = at.array("weights", weights, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, input_shape, weights.shape
    )
    mask = relu_mask(grads, outputs, shape, stream)
    result = at.out("out", out, input_shape, (grads, weights, mask), stream=stream)
    at.call(
        _conv2d.conv2d_grad_inputs,
        *(result, weights, mask, *options, outputs is not None, grads, result),
        stream=stream,
        precision=precision,
    )
    return at.result(result)


def conv2d_grad_weights(
    inputs: Array,
    grad_outputs: Array,
    weights_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    groups: int = 1,
    outputs: Array | None = None,
    out: Array | None = None,
    stream: Any = None,
    precision: Precision = "float32",
) -> tuple[Array, Array]:
    """The gradients of ``conv2d``'s weights, (KH, KW, C / groups, F), and bias, (F,); float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``conv2d``.
    """
    inputs = at.array("inputs", inputs, 4, stream)
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    weights_shape = shape_of_four("weights_shape", weights_shape)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape, weights_shape
    )
    mask = relu_mask(grads, outputs, shape, stream)
    result = at.out("out", out, weights_shape, (inputs, grads, mask), stream=stream)
    bias = at.empty((inputs,), shape[3:], np.float32, stream)
    at.call(
        _conv2d.conv2d_grad_weights,
        *(inputs, result, bias, mask, *options, outputs is not None, grads, result, bias),
        stream=stream,
        precision=precision,
    )
    return at.result(result), at.result(bias)
