"""Checking what the launchers are given: once, at the public edge, into plain values."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.geometry import output_size

Array = NDArray[np.float32]
Pair = tuple[int, int]
Padding = Literal["valid", "same"]
Precision = Literal["float32", "tf32", "bfloat16"]


def pair(name: str, value: int | tuple[int, int]) -> Pair:
    """Check one or two positive integers; returns two."""
    two = (value, value) if isinstance(value, int) else tuple(value)
    if len(two) != 2 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in two):
        raise ValueError(f"`{name}` must be one or two positive integers. Received: {value!r}")
    return int(two[0]), int(two[1])


def is_same(padding: str) -> bool:
    """Check a padding; returns whether it is SAME."""
    if padding not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same". Received: {padding!r}')
    return padding == "same"


def convolution_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    channels: int,
    weights: tuple[int, ...],
) -> tuple[Pair, bool, Pair, int]:
    """Check a convolution's options; returns (strides, same, dilation_rate, groups)."""
    steps, dilation = pair("strides", strides), pair("dilation_rate", dilation_rate)
    if max(steps) > 1 and max(dilation) > 1:
        raise ValueError(
            "`strides > 1` not supported in conjunction with `dilation_rate > 1`. "
            f"Received: strides={steps} and dilation_rate={dilation}"
        )
    if groups < 1 or channels % groups or weights[3] % groups or weights[2] * groups != channels:
        raise ValueError(
            f"`groups` must divide the {channels} channels of the inputs and the {weights[3]} "
            "filters, and `weights` must have channels / groups channels. "
            f"Received: groups={groups}, weights {weights}"
        )
    if 0 in weights[:2]:
        raise ValueError(f"The window must not be empty. Received: weights {weights}")
    return steps, is_same(padding), dilation, groups


def check_gradient(
    grads: Array,
    mask: Array,
    inputs: Any,
    weights: Any,
    steps: Pair,
    same: bool,
    dilation: Pair,
) -> None:
    """Check the shape of a convolution's ``grad_outputs``."""
    sizes = [output_size(inputs[1 + a], weights[a], steps[a], dilation[a], same) for a in (0, 1)]
    expected = (inputs[0], *sizes, weights[3])
    check_shape("grad_outputs", grads, expected)
    check_shape("outputs", mask, expected)


def check_shape(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    """Require that an array has a shape."""
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}. Received: {array.shape}")
