"""A layer that multiplies each channel of an image by a factor that the whole image decides.

The layer is the block of J. Hu et al., "Squeeze-and-Excitation Networks", 2018, section 3.
"""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_example.squeeze_excite.op import squeeze_excite


@keras.saving.register_keras_serializable(package="cnnforge_example")
class SqueezeExcite(keras.layers.Layer):
    """Multiply each channel by a factor from 0 to 1: means, dense, ReLU, dense, sigmoid.

    Args:
        ratio: Number of channels for each hidden unit, 1 or more. There is at least one unit.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, C)

    Raises:
        ValueError: `ratio` is not as described.
    """

    def __init__(self, ratio: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(ratio, int) or isinstance(ratio, bool) or ratio < 1:
            raise ValueError(f"ratio must be a whole number, 1 or more, got {ratio!r}")
        self.ratio = ratio
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights of the two dense layers."""
        channels = input_shape[-1]
        units = max(1, channels // self.ratio)
        self.reduce = self.add_weight(name="reduce", shape=(channels, units))
        self.reduce_bias = self.add_weight(name="reduce_bias", shape=(units,), initializer="zeros")
        self.expand = self.add_weight(name="expand", shape=(units, channels))
        self.expand_bias = self.add_weight(
            name="expand_bias", shape=(channels,), initializer="zeros"
        )

    def call(self, inputs: Any) -> Any:
        """Cast the inputs and weights to float32, and compute the outputs with the op."""
        tensors = (inputs, self.reduce, self.reduce_bias, self.expand, self.expand_bias)
        outputs, *_ = squeeze_excite(*(keras.ops.cast(tensor, "float32") for tensor in tensors))
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "ratio": self.ratio}
