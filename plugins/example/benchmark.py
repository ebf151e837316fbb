"""Compare the speed of the layers with that of the same computation in ops of Keras.

Run `python -m pytest plugins/example/benchmark.py`. To compare the speeds with thresholds, add
`--cnnforge-gate FILE.toml`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.testing import LayerCase, benchmark_cases
from cnnforge_example.blur_pool.cases import PlainBlurPool2D
from cnnforge_example.gabor import GaborConv2D
from cnnforge_example.involution.cases import PlainInvolution2D
from cnnforge_example.separable import SeparableBlock2D
from cnnforge_example.squeeze_excite.cases import PlainSqueezeExcite

ops = keras.ops


class PlainSeparableBlock2D(SeparableBlock2D):
    """Computes `SeparableBlock2D` with the ops `depthwise_conv` and `conv` of Keras."""

    def call(self, inputs: Any) -> Any:
        """Apply the two convolutions, the bias and the ReLU."""
        middle = ops.depthwise_conv(inputs, self.depthwise, padding="same")
        pointwise = self.pointwise[None, None]
        return ops.relu(ops.conv(middle, pointwise) + self.bias)


class PlainGaborConv2D(GaborConv2D):
    """Computes `GaborConv2D` with ops of Keras, whose gradients the framework computes."""

    def call(self, inputs: Any) -> Any:
        """Make the bank (the pixels of all filters) op by op, and convolve the inputs with it."""
        half = self.kernel_size // 2
        y, x = (
            ops.convert_to_tensor(it[..., np.newaxis], self.compute_dtype)
            for it in np.mgrid[-half : half + 1, -half : half + 1]
        )
        along = x * ops.cos(self.orientation) + y * ops.sin(self.orientation)
        wave = ops.cos(2 * np.pi * self.frequency * along + self.phase)
        bell = ops.exp(-(x**2 + y**2) / (2 * ops.exp(2 * self.log_width)))
        return ops.conv(inputs, self.amplitude * (bell * wave)[:, :, None], padding="same")


# Batch, height, width, channels, filters: layers of MobileNet at 224 and at 64 pixels.
SHAPES = [(8, 112, 112, 32, 64), (32, 32, 32, 32, 64), (32, 16, 16, 64, 128), (32, 8, 8, 256, 256)]
SEPARABLE = [
    LayerCase(arguments={"filters": filters}, input_shape=tuple(shape), name=f"{shape[1]}-pixels")
    for *shape, filters in SHAPES
]
CASES = [
    *benchmark_cases("example/separable_block2d", SEPARABLE, reference=PlainSeparableBlock2D),
    *benchmark_cases("example/gabor_conv2d", reference=PlainGaborConv2D),
    *benchmark_cases("example/blur_pool2d", reference=PlainBlurPool2D),
    *benchmark_cases("example/squeeze_excite", reference=PlainSqueezeExcite),
    *benchmark_cases("example/involution2d", reference=PlainInvolution2D),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(layer_benchmark: Any, case: Any) -> None:
    """Check that a layer and its reference compute the same, and time them alternately."""
    layer_benchmark(case, rounds=21, limit=4.0)
