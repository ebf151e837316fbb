"""Launchers of the fused block, convolution to pool, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import placement as at
from cnnforge_kernels.cpu import conv_block as _conv_block
from cnnforge_kernels.geometry import output_size
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    convolution_options,
    pair,
)

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
    steps, same, dilation, groups = convolution_options(
        strides, padding, dilation_rate, groups, inputs[3], weights
    )
    pool = pair("pool_size", pool_size)
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
