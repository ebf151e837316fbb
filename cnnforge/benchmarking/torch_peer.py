"""PyTorch as a second peer: what a layer computes, written as its users would write it.

PyTorch is optional. It is imported last, after the framework that Keras runs on; its threads are as
many as those of the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras
import numba
import numpy as np

from cnnforge.conversion.workloads import Repeatable, Workload

LAYOUTS = ("contiguous", "channels_last")
_Function = Callable[[Any, list[Any]], Any]


def torch_missing() -> str:
    """Why PyTorch cannot be measured beside the framework that Keras runs on; "" where it can."""
    if keras.backend.backend() == "torch":
        return "Keras itself runs on it"
    return "" if find_spec("torch") else "it is not installed (pip install torch)"


def torch_functions(workload: Workload, seed: int = 0) -> dict[str, dict[str, Repeatable]]:
    """Make what is timed of PyTorch.

    Args:
        workload: The layer and its shape; in float32, channels last.
        seed: Of the inputs.

    Returns:
        For each of `LAYOUTS`: ``forward``, in inference mode, and ``full``, with the gradients of
        the weights, and of the inputs where needed. Nothing where PyTorch has no counterpart of
        the layer.
    """
    layer = workload.build(workload.reference)
    function = _function(layer, workload.shape)
    if function is None:
        return {}
    torch = import_module("torch")
    torch.set_num_threads(numba.get_num_threads())
    random = np.random.default_rng(seed)
    values = random.standard_normal(workload.shape, np.float32)
    upstream = random.standard_normal(layer.compute_output_shape(workload.shape), np.float32)
    found = {}
    for layout in LAYOUTS:
        form = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
        inputs = _nchw(torch, values).contiguous(memory_format=form)
        gradient = _nchw(torch, upstream).contiguous(memory_format=form)
        weights = _weights(torch, layer, form)
        found[layout] = _timed(torch, function, weights, inputs, gradient, workload.grad_inputs)
    return found


def torch_results(workload: Workload, inputs: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """Compute a layer's outputs with PyTorch.

    Args:
        workload: The layer and its shape.
        inputs: (N, H, W, C) float32.
        layer: The stock layer whose weights to take.

    Returns:
        (N, OH, OW, F) float32.

    Raises:
        ValueError: PyTorch has no counterpart of the layer.
    """
    function = _function(layer, workload.shape)
    if function is None:
        raise ValueError(f"PyTorch has no counterpart of {type(layer).__name__} as configured")
    torch = import_module("torch")
    weights = _weights(torch, layer, torch.contiguous_format)
    with torch.inference_mode():
        outputs = function(_nchw(torch, inputs), weights)
    return outputs.permute(0, 2, 3, 1).contiguous().numpy()


def _nchw(torch: Any, values: np.ndarray) -> Any:
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def _weights(torch: Any, layer: Any, form: Any) -> list[Any]:
    found = []
    for variable in layer.trainable_variables:
        values = torch.from_numpy(np.array(keras.ops.convert_to_numpy(variable)))
        if values.ndim == 4:
            # (KH, KW, C, F) to (F, C, KH, KW); of a depthwise kernel (KH, KW, C, M) to (C M, 1, ..)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                values = values.reshape(*values.shape[:2], 1, -1)
            values = values.permute(3, 2, 0, 1).contiguous(memory_format=form)
        found.append(values.requires_grad_())
    return found


def _function(layer: Any, shape: tuple[int, ...]) -> _Function | None:
    if layer.compute_dtype != "float32":
        return None
    if isinstance(layer, keras.layers.BatchNormalization):
        return _normalization(layer, shape)
    if getattr(layer, "data_format", "") != "channels_last":
        return None
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return _convolution(layer, shape)
    if isinstance(layer, keras.layers.MaxPooling2D | keras.layers.AveragePooling2D):
        return _pool(layer)
    return None


def _normalization(layer: Any, shape: tuple[int, ...]) -> _Function | None:
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")
    if len(shape) != 4 or layer.axis not in (-1, 3) or layer.renorm or not layer.trainable:
        return None
    averages = [
        torch.from_numpy(np.array(keras.ops.convert_to_numpy(it)))
        for it in (layer.moving_mean, layer.moving_variance)
    ]
    scale, center = layer.scale, layer.center
    momentum, epsilon = 1 - layer.momentum, layer.epsilon

    def compute(inputs: Any, weights: list[Any]) -> Any:
        gamma = weights[0] if scale else None
        beta = weights[-1] if center else None
        # What needs gradients is a step of training.
        training = torch.is_grad_enabled()
        return functional.batch_norm(inputs, *averages, gamma, beta, training, momentum, epsilon)

    return compute


def _convolution(layer: Any, shape: tuple[int, ...]) -> _Function | None:
    functional = import_module("torch.nn.functional")
    relu = layer.activation is keras.activations.relu
    if not relu and layer.activation is not keras.activations.linear:
        return None
    around = [(0, 0), (0, 0)]
    if layer.padding == "same":
        sizes = zip(shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        around = [_same(*it) for it in sizes]
    even = all(before == after for before, after in around)
    options = {
        "stride": tuple(layer.strides),
        "padding": tuple(before for before, _ in around) if even else 0,
        "dilation": tuple(layer.dilation_rate),
        "groups": getattr(layer, "groups", 1),
    }
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        options["groups"] = shape[-1]
    edges = [*around[1], *around[0]]
    pool = getattr(layer, "pool_size", None)

    def compute(inputs: Any, weights: list[Any]) -> Any:
        if not even:
            inputs = functional.pad(inputs, edges)
        outputs = functional.conv2d(inputs, *weights, **options)
        if relu:
            outputs = functional.relu(outputs)
        return outputs if pool is None else functional.max_pool2d(outputs, tuple(pool))

    return compute


def _pool(layer: Any) -> _Function | None:
    functional = import_module("torch.nn.functional")
    if layer.padding != "valid":
        return None  # PyTorch pads both sides alike, and counts what it pads.
    largest = isinstance(layer, keras.layers.MaxPooling2D)
    function = functional.max_pool2d if largest else functional.avg_pool2d
    size, strides = tuple(layer.pool_size), tuple(layer.strides)
    return lambda inputs, _: function(inputs, size, strides)


def _same(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _timed(
    torch: Any,
    function: _Function,
    weights: list[Any],
    inputs: Any,
    upstream: Any,
    grad_inputs: bool,
) -> dict[str, Repeatable]:
    differentiable = inputs.detach().requires_grad_() if grad_inputs else inputs
    sources = [*([differentiable] if grad_inputs else []), *weights]

    def forward(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                function(inputs, weights)

    def full(count: int) -> None:
        for _ in range(count):
            outputs = function(differentiable, weights)
            if sources:
                torch.autograd.grad(outputs, sources, upstream)

    return {"forward": Repeatable(forward), "full": Repeatable(full)}
