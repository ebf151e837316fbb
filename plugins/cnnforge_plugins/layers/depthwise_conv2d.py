"""``DepthwiseConv2D``: Keras' layer, computed by ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu.depthwise import depthwise as kernels
from cnnforge_plugins.layers._fallback import kernel_fits
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
    forward=kernels.depthwise_conv2d_forward,
    backward=(kernels.depthwise_conv2d_grad_inputs, kernels.depthwise_conv2d_grad_weights),
    inputs={"inputs": 4, "weights": 4, "bias": 1},
    outputs={"outputs": 4},
    output_shapes=_output_shape,
    attributes={"strides": (1, 1), "same": False, "dilation_rate": (1, 1), "relu": False},
    cuda="cnnforge_kernels.cuda.launch",
)


@keras.saving.register_keras_serializable(package="cnnforge")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """``keras.layers.DepthwiseConv2D`` on Numba kernels, with bias and ReLU in the same pass.

    Constructor arguments, weights, configuration and errors are Keras' own; strides that differ
    between rows and columns, which TensorFlow refuses, are computed. Inputs that are not float32,
    or ``data_format="channels_first"``, are computed by the framework, and that is said once.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C * depth_multiplier)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # XLA cannot compile a foreign op; Keras detects nothing by itself.
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """Convolve each channel, add the bias, apply the activation."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        relu = self.activation is keras.activations.relu
        outputs = depthwise_conv2d(
            inputs,
            self.kernel,
            self.bias if self.use_bias else keras.ops.zeros((0,), "float32"),
            strides=self.strides,
            same=self.padding == "same",
            dilation_rate=self.dilation_rate,
            relu=relu,
        )
        return outputs if relu or self.activation is None else self.activation(outputs)
