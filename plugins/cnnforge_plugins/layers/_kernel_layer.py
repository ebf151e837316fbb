"""Code that all layers on Numba kernels share."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp


class KernelLayer:
    """A mixin in front of the Keras layer whose computation a kernel replaces.

    Constructor arguments, weights, configuration and errors stay those of the Keras layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # XLA cannot compile the ops, and Keras cannot know that.
        self.supports_jit = False


def bias_or_empty(layer: Any) -> Any:
    """Return the bias of a layer, or an empty array if the layer has no bias."""
    return layer.bias if layer.use_bias else keras.ops.zeros((0,), "float32")


def convolve(layer: Any, op: ArrayOp, inputs: Any, **options: Any) -> Any:
    """Compute a convolution layer, with a ReLU in the kernel or any other activation after it."""
    relu = layer.activation is keras.activations.relu
    outputs = op(
        inputs,
        layer.kernel,
        bias_or_empty(layer),
        strides=layer.strides,
        same=layer.padding == "same",
        dilation_rate=layer.dilation_rate,
        relu=relu,
        **options,
    )
    return outputs if relu or layer.activation is None else layer.activation(outputs)
