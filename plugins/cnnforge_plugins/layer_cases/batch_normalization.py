"""Test cases and benchmarks of the layer `batch_normalization`, and its computation in PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases._common import (
    MAPS,
    SIZE,
    Peer,
    Shape,
    benchmark,
    cases,
    weights_of,
)


def predicted(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    """Compute a prediction of the layer with NumPy.

    Tests compare training with the layer of Keras instead.
    """
    trained = iter(weights)
    gamma = next(trained) if layer.scale else 1.0
    beta = next(trained) if layer.center else 0.0
    mean, variance = trained
    return (inputs - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


CASES = cases(
    predicted,
    {
        "images": ({}, (3, 5, 4, 6)),
        "vectors": ({"epsilon": 1e-5, "scale": False}, (7, 16)),
        "scaled": ({"center": False, "momentum": 0.9}, (2, 4, 4, 3)),
    },
)
BENCHMARKS = [benchmark(shape) for shape in MAPS]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes.

    The entry "forward" is a prediction, which has a product and a sum for each element. The entry
    "backward" is all the rest of a training step. For each element, the mean and the variance need
    a sum, a difference, a square and the sum of the squares. The gradients of the parameters need a
    difference, a product and two sums. The gradient of the inputs needs two products and two sums.
    """
    elements = math.prod(shape)
    parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
    statistics = sum(math.prod(weight.shape) for weight in layer.non_trainable_weights)
    forward = Work(2 * elements, SIZE * (2 * elements + parameters + statistics))
    moments = Work(4 * elements, SIZE * statistics)
    gradients = Work(4 * elements, SIZE * (2 * elements + 2 * parameters))
    if grad_inputs:
        gradients += Work(4 * elements, SIZE * elements)
    return {"forward": forward, "backward": moments + gradients}


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`.

    The function computes a training step if gradients are enabled, and otherwise a prediction.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if len(shape) != 4 or layer.axis not in (-1, 3) or layer.renorm or not layer.trainable:
        return None
    averages = [
        torch.from_numpy(weights_of(variable))
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    scale, center = layer.scale, layer.center
    momentum, epsilon = 1 - layer.momentum, layer.epsilon

    def compute(inputs: Any, *weights: Any) -> Any:
        gamma = weights[0] if scale else None
        beta = weights[-1] if center else None
        return torch.nn.functional.batch_norm(
            inputs, *averages, gamma, beta, torch.is_grad_enabled(), momentum, epsilon
        )

    return compute, [weights_of(variable) for variable in layer.trainable_variables]
