"""``Conv2D``: Keras' layer, computed by ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu.conv import conv2d as kernels
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
        weights[3],
    )


conv2d = ArrayOp(
    "conv2d",
    forward=kernels.conv2d_forward,
    backward=(kernels.conv2d_grad_inputs, kernels.conv2d_grad_weights),
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
class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` on Numba kernels: convolution, bias and ReLU in one pass.

    Constructor arguments, weights, configuration and errors are Keras' own. Inputs that are not
    float32, or ``data_format="channels_first"``, are computed by the framework, and that is said
    once.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, filters)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # XLA cannot compile a foreign op; Keras detects nothing by itself.
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """Convolve, add the bias, apply the activation."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        relu = self.activation is keras.activations.relu
        outputs = conv2d(
            inputs,
            self.kernel,
            self.bias if self.use_bias else keras.ops.zeros((0,), "float32"),
            strides=self.strides,
            same=self.padding == "same",
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            relu=relu,
        )
        return outputs if relu or self.activation is None else self.activation(outputs)
