"""Launchers of pooling and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays as at
from cnnforge_kernels.cpu.pooling import global_average, pooling
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Shape,
    check_shape,
    is_same,
    output_shape,
    pair,
    shape_of_four,
    winners_array,
)


def _pool_options(
    pool_size: Any, strides: Any, padding: str, inputs: Shape
) -> tuple[tuple[Pair, Pair, bool], Shape]:
    """The options of the kernels, and the shape of the outputs."""
    window = pair("pool_size", pool_size)
    steps = window if strides is None else pair("strides", strides)
    same = is_same(padding)
    return (window, steps, same), (*output_shape(inputs, window, steps, (1, 1), same), inputs[3])


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
    inputs = at.array("inputs", inputs, 4, stream)
    options, shape = _pool_options(pool_size, strides, padding, inputs.shape)
    outputs = at.out("out", out, shape, (inputs,), stream=stream)
    window = options[0]
    dtype = np.uint8 if window[0] * window[1] <= 256 else np.int32
    winners = at.empty((inputs,), shape, dtype, stream)
    at.call(pooling.max_pool2d_forward, inputs, *options, outputs, winners, stream=stream)
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
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _pool_options(pool_size, strides, padding, input_shape)
    winners = winners_array(winners, grads, shape, options[0], False, stream)
    result = at.out("out", out, input_shape, (grads, winners), stream=stream)
    at.call(pooling.max_pool2d_grad_inputs, result, winners, *options, grads, result, stream=stream)
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
    inputs = at.array("inputs", inputs, 4, stream)
    options, shape = _pool_options(pool_size, strides, padding, inputs.shape)
    outputs = at.out("out", out, shape, (inputs,), stream=stream)
    at.call(pooling.average_pool2d_forward, inputs, *options, outputs, stream=stream)
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
    grads = at.array("grad_outputs", grad_outputs, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _pool_options(pool_size, strides, padding, input_shape)
    check_shape("grad_outputs", grads, shape)
    result = at.out("out", out, input_shape, (grads,), stream=stream)
    at.call(pooling.average_pool2d_grad_inputs, result, *options, grads, result, stream=stream)
    return at.result(result)


def global_average_pool2d(inputs: Array, *, out: Array | None = None, stream: Any = None) -> Array:
    """The mean of each map: (N, H, W, C) float32 -> (N, C) float32; NaN where a map is empty.

    Raises:
        ValueError: a wrong rank, dtype or shape.
    """
    inputs = at.array("inputs", inputs, 4, stream)
    outputs = at.out("out", out, (inputs.shape[0], inputs.shape[3]), (inputs,), stream=stream)
    at.call(global_average.global_average_pool2d_forward, inputs, outputs, stream=stream)
    return at.result(outputs)


def global_average_pool2d_grad(
    grad_outputs: Array,
    input_shape: tuple[int, int, int, int],
    *,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The gradient of ``global_average_pool2d``'s inputs: (N, H, W, C) float32."""
    grads = at.array("grad_outputs", grad_outputs, 2, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    check_shape("grad_outputs", grads, (input_shape[0], input_shape[3]))
    result = at.out("out", out, input_shape, (grads,), stream=stream)
    at.call(global_average.global_average_pool2d_grad_inputs, result, grads, result, stream=stream)
    return at.result(result)
