"""A layer that computes a depthwise convolution, a pointwise convolution and a ReLU in one kernel.

The layer is the separable convolution of A. Howard et al., "MobileNets: Efficient Convolutional
Neural Networks for Mobile Vision Applications", 2017, section 3.1, without the normalizations. A
framework writes the depthwise convolution of a whole batch to memory, and reads it again for the
pointwise convolution. The kernel here keeps the depthwise convolution of one row of one image in a
few kilobytes of scratch memory. So the pointwise convolution reads it from the first-level cache.
"""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_example.separable_op import separable_block2d


@keras.saving.register_keras_serializable(package="cnnforge_example")
class SeparableBlock2D(keras.layers.Layer):
    """A depthwise 3x3 convolution, then a pointwise convolution with bias and ReLU; SAME padding.

    Args:
        filters: Number of output channels, 1 or more.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, filters)

    Raises:
        ValueError: `filters` is not as described.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(filters, int) or isinstance(filters, bool) or filters < 1:
            raise ValueError(f"filters must be a whole number, 1 or more, got {filters!r}")
        self.filters = filters
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights, of shapes (3, 3, C, 1), (C, filters) and (filters,)."""
        channels = input_shape[-1]
        self.depthwise = self.add_weight(name="depthwise", shape=(3, 3, channels, 1))
        self.pointwise = self.add_weight(name="pointwise", shape=(channels, self.filters))
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Cast the inputs and weights to float32, and compute the outputs with the op."""
        tensors = (inputs, self.depthwise, self.pointwise, self.bias)
        outputs = separable_block2d(*(keras.ops.cast(tensor, "float32") for tensor in tensors))
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs with ``filters`` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters}
