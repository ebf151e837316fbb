"""``MaxPooling2D`` and ``AveragePooling2D``: Keras' layers, computed by ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras
import numba
from numba.extending import register_jitable

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu.pooling import pooling as kernels
from cnnforge_kernels.geometry import output_size
from cnnforge_plugins.layers._fallback import kernel_fits

Shape = tuple[int, ...]
_POOLING = {"pool_size": (2, 2), "strides": (2, 2), "same": False}


def _fits(layer: Any, inputs: Any) -> bool:
    # Keras checks neither of these two when the layer is made: the framework has an error for each.
    if layer.padding not in ("valid", "same") or 0 in layer.strides:
        return False
    return kernel_fits(layer, inputs)


@register_jitable
def _output_shape(inputs: Shape, pool_size: Shape, strides: Shape, same: bool) -> Shape:
    return (
        inputs[0],
        output_size(inputs[1], pool_size[0], strides[0], 1, same),
        output_size(inputs[2], pool_size[1], strides[1], 1, same),
        inputs[3],
    )


def _outputs_and_winners(inputs: Shape, pool_size: Shape, strides: Shape, same: bool) -> Any:
    outputs = _output_shape(inputs, pool_size, strides, same)
    return outputs, outputs


def _max_pool2d(name: str, winner: Any) -> ArrayOp:
    return ArrayOp(
        name,
        forward=kernels.max_pool2d_forward,
        backward=kernels.max_pool2d_grad_inputs,
        inputs={"inputs": 4},
        outputs={"outputs": 4, "winners": winner[:, :, :, ::1]},
        output_shapes=_outputs_and_winners,
        attributes=_POOLING,
        cuda="cnnforge_kernels.cuda.launch",
    )


max_pool2d = _max_pool2d("max_pool2d", numba.uint8)
max_pool2d_large = _max_pool2d("max_pool2d_large", numba.int32)  # windows of more than 256 cells
average_pool2d = ArrayOp(
    "average_pool2d",
    forward=kernels.average_pool2d_forward,
    backward=kernels.average_pool2d_grad_inputs,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=_output_shape,
    attributes=_POOLING,
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class MaxPooling2D(keras.layers.MaxPooling2D):
    """``keras.layers.MaxPooling2D`` on Numba kernels; the gradient needs one byte an output.

    Constructor arguments, configuration and errors are Keras' own. Inputs that are not float32, or
    ``data_format="channels_first"``, are computed by the framework, and that is said once.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """The maximum of each window."""
        if not _fits(self, inputs):
            return super().call(inputs)
        op = max_pool2d if self.pool_size[0] * self.pool_size[1] <= 256 else max_pool2d_large
        return op(
            inputs,
            pool_size=self.pool_size,
            strides=self.strides,
            same=self.padding == "same",
        )[0]


@keras.saving.register_keras_serializable(package="cnnforge")
class AveragePooling2D(keras.layers.AveragePooling2D):
    """``keras.layers.AveragePooling2D`` on Numba kernels; padding is never counted.

    Constructor arguments, configuration and errors are Keras' own. Inputs that are not float32, or
    ``data_format="channels_first"``, are computed by the framework, and that is said once.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """The mean of the real cells of each window."""
        if not _fits(self, inputs):
            return super().call(inputs)
        return average_pool2d(
            inputs,
            pool_size=self.pool_size,
            strides=self.strides,
            same=self.padding == "same",
        )
