"""Test cases and benchmarks of the pooling layers, and their computation in PyTorch."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_kernels import reference
from cnnforge_plugins.layer_cases._common import MAPS, SIZE, Peer, Shape, benchmark, cases


def _options(layer: Any) -> dict[str, Any]:
    return {
        "pool_size": layer.pool_size,
        "strides": layer.strides,
        "same": layer.padding == "same",
    }


def _max_oracle(layer: Any, inputs: Any) -> NDArray[Any]:
    return reference.max_pool2d(inputs, **_options(layer))[0]


def _average_oracle(layer: Any, inputs: Any) -> NDArray[Any]:
    return reference.average_pool2d(inputs, **_options(layer))


_OVERLAPPING = ({"pool_size": 3, "strides": 2, "padding": "same"}, (2, 7, 8, 5))
_BAD = {"pool_size": (2, -2), "strides": -1}
MAX_CASES = cases(_max_oracle, {"default": ({}, (2, 7, 6, 3)), "overlapping": _OVERLAPPING}, **_BAD)
AVERAGE_CASES = cases(
    _average_oracle,
    {"pairs": ({"pool_size": 2}, (2, 7, 6, 3)), "overlapping": _OVERLAPPING},
    **_BAD,
)
BENCHMARKS = [benchmark(shape, pool_size=2) for shape in MAPS]


def max_work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of max pooling, and the bytes it reads and writes.

    An argmax is one byte.
    """
    inputs, outputs = math.prod(shape), math.prod(layer.compute_output_shape(shape))
    return {
        "forward": Work(math.prod(layer.pool_size) * outputs, SIZE * (inputs + outputs)),
        "backward": Work(outputs, SIZE * (inputs + outputs) + outputs)
        if grad_inputs
        else Work(0, 0),
    }


def average_work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of average pooling, and the bytes it reads and writes."""
    inputs, outputs = math.prod(shape), math.prod(layer.compute_output_shape(shape))
    forward = Work(math.prod(layer.pool_size) * outputs, SIZE * (inputs + outputs))
    return {"forward": forward, "backward": forward if grad_inputs else Work(0, 0)}


def max_torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the max pool; `None` if PyTorch has none."""
    return _torch_peer(layer, "max_pool2d")


def average_torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the average pool; `None` if PyTorch has none."""
    return _torch_peer(layer, "avg_pool2d")


def _torch_peer(layer: Any, name: str) -> Peer | None:
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    # PyTorch cannot compute a pool with SAME padding: it pads both sides equally, and its mean
    # includes the padding.
    if layer.padding != "valid" or layer.data_format != "channels_last":
        return None
    function, size, strides = getattr(functional, name), tuple(layer.pool_size), layer.strides
    return lambda inputs: function(inputs, size, tuple(strides)), []
