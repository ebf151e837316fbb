"""Write the stock layers of Keras as steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnnforge.utils.keras_graph import LayerCall
from cnnforge_plugins.inference import _activations
from cnnforge_plugins.inference._activations import activation_of
from cnnforge_plugins.inference._writer import Writer, array

Handler = Callable[[Any, LayerCall, list[str], Writer], str]


def _same(size: int, window: int, stride: int, dilation: int) -> list[int]:
    """Return the padding before and after an axis, as `padding="same"` chooses it."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return [total // 2, total - total // 2]


def _window_options(layer: Any, call: LayerCall, window: Any, dilation: Any) -> dict[str, Any]:
    """Return strides, padding and dilation of a layer that moves a window."""
    if layer.padding == "same":
        sizes = call.inputs[0].shape[1:3]
        each = zip(sizes, window, layer.strides, dilation, strict=True)
        padding = [_same(*numbers) for numbers in each]
    else:
        padding = [[0, 0], [0, 0]]
    return {
        "strides": _integers(layer.strides),
        "padding": padding,
        "dilation": _integers(dilation),
    }


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _bias(layer: Any, size: int, writer: Writer) -> np.ndarray:
    return writer.weights(layer.bias) if layer.use_bias else np.zeros(size, np.float32)


def _convolution(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    weights = writer.weights(layer.kernel)
    name = writer.add(
        "convolution",
        inputs,
        {"weights": weights, "bias": _bias(layer, weights.shape[-1], writer)},
        **_window_options(layer, call, layer.kernel_size, layer.dilation_rate),
        groups=int(layer.groups),
    )
    return writer.activate(name, activation_of(layer.activation, writer))


def _depthwise(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    weights = writer.weights(layer.kernel)
    name = writer.add(
        "depthwise",
        inputs,
        {"weights": weights, "bias": _bias(layer, weights.shape[2] * weights.shape[3], writer)},
        **_window_options(layer, call, layer.kernel_size, layer.dilation_rate),
    )
    return writer.activate(name, activation_of(layer.activation, writer))


def _separable(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    first, second = writer.weights(layer.depthwise_kernel), writer.weights(layer.pointwise_kernel)
    between = np.zeros(first.shape[2] * first.shape[3], np.float32)
    options = _window_options(layer, call, layer.kernel_size, layer.dilation_rate)
    name = writer.add("depthwise", inputs, {"weights": first, "bias": between}, **options)
    arrays = {"weights": second, "bias": _bias(layer, second.shape[-1], writer)}
    name = writer.add("convolution", [name], arrays, groups=1)
    return writer.activate(name, activation_of(layer.activation, writer))


def _dense(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    weights = writer.weights(layer.kernel)
    arrays = {"weights": weights, "bias": _bias(layer, weights.shape[-1], writer)}
    name = writer.add("dense", inputs, arrays)
    return writer.activate(name, activation_of(layer.activation, writer))


def _batch_normalization(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    rank = len(call.inputs[0].shape)
    if layer.axis not in (-1, rank - 1):
        writer.refuse(f"its axis {layer.axis} is not the last")
    with np.errstate(all="ignore"):
        mean, variance = (np.float64(array(v)) for v in (layer.moving_mean, layer.moving_variance))
        scale = 1 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * np.float64(array(layer.gamma))
        offset = (np.float64(array(layer.beta)) if layer.center else 0) - mean * scale
        return writer.add("affine", inputs, {"scale": array(scale), "offset": array(offset)})


def _channel_values(value: Any, call: LayerCall, writer: Writer) -> np.ndarray:
    """Return a number, or one number for each channel, as float64 for each channel."""
    channels = call.inputs[0].shape[-1]
    values = np.asarray(value, np.float64)
    if values.size not in (1, channels) or (values.ndim and values.shape[-1] != values.size):
        writer.refuse("it has other numbers than one for each channel")
    return np.broadcast_to(values.ravel(), (channels,))


def affine(scale: Any, offset: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    """Add a step that multiplies by a scale and adds an offset.

    Args:
        scale: A number, or one for each channel.
        offset: A number, or one for each channel.
        call: The call with the input.
        inputs: Name of the input.
        writer: It gets the step.

    Returns:
        The name of the result.
    """
    both = [array(_channel_values(value, call, writer)) for value in (scale, offset)]
    return writer.add("affine", inputs, dict(zip(("scale", "offset"), both, strict=True)))


def _rescaling(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    return affine(layer.scale, layer.offset, call, inputs, writer)


def _normalization(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    if layer.mean is None:
        writer.refuse("it has neither a mean nor was it adapted")
    mean = _channel_values(array(layer.mean), call, writer)
    variance = _channel_values(array(layer.variance), call, writer)
    with np.errstate(all="ignore"):
        deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
        if layer.invert:
            return affine(deviation, mean, call, inputs, writer)
        return affine(1 / deviation, -mean / deviation, call, inputs, writer)


def _pool(kind: str) -> Handler:
    def handle(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
        options = _window_options(layer, call, layer.pool_size, (1, 1))
        return writer.add(kind, inputs, window=_integers(layer.pool_size), **options)

    return handle


def _global_pool(kind: str) -> Handler:
    def handle(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
        return writer.add(kind, inputs, keepdims=bool(layer.keepdims))

    return handle


def _zero_padding(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    first, second = (_integers(pair) for pair in layer.padding)
    if layer.data_format == "channels_first":
        # Of an array (N, H, W, C) it pads the last two axes, whatever these mean.
        return writer.add("pad", inputs, padding=[[0, 0], first], channels=second)
    return writer.add("pad", inputs, padding=[first, second])


def _cropping(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    return writer.add("crop", inputs, padding=[_integers(pair) for pair in layer.cropping])


def _upsampling(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    if layer.interpolation not in ("nearest", "bilinear"):
        writer.refuse(f"its interpolation {layer.interpolation} is not known")
    size = _integers(layer.size)
    return writer.add("upsample", inputs, size=size, interpolation=layer.interpolation)


def reshape(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    """Add a step that gives the input the shape that Keras gives it.

    Args:
        layer: The layer or operation.
        call: Its call.
        inputs: Name of the input.
        writer: It gets the step.

    Returns:
        The name of the result.
    """
    shape = call.outputs[0].shape
    if shape[0] is not None or None in shape[1:]:
        writer.refuse("it changes the batch dimension, or its shape is not fixed")
    return writer.add("reshape", inputs, shape=_integers(shape[1:]))


def _merge(kind: str) -> Handler:
    def handle(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
        if len({len(tensor.shape) for tensor in call.inputs}) != 1:
            writer.refuse("its inputs have different numbers of dimensions")
        return writer.add(kind, inputs)

    return handle


def concatenate(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    """Add a step that concatenates along the channels.

    Args:
        layer: A layer or operation with the attribute `axis`.
        call: Its call.
        inputs: Names of the inputs.
        writer: It gets the step.

    Returns:
        The name of the result.
    """
    if layer.axis not in (-1, len(call.inputs[0].shape) - 1):
        writer.refuse(f"its axis {layer.axis} is not the last")
    return writer.add("concatenate", inputs)


def _nothing(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    return inputs[0]


def _activation(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    return writer.activate(inputs[0], activation_of(layer, writer))


LAYERS: dict[type, Handler] = {
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Dense: _dense,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Normalization: _normalization,
    keras.layers.MaxPooling2D: _pool("max_pool"),
    keras.layers.AveragePooling2D: _pool("average_pool"),
    keras.layers.GlobalAveragePooling2D: _global_pool("global_average_pool"),
    keras.layers.GlobalMaxPooling2D: _global_pool("global_max_pool"),
    keras.layers.ZeroPadding2D: _zero_padding,
    keras.layers.Cropping2D: _cropping,
    keras.layers.UpSampling2D: _upsampling,
    keras.layers.Flatten: reshape,
    keras.layers.Reshape: reshape,
    keras.layers.Add: _merge("add"),
    keras.layers.Subtract: _merge("subtract"),
    keras.layers.Multiply: _merge("multiply"),
    keras.layers.Maximum: _merge("maximum"),
    keras.layers.Minimum: _merge("minimum"),
    keras.layers.Average: _merge("average"),
    keras.layers.Concatenate: concatenate,
    # They do something in training only.
    keras.layers.Dropout: _nothing,
    keras.layers.SpatialDropout2D: _nothing,
    keras.layers.AlphaDropout: _nothing,
    keras.layers.GaussianDropout: _nothing,
    keras.layers.GaussianNoise: _nothing,
    keras.layers.ActivityRegularization: _nothing,
    keras.layers.Identity: _nothing,
    keras.layers.RandomFlip: _nothing,
    keras.layers.RandomRotation: _nothing,
    keras.layers.RandomTranslation: _nothing,
    keras.layers.RandomZoom: _nothing,
    keras.layers.RandomBrightness: _nothing,
    keras.layers.RandomContrast: _nothing,
    **dict.fromkeys(_activations.LAYERS, _activation),
}
"""The classes of layers that a plan can express, with the functions that write them."""
