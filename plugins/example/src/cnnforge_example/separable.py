"""A layer that computes a depthwise convolution, a pointwise convolution and a ReLU in one kernel.

The layer is the separable convolution of A. Howard et al., "MobileNets: Efficient Convolutional
Neural Networks for Mobile Vision Applications", 2017, section 3.1, without the normalizations. A
framework writes the depthwise convolution of a whole batch to memory, and reads it again for the
pointwise convolution. The kernel here keeps the depthwise convolution of one row of one image in a
few kilobytes of scratch memory. So the pointwise convolution reads it from the first-level cache.
"""

from __future__ import annotations

from typing import Any

import keras
import numba
import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_example import _separable_kernel
from cnnforge_kernels.authoring import (
    cached_njit,
    conv2d_grad_inputs,
    conv2d_grad_weights,
    depthwise_conv2d_forward,
    depthwise_conv2d_grad_inputs,
    depthwise_conv2d_grad_weights,
)


@numba.njit  # This is not cached on disk, because Numba would not notice a change of `run`.
def forward(inputs: Any, depthwise: Any, pointwise: Any, bias: Any, outputs: Any) -> None:
    """Apply the depthwise convolution, the pointwise convolution, and a ReLU."""
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
    """Compute all gradients with cnnforge's kernels.

    The gradients depend on the outputs of the depthwise convolution. The forward pass does not keep
    these outputs, so this function computes them again.
    """
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
    # From here on `middle` is the gradient of the depthwise convolution's outputs.
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
    """Return the shape of the outputs: the shape of the inputs with another number of channels."""
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
    """A depthwise 3x3 convolution, then a pointwise convolution with bias and ReLU; SAME padding.

    Args:
        filters: Number of output channels, 1 or more.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, H, W, filters)

    Raises:
        ValueError: `filters` is not as described.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(filters, int) or isinstance(filters, bool) or filters < 1:
            raise ValueError(f"filters must be a whole number, 1 or more, got {filters!r}")
        self.filters = filters
        self.supports_jit = False  # XLA cannot compile the op.

    def build(self, input_shape: Any) -> None:
        """Make the weights, of shapes (3, 3, C, 1), (C, filters) and (filters,)."""
        channels = input_shape[-1]
        self.depthwise = self.add_weight(name="depthwise", shape=(3, 3, channels, 1))
        self.pointwise = self.add_weight(name="pointwise", shape=(channels, self.filters))
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Cast the inputs and weights to float32, and compute the outputs with the op."""
        tensors = (inputs, self.depthwise, self.pointwise, self.bias)
        outputs = separable_block2d(*(keras.ops.cast(tensor, "float32") for tensor in tensors))
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs with ``filters`` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters}
