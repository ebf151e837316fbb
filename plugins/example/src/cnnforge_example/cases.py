"""Test cases of the layers, and NumPy functions with whose results the tests compare the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge.testing import LayerCase


def convolve(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute a 2D convolution with an odd window, strides of 1 and SAME padding.

    Args:
        inputs: (N, H, W, C).
        weights: (K, K, C, F).

    Returns:
        (N, H, W, F).
    """
    size = weights.shape[0]
    border = (size // 2, size // 2)
    padded = np.pad(inputs, ((0, 0), border, border, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, weights)


def gabor_oracle(
    layer: Any,
    inputs: np.ndarray,
    amplitude: np.ndarray,
    orientation: np.ndarray,
    frequency: np.ndarray,
    log_width: np.ndarray,
    phase: np.ndarray,
) -> np.ndarray:
    """Compute Gabor functions from their definition, and convolve the inputs with them."""
    half = layer.kernel_size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1][..., np.newaxis]
    wave = np.cos(
        2 * np.pi * frequency * (x * np.cos(orientation) + y * np.sin(orientation)) + phase
    )
    bell = np.exp(-(x**2 + y**2) / (2 * np.exp(log_width) ** 2))
    return convolve(inputs, amplitude * (bell * wave)[:, :, np.newaxis])


def separable_oracle(
    layer: Any,
    inputs: np.ndarray,
    depthwise: np.ndarray,
    pointwise: np.ndarray,
    bias: np.ndarray,
) -> np.ndarray:
    """Compute a depthwise convolution, a pointwise convolution with a bias, and a ReLU."""
    weights = depthwise * np.eye(inputs.shape[3])
    return np.maximum(convolve(inputs, weights) @ pointwise + bias, 0)


GABOR = [
    LayerCase(
        name="default",
        arguments={"filters": 5},
        input_shape=(2, 9, 8, 3),
        oracle=gabor_oracle,
        bad_arguments={"filters": 0, "kernel_size": 4},
        speed_shape=(32, 28, 28, 1),
    ),
    LayerCase(
        name="one-channel",
        arguments={"filters": 2, "kernel_size": 3},
        input_shape=(1, 4, 6, 1),
        oracle=gabor_oracle,
    ),
]

SEPARABLE = [
    LayerCase(
        name="default",
        arguments={"filters": 70},
        input_shape=(2, 6, 17, 33),
        oracle=separable_oracle,
        bad_arguments={"filters": 1.5},
        speed_shape=(32, 28, 28, 32),
    ),
    LayerCase(
        name="few-channels",
        arguments={"filters": 3},
        input_shape=(3, 1, 5, 3),
        oracle=separable_oracle,
    ),
    LayerCase(
        name="one-pixel",
        arguments={"filters": 9},
        input_shape=(2, 3, 1, 1),
        oracle=separable_oracle,
    ),
]
