"""Activations in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnforge_kernels.plan.steps import Activation

FUSIBLE = ("relu", "relu6")
"""Activations that convolutions, additions and affine steps can apply to their results."""


def apply(activation: Activation | None, values: np.ndarray) -> np.ndarray:
    """Apply an activation.

    Args:
        activation: A dict with the name and the parameters, or ``None``.
        values: Any float array. The softmax is along the last axis.

    Returns:
        An array of the same shape and dtype.
    """
    if activation is None:
        return values
    parameters = {key: value for key, value in activation.items() if key != "name"}
    with np.errstate(all="ignore"):
        return _FUNCTIONS[activation["name"]](values, **parameters).astype(values.dtype, copy=False)


def check(activation: Any, *, fused: bool) -> None:
    """Check an activation of a step.

    Args:
        activation: A dict with the name and the parameters, or ``None``.
        fused: Whether the step has another task too, so only some activations are possible.

    Raises:
        ValueError: The activation is not known, or cannot be part of another step.
    """
    if activation is None and fused:
        return
    if not isinstance(activation, dict) or activation.get("name") not in _PARAMETERS:
        raise ValueError(f"unknown activation {activation!r}")
    name = activation["name"]
    numbers = {key: value for key, value in activation.items() if key != "name"}
    allowed = int | float | bool | None
    if set(numbers) != _PARAMETERS[name] or not all(
        isinstance(value, allowed) for value in numbers.values()
    ):
        raise ValueError(f"wrong parameters of the activation {name}: {numbers}")
    if fused and name not in FUSIBLE:
        raise ValueError(f"the activation {name} is a step of its own")


def is_nonnegative(activation: Activation | None) -> bool:
    """Return whether the result of an activation is never negative."""
    return activation is not None and activation["name"] in _NONNEGATIVE


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _relu6(x: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, 0), 6)


def _general_relu(
    x: np.ndarray, slope: float, threshold: float, max_value: float | None
) -> np.ndarray:
    above = x if max_value is None else np.minimum(x, max_value)
    # A comparison with NaN is false. Both branches keep it.
    return np.where(x >= threshold, above, slope * (x - threshold) + 0 * x)


def _leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(x))


def _selu(x: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def _gelu(x: np.ndarray, approximate: bool) -> np.ndarray:
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    # NumPy has no error function.
    error = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel()), np.float64, x.size)
    return 0.5 * x * (1 + error.reshape(x.shape))


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return _relu6(x + 3) / 6


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "relu": _relu,
    "relu6": _relu6,
    "general_relu": _general_relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "tanh": np.tanh,
    "elu": _elu,
    "selu": _selu,
    "swish": lambda x: x * _sigmoid(x),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "gelu": _gelu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
}
_PARAMETERS = {
    **{name: set() for name in _FUNCTIONS},
    "general_relu": {"slope", "threshold", "max_value"},
    "leaky_relu": {"slope"},
    "elu": {"alpha"},
    "gelu": {"approximate"},
}
_NONNEGATIVE = ("relu", "relu6", "sigmoid", "softmax", "softplus", "exponential", "hard_sigmoid")
