"""What a callback of training is: for plugins. Light, as `cnnforge.plugin` is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from cnnforge.training.events import EpochMetrics

__all__ = [
    "Callback",
    "FinishedEpoch",
]


@dataclass(kw_only=True)
class FinishedEpoch:
    """An epoch that was trained and validated, before its state is saved.

    Attributes:
        metrics: Its row of `metrics.csv`.
        epochs: How many the run is going to have.
        best: Whether it is the best one so far, by the monitored metric, and by the loss if that
            is the same.
        monitor: Name of the monitored metric, for instance `"accuracy"`; its value of this epoch
            is `metrics.values["val_accuracy"]`.
        model: The model, to be looked at: what is saved is what was validated.
        folder: The run directory, for files of the callback's own; `None` where there is none.
        stopped: Why training ends after this epoch; empty if it does not.
    """

    metrics: EpochMetrics
    epochs: int
    best: bool
    monitor: str
    model: keras.Model
    folder: Path | None
    read_learning_rate: Callable[[], float] = field(repr=False)
    write_learning_rate: Callable[[float], None] = field(repr=False)
    stopped: str = ""

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; it may be set, and is saved with the state.

        Under a schedule, setting it multiplies all rates that follow by the same factor.
        """
        return self.read_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.write_learning_rate(value)

    def stop(self, reason: str) -> None:
        """End training after this epoch.

        Args:
            reason: What the user is told.
        """
        self.stopped = self.stopped or reason


class Callback:
    """Called after every epoch of training; a base class.

    A run that is interrupted and resumed calls a new object, which `restore` gets what `state`
    returned after the last epoch that was saved. What was done outside of the state (a file, a
    message) may be done again, where a run was killed between an epoch and the saving of it.
    """

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        """Do something after an epoch.

        Args:
            epoch: What came of it, and what may be asked for.
        """

    def state(self) -> Mapping[str, Any]:
        """Return what the next epoch depends on: numbers, texts, lists, dictionaries, `None`."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` has returned.

        Args:
            state: The same values.
        """
