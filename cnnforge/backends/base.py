"""Classes for training that are the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from cnnforge.errors import CnnforgeError

LOSS = "loss"
"""Key of the summed loss in the sums of the loss and the metrics, which `train` returns."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The result of training on one chunk, a few consecutive batches.

    Attributes:
        sums: The sums of the loss and the metrics by name. They are the sums that were passed to
            `train` plus the sums over this chunk.
        failed: Index of the first batch of the chunk whose loss was not finite, or `None`. The
            batches after it were not run.
    """

    sums: Mapping[str, float]
    failed: int | None


class Replicas(Protocol):
    """Divides each training step among the devices of this process and of other processes.

    Attributes:
        count: Number of devices, of all processes.
        mirrored: Whether a model needs a copy of each variable on each device, made in `scope`.
    """

    count: int
    mirrored: bool

    def scope(self) -> AbstractContextManager[Any]:
        """Return a context in which models and optimizers are made for these devices."""
        ...

    def trainer(
        self,
        model: keras.Model,
        task: Any,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        whole: keras.Model | None = None,
    ) -> Any:
        """Return a trainer with the methods of `Trainer`, see there for the arguments."""
        ...


class TrainableModel:
    """Reads and sets the variables of a model and of its optimizer as NumPy arrays.

    Args:
        model: A built model.
        optimizer: An optimizer. The constructor builds it.
        whole: A model that contains `model`, whose variables are read and set too; `None` if
            `model` is not a part of another model.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        whole: keras.Model | None = None,
    ) -> None:
        self._model = model
        self._whole = model if whole is None else whole
        self._optimizer = optimizer
        # The weights that `averaged` has replaced by their averages, by `id(variable)`. Outside of
        # `averaged` this dict is empty.
        self._own: dict[int, np.ndarray] = {}
        optimizer.build(model.trainable_variables)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the model's weights by their moving averages, if the optimizer computes them.

        At the end of the block, the model gets its own weights again. Inside the block, `arrays`
        returns the model's own weights, not the averages. Do not train inside the block before a
        call of `restore`. After `restore`, training is allowed, because the end of the block then
        changes no weights.
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
            # `restore` empties `_own`, and then the weights must stay as they are.
            for variable in weights if self._own else ():
                variable.assign(self._own[id(variable)])
            self._own = {}

    def arrays(self) -> list[np.ndarray]:
        """Return copies of all variables, including those of seed generators and the optimizer."""
        return [self._own.get(id(variable), _array(variable)) for variable in self.variables()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Set all variables of the model and the optimizer.

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
        # Otherwise, inside of `averaged`, `arrays` would still return the weights from before this
        # call, and the end of the block would assign them again.
        self._own = {}

    def variables(self) -> list[keras.Variable]:
        """Return the model's variables and the optimizer's, in the order of `arrays`."""
        return [*self._whole.variables, *self._optimizer.variables]


def _array(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
