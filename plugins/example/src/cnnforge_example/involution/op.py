"""The op of `Involution2D`: two 1x1 convolutions compute a window of weights for each pixel.

The framework would first copy the window of each pixel, `size * size` times the inputs, and then
multiply the copies by the weights. Here each pixel of the outputs is a sum over its window that is
computed in SIMD registers. This module does not import Keras, so that a trained network can be run
without Keras.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    cached_njit,
    conv2d_forward,
    conv2d_grad_inputs,
    conv2d_grad_weights,
    dot,
    parallel_for,
    weighted_sum,
)


@cached_njit()
def forward(
    inputs: Any,
    reduce: Any,
    reduce_bias: Any,
    span: Any,
    span_bias: Any,
    size: int,
    same: bool,
    outputs: Any,
    hidden: Any,
    windows: Any,
) -> None:
    """Compute a window of weights for each pixel, and the weighted sums of the inputs."""
    one = (1, 1)
    conv2d_forward(inputs, reduce, reduce_bias, one, True, one, 1, True, hidden)
    conv2d_forward(hidden, span, span_bias, one, True, one, 1, False, windows)
    # Without padding, the windows at the borders have no output.
    inset = 0 if same else size // 2
    tasks = outputs.shape[0] * outputs.shape[1]
    parallel_for(weigh_row, tasks, grain(inputs, size), inputs, windows, size, inset, outputs)


@cached_njit()
def grain(inputs: Any, size: int) -> int:
    """Return the number of rows that take about 20 us, at 8 multiply-adds per nanosecond."""
    return max(1, 160_000 // max(inputs.shape[2] * inputs.shape[3] * size * size, 1))


@cached_njit()
def weigh_row(task: int, inputs: Any, windows: Any, size: int, inset: int, outputs: Any) -> None:
    """Write a row of the outputs: the weighted sums of the windows of its pixels."""
    _, height, width, channels = inputs.shape
    rows, columns = outputs.shape[1:3]
    n, row = task // rows, task % rows + inset
    groups = windows.shape[3] // (size * size)
    each, half = channels // groups, size // 2
    starts, weights = np.empty(size * size, np.int64), np.empty(size * size, np.float32)
    flat = inputs.reshape(-1)
    for column in range(inset, inset + columns):
        target = outputs[n, row - inset, column - inset]
        for group in range(groups):
            count = 0
            for i in range(max(row - half, 0), min(row + half + 1, height)):
                for j in range(max(column - half, 0), min(column + half + 1, width)):
                    tap = (i - row + half) * size + j - column + half
                    starts[count] = ((n * height + i) * width + j) * channels + group * each
                    weights[count] = windows[n, row, column, tap * groups + group]
                    count += 1
            part = target[group * each : (group + 1) * each]
            weighted_sum(part, flat, starts[:count], weights[:count])


@cached_njit()
def backward(
    inputs: Any,
    reduce: Any,
    reduce_bias: Any,
    span: Any,
    span_bias: Any,
    size: int,
    same: bool,
    hidden: Any,
    windows: Any,
    grad_outputs: Any,
    grad_inputs: Any,
    grad_reduce: Any,
    grad_reduce_bias: Any,
    grad_span: Any,
    grad_span_bias: Any,
) -> None:
    """Compute all gradients: of the windows of weights, and through the two convolutions."""
    one = (1, 1)
    grad_windows, grad_hidden = np.zeros_like(windows), np.empty_like(hidden)
    inset = 0 if same else size // 2
    rows, each = grad_outputs.shape[0] * grad_outputs.shape[1], grain(inputs, size)
    parallel_for(windows_row, rows, each, inputs, grad_outputs, size, inset, grad_windows)
    conv2d_grad_weights(
        hidden,
        span,
        span_bias,
        windows,
        one,
        True,
        one,
        1,
        False,
        grad_windows,
        grad_span,
        grad_span_bias,
    )
    conv2d_grad_inputs(hidden, span, windows, one, True, one, 1, False, grad_windows, grad_hidden)
    conv2d_grad_weights(
        inputs,
        reduce,
        reduce_bias,
        hidden,
        one,
        True,
        one,
        1,
        True,
        grad_hidden,
        grad_reduce,
        grad_reduce_bias,
    )
    conv2d_grad_inputs(inputs, reduce, hidden, one, True, one, 1, True, grad_hidden, grad_inputs)
    rows = inputs.shape[0] * inputs.shape[1]
    parallel_for(inputs_row, rows, each, windows, grad_outputs, size, inset, grad_inputs)


@cached_njit()
def windows_row(
    task: int, inputs: Any, grad_outputs: Any, size: int, inset: int, grad_windows: Any
) -> None:
    """Write the gradient of the weights of the pixels of a row of the outputs."""
    _, height, width, channels = inputs.shape
    rows, columns = grad_outputs.shape[1:3]
    n, row = task // rows, task % rows + inset
    groups = grad_windows.shape[3] // (size * size)
    each, half = channels // groups, size // 2
    for column in range(inset, inset + columns):
        grads = grad_outputs[n, row - inset, column - inset]
        target = grad_windows[n, row, column]
        for i in range(max(row - half, 0), min(row + half + 1, height)):
            for j in range(max(column - half, 0), min(column + half + 1, width)):
                tap = (i - row + half) * size + j - column + half
                for group in range(groups):
                    part = slice(group * each, (group + 1) * each)
                    target[tap * groups + group] = dot(inputs[n, i, j][part], grads[part])


@cached_njit()
def inputs_row(
    task: int, windows: Any, grad_outputs: Any, size: int, inset: int, grad_inputs: Any
) -> None:
    """Add the gradient of a row of the inputs through the outputs that read them."""
    _, height, width, channels = grad_inputs.shape
    rows, columns = grad_outputs.shape[1:3]
    n, row = task // height, task % height
    groups = windows.shape[3] // (size * size)
    each, half = channels // groups, size // 2
    starts, weights = np.empty(size * size, np.int64), np.empty(size * size, np.float32)
    total, flat = np.empty(each, np.float32), grad_outputs.reshape(-1)
    for column in range(width):
        first, after = max(column - half, inset), min(column + half + 1, inset + columns)
        target = grad_inputs[n, row, column]
        for group in range(groups):
            count = 0
            # The centre of each window that these inputs are in.
            for i in range(max(row - half, inset), min(row + half + 1, inset + rows)):
                for j in range(first, after):
                    tap = (row - i + half) * size + column - j + half
                    place = (n * rows + i - inset) * columns + j - inset
                    starts[count] = place * channels + group * each
                    weights[count] = windows[n, i, j, tap * groups + group]
                    count += 1
            weighted_sum(total, flat, starts[:count], weights[:count])
            for c in range(each):
                target[group * each + c] += total[c]


def output_shapes(
    inputs: tuple[int, ...],
    reduce: tuple[int, ...],
    span: tuple[int, ...],
    size: int,
    same: bool,
) -> tuple[tuple[int, ...], ...]:
    """Return three shapes: of the outputs, of the hidden maps and of the windows of weights.

    Raises:
        ValueError: An image is smaller than a window, with VALID padding.
    """
    images, height, width, channels = inputs
    maps = (images, height, width)
    if same:
        return inputs, (*maps, reduce[3]), (*maps, span[3])
    if min(height, width) < size:
        raise ValueError(
            f"windows of size {size} without padding need images of {size}x{size} pixels or more, "
            f"got {height}x{width}: use padding='same'"
        )
    outputs = (images, height - size + 1, width - size + 1, channels)
    return outputs, (*maps, reduce[3]), (*maps, span[3])


involution2d = ArrayOp(
    "example_involution2d",
    forward=forward,
    backward=backward,
    inputs={"inputs": 4, "reduce": 4, "reduce_bias": 1, "span": 4, "span_bias": 1},
    outputs={"outputs": 4, "hidden": 4, "windows": 4},
    output_shapes=output_shapes,
    attributes={"size": 3, "same": True},
)
