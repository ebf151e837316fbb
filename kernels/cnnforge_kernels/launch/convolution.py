"""Launchers of convolution and its gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from cnnforge_kernels import placement as at
from cnnforge_kernels.cpu import conv2d as _conv2d
from cnnforge_kernels.geometry import output_size
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Precision,
    check_gradient,
    convolution_options,
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
    inputs, weights = at.array("inputs", inputs, 4), at.array("weights", weights, 4)
    if activation not in (None, "relu"):
        raise ValueError(f'`activation` must be "relu" or None. Received: {activation!r}')
    steps, same, dilation, groups = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape[3], weights.shape
    )
    offsets = at.optional("bias", bias, 1)
    if offsets.size not in (0, weights.shape[3]):
        raise ValueError(f"`bias` must have {weights.shape[3]} values. Received: {offsets.size}")
    sizes = [
        output_size(inputs.shape[1 + a], weights.shape[a], steps[a], dilation[a], same)
        for a in (0, 1)
    ]
    shape = (inputs.shape[0], *sizes, weights.shape[3])
    outputs = at.out("out", out, shape, (inputs, weights, offsets), stream=stream)
    at.call(
        _conv2d.conv2d_forward,
        inputs,
        weights,
        offsets,
        steps,
        same,
        dilation,
        groups,
        activation == "relu",
        outputs,
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
    grads, weights = at.array("grad_outputs", grad_outputs, 4), at.array("weights", weights, 4)
    steps, same, dilation, groups = convolution_options(
        strides, padding, dilation_rate, groups, input_shape[3], weights.shape
    )
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    check_gradient(grads, mask, input_shape, weights.shape, steps, same, dilation)
    result = at.out("out", out, tuple(input_shape), (grads, weights, mask), stream=stream)
    at.call(
        _conv2d.conv2d_grad_inputs,
        result,
        weights,
        mask,
        steps,
        same,
        dilation,
        groups,
        outputs is not None,
        grads,
        result,
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
    inputs, grads = at.array("inputs", inputs, 4), at.array("grad_outputs", grad_outputs, 4)
    steps, same, dilation, groups = convolution_options(
        strides, padding, dilation_rate, groups, inputs.shape[3], tuple(weights_shape)
    )
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    check_gradient(grads, mask, inputs.shape, weights_shape, steps, same, dilation)
    result = at.out("out", out, tuple(weights_shape), (inputs, grads, mask), stream=stream)
    grad_bias = at.empty((inputs,), (weights_shape[3],), np.float32, stream)
    relu = outputs is not None
    at.call(
        _conv2d.conv2d_grad_weights,
        inputs,
        result,
        grad_bias,
        mask,
        steps,
        same,
        dilation,
        groups,
        relu,
        grads,
        result,
        grad_bias,
        stream=stream,
        precision=precision,
    )
    return at.result(result), at.result(grad_bias)
