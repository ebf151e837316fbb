"""The launchers: validate once, allocate, run. NumPy arrays in, NumPy arrays out.

Shapes in letters: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; others are refused, not converted. Non-contiguous NumPy arrays are copied.

Arrays on a CUDA device, whoever made them, are served alike: all of a call lie on one device, and
results are written to ``out`` or returned as ``DeviceArray``. Kernels run on ``stream`` (an
address, an object that has one, or ``None`` for the default stream), and nothing waits for them.
Where there is no device, ``CudaUnavailableError`` says what is missing.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import placement as at
from cnnforge_kernels.cpu import conv2d as _conv2d
from cnnforge_kernels.cpu import conv_block as _conv_block
from cnnforge_kernels.cpu import depthwise as _depthwise
from cnnforge_kernels.cpu import global_pooling as _global_pooling
from cnnforge_kernels.cpu import pooling as _pooling
from cnnforge_kernels.geometry import output_size

Array = NDArray[np.float32]
Pair = tuple[int, int]
Padding = Literal["valid", "same"]
Precision = Literal["float32", "tf32", "bfloat16"]


def _pair(name: str, value: int | tuple[int, int]) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in pair):
        raise ValueError(f"`{name}` must be one or two positive integers. Received: {value!r}")
    return int(pair[0]), int(pair[1])


def _same(padding: str) -> bool:
    if padding not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same". Received: {padding!r}')
    return padding == "same"


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
    steps, same, dilation, groups = _convolution(
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
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, input_shape[3], weights.shape
    )
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    _check_gradient(grads, mask, input_shape, weights.shape, steps, same, dilation)
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
    steps, same, dilation, groups = _convolution(
        strides, padding, dilation_rate, groups, inputs.shape[3], tuple(weights_shape)
    )
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    _check_gradient(grads, mask, inputs.shape, weights_shape, steps, same, dilation)
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


def _check_gradient(
    grads: Array,
    mask: Array,
    inputs: Any,
    weights: Any,
    steps: Pair,
    same: bool,
    dilation: Pair,
) -> None:
    sizes = [output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) for a in (0, 1)]
    expected = (inputs[0], *sizes, weights[3])
    _same_shape("grad_outputs", grads, expected)
    _same_shape("outputs", mask, expected)


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
    stream: Any = None,
) -> tuple[Array, NDArray]:
    """2D max pooling: (N, H, W, C) float32 -> outputs and winners, both (N, OH, OW, C).

    A winner is the cell of its window that held the maximum, counted in row-major order, the
    first one of several: uint8, or int32 for windows of more than 256 cells. NaN in, NaN out.

    Raises:
        ValueError: a wrong rank, dtype, shape or option.
    """
    inputs = at.array("inputs", inputs, 4)
    window, steps, same, shape = _pool(inputs, pool_size, strides, padding)
    outputs = at.out("out", out, shape, (inputs,), stream=stream)
    dtype = np.uint8 if window[0] * window[1] <= 256 else np.int32
    winners = at.empty((inputs,), shape, dtype, stream)
    at.call(
        _pooling.max_pool2d_forward, inputs, window, steps, same, outputs, winners, stream=stream
    )
    return at.result(outputs), at.result(winners)


def max_pool2d_grad(
    grad_outputs: Array,
    winners: NDArray,
    input_shape: tuple[int, int, int, int],
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The gradient of ``max_pool2d``'s inputs from its winners: (N, H, W, C) float32."""
    grads = at.array("grad_outputs", grad_outputs, 4)
    result = at.out("out", out, tuple(input_shape), (grads,), stream=stream)
    window, steps, same, shape = _pool(result, pool_size, strides, padding)
    winners = at.winners_array(winners)
    dtype = np.uint8 if window[0] * window[1] <= 256 else np.int32
    if grads.shape != shape or winners.shape != shape or winners.dtype != dtype:
        raise ValueError(
            f"`grad_outputs` and `winners` ({np.dtype(dtype)}) must have shape {shape}. "
            f"Received: {grads.shape} and {winners.dtype} {winners.shape}"
        )
    at.call(
        _pooling.max_pool2d_grad_inputs,
        result,
        winners,
        window,
        steps,
        same,
        grads,
        result,
        stream=stream,
    )
    return at.result(result)


def average_pool2d(
    inputs: Array,
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """2D average pooling over the real cells of each window: (N, OH, OW, C) float32."""
    inputs = at.array("inputs", inputs, 4)
    window, steps, same, shape = _pool(inputs, pool_size, strides, padding)
    outputs = at.out("out", out, shape, (inputs,), stream=stream)
    at.call(_pooling.average_pool2d_forward, inputs, window, steps, same, outputs, stream=stream)
    return at.result(outputs)


def average_pool2d_grad(
    grad_outputs: Array,
    input_shape: tuple[int, int, int, int],
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The gradient of ``average_pool2d``'s inputs: (N, H, W, C) float32."""
    grads = at.array("grad_outputs", grad_outputs, 4)
    result = at.out("out", out, tuple(input_shape), (grads,), stream=stream)
    window, steps, same, shape = _pool(result, pool_size, strides, padding)
    if grads.shape != shape:
        raise ValueError(f"`grad_outputs` must have shape {shape}. Received: {grads.shape}")
    at.call(
        _pooling.average_pool2d_grad_inputs,
        result,
        window,
        steps,
        same,
        grads,
        result,
        stream=stream,
    )
    return at.result(result)


def _depthwise_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
) -> tuple[Pair, bool, Pair, tuple[int, ...]]:
    """Strides, SAME, dilation, and the shape of the outputs."""
    steps, dilation = _pair("strides", strides), _pair("dilation_rate", dilation_rate)
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
    _same_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    _same_shape("outputs", mask, shape)
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
    _same_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else at.array("outputs", outputs, 4)
    _same_shape("outputs", mask, shape)
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


def global_average_pool2d(inputs: Array, *, out: Array | None = None, stream: Any = None) -> Array:
    """The mean of each map: (N, H, W, C) float32 -> (N, C) float32; NaN where a map is empty.

    Raises:
        ValueError: a wrong rank, dtype or shape.
    """
    inputs = at.array("inputs", inputs, 4)
    outputs = at.out("out", out, (inputs.shape[0], inputs.shape[3]), (inputs,), stream=stream)
    at.call(_global_pooling.global_average_pool2d_forward, inputs, outputs, stream=stream)
    return at.result(outputs)


def global_average_pool2d_grad(
    grad_outputs: Array,
    input_shape: tuple[int, int, int, int],
    *,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The gradient of ``global_average_pool2d``'s inputs: (N, H, W, C) float32."""
    grads = at.array("grad_outputs", grad_outputs, 2)
    _same_shape("grad_outputs", grads, (input_shape[0], input_shape[3]))
    result = at.out("out", out, tuple(input_shape), (grads,), stream=stream)
    at.call(_global_pooling.global_average_pool2d_grad_inputs, result, grads, result, stream=stream)
    return at.result(result)


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
    winners = at.winners_array(winners)
    if grads.shape != shape or winners.shape != shape or winners.dtype != np.uint8:
        raise ValueError(
            f"`grad_outputs` and `winners` (uint8) must have shape {shape}. "
            f"Received: {grads.shape} and {winners.dtype} {winners.shape}"
        )
    return winners


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
    inputs, weights = at.array("inputs", inputs, 4), at.array("weights", weights, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, weights.shape
    )
    offsets = at.optional("bias", bias, 1)
    if offsets.size not in (0, weights.shape[3]):
        raise ValueError(f"`bias` must have {weights.shape[3]} values. Received: {offsets.size}")
    outputs = at.out("out", out, shape, (inputs, weights, offsets), stream=stream)
    winners = at.empty((inputs,), shape, np.uint8, stream)
    at.call(
        _conv_block.conv_block_forward,
        inputs,
        weights,
        offsets,
        *options,
        outputs,
        winners,
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
    grads, weights = at.array("grad_outputs", grad_outputs, 4), at.array("weights", weights, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, input_shape, weights.shape
    )
    winners = _check_block(grads, winners, shape)
    result = at.out("out", out, tuple(input_shape), (grads, weights), stream=stream)
    at.call(
        _conv_block.conv_block_grad_inputs,
        result,
        weights,
        winners,
        *options,
        grads,
        result,
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
    inputs, grads = at.array("inputs", inputs, 4), at.array("grad_outputs", grad_outputs, 4)
    options, shape = _block_options(
        strides, padding, dilation_rate, groups, pool_size, inputs.shape, tuple(weights_shape)
    )
    winners = _check_block(grads, winners, shape)
    result = at.out("out", out, tuple(weights_shape), (inputs, grads), stream=stream)
    bias = at.empty((inputs,), (shape[3],), np.float32, stream)
    at.call(
        _conv_block.conv_block_grad_weights,
        inputs,
        result,
        bias,
        winners,
        *options,
        grads,
        result,
        bias,
        stream=stream,
    )
    return at.result(result), at.result(bias)
