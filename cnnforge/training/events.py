"""Events that the training loop sends to its listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One row of `metrics.csv`.

    Each value is also an attribute: `row.val_loss` is `row.values["val_loss"]`.

    Attributes:
        epoch: Number of the epoch, from 1.
        values: Metrics of the task by column. A training metric is a mean over the images of the
            epoch; the values of each batch are computed with the weights before its step.
            Validation metrics have the prefix `val_`.
        learning_rate: Learning rate of the last step of the epoch.
        seconds: Total time of training and validation, in seconds.
        images_per_second: Number of training images per second of training time.
    """

    epoch: int
    values: Mapping[str, float]
    learning_rate: float
    seconds: float
    images_per_second: float

    def __getattr__(self, name: str) -> float:
        """Return the value of a column."""
        if name.startswith("_") or name not in self.values:
            raise AttributeError(f"this epoch has no {name!r}; it has {', '.join(self.values)}")
        return self.values[name]

    def as_dict(self) -> dict[str, float]:
        """Return all values by column."""
        return {
            "epoch": self.epoch,
            **self.values,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, float]) -> EpochMetrics:
        """Make a row from the result of `as_dict`."""
        names = [column.name for column in fields(cls) if column.name != "values"]
        fixed = {name: row[name] for name in names}
        values = {name: value for name, value in row.items() if name not in fixed}
        return cls(**fixed, values=values)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """An epoch starts, or continues after a resume.

    Attributes:
        epoch: Number of the epoch, from 1.
        epochs: Total number of epochs of the run.
        batch: Number of batches of this epoch that are already done.
        batches: Number of batches in an epoch.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int


@dataclass(frozen=True, slots=True)
class BatchesDone:
    """The model was trained on some batches.

    Attributes:
        epoch: Number of the epoch, from 1.
        batch: Number of batches of this epoch that are done.
        batches: Number of batches in an epoch.
        values: Training metrics of this epoch so far, by name.
        images_per_second: Number of images per second in the batches since the previous event.
    """

    epoch: int
    batch: int
    batches: int
    values: Mapping[str, float]
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """An epoch was trained, validated and saved.

    Attributes:
        metrics: Metrics of the epoch, the row of `metrics.csv`.
        epochs: Total number of epochs of the run.
        best: Whether this epoch is the best one so far.
    """

    metrics: EpochMetrics
    epochs: int
    best: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The loop was asked to stop, and has saved its state.

    Attributes:
        epoch: Number of the epoch to continue with, from 1.
        batch: Number of batches of this epoch that are done.
    """

    epoch: int
    batch: int


Event = EpochBegun | BatchesDone | EpochEnded | Interrupted
Listener = Callable[[Event], None]
