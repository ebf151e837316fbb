"""The layer ``DepthwiseConv2D`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    depthwise_conv2d_forward,
    depthwise_conv2d_grad_inputs,
    depthwise_conv2d_grad_weights,
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
        weights[2] * weights[3],
    )


depthwise_conv2d = ArrayOp(
    "depthwise_conv2d",
    forward=depthwise_conv2d_forward,
    backward=(depthwise_conv2d_grad_inputs, depthwise_conv2d_grad_weights),
    inputs={"inputs": 4, "weights": 4, "bias": 1},
    outputs={"outputs": 4},
    output_shapes=_output_shape,
    attributes={"strides": (1, 1), "same": False, "dilation_rate": (1, 1), "relu": False},
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class DepthwiseConv2D(KernelLayer, keras.layers.DepthwiseConv2D):
    """``keras.layers.DepthwiseConv2D`` on Numba kernels, with bias and ReLU in the same pass.

    Constructor arguments, weights, configuration and errors are those of Keras. The strides of rows
    and columns may differ, which TensorFlow does not allow. The framework computes the layer, with
    one warning, if the inputs are not float32 or if ``data_format`` is ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C * depth_multiplier)
    """

    def call(self, inputs: Any) -> Any:
        """Convolve each channel, add the bias, and apply the activation."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        return convolve(self, depthwise_conv2d, inputs)
