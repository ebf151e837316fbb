"""Test cases and benchmarks of the layer `dense`, and its computation in PyTorch."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases._common import SIZE, Peer, Shape, benchmark, cases, weights_of


def _oracle(layer: Any, inputs: Any, kernel: Any, *bias: Any) -> NDArray[Any]:
    outputs = np.asarray(inputs, np.float64) @ kernel
    for offsets in bias:
        outputs = outputs + offsets
    return np.maximum(outputs, 0) if layer.get_config()["activation"] == "relu" else outputs


CASES = cases(
    _oracle,
    {
        "relu": ({"units": 7, "activation": "relu"}, (9, 13)),
        "no_bias": ({"units": 33, "use_bias": False}, (3, 150)),
        "rank_3": ({"units": 5}, (2, 3, 6)),
    },
    units=(0, -1),
)
BENCHMARKS = [
    benchmark(shape, units=units, activation=activation)
    for shape, units, activation in (
        ((64, 784), 256, "relu"),
        ((128, 512), 256, "relu"),
        ((16, 2048), 1000, None),
    )
]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes."""
    inputs, outputs = math.prod(shape), math.prod(layer.compute_output_shape(shape))
    weights = sum(math.prod(weight.shape) for weight in layer.weights)
    products = 2 * inputs * layer.units
    moved = outputs + inputs + weights + (inputs + weights if grad_inputs else 0)
    return {
        "forward": Work(products, SIZE * (inputs + weights + outputs)),
        "backward": Work((1 + grad_inputs) * products, SIZE * moved),
    }


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`."""
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    relu = layer.activation is keras.activations.relu
    if not relu and layer.activation is not keras.activations.linear:
        return None

    def compute(inputs: Any, *weights: Any) -> Any:
        outputs = functional.linear(inputs, *weights)
        return functional.relu(outputs) if relu else outputs

    kernel, *bias = [weights_of(variable) for variable in layer.trainable_variables]
    return compute, [kernel.T, *bias]
