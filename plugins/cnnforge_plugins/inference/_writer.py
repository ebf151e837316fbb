"""Collect the steps of a program while the layers of a model are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import keras
import numpy as np

from cnnforge_kernels.plan import Step


class NotPossible(ValueError):
    """A model, or a layer of it, cannot be part of an inference plan."""


class Writer:
    """The steps so far.

    Attributes:
        steps: The steps, in order.
        shapes: The shapes, without the batch dimension, that Keras expects of some values.
        layer: The layer that is being written.
        path: Its name, after the names of the models that contain it.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self.layer: Any = None
        self.path = ""
        self._weights: dict[int, tuple[Any, np.ndarray]] = {}

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        arrays: dict[str, np.ndarray] | None = None,
        **options: Any,
    ) -> str:
        """Add a step, and return the name of its result.

        Args:
            kind: Kind of the step.
            inputs: Names of the values that it reads.
            arrays: Its weights.
            **options: Its options.
        """
        name = f"{self.path}:{len(self.steps)}"
        self.steps.append(Step(kind, tuple(inputs), name, options, arrays or {}))
        return name

    def activate(self, name: str, activation: dict[str, Any] | None) -> str:
        """Add a step that applies an activation, and return the name of its result."""
        if activation is None:
            return name
        return self.add("activation", [name], activation=activation)

    def weights(self, variable: Any) -> np.ndarray:
        """Return a variable of Keras as a float32 array, the same one at each call.

        Args:
            variable: The variable.
        """
        if id(variable) not in self._weights:
            # The variable is kept: no other object can get its number.
            self._weights[id(variable)] = (variable, array(variable))
        return self._weights[id(variable)][1]

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that the current layer cannot be part of a plan.

        Args:
            reason: The reason, without the name of the layer.
        """
        raise NotPossible(f"layer {self.path!r} ({type(self.layer).__name__}): {reason}")

    def with_layer(self, reason: str) -> str:
        """Return a reason that names a step. The name of a step begins with that of its layer."""
        return f"the model cannot be expressed: {reason}"


def array(value: Any) -> np.ndarray:
    """Return a weight as a float32 array of its own.

    Args:
        value: A variable of Keras, or an array.
    """
    # NumPy warns about the method of a variable that converts it.
    return np.array(keras.ops.convert_to_numpy(value), np.float32)
