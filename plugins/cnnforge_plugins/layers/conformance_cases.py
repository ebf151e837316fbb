"""Cases for ``cnnforge.testing``: arguments, shapes and oracles of the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge.testing import LayerCase
from cnnforge_kernels import reference

Oracle = Callable[..., NDArray[Any]]


def _pooling(layer: Any) -> dict[str, Any]:
    return {
        "pool_size": layer.pool_size,
        "strides": layer.strides,
        "same": layer.padding == "same",
    }


def _convolution(layer: Any) -> dict[str, Any]:
    return {
        "strides": layer.strides,
        "same": layer.padding == "same",
        "dilation_rate": layer.dilation_rate,
    }


def _conv2d(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    relu = layer.get_config()["activation"] == "relu"
    options = {**_convolution(layer), "groups": layer.groups, "relu": relu}
    return reference.conv2d(inputs, *weights, **options)


def _depthwise_conv2d(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    relu = layer.get_config()["activation"] == "relu"
    return reference.depthwise_conv2d(inputs, *weights, **_convolution(layer), relu=relu)


def _conv_block2d(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    options = {**_convolution(layer), "groups": layer.groups, "pool_size": layer.pool_size}
    return reference.conv_block(inputs, *weights, **options)[0]


def _max_pooling2d(layer: Any, inputs: Any) -> NDArray[Any]:
    return reference.max_pool2d(inputs, **_pooling(layer))[0]


def _average_pooling2d(layer: Any, inputs: Any) -> NDArray[Any]:
    return reference.average_pool2d(inputs, **_pooling(layer))


def _global_average_pooling2d(layer: Any, inputs: Any) -> NDArray[Any]:
    outputs = reference.global_average_pool2d(inputs)
    return outputs[:, None, None, :] if layer.keepdims else outputs


def _dropout(layer: Any, inputs: Any) -> NDArray[Any]:
    # The kit calls layers as in a prediction: a random result has no oracle.
    return inputs


def _batch_normalization(layer: Any, inputs: Any, *weights: Any) -> NDArray[Any]:
    # As in a prediction; the kit compares training with the reference.
    trained = iter(weights)
    gamma = next(trained) if layer.scale else 1.0
    beta = next(trained) if layer.center else 0.0
    mean, variance = trained
    return (inputs - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


def _cases(
    oracle: Oracle, cases: dict[str, tuple[dict[str, Any], tuple[int, ...]]], **bad: Any
) -> list[LayerCase]:
    return [
        LayerCase(
            name=name,
            arguments=arguments,
            input_shape=shape,
            oracle=oracle,
            # Bad arguments do not depend on the case.
            bad_arguments=bad if number == 0 else {},
        )
        for number, (name, (arguments, shape)) in enumerate(cases.items())
    ]


CONV2D = _cases(
    _conv2d,
    {
        # As many channels as filters, so that swapped axes cannot hide.
        "same": (
            {"filters": 5, "kernel_size": 3, "padding": "same", "activation": "relu"},
            (2, 9, 8, 5),
        ),
        "strided": ({"filters": 4, "kernel_size": (3, 2), "strides": (2, 1)}, (2, 8, 7, 3)),
        # TensorFlow has no gradient of these two cases on a CPU, but the oracle has.
        "grouped": ({"filters": 6, "kernel_size": 3, "groups": 2, "use_bias": False}, (3, 6, 7, 4)),
        "dilated": ({"filters": 3, "kernel_size": 2, "dilation_rate": 2}, (2, 7, 6, 2)),
    },
    filters=0,
    kernel_size=(3, -1),
    padding="full",
    groups=0,
)
CONV_BLOCK2D = _cases(
    _conv_block2d,
    {
        "same": ({"filters": 5, "kernel_size": 3, "padding": "same"}, (2, 8, 9, 5)),
        "pool-3x2": ({"filters": 4, "kernel_size": 2, "pool_size": (3, 2)}, (2, 9, 8, 3)),
    },
    filters=0,
    activation="tanh",
    pool_size=(16, 16),
)
DEPTHWISE_CONV2D = _cases(
    _depthwise_conv2d,
    {
        "same": ({"kernel_size": 3, "padding": "same", "activation": "relu"}, (2, 8, 7, 5)),
        "multiplier": ({"kernel_size": 3, "depth_multiplier": 2, "strides": 2}, (2, 9, 7, 3)),
    },
    kernel_size=(0, 3),
    padding="full",
)
MAX_POOLING2D = _cases(
    _max_pooling2d,
    {
        "default": ({}, (2, 7, 6, 3)),
        "overlapping": ({"pool_size": 3, "strides": 2, "padding": "same"}, (2, 7, 8, 5)),
    },
    pool_size=(2, -2),
    strides=-1,
)
AVERAGE_POOLING2D = _cases(
    _average_pooling2d,
    {
        "pairs": ({"pool_size": 2}, (2, 7, 6, 3)),
        "overlapping": ({"pool_size": 3, "strides": 2, "padding": "same"}, (2, 7, 8, 5)),
    },
    pool_size=(2, -2),
    strides=-1,
)
GLOBAL_AVERAGE_POOLING2D = _cases(
    _global_average_pooling2d,
    {"default": ({}, (2, 7, 6, 3)), "keepdims": ({"keepdims": True}, (3, 4, 5, 8))},
)
DROPOUT = _cases(
    _dropout,
    {
        "images": ({"rate": 0.25, "seed": 1}, (2, 7, 6, 3)),
        "vectors": ({"rate": 0.5, "seed": 2}, (3, 37)),
    },
    rate=1.5,
)
BATCH_NORMALIZATION = _cases(
    _batch_normalization,
    {
        "images": ({}, (3, 5, 4, 6)),
        "vectors": ({"epsilon": 1e-5, "scale": False}, (7, 16)),
        "scaled": ({"center": False, "momentum": 0.9}, (2, 4, 4, 3)),
    },
)
