"""Shared code of the Keras layers that are computed by Numba kernels."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp


class KernelLayer:
    """A mixin for a subclass of a Keras layer that computes the layer with a kernel.

    Name this class before the Keras layer in the list of base classes. Constructor arguments,
    weights, configuration and errors remain those of the Keras layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Tell Keras not to compile this layer with XLA, because XLA cannot compile cnnforge's ops.
        self.supports_jit = False


def bias_or_empty(layer: Any) -> Any:
    """Return the bias of a layer, or an empty array if the layer has no bias."""
    return layer.bias if layer.use_bias else keras.ops.zeros((0,), "float32")


def convolve(layer: Any, op: ArrayOp, inputs: Any, **options: Any) -> Any:
    """Compute the outputs of a convolution layer.

    The kernel also applies the activation if it is a ReLU. Keras applies any other activation.

    Args:
        layer: Convolution layer.
        op: Op that computes the convolution.
        inputs: Inputs of the layer.
        **options: Attributes of the op besides strides, padding, dilation and ReLU.
    """
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
