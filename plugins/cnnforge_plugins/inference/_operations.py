"""Write operations of `keras.ops` as steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnforge.utils.keras_graph import LayerCall
from cnnforge_plugins.inference._activations import relu
from cnnforge_plugins.inference._layers import Handler, affine, concatenate, reshape
from cnnforge_plugins.inference._writer import Writer


def _operands(call: LayerCall) -> list[Any]:
    return [*call.arguments, *call.keywords.values()]


def _binary(kind: str, constant: Callable[[Any, bool], tuple[Any, Any] | None]) -> Handler:
    """Return the handler of an operation of two operands.

    Args:
        kind: Kind of the step for two tensors.
        constant: Function from a constant operand, and whether it is the first, to the scale and
            offset of an affine step. It returns `None` if there is no such step.
    """

    def handle(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
        operands = _operands(call)
        if len(operands) != 2:
            writer.refuse("it has other operands than two")
        if len(inputs) == 2:
            if len(call.inputs[0].shape) != len(call.inputs[1].shape) or not kind:
                writer.refuse("there is no kernel for these operands")
            return writer.add(kind, inputs)
        first = operands[1] is call.inputs[0]
        try:
            value = np.asarray(operands[0 if first else 1], np.float64)
        except (TypeError, ValueError):
            writer.refuse("its constant operand is not an array")
        result = constant(value, first)
        if result is None:
            writer.refuse("there is no kernel for these operands")
        return affine(*result, call, inputs, writer)

    return handle


def _flip(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    rank = len(call.inputs[0].shape)
    if layer.axis not in (-1, rank - 1):
        writer.refuse(f"its axis {layer.axis} is not the last")
    index = np.arange(call.inputs[0].shape[-1])[::-1].astype(np.int64)
    return writer.add("channels", inputs, {"index": index})


def _activated(activation: Callable[[Any], dict[str, Any]]) -> Handler:
    def handle(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
        return writer.activate(inputs[0], activation(layer))

    return handle


def _named(name: str) -> Handler:
    return _activated(lambda layer: {"name": name})


def _softmax(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    if layer.axis not in (-1, len(call.inputs[0].shape) - 1):
        writer.refuse(f"its axis {layer.axis} is not the last")
    return writer.activate(inputs[0], {"name": "softmax"})


OPERATIONS: dict[str, Handler] = {
    "Add": _binary("add", lambda value, first: (1, value)),
    "Subtract": _binary("subtract", lambda value, first: (-1, value) if first else (1, -value)),
    "Multiply": _binary("multiply", lambda value, first: (value, 0)),
    "Divide": _binary("", lambda value, first: None if first else (1 / value, 0)),
    "TrueDivide": _binary("", lambda value, first: None if first else (1 / value, 0)),
    "Maximum": _binary("maximum", lambda value, first: None),
    "Minimum": _binary("minimum", lambda value, first: None),
    "Concatenate": concatenate,
    "Flip": _flip,
    "Reshape": reshape,
    "Relu": _named("relu"),
    "Relu6": _named("relu6"),
    "ReLU": _activated(lambda it: relu(it.max_value, it.negative_slope, it.threshold)),
    "LeakyRelu": _activated(lambda it: relu(None, it.negative_slope, 0)),
    "Sigmoid": _named("sigmoid"),
    "Selu": _named("selu"),
    "Silu": _named("swish"),
    "Tanh": _named("tanh"),
    "Softplus": _named("softplus"),
    "Softsign": _named("softsign"),
    "HardSigmoid": _named("hard_sigmoid"),
    "HardSilu": _named("hard_swish"),
    "Gelu": _activated(lambda it: {"name": "gelu", "approximate": bool(it.approximate)}),
    "Elu": _activated(lambda it: {"name": "elu", "alpha": float(it.alpha)}),
    "Mish": _named("mish"),
    "Exp": _named("exponential"),
    "Softmax": _softmax,
}
"""The operations that a plan can express, with the functions that write them."""
