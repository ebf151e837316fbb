"""Shared code of the Keras layers that are computed by Numba kernels."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp, padding_of
from cnnforge_kernels.authoring import output_size, padding_before


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
    before = _before_same_padding(layer, inputs) if layer.padding == "valid" else None
    outputs = op(
        inputs if before is None else before,
        layer.kernel,
        bias_or_empty(layer),
        strides=layer.strides,
        same=layer.padding == "same" or before is not None,
        dilation_rate=layer.dilation_rate,
        relu=relu,
        **options,
    )
    return outputs if relu or layer.activation is None else layer.activation(outputs)


def _before_same_padding(layer: Any, inputs: Any) -> Any | None:
    """Return what a ``ZeroPadding2D`` reads if it pads as a convolution with SAME padding does.

    The kernel then pads the rows while it reads them, and nothing writes and reads padded maps.
    The result is ``None`` if the inputs are not such a padding, or if their size is not known.
    """
    before, widths = padding_of(inputs) or (None, ())
    if before is None or len(widths) != 4 or (widths[0], widths[3]) != ((0, 0), (0, 0)):
        return None
    windows = zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    for given, size, window in zip(widths[1:3], before.shape[1:3], windows, strict=True):
        if not size or given != _same_padding(size, *window):
            return None
    return before


def _same_padding(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the zeros before and after the inputs of one axis with SAME padding."""
    first = padding_before(size, window, stride, dilation, True)
    outputs = output_size(size, window, stride, dilation, True)
    total = (outputs - 1) * stride + (window - 1) * dilation + 1 - size
    return first, max(total, 0) - first
