"""Test cases and benchmarks of the layer `depthwise_conv2d`, and its computation in PyTorch."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_kernels import reference
from cnnforge_plugins.layer_cases._common import (
    Peer,
    Shape,
    benchmark,
    cases,
    convolution_options,
    convolution_work,
    torch_convolution,
)


def _oracle(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    relu = layer.get_config()["activation"] == "relu"
    return reference.depthwise_conv2d(inputs, *weights, **convolution_options(layer), relu=relu)


CASES = cases(
    _oracle,
    {
        "same": ({"kernel_size": 3, "padding": "same", "activation": "relu"}, (2, 8, 7, 5)),
        "multiplier": ({"kernel_size": 3, "depth_multiplier": 2, "strides": 2}, (2, 9, 7, 3)),
    },
    kernel_size=(0, 3),
    padding="full",
)
BENCHMARKS = [
    benchmark(shape, kernel_size=3, padding="same", activation="relu")
    for shape in ((64, 14, 14, 8), (32, 32, 32, 16), (16, 32, 32, 64))
]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes."""
    return convolution_work(layer, shape, layer.compute_output_shape(shape), grad_inputs)


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`."""
    return torch_convolution(layer, shape, shape[-1])
