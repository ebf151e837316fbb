"""What training steps have in common, whichever backend takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from cnnforge.errors import CnnforgeError


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What training on one chunk gave.

    Attributes:
        sums: The sums that were passed in, plus those of this chunk, by name.
        failed: The first batch of the chunk whose loss was not finite, or `None`; the batches
            after it were not run.
    """

    sums: Mapping[str, float]
    failed: int | None


class Optimized:
    """A model and its optimizer as plain arrays; the same for every backend.

    Args:
        model: A built model.
        optimizer: It is built here.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        optimizer.build(model.trainable_variables)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer.learning_rate = value

    def arrays(self) -> list[np.ndarray]:
        """Return copies of the model's variables, seed generators too, and the optimizer's."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.variables()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Set all variables.

        Args:
            arrays: As `arrays` returned them.

        Raises:
            CnnforgeError: They do not belong to this model.
        """
        variables = self.variables()
        if len(variables) != len(arrays):
            raise CnnforgeError(
                f"the training state holds {len(arrays)} variables, this model has "
                f"{len(variables)}: it was saved by another model"
            )
        for variable, array in zip(variables, arrays, strict=True):
            if tuple(variable.shape) != array.shape:
                raise CnnforgeError(
                    f"the training state holds {array.shape} for {variable.path}, which is "
                    f"{tuple(variable.shape)}: it was saved by another model"
                )
            variable.assign(array)

    def variables(self) -> list[keras.Variable]:
        """Return the model's variables and the optimizer's, in the order of `arrays`."""
        return [*self._model.variables, *self._optimizer.variables]
