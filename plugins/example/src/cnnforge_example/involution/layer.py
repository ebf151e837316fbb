"""A layer whose weights differ from pixel to pixel, and are computed from the pixel.

A convolution has the same weights at all pixels, and others for each channel. An involution has
other weights at each pixel, and the same for a group of channels (D. Li et al., "Involution:
Inverting the Inherence of Convolution for Visual Recognition", 2021, section 3).
"""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_example.involution.op import involution2d


@keras.saving.register_keras_serializable(package="cnnforge_example")
class Involution2D(keras.layers.Layer):
    """Weighted sums of windows. Two 1x1 convolutions compute the weights of each window.

    Args:
        kernel_size: Height and width of a window in pixels, an odd number.
        groups: Number of groups of channels; the channels of a group have the same weights. It must
            divide the number of channels.
        ratio: Number of channels for each filter of the first convolution, 1 or more.
        padding: `"same"` (zeros outside of the images) or `"valid"`.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, C) with `"same"`, and (N, H - kernel_size + 1, W - kernel_size + 1, C) with
        `"valid"`.

    Raises:
        ValueError: An argument is not as described.
    """

    def __init__(
        self,
        kernel_size: int = 3,
        groups: int = 1,
        ratio: int = 4,
        padding: str = "same",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("kernel_size", kernel_size), ("groups", groups), ("ratio", ratio)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd number, got {kernel_size}")
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
        self.kernel_size, self.groups, self.ratio = kernel_size, groups, ratio
        self.padding = padding
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights of the two 1x1 convolutions."""
        channels, groups = input_shape[-1], self.groups
        if channels % groups:
            raise ValueError(f"groups must divide the {channels} channels, got {groups}")
        reduce, reduce_bias, span, span_bias = self._weight_shapes(channels)
        self.reduce = self.add_weight(name="reduce", shape=reduce)
        self.reduce_bias = self.add_weight(
            name="reduce_bias", shape=reduce_bias, initializer="zeros"
        )
        self.span = self.add_weight(name="span", shape=span)
        self.span_bias = self.add_weight(name="span_bias", shape=span_bias, initializer="zeros")

    def _weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        """Return the shapes of the weights and the biases of the two 1x1 convolutions."""
        filters = max(1, channels // self.ratio)
        cells = self.kernel_size**2 * self.groups
        return [(1, 1, channels, filters), (filters,), (1, 1, filters, cells), (cells,)]

    def call(self, inputs: Any) -> Any:
        """Cast the inputs and weights to float32, and compute the outputs with the op."""
        tensors = (inputs, self.reduce, self.reduce_bias, self.span, self.span_bias)
        tensors = (keras.ops.cast(tensor, "float32") for tensor in tensors)
        same = self.padding == "same"
        outputs, *_ = involution2d(*tensors, size=self.kernel_size, same=same)
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the outputs, the first of those that the op has a rule for."""
        outputs, *_ = involution2d.output_shape(
            input_shape,
            *self._weight_shapes(input_shape[-1]),
            size=self.kernel_size,
            same=self.padding == "same",
        )
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {
            "kernel_size": self.kernel_size,
            "groups": self.groups,
            "ratio": self.ratio,
            "padding": self.padding,
        }
        return {**super().get_config(), **own}
