"""The op of `SqueezeExcite`: the mean of each channel, two small dense layers, and a product.

A thread computes one image from beginning to end. So the product reads the image from the cache,
where the means have left it. This module does not import Keras, so that a trained network can be
run without Keras.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import cached_njit, dot, parallel_for, product_sum, weighted_sum


@cached_njit()
def scale(image: Any, factors: Any, shifts: Any, result: Any) -> None:
    """Multiply the channels of all pixels by their factors, and add their shifts.

    Args:
        image: (H, W, C).
        factors: (C,).
        shifts: (C,).
        result: (H, W, C), written.
    """
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            # Arrays of one axis: Numba uses SIMD for the loop over their values.
            source, target = image[row, column], result[row, column]
            for c in range(factors.size):
                target[c] = source[c] * factors[c] + shifts[c]


@cached_njit()
def forward_image(
    n: int,
    inputs: Any,
    reduce: Any,
    reduce_bias: Any,
    expand: Any,
    expand_bias: Any,
    starts: Any,
    outputs: Any,
    means: Any,
    hidden: Any,
    factors: Any,
) -> None:
    """Compute image `n`. `starts` has the index of the first channel of each pixel."""
    pixels, channels = starts.size, inputs.shape[3]
    weighted_sum(
        means[n], inputs[n].reshape(-1), starts, np.full(pixels, np.float32(1 / max(pixels, 1)))
    )
    for unit in range(hidden.shape[1]):
        total = reduce_bias[unit]
        for c in range(channels):
            total += means[n, c] * reduce[c, unit]
        # A comparison with NaN is false, so NaN stays NaN.
        hidden[n, unit] = np.float32(0) if total < 0 else total
    for c in range(channels):
        total = expand_bias[c]
        for unit in range(hidden.shape[1]):
            total += hidden[n, unit] * expand[unit, c]
        factors[n, c] = np.float32(1) / (np.float32(1) + math.exp(-total))
    scale(inputs[n], factors[n], np.zeros(channels, np.float32), outputs[n])


@cached_njit()
def forward(
    inputs: Any,
    reduce: Any,
    reduce_bias: Any,
    expand: Any,
    expand_bias: Any,
    outputs: Any,
    means: Any,
    hidden: Any,
    factors: Any,
) -> None:
    """Compute the factors of all channels, and multiply each image by its factors."""
    images, height, width, channels = inputs.shape
    starts = np.arange(height * width) * channels
    parallel_for(
        forward_image,
        images,
        1,
        inputs,
        reduce,
        reduce_bias,
        expand,
        expand_bias,
        starts,
        outputs,
        means,
        hidden,
        factors,
    )


@cached_njit()
def backward_image(
    n: int,
    inputs: Any,
    reduce: Any,
    expand: Any,
    starts: Any,
    hidden: Any,
    factors: Any,
    grad_outputs: Any,
    grad_inputs: Any,
    to_expand: Any,
    to_reduce: Any,
) -> None:
    """Compute the gradient of image `n`, and of its sums before the sigmoid and the ReLU."""
    channels = inputs.shape[3]
    grads = grad_outputs[n].reshape(-1)
    product_sum(to_expand[n], inputs[n].reshape(-1), starts, grads, starts)
    for c in range(channels):
        to_expand[n, c] *= factors[n, c] * (1 - factors[n, c])
    for unit in range(hidden.shape[1]):
        through = dot(to_expand[n], expand[unit])
        to_reduce[n, unit] = through if hidden[n, unit] > 0 else np.float32(0)
    share = np.empty(channels, np.float32)
    for c in range(channels):
        share[c] = dot(to_reduce[n], reduce[c]) / starts.size
    scale(grad_outputs[n], factors[n], share, grad_inputs[n])


@cached_njit()
def backward(
    inputs: Any,
    reduce: Any,
    expand: Any,
    means: Any,
    hidden: Any,
    factors: Any,
    grad_outputs: Any,
    grad_inputs: Any,
    grad_reduce: Any,
    grad_reduce_bias: Any,
    grad_expand: Any,
    grad_expand_bias: Any,
) -> None:
    """Compute all gradients. Those of the weights are sums over the images, in their order."""
    images, height, width, channels = inputs.shape
    starts = np.arange(height * width) * channels
    to_expand = np.empty((images, channels), np.float32)
    to_reduce = np.empty((images, hidden.shape[1]), np.float32)
    parallel_for(
        backward_image,
        images,
        1,
        inputs,
        reduce,
        expand,
        starts,
        hidden,
        factors,
        grad_outputs,
        grad_inputs,
        to_expand,
        to_reduce,
    )
    grad_reduce[:], grad_reduce_bias[:] = 0, 0
    grad_expand[:], grad_expand_bias[:] = 0, 0
    for n in range(images):
        grad_reduce_bias += to_reduce[n]
        grad_expand_bias += to_expand[n]
        for unit in range(hidden.shape[1]):
            grad_expand[unit] += hidden[n, unit] * to_expand[n]
        for c in range(channels):
            grad_reduce[c] += means[n, c] * to_reduce[n]


def output_shapes(inputs: tuple[int, ...], reduce: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return four shapes: of the outputs, of the means, of the hidden units and of the factors."""
    images, _, _, channels = inputs
    return inputs, (images, channels), (images, reduce[1]), (images, channels)


squeeze_excite = ArrayOp(
    "example_squeeze_excite",
    forward=forward,
    backward=backward,
    inputs={"inputs": 4, "reduce": 2, "reduce_bias": 1, "expand": 2, "expand_bias": 1},
    outputs={"outputs": 4, "means": 2, "hidden": 2, "factors": 2},
    output_shapes=output_shapes,
)
