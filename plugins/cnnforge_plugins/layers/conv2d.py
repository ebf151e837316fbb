"""The layer ``Conv2D`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    conv2d_forward,
    conv2d_grad_inputs,
    conv2d_grad_weights,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer, convolve
from cnnforge_plugins.layers._shapes import convolved_size

Shape = tuple[int, ...]


def _output_shape(
    inputs: Shape, weights: Shape, strides: Shape, same: bool, dilation_rate: Shape
) -> Shape:
    return (
        inputs[0],
        convolved_size(inputs[1], weights[0], strides[0], dilation_rate[0], same),
        convolved_size(inputs[2], weights[1], strides[1], dilation_rate[1], same),
        weights[3],
    )


conv2d = ArrayOp(
    "conv2d",
    forward=conv2d_forward,
    backward=(conv2d_grad_inputs, conv2d_grad_weights),
    inputs={"inputs": 4, "weights": 4, "bias": 1},
    outputs={"outputs": 4},
    output_shapes=_output_shape,
    attributes={
        "strides": (1, 1),
        "same": False,
        "dilation_rate": (1, 1),
        "groups": 1,
        "relu": False,
    },
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class Conv2D(KernelLayer, keras.layers.Conv2D):
    """``keras.layers.Conv2D`` on Numba kernels: convolution, bias and ReLU in one pass.

    Constructor arguments, weights, configuration and errors are those of Keras. The framework
    computes the layer, with one warning, if the inputs are not float32 or if ``data_format`` is
    ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, filters)
    """

    def call(self, inputs: Any) -> Any:
        """Convolve the inputs, add the bias, and apply the activation."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        return convolve(self, conv2d, inputs, groups=self.groups)
