"""The op of the separable block: depthwise and pointwise convolution, bias and ReLU in one kernel.

The kernel is in `_separable_kernel.py`. This module does not import Keras, so a trained network
runs without Keras.
"""

from __future__ import annotations

from typing import Any

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
