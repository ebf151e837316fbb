"""Functions and constants that the test cases and benchmarks of several layers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge.testing import LayerCase

Oracle = Callable[..., NDArray[Any]]
Shape = tuple[int, ...]
Peer = tuple[Callable[..., Any], list[NDArray[Any]]]
# The number of bytes of a float32.
SIZE = 4
# Input shapes for the benchmarks of layers that are not convolutions. Small networks for digits and
# for small colour images have such shapes.
MAPS = ((64, 28, 28, 8), (64, 14, 14, 16), (32, 32, 32, 32))


def cases(
    oracle: Oracle, named: Mapping[str, tuple[Mapping[str, Any], Shape]], **bad: Any
) -> list[LayerCase]:
    """Return the test cases of a layer.

    Args:
        oracle: NumPy function that computes the layer.
        named: Mapping from the name of each test case to the arguments of the layer and the shape
            of the inputs.
        **bad: Wrong arguments, for which the layer must raise an error. Only the first test case
            tests them.
    """
    return [
        LayerCase(
            name=name,
            arguments=arguments,
            input_shape=shape,
            oracle=oracle,
            bad_arguments=bad if number == 0 else {},
        )
        for number, (name, (arguments, shape)) in enumerate(named.items())
    ]


def benchmark(shape: Shape, *, grad_inputs: bool = True, **arguments: Any) -> LayerCase:
    """Return a benchmark case of a layer; its name is the shape of the inputs.

    Args:
        shape: Shape of the inputs, including the batch axis.
        grad_inputs: Whether training needs the gradient of the inputs.
        **arguments: Arguments of the layer.
    """
    name = "x".join(map(str, shape))
    return LayerCase(
        arguments=arguments,
        input_shape=shape,
        name=name,
        speed_shape=shape,
        grad_inputs=grad_inputs,
    )


def convolution_options(layer: Any) -> dict[str, Any]:
    """Return the options that the NumPy functions of all convolutions need, for a layer.

    Args:
        layer: A convolution layer.
    """
    return {
        "strides": layer.strides,
        "same": layer.padding == "same",
        "dilation_rate": layer.dilation_rate,
    }


def convolution_work(
    layer: Any, shape: Shape, convolved: Shape, grad_inputs: bool, cells: int = 1
) -> dict[str, Work]:
    """Count the arithmetic operations of a convolution, and the bytes that it reads and writes.

    Args:
        layer: A convolution layer.
        shape: Shape of the inputs, (N, H, W, C), or (N, C, H, W) if the channels are first.
        convolved: Shape of the outputs of the convolution, before a pool.
        grad_inputs: Whether the gradient of the inputs is computed.
        cells: Number of cells of a pooling window if a pool follows; otherwise 1.

    Returns:
        Two entries, "forward" and "backward": the operations and bytes of each pass.
    """
    inputs, weights = math.prod(shape), sum(math.prod(weight.shape) for weight in layer.weights)
    outputs = math.prod(layer.compute_output_shape(shape))
    channels = convolved[1 if layer.data_format == "channels_first" else 3]
    products = 2 * (math.prod(convolved) // channels) * math.prod(layer.kernel.shape)
    # If a pool follows, only one pixel of each pooling window has a gradient, so the backward pass
    # has fewer products. It also reads the index of this pixel, which is one byte.
    passes = 1 + grad_inputs
    moved = outputs + inputs + weights + (inputs + weights if grad_inputs else 0)
    compared, indices = (cells * outputs, outputs) if cells > 1 else (0, 0)
    return {
        "forward": Work(products + compared, SIZE * (inputs + weights + outputs)),
        "backward": Work(passes * products // cells, SIZE * moved + indices),
    }


def torch_convolution(layer: Any, shape: Shape, groups: int) -> Peer | None:
    """Return a function of PyTorch that computes a convolution layer.

    Args:
        layer: A built convolution layer.
        shape: Shape of the inputs, (N, H, W, C).
        groups: Number of groups; for a depthwise convolution, the number of channels.

    Returns:
        The function and a list of its weights, or `None` if PyTorch has no such convolution.
    """
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    relu = layer.activation is keras.activations.relu
    known = relu or layer.activation is keras.activations.linear
    if not known or layer.data_format != "channels_last":
        return None
    around = [(0, 0), (0, 0)]
    if layer.padding == "same":
        sizes = zip(shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        around = [_same_padding(*size) for size in sizes]
    even = all(before == after for before, after in around)
    options = {
        "stride": tuple(layer.strides),
        "padding": tuple(before for before, _ in around) if even else 0,
        "dilation": tuple(layer.dilation_rate),
        "groups": groups,
    }
    edges = [*around[1], *around[0]]

    def compute(inputs: Any, *weights: Any) -> Any:
        if not even:
            inputs = functional.pad(inputs, edges)
        outputs = functional.conv2d(inputs, *weights, **options)
        return functional.relu(outputs) if relu else outputs

    kernel, *bias = [weights_of(variable) for variable in layer.trainable_variables]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        # Turn (KH, KW, C, M) into (KH, KW, 1, C * M).
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    # Turn (KH, KW, C, F) into (F, C, KH, KW).
    return compute, [kernel.transpose(3, 2, 0, 1), *bias]


def weights_of(variable: Any) -> NDArray[Any]:
    """Return the values of a variable as a new NumPy array.

    Args:
        variable: A variable of a layer.
    """
    return np.array(keras.ops.convert_to_numpy(variable))


def _same_padding(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2
