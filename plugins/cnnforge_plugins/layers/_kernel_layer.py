"""Code that several layers on Numba kernels share."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp


class KernelLayer:
    """A mixin for a subclass of a Keras layer whose computation a kernel replaces.

    It precedes the Keras layer in the list of base classes. Constructor arguments, weights,
    configuration and errors are those of the Keras layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Tell Keras not to compile this layer with XLA, which cannot compile our ops.
        self.supports_jit = False


def bias_or_empty(layer: Any) -> Any:
    """Return the bias of a layer, or an empty array if the layer has no bias."""
    return layer.bias if layer.use_bias else keras.ops.zeros((0,), "float32")


def convolve(layer: Any, op: ArrayOp, inputs: Any, **options: Any) -> Any:
    """Compute a convolution layer; the kernel applies a ReLU, and Keras any other activation."""
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
