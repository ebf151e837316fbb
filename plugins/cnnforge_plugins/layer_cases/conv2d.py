"""Cases, benchmarks, work and PyTorch's counterpart of `conv2d`."""

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
        # As many channels as filters, so that swapped axes cannot hide.
        "same": (
            {"filters": 5, "kernel_size": 3, "padding": "same", "activation": "relu"},
            (2, 9, 8, 5),
        ),
        "strided": ({"filters": 4, "kernel_size": (3, 2), "strides": (2, 1)}, (2, 8, 7, 3)),
        # TensorFlow has no gradient of these two on a CPU. The oracle has.
        "grouped": ({"filters": 6, "kernel_size": 3, "groups": 2, "use_bias": False}, (3, 6, 7, 4)),
        "dilated": ({"filters": 3, "kernel_size": 2, "dilation_rate": 2}, (2, 7, 6, 2)),
    },
    filters=0,
    kernel_size=(3, -1),
    padding="full",
    groups=0,
)


# Convolutions of small networks on digits and on small colour images, and one with the channels of
# a residual network.
_SHAPES = [
    # Inputs, window and filters. The first convolution is the first layer of its network.
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
    """Count the work of the layer."""
    return convolution_work(layer, shape, layer.compute_output_shape(shape), grad_inputs)


def torch_peer(layer: Any, shape: Shape) -> Peer | None:
    """Build PyTorch's counterpart."""
    return torch_convolution(layer, shape, layer.groups)
