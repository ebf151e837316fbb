"""Test cases and benchmarks of the layers `batch_normalization_relu` and `..._activation`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases import batch_normalization
from cnnforge_plugins.layer_cases._common import Peer, Shape, cases

BENCHMARKS = batch_normalization.BENCHMARKS


def _oracle(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    outputs = batch_normalization.predicted(layer, inputs, *weights)
    return np.clip(outputs, 0, layer.max_value)


CASES = cases(
    _oracle,
    {
        "images": ({}, (3, 5, 4, 6)),
        "limited": ({"max_value": 6, "center": False}, (4, 4, 3)),
    },
    max_value=3,
)


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes.

    They are those of the normalization and one comparison for each element in each pass.
    """
    passes = batch_normalization.work(layer, shape, grad_inputs)
    return {name: each + Work(math.prod(shape), 0) for name, each in passes.items()}


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`."""
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    found = batch_normalization.torch_peer(layer, shape)
    if found is None:
        return None
    compute, weights = found
    relu = functional.relu if layer.max_value is None else functional.relu6
    return lambda *arguments: relu(compute(*arguments)), weights
