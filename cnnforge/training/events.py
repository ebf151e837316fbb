"""Events of training, such as the end of an epoch. `train` calls its listeners with each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics of one epoch: one row of `metrics.csv`.

    Each metric is also an attribute: `row.val_loss` is `row.values["val_loss"]`.

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
    """The model was trained on an epoch and validated, and the state was saved.

    Attributes:
        metrics: Metrics of the epoch, which are also its row in `metrics.csv`.
        epochs: Total number of epochs of the run.
        best: Whether this epoch is the best one so far.
    """

    metrics: EpochMetrics
    epochs: int
    best: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Training was asked to stop, and its state was saved.

    Attributes:
        epoch: Number of the epoch in which a resumed run continues, from 1.
        batch: Number of batches of this epoch that are done.
    """

    epoch: int
    batch: int


@dataclass(frozen=True, slots=True)
class FeaturesKept:
    """The features of all images were computed with the frozen backbone, and are kept.

    Attributes:
        images: Number of images for training and validation.
        seconds: Time that it took, in seconds.
        bytes: Size of the features.
        on_disk: Whether they are kept in a file and not in memory.
    """

    images: int
    seconds: float
    bytes: int
    on_disk: bool


Event = EpochBegun | BatchesDone | EpochEnded | Interrupted | FeaturesKept
Listener = Callable[[Event], None]
