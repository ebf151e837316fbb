"""Find out which activation a function of Keras is."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_plugins.inference._writer import Writer

Activation = dict[str, Any]

# Functions of `keras.activations` and `keras.ops` with their defaults, by their names.
_NAMES: dict[str, Activation] = {
    "relu": {"name": "relu"},
    "relu6": {"name": "relu6"},
    "leaky_relu": {"name": "leaky_relu", "slope": 0.2},
    "sigmoid": {"name": "sigmoid"},
    "softmax": {"name": "softmax"},
    "tanh": {"name": "tanh"},
    "elu": {"name": "elu", "alpha": 1.0},
    "selu": {"name": "selu"},
    "silu": {"name": "swish"},
    "swish": {"name": "swish"},
    "softplus": {"name": "softplus"},
    "softsign": {"name": "softsign"},
    "exponential": {"name": "exponential"},
    "hard_sigmoid": {"name": "hard_sigmoid"},
    "hard_silu": {"name": "hard_swish"},
    "hard_swish": {"name": "hard_swish"},
    "mish": {"name": "mish"},
}
_FUNCTIONS: dict[Any, Activation | None] = {keras.activations.linear: None}
for _name, _activation in _NAMES.items():
    for _module in (keras.activations, keras.ops):
        if hasattr(_module, _name):
            _FUNCTIONS.setdefault(getattr(_module, _name), _activation)
# The defaults of these two differ.
_FUNCTIONS[keras.activations.gelu] = {"name": "gelu", "approximate": False}
_FUNCTIONS[keras.ops.gelu] = {"name": "gelu", "approximate": True}


def activation_of(function: Any, writer: Writer) -> Activation | None:
    """Return the activation that a function of Keras computes, or `None` for the identity.

    Args:
        function: A function, a layer, or `None`.
        writer: It refuses the layer if the function is not known.
    """
    if function is None:
        return None
    if type(function) in LAYERS:
        return LAYERS[type(function)](function, writer)
    try:
        return _FUNCTIONS[function]
    except (KeyError, TypeError):
        name = getattr(function, "__name__", type(function).__name__)
        writer.refuse(f"its activation {name} is not known")


def relu(max_value: Any, slope: Any, threshold: Any) -> Activation:
    """Return the activation of a ReLU with options.

    Args:
        max_value: Maximum, or `None`.
        slope: Slope below the threshold.
        threshold: Values below it count as negative.
    """
    if not threshold and not slope and max_value in (None, 6):
        return {"name": "relu" if max_value is None else "relu6"}
    if not threshold and max_value is None:
        return {"name": "leaky_relu", "slope": float(slope)}
    return {
        "name": "general_relu",
        "slope": float(slope),
        "threshold": float(threshold),
        "max_value": None if max_value is None else float(max_value),
    }


def _softmax(layer: Any, writer: Writer) -> Activation:
    axis = layer.axis if isinstance(layer.axis, int) else tuple(layer.axis)
    if axis not in (-1, (-1,)):
        writer.refuse(f"its axis {layer.axis} is not the last")
    return {"name": "softmax"}


LAYERS: dict[type, Any] = {
    keras.layers.Activation: lambda layer, writer: activation_of(layer.activation, writer),
    keras.layers.ReLU: lambda layer, writer: relu(
        layer.max_value, layer.negative_slope, layer.threshold
    ),
    keras.layers.LeakyReLU: lambda layer, writer: {
        "name": "leaky_relu",
        "slope": float(layer.negative_slope),
    },
    keras.layers.ELU: lambda layer, writer: {"name": "elu", "alpha": float(layer.alpha)},
    keras.layers.Softmax: _softmax,
}
"""Layers that only apply an activation, with functions from a layer to the activation."""
