"""The layer ``GlobalAveragePooling2D`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    global_average_pool2d_forward,
    global_average_pool2d_grad_inputs,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer

Shape = tuple[int, ...]


def _output_shape(inputs: Shape) -> Shape:
    return (inputs[0], inputs[3])


global_average_pool2d = ArrayOp(
    "global_average_pool2d",
    forward=global_average_pool2d_forward,
    backward=global_average_pool2d_grad_inputs,
    inputs={"inputs": 4},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class GlobalAveragePooling2D(KernelLayer, keras.layers.GlobalAveragePooling2D):
    """``keras.layers.GlobalAveragePooling2D`` on Numba kernels.

    The mean of a large image is as accurate as the mean of a small one. Constructor arguments,
    configuration and errors are those of Keras. The framework computes the layer, with one warning,
    if the inputs are not float32 or if ``data_format`` is ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, C), or (N, 1, 1, C) with ``keepdims=True``
    """

    def call(self, inputs: Any) -> Any:
        """Return the mean of each channel of each image."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        outputs = global_average_pool2d(inputs)
        return keras.ops.expand_dims(outputs, (1, 2)) if self.keepdims else outputs
