"""How much a layer has to compute and to move, from its configuration and its shapes.

The least that the definition asks for, not what some implementation does: each tensor is read or
written once, and what needs no computation (the gradient of a pixel that no window chose) is not
counted. So a share of the machine's peak means the same for every implementation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras

_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_GLOBAL_POOLS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
_CONVOLUTIONS = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D)
# Float32. A winner of a max pool is one byte.
_SIZE = 4


@dataclass(frozen=True)
class Work:
    """What a pass has to do at least.

    Attributes:
        flops: Additions, multiplications and comparisons.
        bytes: Read and written.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def work(
    layer: keras.layers.Layer, shape: tuple[int, ...], *, grad_inputs: bool = True
) -> dict[str, Work] | None:
    """Count what a layer has to do.

    Args:
        layer: A built convolution, depthwise convolution, pooling, dropout or batch normalization
            layer of stock Keras, or of a subclass; one that has a ``pool_size`` besides is a
            convolution with a pool behind it.
        shape: The shape of its inputs, the batch included.
        grad_inputs: Whether the gradient of the inputs is computed.

    Returns:
        The work of ``forward``, ``backward`` and ``full``; `None` for a layer that is not known.
    """
    known: dict[str, Work] | None = None
    for kind in _CONVOLUTIONS:
        if isinstance(layer, kind):
            known = _convolution(layer, kind, shape, grad_inputs)
            break
    else:
        if isinstance(layer, _POOLS + _GLOBAL_POOLS):
            known = _pool(layer, shape, grad_inputs)
        elif isinstance(layer, keras.layers.Dropout):
            known = _dropout(shape, grad_inputs)
        elif isinstance(layer, keras.layers.BatchNormalization):
            known = _normalization(layer, shape, grad_inputs)
    return known and {**known, "full": known["forward"] + known["backward"]}


def _convolution(
    layer: Any, kind: Any, shape: tuple[int, ...], grad_inputs: bool
) -> dict[str, Work]:
    inputs, weights = math.prod(shape), sum(math.prod(it.shape) for it in layer.weights)
    outputs = math.prod(layer.compute_output_shape(shape))
    convolved = kind.compute_output_shape(layer, shape)
    pixels = math.prod(convolved) // convolved[_channels(layer)]
    products = 2 * pixels * math.prod(layer.kernel.shape)
    pooled = hasattr(layer, "pool_size")
    cells = math.prod(layer.pool_size) if pooled else 1
    forward = Work(products + (cells * outputs if pooled else 0), _SIZE * (inputs + weights))
    forward += Work(0, _SIZE * outputs)
    # One pixel of each window of the pool has a gradient.
    passes = 1 + grad_inputs
    moved = outputs + inputs + weights + (inputs + weights if grad_inputs else 0)
    winners = outputs if pooled else 0
    return {
        "forward": forward,
        "backward": Work(passes * products // cells, _SIZE * moved + winners),
    }


def _pool(layer: Any, shape: tuple[int, ...], grad_inputs: bool) -> dict[str, Work]:
    inputs, outputs = math.prod(shape), math.prod(layer.compute_output_shape(shape))
    whole = isinstance(layer, _GLOBAL_POOLS)
    cells = inputs // max(outputs, 1) if whole else math.prod(layer.pool_size)
    forward = Work(cells * outputs, _SIZE * (inputs + outputs))
    if not grad_inputs:
        return {"forward": forward, "backward": Work(0, 0)}
    largest = isinstance(layer, keras.layers.MaxPooling2D | keras.layers.GlobalMaxPooling2D)
    moved = _SIZE * (outputs + inputs) + (outputs if largest else 0)
    return {
        "forward": forward,
        "backward": Work(outputs if largest else cells * outputs, moved),
    }


def _dropout(shape: tuple[int, ...], grad_inputs: bool) -> dict[str, Work]:
    # Forward alone is a prediction, where nothing is dropped. Of training all else counts as
    # backward, and drawing a number as one operation, beside a comparison and a multiplication.
    elements = math.prod(shape)
    there = Work(3 * elements, (2 * _SIZE + 1) * elements)
    back = Work(elements, (2 * _SIZE + 1) * elements) if grad_inputs else Work(0, 0)
    return {"forward": Work(0, 0), "backward": there + back}


def _normalization(layer: Any, shape: tuple[int, ...], grad_inputs: bool) -> dict[str, Work]:
    # Forward alone is a prediction: a product and a sum. Of training, what its moments ask for on
    # top (a sum, a difference, a square and its sum) counts as backward, as do the outputs, which
    # are others, and the gradients: their sum, their products' sum, and two products and two sums
    # for each of the inputs.
    elements = math.prod(shape)
    parameters = sum(math.prod(it.shape) for it in layer.trainable_weights)
    statistics = sum(math.prod(it.shape) for it in layer.non_trainable_weights)
    forward = Work(2 * elements, _SIZE * (2 * elements + parameters + statistics))
    moments = Work(4 * elements, _SIZE * statistics)
    back = Work(4 * elements, _SIZE * (2 * elements + 2 * parameters))
    if grad_inputs:
        back += Work(4 * elements, _SIZE * elements)
    return {"forward": forward, "backward": moments + back}


def _channels(layer: Any) -> int:
    return 1 if layer.data_format == "channels_first" else 3
