"""Test cases and benchmarks of the layer `conv2d`, and its computation in PyTorch."""

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
    options = {**convolution_options(layer), "groups": layer.groups, "relu": relu}
    return reference.conv2d(inputs, *weights, **options)


CASES = cases(
    _oracle,
    {
        # This case has as many channels as filters. If a kernel swaps the two axes, the shapes are
        # still correct, and only the comparison of the values finds the error.
        "same": (
            {"filters": 5, "kernel_size": 3, "padding": "same", "activation": "relu"},
            (2, 9, 8, 5),
        ),
        "strided": ({"filters": 4, "kernel_size": (3, 2), "strides": (2, 1)}, (2, 8, 7, 3)),
        # A 1x1 window: the kernels multiply two matrices.
        "point": ({"filters": 20, "kernel_size": 1}, (2, 5, 6, 9)),
        # TensorFlow cannot compute the gradients of the next two cases on a CPU. The NumPy function
        # `_oracle` can compute them.
        "grouped": ({"filters": 6, "kernel_size": 3, "groups": 2, "use_bias": False}, (3, 6, 7, 4)),
        "dilated": ({"filters": 3, "kernel_size": 2, "dilation_rate": 2}, (2, 7, 6, 2)),
    },
    filters=0,
    kernel_size=(3, -1),
    padding="full",
    groups=0,
)


# The input shape, the window size and the number of filters of each benchmark. The first three are
# convolutions of small networks for digits and small colour images. The last one has as many
# channels as a residual network.
_SHAPES = [
    # This is the first layer of its network, so training does not need the gradient of its inputs.
    ((64, 28, 28, 1), 5, 8),
    ((64, 14, 14, 8), 3, 16),
    ((32, 32, 32, 16), 3, 32),
    ((16, 32, 32, 64), 3, 64),
]
BENCHMARKS = [
    benchmark(
        shape,
        grad_inputs=shape[-1] > 1,
        filters=filters,
        kernel_size=window,
        padding="same",
        activation="relu",
    )
    for shape, window, filters in _SHAPES
]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes."""
    return convolution_work(layer, shape, layer.compute_output_shape(shape), grad_inputs)


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Return a PyTorch function that computes the layer, and its weights; or return `None`."""
    return torch_convolution(layer, shape, layer.groups)
