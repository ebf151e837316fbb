"""Test cases and benchmarks of the layer `conv_block2d`, and its computation in PyTorch."""

from __future__ import annotations

import math
from typing import Any

import keras
from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_kernels import reference
from cnnforge_plugins.layer_cases import conv2d
from cnnforge_plugins.layer_cases._common import (
    Peer,
    Shape,
    cases,
    convolution_options,
    convolution_work,
)

# The convolutions are the same as in the benchmarks of `conv2d`. The pool has the default window,
# 2 x 2.
BENCHMARKS = conv2d.BENCHMARKS


def _oracle(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    options = {
        **convolution_options(layer),
        "groups": layer.groups,
        "pool_size": layer.pool_size,
    }
    return reference.conv_block(inputs, *weights, **options)[0]


CASES = cases(
    _oracle,
    {
        "same": ({"filters": 5, "kernel_size": 3, "padding": "same"}, (2, 8, 9, 5)),
        "pool-3x2": ({"filters": 4, "kernel_size": 2, "pool_size": (3, 2)}, (2, 9, 8, 3)),
    },
    filters=0,
    activation="tanh",
    pool_size=(16, 16),
)


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes."""
    convolved = keras.layers.Conv2D.compute_output_shape(layer, shape)
    return convolution_work(layer, shape, convolved, grad_inputs, math.prod(layer.pool_size))


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`."""
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    found = conv2d.torch_peer(layer, shape)
    if found is None:
        return None
    convolve, weights = found
    pool = tuple(layer.pool_size)
    return lambda *arguments: functional.max_pool2d(convolve(*arguments), pool), weights
