"""Define how the model of a task is exported for other programs, and how it is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnforge.utils.structures import flatten

if TYPE_CHECKING:
    import keras


class ExportForm:
    """The model of a task as other programs get it, and a comparison of its outputs.

    This class exports a model unchanged. Its outputs are called `output_0`, `output_1` and so on.

    Attributes:
        names: Names of the outputs, if the task gives them; else empty.
        units: Unit of an output by its name, such as `"px"`.
        quantizable: Whether a model with integer weights keeps a useful accuracy.
    """

    names: Sequence[str] = ()
    units: Mapping[str, str] = {}
    quantizable: bool = True

    def model(self, model: keras.Model) -> keras.Model:
        """Make the model that is exported.

        Args:
            model: The model of a run, made of stock layers.

        Returns:
            The model itself, or one that computes other outputs from them.
        """
        return model

    def outputs(self, outputs: Any) -> dict[str, np.ndarray]:
        """Compute the outputs of the exported model from those of the model of the run.

        Args:
            outputs: (N, ...) arrays in the structure of the outputs of the model of the run.

        Returns:
            (N, ...) array of each output of the exported model, by name.
        """
        arrays = flatten(outputs)
        names = self.names or [f"output_{number}" for number in range(len(arrays))]
        return dict(zip(names, arrays, strict=True))

    def answers(self, outputs: Mapping[str, np.ndarray]) -> Sequence[str] | None:
        """Describe the answer of the model for each image, such as the name of a class.

        Args:
            outputs: (N, ...) array of each output of the exported model, by name.

        Returns:
            N texts; `None` if the outputs are numbers only.
        """
        return None

    def differences(
        self, expected: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Compare the outputs of two exported models.

        Args:
            expected: (N, ...) array of each output, by name.
            outputs: The same of the other model.

        Returns:
            The max absolute difference of each output, by name. It is NaN or infinite if only one
            of the two values is.

        Raises:
            ValueError: An output is missing, or has another shape.
        """
        found = {}
        for name, old in expected.items():
            new = outputs.get(name)
            if new is None or new.shape != old.shape:
                got = "missing" if new is None else f"of the shape {new.shape}"
                raise ValueError(f"the output {name} is {got}, expected the shape {old.shape}")
            same = (new == old) | (np.isnan(new) & np.isnan(old))
            with np.errstate(invalid="ignore"):
                apart = np.where(same, 0.0, np.abs(new.astype(np.float64) - old))
            found[name] = float(apart.max(initial=0.0))
        return found


class ClassExportForm(ExportForm):
    """The form of a classification: one output `probabilities`, (N, C) float32.

    Args:
        classes: The C class names.
    """

    names = ("probabilities",)

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)

    def answers(self, outputs: Mapping[str, np.ndarray]) -> Sequence[str]:
        """Return the name of the class with the highest probability, for each image."""
        return [self._classes[index] for index in outputs["probabilities"].argmax(-1)]
