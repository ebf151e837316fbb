"""The layers ``MaxPooling2D`` and ``AveragePooling2D`` of Keras, computed by Numba kernels."""

from __future__ import annotations

from typing import Any

import keras
import numba
from numba.extending import register_jitable

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    average_pool2d_forward,
    average_pool2d_grad_inputs,
    max_pool2d_forward,
    max_pool2d_grad_inputs,
    output_size,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer

Shape = tuple[int, ...]
_POOLING = {"pool_size": (2, 2), "strides": (2, 2), "same": False}


def _fits(layer: Any, inputs: Any) -> bool:
    # The constructor of Keras does not check padding and strides. If they are wrong, let the Keras
    # layer compute the call, which raises an error.
    if layer.padding not in ("valid", "same") or 0 in layer.strides:
        return False
    return kernel_fits(layer, inputs)


def _options(layer: Any) -> dict[str, Any]:
    """Return the attributes of the pooling op for a layer."""
    return {
        "pool_size": layer.pool_size,
        "strides": layer.strides,
        "same": layer.padding == "same",
    }


@register_jitable
def _output_shape(inputs: Shape, pool_size: Shape, strides: Shape, same: bool) -> Shape:
    return (
        inputs[0],
        output_size(inputs[1], pool_size[0], strides[0], 1, same),
        output_size(inputs[2], pool_size[1], strides[1], 1, same),
        inputs[3],
    )


def _outputs_and_argmax(inputs: Shape, pool_size: Shape, strides: Shape, same: bool) -> Any:
    outputs = _output_shape(inputs, pool_size, strides, same)
    return outputs, outputs


def _max_pool2d(name: str, index: Any) -> ArrayOp:
    return ArrayOp(
        name,
        forward=max_pool2d_forward,
        backward=max_pool2d_grad_inputs,
        inputs={"inputs": 4},
        outputs={"outputs": 4, "argmax": index[:, :, :, ::1]},
        output_shapes=_outputs_and_argmax,
        attributes=_POOLING,
        cuda="cnnforge_kernels.cuda.launch",
    )


max_pool2d = _max_pool2d("max_pool2d", numba.uint8)
max_pool2d_large = _max_pool2d("max_pool2d_large", numba.int32)  # windows of more than 256 cells
average_pool2d = ArrayOp(
    "average_pool2d",
    forward=average_pool2d_forward,
    backward=average_pool2d_grad_inputs,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=_output_shape,
    attributes=_POOLING,
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class MaxPooling2D(KernelLayer, keras.layers.MaxPooling2D):
    """``keras.layers.MaxPooling2D`` on Numba kernels.

    For the gradient the forward pass keeps only the argmax, one byte for each output (four bytes if
    a window has more than 256 cells). Constructor arguments, configuration and errors are those of
    Keras. The framework computes the layer, with one warning, if the inputs are not float32 or if
    ``data_format`` is ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C)
    """

    def call(self, inputs: Any) -> Any:
        """Return the maximum of each window."""
        if not _fits(self, inputs):
            return super().call(inputs)
        op = max_pool2d if self.pool_size[0] * self.pool_size[1] <= 256 else max_pool2d_large
        return op(inputs, **_options(self))[0]


@keras.saving.register_keras_serializable(package="cnnforge")
class AveragePooling2D(KernelLayer, keras.layers.AveragePooling2D):
    """``keras.layers.AveragePooling2D`` on Numba kernels; a mean never counts padding.

    Constructor arguments, configuration and errors are those of Keras. The framework computes the
    layer, with one warning, if the inputs are not float32 or if ``data_format`` is
    ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C)
    """

    def call(self, inputs: Any) -> Any:
        """Return the mean of each window without its padding."""
        if not _fits(self, inputs):
            return super().call(inputs)
        return average_pool2d(inputs, **_options(self))
