"""Choose the prepared layer that computes a step.

Each function here gets a step, packs its weights, and returns a function that binds the step to
arrays: from the inputs and the output to kernel calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnforge_kernels.cpu.prepared import elementwise, pooling, shapes
from cnnforge_kernels.cpu.prepared.convolution import Convolution
from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.prepared.softmax import Softmax
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.plan.kinds.windows import NO_PADDING, padding, pair
from cnnforge_kernels.plan.steps import Activation, Shape, Step

Bind = Callable[[Sequence[np.ndarray], np.ndarray], list[Call]]

# The names of the prepared activations that are called otherwise.
_ACTIVATIONS = {"swish": "silu", "hard_swish": "hard_silu"}


def prepare(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind | None:
    """Prepare a step for its kernels.

    Args:
        step: Any step but the input.
        inputs: Shapes of its inputs.
        output: Shape of its result.

    Returns:
        A function from the inputs and the output of the step, C-contiguous float32 arrays with the
        batch dimension, to the calls that compute the output. It is ``None`` if no kernel can
        compute the step.
    """
    known = _PREPARE.get(step.kind)
    return None if known is None else known(step, inputs, output)


def conversion(step: Step) -> elementwise.Affine:
    """Prepare the conversion of images to float32.

    Args:
        step: The input.
    """
    scale, offset = step.arrays.get("scale", [1.0]), step.arrays.get("offset", [0.0])
    return elementwise.Affine(scale, offset)


def _fused(step: Step) -> str | None:
    """Return the name of the activation that a step applies to its result."""
    return None if step.activation is None else step.activation["name"]


def _window(step: Step) -> dict[str, Any]:
    return {"strides": pair(step, "strides"), "padding": padding(step)}


def _convolution(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    pool = step.options.get("pool")
    layer = Convolution(
        step.arrays["weights"],
        step.arrays["bias"],
        **_window(step),
        dilation=pair(step, "dilation"),
        groups=step.options.get("groups", 1),
        activation=_fused(step),
        pool=None if pool is None else pair(step, "pool"),
    )
    return lambda sources, target: layer.bind(sources[0], target, *sources[1:])


def _depthwise(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    layer = DepthwiseConvolution(
        step.arrays["weights"],
        step.arrays["bias"],
        **_window(step),
        dilation=pair(step, "dilation"),
        activation=_fused(step),
    )
    return lambda sources, target: layer.bind(sources[0], target)


def _dense(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    weights = step.arrays["weights"]
    layer = Product(weights, step.arrays["bias"], _fused(step))

    def bind(sources: Sequence[np.ndarray], target: np.ndarray) -> list[Call]:
        channels, units = weights.shape
        return layer.bind(sources[0].reshape(-1, channels), target.reshape(-1, units))

    return bind


def _affine(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    layer = elementwise.Affine(step.arrays["scale"], step.arrays["offset"], _fused(step))
    return lambda sources, target: layer.bind(sources[0], target)


def _activation(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind | None:
    activation: Activation = step.options["activation"]
    name, alpha = activation["name"], activation.get("slope", activation.get("alpha"))
    name = _ACTIVATIONS.get(name, name)
    if name == "gelu" and activation["approximate"]:
        name = "gelu_tanh"
    if name == "softmax":
        layer: Any = Softmax()
    elif name in elementwise.ACTIVATIONS:
        layer = elementwise.Activation(name, alpha)
    else:
        return None
    return lambda sources, target: layer.bind(sources[0], target)


def _merge(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind | None:
    pixel = (*(1 for _ in output[:-1]), output[-1])
    smaller = [place for place, shape in enumerate(inputs) if shape != output]
    if any(inputs[place] != pixel for place in smaller) or len(smaller) == len(inputs):
        return None
    if step.kind == "subtract" and (len(inputs) != 2 or smaller == [0]):
        return None
    layer = elementwise.Combine(step.kind, _fused(step))
    return lambda sources, target: layer.bind(list(sources), target)


def _pool(layer_class: Any) -> Any:
    def prepare_pool(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
        window = pair(step, "window")
        if window == (1, 1) and step.options.get("padding", NO_PADDING) == NO_PADDING:
            layer: Any = shapes.Subsampling(pair(step, "strides"))
        else:
            layer = layer_class(window, **_window(step))
        return lambda sources, target: layer.bind(sources[0], target)

    return prepare_pool


def _global_pool(layer_class: Any) -> Any:
    def prepare_pool(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
        layer = layer_class()
        return lambda sources, target: layer.bind(sources[0], target)

    return prepare_pool


def _pad(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind | None:
    before, after = step.options.get("channels", (0, 0))
    if not before and not after:
        layer = shapes.Padding(padding(step))
        return lambda sources, target: layer.bind(sources[0], target)
    if step.options.get("padding", NO_PADDING) != NO_PADDING:
        return None

    def bind(sources: Sequence[np.ndarray], target: np.ndarray) -> list[Call]:
        around = [np.zeros((*target.shape[:-1], size), np.float32) for size in (before, after)]
        return shapes.Concatenation().bind([around[0], sources[0], around[1]], target)

    return bind


def _crop(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    layer = shapes.Cropping(padding(step))
    return lambda sources, target: layer.bind(sources[0], target)


def _concatenate(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    return lambda sources, target: shapes.Concatenation().bind(list(sources), target)


def _upsample(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    layer = shapes.Upsampling(pair(step, "size"), step.options["interpolation"])
    return lambda sources, target: layer.bind(sources[0], target)


def _channels(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind | None:
    channels = inputs[0][-1]
    times = output[-1] // channels
    if not np.array_equal(step.arrays["index"], np.tile(np.arange(channels), times)):
        return None
    return lambda sources, target: shapes.Concatenation().bind([sources[0]] * times, target)


def _reshape(step: Step, inputs: Sequence[Shape], output: Shape) -> Bind:
    # The output is at the same place.
    return lambda sources, target: []


_PREPARE: dict[str, Callable[[Step, Sequence[Shape], Shape], Bind | None]] = {
    "convolution": _convolution,
    "depthwise": _depthwise,
    "dense": _dense,
    "affine": _affine,
    "activation": _activation,
    "add": _merge,
    "subtract": _merge,
    "multiply": _merge,
    "maximum": _merge,
    "minimum": _merge,
    "average": _merge,
    "max_pool": _pool(pooling.MaxPooling),
    "average_pool": _pool(pooling.AveragePooling),
    "global_average_pool": _global_pool(pooling.GlobalAveragePooling),
    "global_max_pool": _global_pool(pooling.GlobalMaxPooling),
    "pad": _pad,
    "crop": _crop,
    "concatenate": _concatenate,
    "upsample": _upsample,
    "channels": _channels,
    "reshape": _reshape,
}
