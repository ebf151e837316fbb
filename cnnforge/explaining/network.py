"""Describe a network as plain data, with which a web page can compute it.

Layers that do nothing in a prediction are left out. Layers that scale and shift each channel
(`Rescaling`, `Normalization`, `BatchNormalization`) become one kind of operation, and so do the
kinds of convolution. The script `network.js` computes the operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from cnnforge.explaining.steps import Step, output_steps

ACTIVATIONS = frozenset(
    (
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "sigmoid",
        "tanh",
        "silu",
        "swish",
        "gelu",
        "hard_sigmoid",
        "hard_silu",
        "hard_swish",
        "softplus",
        "softmax",
        "linear",
    )
)
"""Names of the activations that `network.js` computes."""


@dataclass
class Operation:
    """One operation of a network.

    Attributes:
        kind: Kind of the operation, as `network.js` names it; `"unknown"` if it has none.
        name: Name of the layer.
        step: Index of the step with the value of the operation.
        inputs: Indices of the operations whose values it reads.
        shape: Shape of its value: (H, W, C) or (C,).
        settings: Plain settings, such as strides.
        weights: Arrays of weights by name.
    """

    kind: str
    name: str
    step: int
    inputs: list[int]
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def multiplications(self) -> int:
        """Number of multiplications of weights and values."""
        kernel = self.weights.get("kernel")
        if kernel is None:
            return math.prod(self.shape)
        return math.prod(self.shape[:-1]) * kernel.size


@dataclass
class Network:
    """A network as plain data.

    Attributes:
        operations: The operations, in an order in which they can run; the first is the picture.
        unknown: Description of each layer that cannot be computed in a page.
        outputs: Indices of the operations whose values are the outputs.
    """

    operations: list[Operation]
    unknown: list[str]
    outputs: list[int]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(each.size for it in self.operations for each in it.weights.values())

    @property
    def multiplications(self) -> int:
        """Number of multiplications for one picture."""
        return sum(it.multiplications for it in self.operations)

    def places(self, *kinds: str) -> list[int]:
        """Return the indices of the operations of some kinds."""
        return [at for at, it in enumerate(self.operations) if it.kind in kinds]


def describe(steps: Sequence[Step]) -> Network:
    """Describe the steps of a network as plain data.

    Args:
        steps: The steps, see `divide`.
    """
    operations = [Operation("picture", "picture", 0, [], steps[0].shape)]
    place, unknown = {0: 0}, []
    for at, step in enumerate(steps[1:], 1):
        inputs = [place[each] for each in step.inputs]
        if _does_nothing(step):
            place[at] = inputs[0]
            continue
        made = _operations(step, inputs, [operations[each].shape for each in inputs], at)
        if made is None:
            made = [Operation("unknown", step.name, at, inputs, step.shape)]
            unknown.append(f"{step.name} ({step.activation or type(step.layer).__name__})")
        for each in made:
            each.inputs = each.inputs or [len(operations) - 1]
            operations.append(each)
        place[at] = len(operations) - 1
    return Network(operations, unknown, [place[at] for at in output_steps(steps)])


def _does_nothing(step: Step) -> bool:
    kinds = (
        keras.layers.Dropout,
        keras.layers.SpatialDropout2D,
        keras.layers.GaussianNoise,
        keras.layers.GaussianDropout,
        keras.layers.ActivityRegularization,
        keras.layers.Identity,
        keras.layers.InputLayer,
    )
    return step.activation is None and isinstance(step.layer, kinds)


def _operations(
    step: Step, inputs: list[int], shapes: list[tuple[int, ...]], at: int
) -> list[Operation] | None:
    layer, base = step.layer, (step.name, at, inputs, step.shape)
    if step.activation is not None:
        return _activation(step.activation, base, {})
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    if first and not isinstance(layer, keras.layers.ZeroPadding2D):
        return None
    for kinds, describe_layer in _KINDS:
        if isinstance(layer, kinds):
            return describe_layer(layer, base, shapes)
    name = type(layer).__name__
    if name in _SUMS and len(inputs) == 2 and shapes[0] == shapes[1]:
        # An operator between two tensors.
        return [Operation(_SUMS[name], *base)]
    return None


_SUMS = {"Add": "add", "Multiply": "multiply", "Subtract": "subtract"}
_Base = tuple[str, int, list[int], tuple[int, ...]]


def _activation(name: str, base: _Base, settings: dict[str, Any]) -> list[Operation] | None:
    if name not in ACTIVATIONS:
        return None
    return [Operation("activation", *base, settings={"function": name, **settings})]


def _activation_layer(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    return _activation(getattr(layer.activation, "__name__", ""), base, {})


def _relu(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    top = None if layer.max_value is None else float(layer.max_value)
    if float(layer.threshold) != 0:
        return None
    slope = float(layer.negative_slope)
    if top is None and slope == 0:
        return _activation("relu", base, {})
    if top == 6 and slope == 0:
        return _activation("relu6", base, {})
    return None if top is not None else _activation("leaky_relu", base, {"slope": slope})


def _leaky_relu(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    return _activation("leaky_relu", base, {"slope": float(layer.negative_slope)})


def _softmax(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    return _activation("softmax", base, {}) if layer.axis == -1 else None


def _per_channel(values: Any, channels: int) -> np.ndarray:
    return np.ascontiguousarray(
        np.broadcast_to(np.asarray(values, np.float64).reshape(-1), (channels,))
    )


def _affine(base: _Base, scale: Any, offset: Any, what: str) -> list[Operation]:
    channels = base[3][-1]
    weights = {"scale": _per_channel(scale, channels), "offset": _per_channel(offset, channels)}
    return [Operation("affine", *base, settings={"what": what}, weights=weights)]


def _rescaling(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    return _affine(base, layer.scale, layer.offset, "rescaling")


def _normalization(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    if layer.invert or tuple(layer.axis) not in ((-1,), (len(base[3]),)):
        return None
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), np.float64)
        for each in (layer.mean, layer.variance)
    )
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return _affine(base, scale, -mean * scale, "normalization")


def _batch_normalization(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    if layer.axis not in (-1, len(base[3])):
        return None
    scale = 1 / np.sqrt(_numbers(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * _numbers(layer.gamma)
    offset = -_numbers(layer.moving_mean) * scale
    if layer.center:
        offset = offset + _numbers(layer.beta)
    return _affine(base, scale, offset, "batch normalization")


def _numbers(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def _window(layer: Any, size: Sequence[int], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the settings of a window that moves over maps of a shape (H, W, C)."""
    strides = [int(each) for each in layer.strides]
    dilation = [int(each) for each in getattr(layer, "dilation_rate", (1, 1))]
    before = [0, 0]
    if layer.padding == "same":
        for axis in (0, 1):
            span = (size[axis] - 1) * dilation[axis] + 1
            count = -(-shape[axis] // strides[axis])
            before[axis] = max(0, (count - 1) * strides[axis] + span - shape[axis]) // 2
    return {
        "size": [int(each) for each in size],
        "strides": strides,
        "dilation": dilation,
        "before": before,
        "padding": str(layer.padding),
    }


def _conv(layer: Any, base: _Base, shapes: list[tuple[int, ...]]) -> list[Operation] | None:
    kernel = _numbers(layer.kernel)
    settings = {**_window(layer, kernel.shape[:2], shapes[0]), "groups": int(layer.groups)}
    bias = _numbers(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    return [Operation("conv", *base, settings=settings, weights={"kernel": kernel, "bias": bias})]


def _depthwise(layer: Any, base: _Base, shapes: list[tuple[int, ...]]) -> list[Operation] | None:
    kernel = _numbers(layer.kernel)
    rows, columns, channels, times = kernel.shape
    settings = {**_window(layer, (rows, columns), shapes[0]), "groups": channels}
    bias = _numbers(layer.bias) if layer.use_bias else np.zeros(channels * times)
    weights = {"kernel": kernel.reshape(rows, columns, 1, channels * times), "bias": bias}
    return [Operation("conv", *base, settings=settings, weights=weights)]


def _separable(layer: Any, base: _Base, shapes: list[tuple[int, ...]]) -> list[Operation] | None:
    name, at, inputs, shape = base
    kernel = _numbers(layer.depthwise_kernel)
    rows, columns, channels, times = kernel.shape
    middle = (*shape[:2], channels * times)
    settings = {**_window(layer, (rows, columns), shapes[0]), "groups": channels}
    depthwise = {
        "kernel": kernel.reshape(rows, columns, 1, channels * times),
        "bias": np.zeros(channels * times),
    }
    bias = _numbers(layer.bias) if layer.use_bias else np.zeros(shape[-1])
    point = {
        "size": [1, 1],
        "strides": [1, 1],
        "dilation": [1, 1],
        "before": [0, 0],
        "padding": "valid",
        "groups": 1,
    }
    return [
        Operation("conv", f"{name}, depthwise", -1, inputs, middle, settings, depthwise),
        Operation(
            "conv",
            name,
            at,
            [],
            shape,
            point,
            {"kernel": _numbers(layer.pointwise_kernel), "bias": bias},
        ),
    ]


def _pool(kind: str) -> Callable[..., list[Operation] | None]:
    def describe_pool(layer: Any, base: _Base, shapes: list[tuple[int, ...]]) -> list[Operation]:
        return [Operation(kind, *base, settings=_window(layer, layer.pool_size, shapes[0]))]

    return describe_pool


def _plain(kind: str) -> Callable[..., list[Operation] | None]:
    return lambda layer, base, shapes: [Operation(kind, *base)]


def _zero_padding(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    (first, _), (second, _) = layer.padding
    before = [int(first), int(second)]
    # A layer for channels first that gets channels last pads columns and channels. ResNet does so.
    before = [0, *before] if layer.data_format == "channels_first" else [*before, 0]
    return [Operation("zero_padding", *base, settings={"before": before})]


def _upsampling(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    if layer.interpolation != "nearest":
        return None
    return [Operation("upsampling", *base, settings={"size": [int(each) for each in layer.size]})]


def _cropping(layer: Any, base: _Base, shapes: Any) -> list[Operation]:
    (top, _), (left, _) = layer.cropping
    return [Operation("cropping", *base, settings={"before": [int(top), int(left)]})]


def _dense(layer: Any, base: _Base, shapes: list[tuple[int, ...]]) -> list[Operation] | None:
    if len(shapes[0]) != 1:
        return None
    kernel = _numbers(layer.kernel)
    bias = _numbers(layer.bias) if layer.use_bias else np.zeros(kernel.shape[1])
    return [Operation("dense", *base, weights={"kernel": kernel, "bias": bias})]


def _merge(kind: str) -> Callable[..., list[Operation] | None]:
    def describe_merge(
        layer: Any, base: _Base, shapes: list[tuple[int, ...]]
    ) -> list[Operation] | None:
        # `network.js` scales whole channels too, as squeeze and excitation does it.
        wide = [each for each in shapes if each != base[3]]
        if any(math.prod(each) != base[3][-1] or kind != "multiply" for each in wide):
            return None
        return [Operation(kind, *base)]

    return describe_merge


def _concatenate(layer: Any, base: _Base, shapes: Any) -> list[Operation] | None:
    return [Operation("concatenate", *base)] if layer.axis in (-1, len(base[3])) else None


_L = keras.layers
_KINDS: list[tuple[Any, Callable[..., list[Operation] | None]]] = [
    (_L.Rescaling, _rescaling),
    (_L.Normalization, _normalization),
    (_L.BatchNormalization, _batch_normalization),
    # `DepthwiseConv2D` is not a subclass of `Conv2D` in Keras, and neither is `SeparableConv2D`.
    (_L.DepthwiseConv2D, _depthwise),
    (_L.SeparableConv2D, _separable),
    (_L.Conv2DTranspose, lambda layer, base, shapes: None),
    (_L.Conv2D, _conv),
    (_L.MaxPooling2D, _pool("max_pool")),
    (_L.AveragePooling2D, _pool("average_pool")),
    (_L.GlobalAveragePooling2D, _plain("global_average")),
    (_L.GlobalMaxPooling2D, _plain("global_max")),
    (_L.Flatten, _plain("flatten")),
    (_L.Reshape, _plain("flatten")),
    (_L.Dense, _dense),
    (_L.ReLU, _relu),
    (_L.LeakyReLU, _leaky_relu),
    (_L.Softmax, _softmax),
    (_L.Activation, _activation_layer),
    (_L.ZeroPadding2D, _zero_padding),
    (_L.UpSampling2D, _upsampling),
    (_L.Cropping2D, _cropping),
    (_L.Add, _merge("add")),
    (_L.Multiply, _merge("multiply")),
    (_L.Subtract, _merge("subtract")),
    (_L.Concatenate, _concatenate),
]
