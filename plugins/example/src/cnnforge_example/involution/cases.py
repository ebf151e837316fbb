"""Test cases of `Involution2D`, its definition in NumPy, and the same in Keras' ops."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cnnforge.testing import LayerCase
from cnnforge_example.involution.layer import Involution2D

ops = keras.ops


def oracle(
    layer: Any,
    inputs: np.ndarray,
    reduce: np.ndarray,
    reduce_bias: np.ndarray,
    span: np.ndarray,
    span_bias: np.ndarray,
) -> np.ndarray:
    """Multiply the window of each pixel by the weights that its pixel gives, and sum."""
    size, groups, half = layer.kernel_size, layer.groups, layer.kernel_size // 2
    hidden = np.maximum(inputs @ reduce[0, 0] + reduce_bias, 0)
    weights = hidden @ span[0, 0] + span_bias
    padded = np.pad(inputs, ((0, 0), (half, half), (half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    windows = windows.reshape(*inputs.shape[:3], groups, -1, size, size)
    weights = weights.reshape(*inputs.shape[:3], size, size, groups)
    outputs = np.einsum("nhwgcij,nhwijg->nhwgc", windows, weights).reshape(inputs.shape)
    if layer.padding == "same":
        return outputs
    return outputs[:, half : outputs.shape[1] - half, half : outputs.shape[2] - half]


class PlainInvolution2D(Involution2D):
    """Computes `Involution2D` with ops of Keras.

    `extract_patches`, which copies all windows at once, takes several times as long.
    """

    def call(self, inputs: Any) -> Any:
        """Move the images by each step of a window, multiply them by its weights, and sum."""
        size, groups, half = self.kernel_size, self.groups, self.kernel_size // 2
        hidden = ops.relu(ops.conv(inputs, self.reduce) + self.reduce_bias)
        weights = ops.conv(hidden, self.span) + self.span_bias
        if self.padding == "same":
            inputs = ops.pad(inputs, ((0, 0), (half, half), (half, half), (0, 0)))
        elif half:
            weights = weights[:, half:-half, half:-half]
        rows, columns = weights.shape[1:3]
        total = 0
        for tap in range(size * size):
            i, j = divmod(tap, size)
            weight = weights[..., tap * groups : (tap + 1) * groups]
            total += _scaled(inputs[:, i : i + rows, j : j + columns], weight)
        return total


def _scaled(images: Any, weight: Any) -> Any:
    """Multiply each group of channels of a pixel by one weight; (N, H, W, C) and (N, H, W, G)."""
    _, rows, columns, channels = images.shape
    groups = weight.shape[3]
    if groups == 1:
        return images * weight
    parts = ops.reshape(images, (-1, rows, columns, groups, channels // groups))
    return ops.reshape(parts * weight[..., None], (-1, rows, columns, channels))


CASES = [
    LayerCase(
        name="default",
        arguments={},
        input_shape=(2, 5, 6, 7),
        oracle=oracle,
        bad_arguments={"kernel_size": 4, "groups": 0, "padding": "full"},
        speed_shape=(8, 28, 28, 64),
        min_ratio=1.3,
    ),
    LayerCase(
        name="groups",
        arguments={"kernel_size": 7, "groups": 4},
        input_shape=(1, 9, 8, 64),
        oracle=oracle,
        speed_shape=(8, 14, 14, 128),
        min_ratio=1.3,
    ),
    LayerCase(
        name="valid",
        arguments={"groups": 2, "padding": "valid"},
        input_shape=(2, 6, 5, 34),
        oracle=oracle,
        speed_shape=(8, 28, 28, 64),
        min_ratio=1.3,
    ),
]
