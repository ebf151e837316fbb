"""The parts of training steps that are the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

from cnnforge.errors import CnnforgeError

LOSS = "loss"
"""Name of the sum of the losses, which every task has."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The result of training on one chunk.

    Attributes:
        sums: The sums that were passed in, plus those of this chunk, by name.
        failed: The first batch of the chunk whose loss was not finite, or `None`; the batches
            after it were not run.
    """

    sums: Mapping[str, float]
    failed: int | None


class TrainableModel:
    """A model and its optimizer as plain arrays; the same for every backend.

    Args:
        model: A built model.
        optimizer: It is built here.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        # The weights that an average stands in for, by the identity of their variables.
        self._own: dict[int, np.ndarray] = {}
        optimizer.build(model.trainable_variables)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the moving average of its weights, if the optimizer keeps one.

        When the block is left the model has its own weights again; `arrays` returns these
        meanwhile. Do not train inside the block, except after `restore`: from then on the model has
        the restored weights, inside the block and after it.
        """
        if not self._optimizer.use_ema:
            yield
            return
        weights = self._model.trainable_variables
        self._own = {id(variable): _array(variable) for variable in weights}
        self._optimizer.finalize_variable_values(weights)
        try:
            yield
        finally:
            # `restore` leaves nothing to put back.
            for variable in weights if self._own else ():
                variable.assign(self._own[id(variable)])
            self._own = {}

    def arrays(self) -> list[np.ndarray]:
        """Return copies of all variables, those of seed generators and of the optimizer too."""
        return [self._own.get(id(variable), _array(variable)) for variable in self.variables()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Set all variables.

        Args:
            arrays: Arrays that `arrays` has returned.

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
        # Inside of `averaged`, `arrays` would return the weights from before the restore.
        self._own = {}

    def variables(self) -> list[keras.Variable]:
        """Return the model's variables and the optimizer's, in the order of `arrays`."""
        return [*self._model.variables, *self._optimizer.variables]


def _array(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
