"""Steps that compute each value from the values at the same place of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from cnnforge_kernels.plan.kinds import activations
from cnnforge_kernels.plan.steps import Shape, Step


def _input_shape(step: Step, shapes: list[Shape]) -> Shape:
    shape = tuple(step.options["shape"])
    if shapes or len(shape) != 3 or not all(type(size) is int for size in shape):
        raise ValueError(f"images must have the shape (H, W, C). Received: {shape}")
    _check_channels(step, shape)
    return shape


def _affine_shape(step: Step, shapes: list[Shape]) -> Shape:
    activations.check(step.activation, fused=True)
    (shape,) = shapes
    if "scale" not in step.arrays:
        raise ValueError("it has no scale")
    _check_channels(step, shape)
    return shape


def _check_channels(step: Step, shape: Shape) -> None:
    if ("scale" in step.arrays) != ("offset" in step.arrays):
        raise ValueError("it needs both a scale and an offset")
    for name in step.arrays:
        if step.arrays[name].shape != (shape[-1],):
            raise ValueError(f"{name} must have one value for each of {shape[-1]} channels")


def _affine(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    values = inputs[0]
    if "scale" in step.arrays:
        with np.errstate(all="ignore"):
            scale, offset = (step.arrays[name].astype(values.dtype) for name in ("scale", "offset"))
            values = values * scale + offset
    return activations.apply(step.activation, values)


def _activation_shape(step: Step, shapes: list[Shape]) -> Shape:
    activations.check(step.activation, fused=False)
    (shape,) = shapes
    return shape


def _activation(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    return activations.apply(step.activation, inputs[0])


def _merged_shape(step: Step, shapes: list[Shape]) -> Shape:
    activations.check(step.activation, fused=True)
    if len(shapes) < 2 or len({len(shape) for shape in shapes}) != 1:
        raise ValueError(f"inputs must be several arrays of the same rank. Received: {shapes}")
    return tuple(np.broadcast_shapes(*shapes))


def _merge(function: Callable[[Any, Any], Any]) -> Any:
    def compute(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            merged = reduce(function, inputs)
        return activations.apply(step.activation, merged)

    return _merged_shape, compute


def _average(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        merged = reduce(np.add, inputs) * inputs[0].dtype.type(1 / len(inputs))
    return activations.apply(step.activation, merged)


KINDS = {
    "input": (_input_shape, _affine),
    "affine": (_affine_shape, _affine),
    "activation": (_activation_shape, _activation),
    "add": _merge(np.add),
    "subtract": _merge(np.subtract),
    "multiply": _merge(np.multiply),
    "maximum": _merge(np.maximum),
    "minimum": _merge(np.minimum),
    "average": (_merged_shape, _average),
}
