"""The base class of the training callbacks of plugins. This module does not import Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

__all__ = [
    "Callback",
    "EpochMetrics",
    "FinishedEpoch",
]


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics of one epoch: one row of `metrics.csv`.

    Each metric is also an attribute and an item: `row.val_loss` and `row["val_loss"]` are
    `row.values["val_loss"]`. `row["epoch"]` and the other columns work too.

    Attributes:
        epoch: Number of the epoch, from 1.
        values: Metrics of the task, by column name. Validation metrics have the prefix `val_`. The
            others are training metrics: means over the images of the epoch. Each batch is measured
            with the weights before its own training step.
        learning_rate: Learning rate of the last step of the epoch.
        seconds: Total time of training and validation, in seconds.
        images_per_second: Number of training images per second of training time.
        waiting: Share of the training time in which training waited for images, 0 to 1.
    """

    epoch: int
    values: Mapping[str, float]
    learning_rate: float
    seconds: float
    images_per_second: float
    waiting: float = 0.0

    def __getattr__(self, name: str) -> float:
        """Return the metric with this name."""
        if name.startswith("_") or name not in self.values:
            raise AttributeError(f"this epoch has no {name!r}; it has {', '.join(self.values)}")
        return self.values[name]

    def __getitem__(self, name: str) -> float:
        """Return the value of a column of the row.

        Raises:
            KeyError: There is no such column.
        """
        row = self.as_dict()
        if name not in row:
            raise KeyError(f"this epoch has no {name!r}; it has {', '.join(row)}")
        return row[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self.as_dict())

    def as_dict(self) -> dict[str, float]:
        """Return all values of the row, by column name."""
        return {
            "epoch": self.epoch,
            **self.values,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "waiting": self.waiting,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, float]) -> EpochMetrics:
        """Make a row from the result of `as_dict`."""
        names = [column.name for column in fields(cls) if column.name != "values"]
        fixed = {name: row[name] for name in names if name in row}
        values = {name: value for name, value in row.items() if name not in fixed}
        return cls(**fixed, values=values)  # pyright: ignore[reportArgumentType]


@dataclass(kw_only=True)
class FinishedEpoch:
    """Describes an epoch to callbacks, after it was trained and validated, before it is saved.

    Attributes:
        metrics: Metrics of the epoch, which are also its row in `metrics.csv`.
        epochs: Total number of epochs of the run.
        best: Whether this epoch is the best one so far by the monitored metric. If two epochs have
            the same value, the one with the lower validation loss is better.
        monitor: Name of the monitored metric, for instance `"accuracy"`. Its value in this epoch
            is `metrics.values["val_accuracy"]`.
        model: The model. A callback must not change it: its weights have been validated, and they
            are saved after the callbacks. If the option `ema` is set, the moving average of the
            weights was validated and will be saved, but `model` has the weights themselves.
        folder: The run directory, in which a callback may write files, or `None`.
        stopped: Reason why training ends after this epoch; empty if training continues.
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
        """The learning rate of the next step. It can be set; the new value is saved with the run.

        If there is a schedule, setting the rate multiplies all later rates by new rate / old rate.
        """
        return self.read_learning_rate()

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.write_learning_rate(value)

    def stop(self, reason: str) -> None:
        """End training after this epoch.

        Args:
            reason: The reason, which is shown to the user.
        """
        self.stopped = self.stopped or reason


class Callback:
    """Base class of callbacks, which are called after every epoch of training.

    When a run is resumed, a new callback object is made. Its `restore` gets the values that `state`
    returned after the last saved epoch. If a run is killed after an epoch but before the state is
    saved, the resumed run trains this epoch again, and the callback is called for it again. A
    callback that writes files or prints messages may therefore do so twice.
    """

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        """React to the end of an epoch.

        Args:
            epoch: The epoch. Set its `learning_rate` to change the learning rate, and call its
                method `stop` to end training.
        """

    def state(self) -> Mapping[str, Any]:
        """Return the values to save with the run, from which `restore` can continue.

        The values may be numbers, strings, `None`, and lists and dictionaries of these.
        """
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the values that `state` returned.

        Args:
            state: The saved values.
        """
