"""A layer that makes maps smaller without aliasing.

Pooling with strides keeps one of several pixels, so a shift of the image by one pixel can change
the result much. `BlurPool2D` blurs the maps before it drops pixels (R. Zhang, "Making Convolutional
Networks Shift-Invariant Again", 2019, section 3).
"""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_example.blur_pool.op import blur_pool2d


@keras.saving.register_keras_serializable(package="cnnforge_example")
class BlurPool2D(keras.layers.Layer):
    """A blur with binomial weights, of which every `strides`-th row and column is computed.

    Args:
        pool_size: Height and width of the blur in pixels, 1 or more.
        strides: Number of pixels from a window to the next, 1 or more.
        padding: `"same"`, which reflects the images at their borders, or `"valid"`.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, ceil(H / strides), ceil(W / strides), C) with `"same"`, and
        (N, (H - pool_size) // strides + 1, (W - pool_size) // strides + 1, C) with `"valid"`.

    Raises:
        ValueError: An argument is not as described.
    """

    def __init__(
        self, pool_size: int = 3, strides: int = 2, padding: str = "same", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("pool_size", pool_size), ("strides", strides)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
        self.pool_size, self.strides, self.padding = pool_size, strides, padding
        self.supports_jit = False  # XLA cannot compile the op.

    def call(self, inputs: Any) -> Any:
        """Cast the inputs to float32, and compute the outputs with the op."""
        outputs = blur_pool2d(
            keras.ops.cast(inputs, "float32"),
            size=self.pool_size,
            stride=self.strides,
            same=self.padding == "same",
        )
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the outputs."""
        same = self.padding == "same"
        return blur_pool2d.output_shape(
            input_shape, size=self.pool_size, stride=self.strides, same=same
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        return {**super().get_config(), **own}
