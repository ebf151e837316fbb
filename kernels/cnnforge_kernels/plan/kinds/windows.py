"""Functions that convolutions and pools share: output sizes, explicit padding, options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cnnforge_kernels.plan.steps import Shape, Step

NO_PADDING = [[0, 0], [0, 0]]


def pair(step: Step, name: str) -> tuple[int, int]:
    """Return an option that consists of two positive integers, for rows and columns.

    Raises:
        ValueError: The option is something else.
    """
    value = step.options.get(name, [1, 1])
    if len(value) != 2 or not all(type(number) is int and number > 0 for number in value):
        raise ValueError(f"{name} must be two positive integers. Received: {value!r}")
    return value[0], value[1]


def padding(step: Step) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding ((top, bottom), (left, right)) of a step.

    Raises:
        ValueError: The option is something else, or a number is negative.
    """
    rows, columns = step.options.get("padding", NO_PADDING)
    (top, bottom), (left, right) = rows, columns
    if not all(type(number) is int and number >= 0 for number in (top, bottom, left, right)):
        raise ValueError(f"padding must be four integers. Received: {rows!r}, {columns!r}")
    return (top, bottom), (left, right)


def output_sizes(step: Step, shape: Shape, window: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of rows and columns that a window of a step produces.

    Args:
        step: A step with the options ``strides``, ``padding`` and ``dilation``.
        shape: Shape of the inputs, (H, W, C).
        window: Size of the window.

    Raises:
        ValueError: The inputs are not images, or are smaller than the window.
    """
    if len(shape) != 3:
        raise ValueError(f"inputs must be images (H, W, C). Received: {shape}")
    strides, dilation, around = pair(step, "strides"), pair(step, "dilation"), padding(step)
    sizes = []
    for axis in (0, 1):
        free = shape[axis] + sum(around[axis]) - (window[axis] - 1) * dilation[axis] - 1
        if free < 0:
            raise ValueError(f"the window {window} is larger than the inputs {shape}")
        sizes.append(free // strides[axis] + 1)
    return sizes[0], sizes[1]


def padded(inputs: np.ndarray, step: Step, value: float) -> np.ndarray:
    """Return images with the padding of a step around them.

    Args:
        inputs: (N, H, W, C).
        step: The step.
        value: Value of the padding.
    """
    around = padding(step)
    if not any(map(any, around)):
        return inputs
    return np.pad(inputs, [(0, 0), *around, (0, 0)], constant_values=value)


def taps(step: Step, window: tuple[int, int], sizes: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
    """Yield (i, j, slices) for each cell of a window; the slices select what the cell reads.

    Args:
        step: A step with the options ``strides`` and ``dilation``.
        window: Size of the window.
        sizes: Numbers of rows and columns of the outputs.
    """
    strides, dilation = pair(step, "strides"), pair(step, "dilation")
    for i in range(window[0]):
        for j in range(window[1]):
            starts = (i * dilation[0], j * dilation[1])
            rows, columns = (
                slice(start, start + (size - 1) * stride + 1, stride)
                for start, size, stride in zip(starts, sizes, strides, strict=True)
            )
            yield i, j, (slice(None), rows, columns)
