"""The public functions of pooling and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu.pooling import global_average, pooling
from cnnforge_kernels.launch.arguments import (
    Array,
    Padding,
    Pair,
    Shape,
    argmax_array,
    check_shape,
    is_same,
    output_shape,
    pair,
    shape_of_four,
)
from cnnforge_kernels.launch.problem import Problem


def _pool_options(
    pool_size: Any, strides: Any, padding: str, inputs: Shape
) -> tuple[tuple[Pair, Pair, bool], Shape]:
    """Check the options, and return two values: the kernels' options, and the outputs' shape."""
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
    """Compute 2D max pooling of (N, H, W, C) float32; return outputs and argmax, (N, OH, OW, C).

    The argmax is the row-major index of the first maximum in the window. It is uint8, or int32 if a
    window has more than 256 cells. If a window contains NaN, its maximum is NaN.

    Raises:
        ValueError: a rank, dtype, shape or option is wrong.
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    options, shape = _pool_options(pool_size, strides, padding, inputs.shape)
    (rows, columns), _, _ = options
    dtype = np.uint8 if rows * columns <= 256 else np.int32
    problem = Problem(inputs.shape, shape, options, stream)
    return problem.forward(pooling.max_pool2d_forward, (inputs,), out, argmax=dtype)


def max_pool2d_grad(
    grad_outputs: Array,
    argmax: NDArray,
    input_shape: tuple[int, int, int, int],
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """Return the gradient of the inputs of ``max_pool2d``: (N, H, W, C) float32.

    ``argmax`` is the one that ``max_pool2d`` returned.
    """
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _pool_options(pool_size, strides, padding, input_shape)
    argmax = argmax_array(argmax, grads, shape, options[0], False, stream)
    problem = Problem(input_shape, shape, options, stream)
    return problem.grad_inputs(pooling.max_pool2d_grad_inputs, (argmax,), grads, out)


def average_pool2d(
    inputs: Array,
    *,
    pool_size: int | Pair = (2, 2),
    strides: int | Pair | None = None,
    padding: Padding = "valid",
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """Return the mean of each window without its padding, (N, OH, OW, C) float32."""
    inputs = arrays.array("inputs", inputs, 4, stream)
    options, shape = _pool_options(pool_size, strides, padding, inputs.shape)
    problem = Problem(inputs.shape, shape, options, stream)
    return problem.forward(pooling.average_pool2d_forward, (inputs,), out)


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
    """Return the gradient of the inputs of ``average_pool2d``: (N, H, W, C) float32."""
    grads = arrays.array("grad_outputs", grad_outputs, 4, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    options, shape = _pool_options(pool_size, strides, padding, input_shape)
    check_shape("grad_outputs", grads, shape)
    problem = Problem(input_shape, shape, options, stream)
    return problem.grad_inputs(pooling.average_pool2d_grad_inputs, (), grads, out)


def global_average_pool2d(inputs: Array, *, out: Array | None = None, stream: Any = None) -> Array:
    """Return the mean of each channel of each image, (N, C) float32.

    The inputs are (N, H, W, C) float32. If the images have no pixels, the mean is NaN.

    Raises:
        ValueError: a rank, dtype or shape is wrong.
    """
    inputs = arrays.array("inputs", inputs, 4, stream)
    problem = Problem(inputs.shape, (inputs.shape[0], inputs.shape[3]), (), stream)
    return problem.forward(global_average.global_average_pool2d_forward, (inputs,), out)


def global_average_pool2d_grad(
    grad_outputs: Array,
    input_shape: tuple[int, int, int, int],
    *,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """Return the gradient of the inputs of ``global_average_pool2d``: (N, H, W, C) float32."""
    grads = arrays.array("grad_outputs", grad_outputs, 2, stream)
    input_shape = shape_of_four("input_shape", input_shape)
    problem = Problem(input_shape, (input_shape[0], input_shape[3]), (), stream)
    check_shape("grad_outputs", grads, problem.outputs)
    return problem.grad_inputs(global_average.global_average_pool2d_grad_inputs, (), grads, out)
