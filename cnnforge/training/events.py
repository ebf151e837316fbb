"""Events of training, such as the end of an epoch. `train` calls its listeners with each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cnnforge.callbacks import EpochMetrics


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
