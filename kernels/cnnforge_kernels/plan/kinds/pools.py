"""Steps that pool: over windows, and over all pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.plan.kinds.windows import output_sizes, padded, padding, pair, taps
from cnnforge_kernels.plan.steps import Shape, Step


def _pool_shape(step: Step, shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    window = pair(step, "window")
    if pair(step, "dilation") != (1, 1):
        raise ValueError("a pool has no dilation")
    if any(max(around) >= size for around, size in zip(padding(step), window, strict=True)):
        raise ValueError("the padding is not smaller than the window")
    return (*output_sizes(step, shape, window), shape[-1])


def _max_pool(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    window = pair(step, "window")
    sizes = output_sizes(step, inputs[0].shape[1:], window)
    images = padded(inputs[0], step, -np.inf)
    parts = [images[where] for _, _, where in taps(step, window, sizes)]
    return np.max(parts, 0)


def _average_pool(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    window = pair(step, "window")
    sizes = output_sizes(step, inputs[0].shape[1:], window)
    images = padded(inputs[0], step, 0)
    # The padding does not count.
    ones = padded(np.ones((1, *inputs[0].shape[1:3], 1), images.dtype), step, 0)
    with np.errstate(all="ignore"):
        total, count = (
            sum(array[where] for _, _, where in taps(step, window, sizes))
            for array in (images, ones)
        )
        return total / count


def _global_shape(step: Step, shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    if len(shape) != 3:
        raise ValueError(f"inputs must be images (H, W, C). Received: {shape}")
    return (1, 1, shape[-1]) if step.options.get("keepdims") else (shape[-1],)


def _global_average(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return inputs[0].mean((1, 2), keepdims=bool(step.options.get("keepdims")))


def _global_max(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    return inputs[0].max((1, 2), keepdims=bool(step.options.get("keepdims")))


KINDS: dict[str, Any] = {
    "max_pool": (_pool_shape, _max_pool),
    "average_pool": (_pool_shape, _average_pool),
    "global_average_pool": (_global_shape, _global_average),
    "global_max_pool": (_global_shape, _global_max),
}
