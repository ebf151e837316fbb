"""The launchers: validate once, allocate, run. NumPy arrays in, NumPy arrays out.

Shapes in letters: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; others are refused, not converted. Non-contiguous arrays are copied.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.cpu import conv2d as _conv2d
from cnnforge_kernels.cpu import conv_block as _conv_block
from cnnforge_kernels.cpu import depthwise as _depthwise
from cnnforge_kernels.cpu import global_pooling as _global_pooling
from cnnforge_kernels.cpu import pooling as _pooling
from cnnforge_kernels.geometry import output_size

Array = NDArray[np.float32]
Pair = tuple[int, int]
Padding = Literal["valid", "same"]
_NONE = np.zeros(0, np.float32)


def _array(name: str, value: Any, rank: int) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != rank:
        got = (
            f"{value.dtype} {value.shape}"
            if isinstance(value, np.ndarray)
            else type(value).__name__
        )
        raise ValueError(f"`{name}` must be a float32 NumPy array of rank {rank}. Received: {got}")
    return np.ascontiguousarray(value)


def _pair(name: str, value: int | tuple[int, int]) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in pair):
        raise ValueError(f"`{name}` must be one or two positive integers. Received: {value!r}")
    return int(pair[0]), int(pair[1])


def _same(padding: str) -> bool:
    if padding not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same". Received: {padding!r}')
    return padding == "same"


def _out(
    name: str,
    out: NDArray | None,
    shape: tuple[int, ...],
    inputs: tuple[NDArray, ...] = (),
    dtype: Any = np.float32,
) -> NDArray:
    if out is None:
        return np.empty(shape, dtype)
    if (
        out.shape != shape
        or out.dtype != dtype
        or not out.flags.c_contiguous
        or not out.flags.writeable
    ):
        raise ValueError(
            f"`{name}` must be a writeable C-contiguous {np.dtype(dtype)} array of shape {shape}. "
            f"Received: {out.dtype} {out.shape}"
        )
    if any(np.shares_memory(out, array) for array in inputs):
        raise ValueError(f"`{name}` must not overlap an input. Pass a buffer of its own.")
    return out


def _convolution(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    channels: int,
    weights: tuple[int, ...],
) -> tuple[Pair, bool, Pair, int]:
    steps, dilation = _pair("strides", strides), _pair("dilation_rate", dilation_rate)
    if max(steps) > 1 and max(dilation) > 1:
        raise ValueError(
            "`strides > 1` not supported in conjunction with `dilation_rate > 1`. "
            f"Received: strides={steps} and dilation_rate={dilation}"
        )
    if groups < 1 or channels % groups or weights[3] % groups or weights[2] * groups != channels:
        raise ValueError(
            f"`groups` must divide the {channels} channels of the inputs and the {weights[3]} "
            "filters, and `weights` must have channels / groups channels. "
            f"Received: groups={groups}, weights {weights}"
        )
    if 0 in weights[:2]:
        raise ValueError(f"The window must not be empty. Received: weights {weights}")
    return steps, _same(padding), dilation, groups


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
    inputs, weights = _array("inputs", inputs, 4), _array("weights", weights, 4)
    if activation not in (None, "relu"):
        raise ValueError(f'`activation` must be "relu" or None. Received: {activation!r}')
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, inputs.shape[3], weights.shape
    )
    bias = _NONE if bias is None else _array("bias", bias, 1)
    if bias.size not in (0, weights.shape[3]):
        raise ValueError(f"`bias` must have {weights.shape[3]} values. Received: {bias.size}")
    sizes = [
        output_size(inputs.shape[1 + a], weights.shape[a], steps[a], dilation[a], same)
        for a in (0, 1)
    ]
    shape = (inputs.shape[0], *sizes, weights.shape[3])
    outputs = _out("out", out, shape, (inputs, weights, bias))
    _conv2d.conv2d_forward(
        inputs, weights, bias, steps, same, dilation, groups, activation == "relu", outputs
    )
    return outputs


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
) -> Array:
    """The gradient of ``conv2d``'s inputs, (N, H, W, C) = ``input_shape``, float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``conv2d``.
    """
    grads, weights = _array("grad_outputs", grad_outputs, 4), _array("weights", weights, 4)
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, input_shape[3], weights.shape
    )
    _check_gradient(grads, input_shape, weights.shape, steps, same, dilation)
    mask = grads if outputs is None else _array("outputs", outputs, 4)
    result = _out("out", out, tuple(input_shape), (grads, weights, mask))
    _conv2d.conv2d_grad_inputs(
        result, weights, mask, steps, same, dilation, groups, outputs is not None, grads, result
    )
    return result


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
) -> tuple[Array, Array]:
    """The gradients of ``conv2d``'s weights, (KH, KW, C / groups, F), and bias, (F,); float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``conv2d``.
    """
    inputs, grads = _array("inputs", inputs, 4), _array("grad_outputs", grad_outputs, 4)
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, inputs.shape[3], tuple(weights_shape)
    )
    _check_gradient(grads, inputs.shape, weights_shape, steps, same, dilation)
    mask = grads if outputs is None else _array("outputs", outputs, 4)
    result = _out("out", out, tuple(weights_shape), (inputs, grads, mask))
    grad_bias = np.empty(weights_shape[3], np.float32)
    relu = outputs is not None
    _conv2d.conv2d_grad_weights(
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
    )
    return result, grad_bias


def _check_gradient(
    grads: Array, inputs: Any, weights: Any, steps: Pair, same: bool, dilation: Pair
) -> None:
    sizes = [output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) for a in (0, 1)]
    expected = (inputs[0], *sizes, weights[3])
    if grads.shape != expected:
        raise ValueError(f"`grad_outputs` must have shape {expected}. Received: {grads.shape}")


def _pool(
    inputs: Array, pool_size: Any, strides: Any, padding: str
) -> tuple[Pair, Pair, bool, tuple]:
    window = _pair("pool_size", pool_size)
    steps = window if strides is None else _pair("strides", strides)
    same = _same(padding)
    sizes = [output_size(inputs.shape[1 + a], window[a], steps[a], 1, same) for a in (0, 1)]
    return window, steps, same, (inputs.shape[0], *sizes, inputs.shape[3])


def max_pool2d(
    inputs: Array,
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
) -> tuple[Array, NDArray]:
    """2D max pooling: (N, H, W, C) float32 -> outputs and winners, both (N, OH, OW, C).

    A winner is the cell of its window that held the maximum, counted in row-major order, the
    first one of several: uint8, or int32 for windows of more than 256 cells. NaN in, NaN out.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.
    """
    inputs = _array("inputs", inputs, 4)
    window, steps, same, shape = _pool(inputs, pool_size, strides, padding)
    outputs = _out("out", out, shape, (inputs,))
    winners = np.empty(shape, np.uint8 if window[0] * window[1] <= 256 else np.int32)
    _pooling.max_pool2d_forward(inputs, window, steps, same, outputs, winners)
    return outputs, winners


def max_pool2d_grad(
    grad_outputs: Array,
    winners: NDArray,
    input_shape: tuple[int, int, int, int],
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
) -> Array:
    """The gradient of ``max_pool2d``'s inputs from its winners: (N, H, W, C) float32."""
    grads = _array("grad_outputs", grad_outputs, 4)
    result = _out("out", out, tuple(input_shape), (grads,))
    window, steps, same, shape = _pool(result, pool_size, strides, padding)
    dtype = np.uint8 if window[0] * window[1] <= 256 else np.int32
    if grads.shape != shape or winners.shape != shape or winners.dtype != dtype:
        raise ValueError(
            f"`grad_outputs` and `winners` ({np.dtype(dtype)}) must have shape {shape}. "
            f"Received: {grads.shape} and {winners.dtype} {winners.shape}"
        )
    winners = np.ascontiguousarray(winners)
    _pooling.max_pool2d_grad_inputs(result, winners, window, steps, same, grads, result)
    return result


def average_pool2d(
    inputs: Array,
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
) -> Array:
    """2D average pooling over the real cells of each window: (N, OH, OW, C) float32."""
    inputs = _array("inputs", inputs, 4)
    window, steps, same, shape = _pool(inputs, pool_size, strides, padding)
    outputs = _out("out", out, shape, (inputs,))
    _pooling.average_pool2d_forward(inputs, window, steps, same, outputs)
    return outputs


def average_pool2d_grad(
    grad_outputs: Array,
    input_shape: tuple[int, int, int, int],
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
) -> Array:
    """The gradient of ``average_pool2d``'s inputs: (N, H, W, C) float32."""
    grads = _array("grad_outputs", grad_outputs, 4)
    result = _out("out", out, tuple(input_shape), (grads,))
    window, steps, same, shape = _pool(result, pool_size, strides, padding)
    if grads.shape != shape:
        raise ValueError(f"`grad_outputs` must have shape {shape}. Received: {grads.shape}")
    _pooling.average_pool2d_grad_inputs(result, window, steps, same, grads, result)
    return result


def _depthwise_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
) -> tuple[Pair, bool, Pair, tuple[int, ...]]:
    """Strides, SAME, dilation, and the shape of the outputs."""
    steps, dilation = _pair("strides", strides), _pair("dilation_rate", dilation_rate)
    if max(steps) > 1 and max(dilation) > 1:
        raise ValueError(
            "`strides > 1` not supported in conjunction with `dilation_rate > 1`. "
            f"Received: strides={steps} and dilation_rate={dilation}"
        )
    if 0 in weights or weights[2] != inputs[3]:
        raise ValueError(
            f"`weights` must have shape (KH, KW, {inputs[3]}, M), none of them 0. "
            f"Received: {tuple(weights)}"
        )
    same = _same(padding)
    sizes = [output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) for a in (0, 1)]
    return steps, same, dilation, (inputs[0], *sizes, weights[2] * weights[3])


def _same_shape(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}. Received: {array.shape}")


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
) -> Array:
    """Depthwise 2D convolution, with bias and ReLU in the same pass.

    Args:
        inputs: (N, H, W, C) float32.
        weights: (KH, KW, C, M) float32: M windows for each channel.
        bias: (C * M,) float32.
        strides: of rows and columns, or one number for both.
        padding: ``"valid"`` or ``"same"``.
        dilation_rate: of rows and columns; above 1 only with strides of 1.
        activation: ``"relu"`` or ``None``.
        out: (N, OH, OW, C * M) float32 buffer to write to.

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
    inputs, weights = _array("inputs", inputs, 4), _array("weights", weights, 4)
    if activation not in (None, "relu"):
        raise ValueError(f'`activation` must be "relu" or None. Received: {activation!r}')
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, weights.shape
    )
    bias = _NONE if bias is None else _array("bias", bias, 1)
    if bias.size not in (0, shape[3]):
        raise ValueError(f"`bias` must have {shape[3]} values. Received: {bias.size}")
    outputs = _out("out", out, shape, (inputs, weights, bias))
    _depthwise.depthwise_conv2d_forward(
        inputs, weights, bias, steps, same, dilation, activation == "relu", outputs
    )
    return outputs


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
) -> Array:
    """The gradient of ``depthwise_conv2d``'s inputs, (N, H, W, C) = ``input_shape``, float32.

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``depthwise_conv2d``.
    """
    grads, weights = _array("grad_outputs", grad_outputs, 4), _array("weights", weights, 4)
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, input_shape, weights.shape
    )
    _same_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else _array("outputs", outputs, 4)
    _same_shape("outputs", mask, shape)
    result = _out("out", out, tuple(input_shape), (grads, weights, mask))
    _depthwise.depthwise_conv2d_grad_inputs(
        result, weights, mask, steps, same, dilation, outputs is not None, grads, result
    )
    return result


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
) -> tuple[Array, Array]:
    """The gradients of ``depthwise_conv2d``'s weights, (KH, KW, C, M), and bias, (C * M,).

    ``outputs`` are those of the forward pass where it had a ReLU. Other arguments and errors as in
    ``depthwise_conv2d``.
    """
    inputs, grads = _array("inputs", inputs, 4), _array("grad_outputs", grad_outputs, 4)
    steps, same, dilation, shape = _depthwise_options(
        strides, padding, dilation_rate, inputs.shape, tuple(weights_shape)
    )
    _same_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else _array("outputs", outputs, 4)
    _same_shape("outputs", mask, shape)
    result = _out("out", out, tuple(weights_shape), (inputs, grads, mask))
    bias, relu = np.empty(shape[3], np.float32), outputs is not None
    _depthwise.depthwise_conv2d_grad_weights(
        inputs, result, bias, mask, steps, same, dilation, relu, grads, result, bias
    )
    return result, bias


def global_average_pool2d(inputs: Array, *, out: Array | None = None) -> Array:
    """The mean of each map: (N, H, W, C) float32 -> (N, C) float32; NaN where a map is empty.

    Raises:
        ValueError: a wrong rank, dtype or shape.
    """
    inputs = _array("inputs", inputs, 4)
    outputs = _out("out", out, (inputs.shape[0], inputs.shape[3]), (inputs,))
    _global_pooling.global_average_pool2d_forward(inputs, outputs)
    return outputs


def global_average_pool2d_grad(
    grad_outputs: Array, input_shape: tuple[int, int, int, int], *, out: Array | None = None
) -> Array:
    """The gradient of ``global_average_pool2d``'s inputs: (N, H, W, C) float32."""
    grads = _array("grad_outputs", grad_outputs, 2)
    _same_shape("grad_outputs", grads, (input_shape[0], input_shape[3]))
    result = _out("out", out, tuple(input_shape), (grads,))
    _global_pooling.global_average_pool2d_grad_inputs(result, grads, result)
    return result


# A winner is one byte, and 255 says that no cell is positive.
_MOST_POOL = 15


def _block_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    pool_size: Any,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
) -> tuple[tuple[Pair, bool, Pair, int, Pair], tuple[int, ...]]:
    """The options of the kernels, and the shape of the outputs."""
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, inputs[3], weights
    )
    pool = _pair("pool_size", pool_size)
    if max(pool) > _MOST_POOL:
        raise ValueError(f"`pool_size` must be at most {_MOST_POOL}. Received: {pool}")
    sizes = [
        output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) // pool[a]
        for a in (0, 1)
    ]
    return (steps, same, dilation, groups, pool), (inputs[0], *sizes, weights[3])


def _check_block(grads: Array, winners: NDArray, shape: tuple[int, ...]) -> NDArray:
    if grads.shape != shape or winners.shape != shape or winners.dtype != np.uint8:
        raise ValueError(
            f"`grad_outputs` and `winners` (uint8) must have shape {shape}. "
            f"Received: {grads.shape} and {winners.dtype} {winners.shape}"
        )
    return np.ascontiguousarray(winners)


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

    Returns:
        The outputs, (N, PH, PW, F) float32, and the winners, the same shape, uint8: the cell of the
        window that held the maximum, in row-major order, the first of several; 255 where the
        maximum is not positive, so that nothing has a gradient.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.
    """
    inputs, weights = _array("inputs", inputs, 4), _array("weights", weights, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights.shape
    )
    bias = _NONE if bias is None else _array("bias", bias, 1)
    if bias.size not in (0, weights.shape[3]):
        raise ValueError(f"`bias` must have {weights.shape[3]} values. Received: {bias.size}")
    outputs, winners = _out("out", out, shape, (inputs, weights, bias)), np.empty(shape, np.uint8)
    _conv_block.conv_block_forward(inputs, weights, bias, *options, outputs, winners)
    return outputs, winners


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
) -> Array:
    """The gradient of ``conv_block``'s inputs, from its winners: (N, H, W, C) float32."""
    grads, weights = _array("grad_outputs", grad_outputs, 4), _array("weights", weights, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, input_shape, weights.shape
    )
    winners = _check_block(grads, winners, shape)
    result = _out("out", out, tuple(input_shape), (grads, weights))
    _conv_block.conv_block_grad_inputs(result, weights, winners, *options, grads, result)
    return result


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
) -> tuple[Array, Array]:
    """The gradients of ``conv_block``'s weights, (KH, KW, C / groups, F), and bias, (F,)."""
    inputs, grads = _array("inputs", inputs, 4), _array("grad_outputs", grad_outputs, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, tuple(weights_shape)
    )
    winners = _check_block(grads, winners, shape)
    result = _out("out", out, tuple(weights_shape), (inputs, grads))
    bias = np.empty(shape[3], np.float32)
    _conv_block.conv_block_grad_weights(
        inputs, result, bias, winners, *options, grads, result, bias
    )
    return result, bias
