"""A convolution layer whose filters remain Gabor functions during training.

The layer learns five parameters of each filter instead of its pixels. `gabor_op.py` has the op.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cnnforge_example.gabor_op import gabor_conv2d


@keras.saving.register_keras_serializable(package="cnnforge_example")
class GaborConv2D(keras.layers.Layer):
    """2D convolution with Gabor functions as filters; SAME padding, no bias.

    At the start the orientations of the filters are evenly spaced between 0 and 180 degrees.

    Args:
        filters: Number of filters, 1 or more.
        kernel_size: Height and width of a filter in pixels, an odd number.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, filters)

    Raises:
        ValueError: `filters` or `kernel_size` is not as described.
    """

    def __init__(self, filters: int, kernel_size: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(f"filters must be a whole number, 1 or more, got {filters!r}")
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd whole number, got {kernel_size!r}")
        self.filters, self.kernel_size = filters, kernel_size
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights: one of shape (C, filters), and four of shape (filters,)."""
        size, filters = self.kernel_size, self.filters
        turns = np.arange(filters) / filters

        def each(name: str, values: Any) -> Any:
            values = np.broadcast_to(np.asarray(values, np.float32), (filters,))
            return self.add_weight(
                name=name,
                shape=(filters,),
                initializer=lambda shape, dtype: keras.ops.convert_to_tensor(values, dtype),
            )

        self.amplitude = self.add_weight(
            name="amplitude",
            shape=(input_shape[-1], filters),
            initializer=keras.initializers.RandomNormal(stddev=2 / size / input_shape[-1] ** 0.5),
        )
        self.orientation = each("orientation", math.pi * turns)
        self.frequency = each("frequency", 1 / size)
        self.log_width = each("log_width", math.log(max(size / 4, 0.5)))
        # The phase is 0 and pi / 2 alternately. With phase 0 a Gabor function is even and responds
        # to lines. With phase pi / 2 it is odd and responds to edges.
        self.phase = each("phase", math.pi / 2 * (np.arange(filters) % 2))

    def call(self, inputs: Any) -> Any:
        """Cast the inputs and weights to float32, and compute the outputs with the op."""
        tensors = (
            inputs,
            self.amplitude,
            self.orientation,
            self.frequency,
            self.log_width,
            self.phase,
        )
        tensors = (keras.ops.cast(tensor, "float32") for tensor in tensors)
        outputs, _ = gabor_conv2d(*tensors, size=self.kernel_size)
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs with ``filters`` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        return {**config, "filters": self.filters, "kernel_size": self.kernel_size}
