"""The public functions of depthwise convolution and its gradients."""

from __future__ import annotations

from typing import Any, Literal

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu.depthwise import depthwise as cpu
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Shape,
    bias_array,
    is_relu,
    is_same,
    output_shape,
    pair,
    relu_mask,
    shape_of_four,
)
from cnnforge_kernels.launch.problem import Problem


def _depthwise_options(
    strides: Any, padding: str, dilation_rate: Any, inputs: Shape, weights: Shape
) -> tuple[tuple[Pair, bool, Pair], Shape]:
    """Check the options, and return (strides, same, dilation) and the shape of the outputs."""
    steps, dilation = pair("strides", strides), pair("dilation_rate", dilation_rate)
    if 0 in weights or weights[2] != inputs[3]:
        raise ValueError(
            f"`weights` must have shape (KH, KW, {inputs[3]}, M) without a 0. "
            f"Received: {tuple(weights)}"
        )
    same = is_same(padding)
    shape = (*output_shape(inputs, weights, steps, dilation, same), weights[2] * weights[3])
    return (steps, same, dilation), shape


def depthwise_conv2d(
    inputs: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    activation: Literal["relu"] | None = None,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """Compute a depthwise 2D convolution, with bias and ReLU in the same pass.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C, M) float32: M windows for each channel.
        bias: (C * M,) float32.
        strides: strides of rows and columns, or one number for both.
        padding: ``"valid"`` or ``"same"``.
        dilation_rate: dilation of rows and columns; it may be combined with any strides.
        activation: ``"relu"`` or ``None``.
        out: (N, OH, OW, C * M) float32 buffer to write to.
        stream: stream for arrays on a device.

    Returns:
        (N, OH, OW, C * M) float32. Output channel c * M + m is the convolution of input channel c
        with window m of this channel.

    Raises:
        ValueError: a rank, dtype, shape or option is wrong.

    Example:
        >>> import numpy as np
        >>> weights = np.array([1, 2], np.float32).reshape(1, 1, 1, 2)
        >>> depthwise_conv2d(np.ones((1, 1, 1, 1), np.float32), weights)[0, 0, 0]
        array([1., 2.], dtype=float32)
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    options, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, weights.shape
    )
    problem = Problem(inputs.shape, shape, (*options, is_relu(activation)), stream)
    known = inputs, weights, bias_array(bias, shape[3], stream)
    return problem.forward(cpu.depthwise_conv2d_forward, known, out)


def depthwise_conv2d_grad_inputs(
    grad_outputs: Array,
    weights: Array,
    input_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    outputs: Array | None = None,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """Return the gradient of the inputs of ``depthwise_conv2d``, float32 (N, H, W, C).

    If the forward pass had a ReLU, pass the outputs of the forward pass as ``outputs``. The other
    arguments and the errors are those of ``depthwise_conv2d``.
    """
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _depthwise_options(strides, padding, dilation_rate, input_shape, weights.shape)
    problem = Problem(input_shape, shape, (*options, outputs is not None), stream)
    known = weights, relu_mask(grads, outputs, shape, stream)
    return problem.grad_inputs(cpu.depthwise_conv2d_grad_inputs, known, grads, out)


def depthwise_conv2d_grad_weights(
    inputs: Array,
    grad_outputs: Array,
    weights_shape: tuple[int, int, int, int],
    *,
    strides: int | Pair = (1, 1),
    padding: Padding = "valid",
    dilation_rate: int | Pair = (1, 1),
    outputs: Array | None = None,
    out: Array | None = None,
    stream: Any = None,
) -> tuple[Array, Array]:
    """Return the gradients of the weights, (KH, KW, C, M), and of the bias, (C * M,); float32.

    If the forward pass had a ReLU, pass the outputs of the forward pass as ``outputs``. The other
    arguments and the errors are those of ``depthwise_conv2d``.
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights_shape = shape_of_four("weights_shape", weights_shape)
    options, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, weights_shape
    )
    problem = Problem(inputs.shape, shape, (*options, outputs is not None), stream)
    mask = relu_mask(grads, outputs, shape, stream)
    return problem.grad_weights(
        cpu.depthwise_conv2d_grad_weights, inputs, weights_shape, mask, grads, out
    )
