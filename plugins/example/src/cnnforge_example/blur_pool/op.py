"""The op of `BlurPool2D`: a small blur, of which every second row and column is computed.

The blur is a depthwise convolution with constant weights, so cnnforge's kernel computes it, with
zeros outside of the images. The op then adds the terms of the windows at the borders, which read
reflected pixels. This module does not import Keras, so that a trained network can be run without.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    cached_njit,
    depthwise_conv2d_forward,
    depthwise_conv2d_grad_inputs,
)


@cached_njit()
def binomial(size: int) -> Any:
    """Return the weights of a blur: (size,) float32 binomial coefficients, which sum to 1."""
    weights = np.zeros(size)
    weights[0] = 1.0
    for _ in range(size - 1):
        for i in range(size - 1, 0, -1):
            weights[i] = 0.5 * (weights[i] + weights[i - 1])
        weights[0] *= 0.5
    return weights.astype(np.float32)


@cached_njit()
def mirrored(index: int, length: int) -> int:
    """Return the index inside of an axis that an index outside of it is reflected to."""
    if length == 1:
        return 0
    index = abs(index) % (2 * length - 2)
    return min(index, 2 * length - 2 - index)


@cached_njit()
def weights_of(size: int, channels: int) -> Any:
    """Return the blur as weights of a depthwise convolution, (size, size, channels, 1) float32."""
    line = binomial(size)
    weights = np.empty((size, size, channels, 1), np.float32)
    for i in range(size):
        for j in range(size):
            weights[i, j] = line[i] * line[j]
    return weights


@cached_njit()
def add_reflected(outer: Any, size: int, stride: int, inner: Any, to_outer: bool) -> None:
    """Add the terms that a window reads outside of an image, where the image is reflected.

    Args:
        outer: (N, R, S, C), the outputs, or their gradient.
        size: Height and width of a window.
        stride: Number of pixels from a window to the next.
        inner: (N, H, W, C), the inputs, or their gradient.
        to_outer: Whether to add the terms to `outer`, for the outputs, or the same terms to
            `inner`, for the gradient of the inputs.
    """
    images, height, width, _ = inner.shape
    rows, columns = outer.shape[1:3]
    top = max((rows - 1) * stride + size - height, 0) // 2
    left = max((columns - 1) * stride + size - width, 0) // 2
    line = binomial(size)
    for row in range(rows):
        for column in range(columns):
            y, x = row * stride - top, column * stride - left
            if 0 <= y <= height - size and 0 <= x <= width - size:
                continue
            for i in range(y, y + size):
                for j in range(x, x + size):
                    if 0 <= i < height and 0 <= j < width:
                        continue
                    weight = line[i - y] * line[j - x]
                    from_row, from_column = mirrored(i, height), mirrored(j, width)
                    for image in range(images):
                        there = outer[image, row, column]
                        here = inner[image, from_row, from_column]
                        if to_outer:
                            for c in range(here.size):
                                there[c] += weight * here[c]
                        else:
                            for c in range(here.size):
                                here[c] += weight * there[c]


@cached_njit()
def forward(inputs: Any, size: int, stride: int, same: bool, outputs: Any) -> None:
    """Blur the inputs, and keep every `stride`-th row and column."""
    weights, no_bias = weights_of(size, inputs.shape[3]), np.empty(0, np.float32)
    step = (stride, stride)
    depthwise_conv2d_forward(inputs, weights, no_bias, step, same, (1, 1), False, outputs)
    if same:
        add_reflected(outputs, size, stride, inputs, True)


@cached_njit()
def backward(size: int, stride: int, same: bool, grad_outputs: Any, grad_inputs: Any) -> None:
    """Compute the gradient of the inputs."""
    weights, step = weights_of(size, grad_inputs.shape[3]), (stride, stride)
    depthwise_conv2d_grad_inputs(
        grad_inputs, weights, grad_outputs, step, same, (1, 1), False, grad_outputs, grad_inputs
    )
    if same:
        add_reflected(grad_outputs, size, stride, grad_inputs, False)


def output_shape(inputs: tuple[int, ...], size: int, stride: int, same: bool) -> tuple[int, ...]:
    """Return the shape of the outputs.

    Raises:
        ValueError: An axis is shorter than the blur, with VALID padding.
    """
    images, height, width, channels = inputs
    if same:
        return images, -(-height // stride), -(-width // stride), channels
    if min(height, width) < size:
        raise ValueError(
            f"a blur of size {size} without padding needs images of {size}x{size} pixels or more, "
            f"got {height}x{width}: use padding='same'"
        )
    return images, (height - size) // stride + 1, (width - size) // stride + 1, channels


blur_pool2d = ArrayOp(
    "example_blur_pool2d",
    forward=forward,
    backward=backward,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=output_shape,
    attributes={"size": 3, "stride": 2, "same": True},
)
