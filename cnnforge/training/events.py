"""What the training loop tells its listeners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One row of `metrics.csv`.

    Attributes:
        epoch: From 1.
        loss: Mean training loss over the epoch, each batch with the weights it met.
        accuracy: Training accuracy measured the same way, 0 to 1.
        val_loss: Mean cross-entropy on the validation samples, in nats.
        val_accuracy: Accuracy on the validation samples, 0 to 1.
        learning_rate: Of the last step.
        seconds: Duration of training and validation together.
        images_per_second: Training images over the time that training took.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


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
        loss: Mean loss of this epoch so far.
        accuracy: Accuracy of this epoch so far.
        images_per_second: Of these batches.
    """

    epoch: int
    batch: int
    batches: int
    loss: float
    accuracy: float
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
