"""Test cases and benchmarks of the layer `global_average_pooling2d`."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_kernels import reference
from cnnforge_plugins.layer_cases._common import MAPS, SIZE, Shape, benchmark, cases


def _oracle(layer: Any, inputs: Any) -> NDArray[Any]:
    outputs = reference.global_average_pool2d(inputs)
    return outputs[:, None, None, :] if layer.keepdims else outputs


CASES = cases(
    _oracle,
    {"default": ({}, (2, 7, 6, 3)), "keepdims": ({"keepdims": True}, (3, 4, 5, 8))},
)
BENCHMARKS = [benchmark(shape) for shape in MAPS]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes."""
    inputs, outputs = math.prod(shape), math.prod(layer.compute_output_shape(shape))
    forward = Work(inputs, SIZE * (inputs + outputs))
    return {"forward": forward, "backward": forward if grad_inputs else Work(0, 0)}
