"""Steps that multiply by weights: convolutions, depthwise convolutions and dense layers."""

from __future__ import annotations

import numpy as np

from cnnforge_kernels.plan.kinds import activations
from cnnforge_kernels.plan.kinds.windows import output_sizes, padded, pair, taps
from cnnforge_kernels.plan.steps import Shape, Step


def _check_weights(step: Step, rank: int, filters: int, inputs: int, weights: int) -> None:
    """Check that weights and bias fit to the inputs, and that the activation is possible."""
    activations.check(step.activation, fused=True)
    if step.arrays["weights"].ndim != rank or step.arrays["bias"].shape != (filters,):
        raise ValueError("the weights or the bias have a wrong shape")
    if inputs != weights:
        raise ValueError(f"the weights need {weights} channels, the inputs have {inputs}")


def _convolution_shape(step: Step, shapes: list[Shape]) -> Shape:
    kh, kw, channels, filters = step.arrays["weights"].shape
    groups = step.options.get("groups", 1)
    if type(groups) is not int or groups < 1 or filters % groups:
        raise ValueError(f"{filters} filters cannot be divided into groups: {groups!r}")
    _check_weights(step, 4, filters, shapes[0][-1], channels * groups)
    shape = (*output_sizes(step, shapes[0], (kh, kw)), filters)
    if len(shapes) == 2 and shapes[1] != shape:
        raise ValueError(f"an array of shape {shapes[1]} cannot be added to {shape}")
    if len(shapes) > 2:
        raise ValueError("it has too many inputs")
    if step.options.get("pool") is not None:
        if len(shapes) == 2:
            raise ValueError("it cannot both add an array and pool")
        ph, pw = pair(step, "pool")
        shape = (shape[0] // ph, shape[1] // pw, filters)
    return shape


def _convolution(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    weights = step.arrays["weights"].astype(inputs[0].dtype)
    window, filters, groups = weights.shape[:2], weights.shape[3], step.options.get("groups", 1)
    sizes = output_sizes(step, inputs[0].shape[1:], window)
    images = padded(inputs[0], step, 0)
    result = np.zeros((len(images), *sizes, filters), images.dtype)
    inside, outside = weights.shape[2], filters // groups
    with np.errstate(all="ignore"):
        for i, j, where in taps(step, window, sizes):
            read = images[where]
            for group in range(groups):
                to = slice(group * outside, (group + 1) * outside)
                source = read[..., group * inside : (group + 1) * inside]
                result[..., to] += source @ weights[i, j][:, to]
        result += step.arrays["bias"].astype(images.dtype)
        if len(inputs) == 2:
            result += inputs[1]
    result = activations.apply(step.activation, result)
    if step.options.get("pool") is None:
        return result
    ph, pw = pair(step, "pool")
    rows, columns = sizes[0] // ph, sizes[1] // pw
    cut = result[:, : rows * ph, : columns * pw]
    return cut.reshape(len(cut), rows, ph, columns, pw, filters).max((2, 4))


def _depthwise_shape(step: Step, shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    kh, kw, channels, multiplier = step.arrays["weights"].shape
    _check_weights(step, 4, channels * multiplier, shape[-1], channels)
    return (*output_sizes(step, shape, (kh, kw)), channels * multiplier)


def _depthwise(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    weights = step.arrays["weights"].astype(inputs[0].dtype)
    kh, kw, channels, multiplier = weights.shape
    sizes = output_sizes(step, inputs[0].shape[1:], (kh, kw))
    images = padded(inputs[0], step, 0)
    result = np.zeros((len(images), *sizes, channels, multiplier), images.dtype)
    with np.errstate(all="ignore"):
        for i, j, where in taps(step, (kh, kw), sizes):
            result += images[where][..., None] * weights[i, j]
        result = result.reshape(len(images), *sizes, channels * multiplier)
        result += step.arrays["bias"].astype(images.dtype)
    return activations.apply(step.activation, result)


def _dense_shape(step: Step, shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    channels, units = step.arrays["weights"].shape
    _check_weights(step, 2, units, shape[-1], channels)
    return (*shape[:-1], units)


def _dense(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    weights = step.arrays["weights"].astype(inputs[0].dtype)
    with np.errstate(all="ignore"):
        result = inputs[0].reshape(-1, len(weights)) @ weights
        result += step.arrays["bias"].astype(inputs[0].dtype)
    result = result.reshape(*inputs[0].shape[:-1], weights.shape[1])
    return activations.apply(step.activation, result)


KINDS = {
    "convolution": (_convolution_shape, _convolution),
    "depthwise": (_depthwise_shape, _depthwise),
    "dense": (_dense_shape, _dense),
}
