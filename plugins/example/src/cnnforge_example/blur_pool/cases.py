"""Test cases of `BlurPool2D`, its definition in NumPy, and the same computation in Keras' ops."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cnnforge.testing import LayerCase
from cnnforge_example.blur_pool.layer import BlurPool2D


def _blur(size: int) -> np.ndarray:
    """Return the (size, size) weights of the blur, from repeated averages of two neighbours."""
    line = np.ones(1)
    for _ in range(size - 1):
        line = np.convolve(line, [0.5, 0.5])
    return np.outer(line, line)


def _borders(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def oracle(layer: Any, inputs: np.ndarray) -> np.ndarray:
    """Blur padded images by the definition, and keep every `strides`-th row and column."""
    size, stride = layer.pool_size, layer.strides
    if layer.padding == "same":
        rows, columns = (_borders(length, size, stride) for length in inputs.shape[1:3])
        inputs = np.pad(inputs, ((0, 0), rows, columns, (0, 0)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(inputs, (size, size), (1, 2))
    return np.einsum("nhwcij,ij->nhwc", windows[:, ::stride, ::stride], _blur(size))


class PlainBlurPool2D(BlurPool2D):
    """Computes `BlurPool2D` with the ops `pad` and `depthwise_conv` of Keras."""

    def call(self, inputs: Any) -> Any:
        """Pad the images by reflection, and convolve each channel with the blur."""
        channels = inputs.shape[3]
        if self.padding == "same":
            rows, columns = (
                _borders(length, self.pool_size, self.strides) for length in inputs.shape[1:3]
            )
            inputs = keras.ops.pad(inputs, ((0, 0), rows, columns, (0, 0)), "reflect")
        blur = np.tile(_blur(self.pool_size)[..., None, None], (1, 1, channels, 1))
        blur = keras.ops.convert_to_tensor(blur, inputs.dtype)
        return keras.ops.depthwise_conv(inputs, blur, self.strides, "valid")


CASES = [
    LayerCase(
        name="default",
        arguments={},
        input_shape=(2, 9, 12, 5),
        oracle=oracle,
        bad_arguments={"pool_size": 0, "strides": 1.5, "padding": "full"},
        speed_shape=(8, 56, 56, 64),
        min_ratio=1.3,
    ),
    LayerCase(
        name="valid",
        arguments={"padding": "valid"},
        input_shape=(2, 8, 7, 33),
        oracle=oracle,
        speed_shape=(8, 56, 56, 64),
        min_ratio=1.3,
    ),
    LayerCase(
        name="one-channel",
        arguments={"pool_size": 5, "strides": 3},
        input_shape=(1, 11, 8, 1),
        oracle=oracle,
        speed_shape=(16, 112, 112, 3),
        min_ratio=1.3,
    ),
    LayerCase(
        name="even-size",
        arguments={"pool_size": 4, "strides": 1},
        input_shape=(2, 5, 6, 70),
        oracle=oracle,
    ),
]
