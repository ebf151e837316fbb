"""Test cases of `SqueezeExcite`, its definition in NumPy, and the same in Keras' ops."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cnnforge.testing import LayerCase
from cnnforge_example.squeeze_excite.layer import SqueezeExcite

ops = keras.ops


def oracle(
    layer: Any,
    inputs: np.ndarray,
    reduce: np.ndarray,
    reduce_bias: np.ndarray,
    expand: np.ndarray,
    expand_bias: np.ndarray,
) -> np.ndarray:
    """Compute the factors by the definition, and multiply the inputs by them."""
    hidden = np.maximum(inputs.mean((1, 2)) @ reduce + reduce_bias, 0)
    factors = 1 / (1 + np.exp(-(hidden @ expand + expand_bias)))
    return inputs * factors[:, None, None]


class PlainSqueezeExcite(SqueezeExcite):
    """Computes `SqueezeExcite` with ops of Keras."""

    def call(self, inputs: Any) -> Any:
        """Compute the means, the two dense layers and the product, op by op."""
        means = ops.mean(inputs, (1, 2))
        hidden = ops.relu(ops.matmul(means, self.reduce) + self.reduce_bias)
        factors = ops.sigmoid(ops.matmul(hidden, self.expand) + self.expand_bias)
        return inputs * factors[:, None, None]


CASES = [
    LayerCase(
        name="default",
        arguments={},
        input_shape=(2, 5, 7, 37),
        oracle=oracle,
        bad_arguments={"ratio": 0},
        speed_shape=(16, 28, 28, 128),
        min_ratio=1.3,
    ),
    LayerCase(
        name="large-maps",
        arguments={"ratio": 4},
        input_shape=(3, 9, 4, 8),
        oracle=oracle,
        speed_shape=(16, 56, 56, 64),
        min_ratio=1.3,
    ),
    LayerCase(
        name="one-pixel",
        arguments={"ratio": 1},
        input_shape=(2, 1, 1, 3),
        oracle=oracle,
    ),
]
