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
        sums: The sums of the loss and the metrics by name: those passed to `train` plus those of
            this chunk.
        failed: Index in the chunk of the first batch with a loss that was not finite, or `None`.
            The batches after it were not run.
    """

    sums: Mapping[str, float]
    failed: int | None


class TrainableModel:
    """Reads and sets the variables of a model and its optimizer as NumPy arrays, on every backend.

    Args:
        model: A built model.
        optimizer: An optimizer. The constructor builds it.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        # Inside `averaged`: the weights that the averages have replaced, by `id(variable)`.
        self._own: dict[int, np.ndarray] = {}
        optimizer.build(model.trainable_variables)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the model's weights by their moving averages, if the optimizer computes these.

        The end of the block restores the weights. Inside the block, `arrays` returns the replaced
        weights. Do not train inside the block, except after `restore`: the model then keeps the
        restored weights, also after the block.
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
        """Return copies of all variables, including those of seed generators and the optimizer."""
        return [self._own.get(id(variable), _array(variable)) for variable in self.variables()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Set all variables.

        Args:
            arrays: Arrays that the method `arrays` has returned.

        Raises:
            CnnforgeError: The number of arrays or a shape does not fit this model.
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
