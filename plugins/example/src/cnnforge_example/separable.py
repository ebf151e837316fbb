"""A depthwise-separable block in one kernel: its intermediate map is never written.

A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, section 3.1, without the normalizations. A framework computes the depthwise
convolution of a whole batch, writes it, and reads it again for the pointwise one; here the
depthwise results of one row of one image go to scratch of a few kilobytes, which the pointwise
convolution reads from the first-level cache.
"""

from __future__ import annotations

from typing import Any

import keras
import numba
import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_example import _separable_kernel
from cnnforge_kernels.cpu.conv.conv2d import conv2d_grad_inputs, conv2d_grad_weights
from cnnforge_kernels.cpu.depthwise.depthwise import (
    depthwise_conv2d_forward,
    depthwise_conv2d_grad_inputs,
    depthwise_conv2d_grad_weights,
)
from cnnforge_kernels.cpu.runtime.compiled import cached_njit


@numba.njit  # not cached, as `run` is not
def forward(inputs: Any, depthwise: Any, pointwise: Any, bias: Any, outputs: Any) -> None:
    """ReLU of the pointwise convolution of the depthwise convolution of the inputs."""
    _separable_kernel.run(inputs, depthwise, pointwise, bias, outputs)


@cached_njit()
def backward(
    inputs: Any,
    depthwise: Any,
    pointwise: Any,
    bias: Any,
    outputs: Any,
    grad_outputs: Any,
    grad_inputs: Any,
    grad_depthwise: Any,
    grad_pointwise: Any,
    grad_bias: Any,
) -> None:
    """All gradients, by cnnforge's kernels; the map that was not written is computed again."""
    one, no_bias = (1, 1), np.empty(0, np.float32)
    weights = pointwise.reshape(1, 1, *pointwise.shape)
    grad_weights = grad_pointwise.reshape(1, 1, *pointwise.shape)
    middle = np.empty_like(inputs)
    depthwise_conv2d_forward(inputs, depthwise, no_bias, one, True, one, False, middle)
    conv2d_grad_weights(
        middle,
        weights,
        bias,
        outputs,
        one,
        True,
        one,
        1,
        True,
        grad_outputs,
        grad_weights,
        grad_bias,
    )
    # From here on it is the gradient of what stood there.
    conv2d_grad_inputs(inputs, weights, outputs, one, True, one, 1, True, grad_outputs, middle)
    depthwise_conv2d_grad_inputs(
        inputs, depthwise, inputs, one, True, one, False, middle, grad_inputs
    )
    depthwise_conv2d_grad_weights(
        inputs,
        depthwise,
        no_bias,
        inputs,
        one,
        True,
        one,
        False,
        middle,
        grad_depthwise,
        np.empty(inputs.shape[3], np.float32),
    )


def output_shape(inputs: tuple[int, ...], pointwise: tuple[int, ...]) -> tuple[int, ...]:
    """As many pixels, other channels."""
    return inputs[0], inputs[1], inputs[2], pointwise[1]


separable_block2d = ArrayOp(
    "example_separable_block2d",
    forward=forward,
    backward=backward,
    inputs={"inputs": 4, "depthwise": 4, "pointwise": 2, "bias": 1},
    outputs={"outputs": 4},
    output_shapes=output_shape,
)


@keras.saving.register_keras_serializable(package="cnnforge_example")
class SeparableBlock2D(keras.layers.Layer):
    """Depthwise 3x3 and pointwise convolution, bias and ReLU, SAME padding.

    Args:
        filters: How many output channels, 1 or more.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, filters)

    Raises:
        ValueError: `filters` is no such number.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(filters, int) or isinstance(filters, bool) or filters < 1:
            raise ValueError(f"filters must be a whole number, 1 or more, got {filters!r}")
        self.filters = filters
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights: (3, 3, C, 1), (C, filters), (filters,)."""
        channels = input_shape[-1]
        self.depthwise = self.add_weight(name="depthwise", shape=(3, 3, channels, 1))
        self.pointwise = self.add_weight(name="pointwise", shape=(channels, self.filters))
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Apply the op, which computes in float32."""
        tensors = (inputs, self.depthwise, self.pointwise, self.bias)
        outputs = separable_block2d(*(keras.ops.cast(it, "float32") for it in tensors))
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As many pixels, other channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "filters": self.filters}
