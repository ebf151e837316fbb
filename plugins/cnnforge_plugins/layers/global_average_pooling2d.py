"""``GlobalAveragePooling2D``: Keras' layer, computed by ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu.pooling import global_average as kernels
from cnnforge_plugins.layers._fallback import kernel_fits

Shape = tuple[int, ...]


def _output_shape(inputs: Shape) -> Shape:
    return (inputs[0], inputs[3])


global_average_pool2d = ArrayOp(
    "global_average_pool2d",
    forward=kernels.global_average_pool2d_forward,
    backward=kernels.global_average_pool2d_grad_inputs,
    inputs={"inputs": 4},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class GlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """``keras.layers.GlobalAveragePooling2D`` on Numba kernels, with sums that stay accurate.

    Constructor arguments, configuration and errors are Keras' own. Inputs that are not float32, or
    ``data_format="channels_first"``, are computed by the framework, and that is said once.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, C), or (N, 1, 1, C) with ``keepdims=True``
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """The mean of each channel's map."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        outputs = global_average_pool2d(inputs)
        return keras.ops.expand_dims(outputs, (1, 2)) if self.keepdims else outputs
