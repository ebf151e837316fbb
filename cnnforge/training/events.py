"""What the training loop tells its listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One row of `metrics.csv`.

    Each of its values is an attribute too: `row.val_loss` is `row.values["val_loss"]`.

    Attributes:
        epoch: Number of the epoch, from 1.
        values: Metrics of the task by column: those of training as means over the epoch, each
            batch with the weights it met, and with `val_` before the name those of the validation
            samples.
        learning_rate: Learning rate of the last step.
        seconds: Duration of training and validation together.
        images_per_second: Training images over the time that training took.
    """

    epoch: int
    values: Mapping[str, float]
    learning_rate: float
    seconds: float
    images_per_second: float

    def __getattr__(self, name: str) -> float:
        """Return a value by its column."""
        if name.startswith("_") or name not in self.values:
            raise AttributeError(f"this epoch has no {name!r}; it has {', '.join(self.values)}")
        return self.values[name]

    def as_dict(self) -> dict[str, float]:
        """Return the row by column."""
        return {
            "epoch": self.epoch,
            **self.values,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, float]) -> EpochMetrics:
        """Return the row that `as_dict` was called for."""
        fixed = {it.name: row[it.name] for it in fields(cls) if it.name != "values"}
        values = {name: value for name, value in row.items() if name not in fixed}
        return cls(**fixed, values=values)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """An epoch starts, or goes on after a resume.

    Attributes:
        epoch: From 1.
        epochs: How many the run is going to have.
        batch: How many batches of this epoch were done before.
        batches: How many an epoch has.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int


@dataclass(frozen=True, slots=True)
class BatchesDone:
    """Some batches were trained on.

    Attributes:
        epoch: From 1.
        batch: How many batches of this epoch are done.
        batches: How many an epoch has.
        values: Metrics of training in this epoch so far, by name.
        images_per_second: Of these batches.
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
        metrics: Its row of `metrics.csv`.
        epochs: How many the run is going to have.
        best: Whether it is the best one so far.
    """

    metrics: EpochMetrics
    epochs: int
    best: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The loop was asked to stop and saved its state.

    Attributes:
        epoch: The epoch to go on with, from 1.
        batch: How many batches of it are done.
    """

    epoch: int
    batch: int


Event = EpochBegun | BatchesDone | EpochEnded | Interrupted
Listener = Callable[[Event], None]
