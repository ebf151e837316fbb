"""Steps that move values: padding, cropping, concatenation, upsampling, reshaping."""

from __future__ import annotations

from math import prod

import numpy as np

from cnnforge_kernels.plan.kinds.windows import padded, padding, pair
from cnnforge_kernels.plan.steps import Shape, Step


def _image(shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    if len(shape) != 3:
        raise ValueError(f"inputs must be images (H, W, C). Received: {shape}")
    return shape


def _pad_shape(step: Step, shapes: list[Shape]) -> Shape:
    height, width, channels = _image(shapes)
    rows, columns = padding(step)
    before, after = step.options.get("channels", [0, 0])
    if not all(type(number) is int and number >= 0 for number in (before, after)):
        raise ValueError(f"channels must be two integers. Received: {before!r}, {after!r}")
    return (height + sum(rows), width + sum(columns), before + channels + after)


def _pad(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    channels = step.options.get("channels", [0, 0])
    return np.pad(padded(inputs[0], step, 0), [(0, 0), (0, 0), (0, 0), channels])


def _crop_shape(step: Step, shapes: list[Shape]) -> Shape:
    height, width, channels = _image(shapes)
    rows, columns = padding(step)
    return (height - sum(rows), width - sum(columns), channels)


def _crop(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    height, width = inputs[0].shape[1:3]
    (top, bottom), (left, right) = padding(step)
    return inputs[0][:, top : height - bottom, left : width - right]


def _concatenate_shape(step: Step, shapes: list[Shape]) -> Shape:
    if not shapes or len({shape[:-1] for shape in shapes}) != 1:
        raise ValueError(f"inputs must differ in their channels only. Received: {shapes}")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def _concatenate(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(inputs, -1)


def _upsample_shape(step: Step, shapes: list[Shape]) -> Shape:
    height, width, channels = _image(shapes)
    rows, columns = pair(step, "size")
    if step.options["interpolation"] not in ("nearest", "bilinear"):
        raise ValueError(f"unknown interpolation {step.options['interpolation']!r}")
    return (height * rows, width * columns, channels)


def _upsample(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    result = inputs[0]
    for axis, times in zip((1, 2), pair(step, "size"), strict=True):
        if step.options["interpolation"] == "nearest":
            result = result.repeat(times, axis)
        else:
            result = _interpolated(result, axis, times)
    return result


def _interpolated(values: np.ndarray, axis: int, times: int) -> np.ndarray:
    """Interpolate along one axis; the centers of the first and last pixel keep their places."""
    size = values.shape[axis]
    at = (np.arange(size * times) + 0.5) / times - 0.5
    first = np.floor(at).astype(np.int64)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (at - first).astype(values.dtype).reshape(shape)
    low, high = (values.take(np.clip(first + k, 0, size - 1), axis) for k in (0, 1))
    with np.errstate(all="ignore"):
        return low + (high - low) * share


def _reshape_shape(step: Step, shapes: list[Shape]) -> Shape:
    shape = tuple(step.options["shape"])
    if not all(type(size) is int for size in shape) or prod(shape) != prod(shapes[0]):
        raise ValueError(f"an array of shape {shapes[0]} cannot be reshaped to {shape}")
    return shape


def _reshape(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    return inputs[0].reshape(len(inputs[0]), *step.options["shape"])


def _channels_shape(step: Step, shapes: list[Shape]) -> Shape:
    index, (shape,) = step.arrays["index"], shapes
    if index.ndim != 1 or not ((index >= 0) & (index < shape[-1])).all():
        raise ValueError(f"the inputs have {shape[-1]} channels. Received the index {index}")
    return (*shape[:-1], len(index))


def _channels(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    return inputs[0].take(step.arrays["index"], -1)


KINDS = {
    "pad": (_pad_shape, _pad),
    "crop": (_crop_shape, _crop),
    "concatenate": (_concatenate_shape, _concatenate),
    "upsample": (_upsample_shape, _upsample),
    "reshape": (_reshape_shape, _reshape),
    "channels": (_channels_shape, _channels),
}
