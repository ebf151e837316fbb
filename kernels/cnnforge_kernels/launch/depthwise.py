"""Launchers of depthwise convolution and its gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from cnnforge_kernels import placement as at
from cnnforge_kernels.cpu import depthwise as _depthwise
from cnnforge_kernels.geometry import output_size
from cnnforge_kernels.launch.arguments import Array, Padding, Pair, check_shape, is_same, pair


def _depthwise_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
) -> tuple[Pair, bool, Pair, tuple[int, ...]]:
    """Strides, SAME, dilation, and the shape of the outputs."""
    steps, dilation = pair("strides", strides), pair("dilation_rate", dilation_rate)
    if 0 in weights or weights[2] != inputs[3]:
        raise ValueError(
            f"`weights` must have shape (KH, KW, {inputs[3]}, M), none of them 0. "
            f"Received: {tuple(weights)}"
        )
    same = is_same(padding)
    sizes = [output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) for a in (0, 1)]
    return steps, same, dilation, (inputs[0], *sizes, weights[2] * weights[3])


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
    """Depthwise 2D convolution, with bias and ReLU in the same pass.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C, M) float32: M windows for each channel.
        bias: (C * M,) float32.
        strides: of rows and columns, or one number for both.
        padding: ``"valid"`` or ``"same"``.
        dilation_rate: of rows and columns, whatever the strides.
        activation: ``"relu"`` or ``None``.
        out: (N, OH, OW, C * M) float32 buffer to write to.
        stream: for arrays on a device.

    Returns:
        (N, OH, OW, C * M) float32: channel c * M + m is channel c convolved with its window m.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.

    Example:
        >>> import numpy as np
        >>> weights = np.array([1, 2], np.float32).reshape(1, 1, 1, 2)
        >>> depthwise_conv2d(np.ones((1, 1, 1, 1), np.float32), weights)[0, 0, 0]
        array([1., 2.], dtype=float32)
    """
    inputs, weights = at.array("inputs", inputs, 4), at.array("weights", weights, 4)
    if activation not in (None, "relu"):
        raise ValueError(f'`activation` must be "relu" or None. Received: {activation!r}')
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, weights.shape
    )
    offsets = at.optional("bias", bias, 1)
    if offsets.size not in (0, shape[3]):
        raise ValueError(f"`bias` must have {shape[3]} values. Received: {offsets.size}")
    outputs = at.out("out", out, shape, (inputs, weights, offsets), stream=stream)
    at.call(
        _depthwise.depthwise_conv2d_forward,
        inputs,
        weights,
        offsets,
        steps,
        same,
        dilation,
        activation == "relu",
        outputs,
        stream=stream,
    )
    return at.result(outputs)


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
    """The gradient of ``depthwise_conv2d``'s inputs, (N, H, W, C) = ``input_shape``, float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``depthwise_conv2d``.
    """
    grads, weights = at.array("grad_outputs", grad_outputs, 4), at.array("weights", weights, 4)
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, input_shape, weights.shape
    )
    check_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    check_shape("outputs", mask, shape)
    result = at.out("out", out, tuple(input_shape), (grads, weights, mask), stream=stream)
    at.call(
        _depthwise.depthwise_conv2d_grad_inputs,
        result,
        weights,
        mask,
        steps,
        same,
        dilation,
        outputs is not None,
        grads,
        result,
        stream=stream,
    )
    return at.result(result)


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
    """The gradients of ``depthwise_conv2d``'s weights, (KH, KW, C, M), and bias, (C * M,).

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``depthwise_conv2d``.
    """
    inputs, grads = at.array("inputs", inputs, 4), at.array("grad_outputs", grad_outputs, 4)
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, tuple(weights_shape)
    )
    check_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    check_shape("outputs", mask, shape)
    result = at.out("out", out, tuple(weights_shape), (inputs, grads, mask), stream=stream)
    bias = at.empty((inputs,), (shape[3],), np.float32, stream)
    relu = outputs is not None
    at.call(
        _depthwise.depthwise_conv2d_grad_weights,
        inputs,
        result,
        bias,
        mask,
        steps,
        same,
        dilation,
        relu,
        grads,
        result,
        bias,
        stream=stream,
    )
    return at.result(result), at.result(bias)
