"""The public functions of convolution and its gradients."""

from __future__ import annotations

from typing import Any, Literal

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu.conv import conv2d as cpu
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
from cnnforge_kernels.launch.problem import Problem


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
    """Compute a 2D convolution (cross-correlation), with bias and ReLU in the same pass.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C / groups, F) float32.
        bias: (F,) float32.
        strides: strides of rows and columns, or one number for both.
        padding: ``"valid"`` or ``"same"``.
        dilation_rate: dilation of rows and columns; above 1 only with strides of 1.
        groups: number of groups of channels.
        activation: ``"relu"`` or ``None``.
        out: (N, OH, OW, F) float32 buffer to write to.
        stream: stream for arrays on a device.
        precision: precision of the operands: ``"float32"``, or for arrays on a device also
            ``"tf32"`` or ``"bfloat16"``, which use tensor cores.

    Returns:
        (N, OH, OW, F) float32. If the window is larger than the inputs along an axis, the length of
        this axis is 0.

    Raises:
        ValueError: a rank, dtype, shape or option is wrong.

    Example:
        >>> import numpy as np
        >>> edges = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32).reshape(3, 3, 1, 1)
        >>> conv2d(np.ones((1, 5, 5, 1), np.float32), edges)[0, :, :, 0].max()
        np.float32(0.0)
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape, weights.shape
    )
    options += (is_relu(activation),)
    problem = Problem(inputs.shape, shape, options, stream, precision)
    known = inputs, weights, bias_array(bias, shape[3], stream)
    return problem.forward(cpu.conv2d_forward, known, out)


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
    """Return the gradient of the inputs of ``conv2d``, float32, of shape ``input_shape``.

    If the forward pass had a ReLU, pass the outputs of the forward pass as ``outputs``. The other
    arguments and the errors are those of ``conv2d``.
    """
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights = arrays.array("weights", weights, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, input_shape, weights.shape
    )
    options += (outputs is not None,)
    problem = Problem(input_shape, shape, options, stream, precision)
    known = weights, relu_mask(grads, outputs, shape, stream)
    return problem.grad_inputs(cpu.conv2d_grad_inputs, known, grads, out)


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
    """Return the gradients of the weights, (KH, KW, C / groups, F), and of the bias, (F,).

    If the forward pass had a ReLU, pass the outputs of the forward pass as ``outputs``. The other
    arguments and the errors are those of ``conv2d``. The gradients are float32.
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    weights_shape = shape_of_four("weights_shape", weights_shape)
    options, shape = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape, weights_shape
    )
    options += (outputs is not None,)
    problem = Problem(inputs.shape, shape, options, stream, precision)
    mask = relu_mask(grads, outputs, shape, stream)
    return problem.grad_weights(cpu.conv2d_grad_weights, inputs, weights_shape, mask, grads, out)
