"""The interface of a task: what a model learns, and how well it does it.

The frame (data, backends, the training loop, the commands) knows images, steps and files. A task
knows what is to be learned from them: targets, losses, metrics, the evaluation, the rows of a
prediction. A classification is one task; a plugin may declare others (`cnnforge_tasks`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from cnnforge.data import AugmentedSamples, Dataset, Samples
from cnnforge.errors import UnknownNameError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.metric import LOSS, Evaluation, Metric
from cnnforge.tasks.rows import Row, ValueRow, csv_table

if TYPE_CHECKING:
    # A plugin's manifest may import this module, and every command imports manifests.
    import keras


class Evaluator(Protocol):
    """Takes a model's outputs batch by batch, and gives an evaluation in the end."""

    def add(self, outputs: Any) -> None:
        """Take the outputs of the next samples.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.
        """
        ...

    def result(self) -> Evaluation:
        """Return the evaluation of all samples; it does not depend on how they were cut."""
        ...


class Task:
    """What a model learns; a base class.

    Attributes:
        options: Options of `cnnforge train` that this task takes, for instance
            `("label_smoothing",)`; class attribute.
        metrics: The metrics, `LOSS` among them, in the order of the columns.
        monitor: Name of the metric that decides which epoch is the best one, unless the user
            names another. Of two epochs with the same value, the one of lower loss is better.
        columns: Columns that the table of a prediction has in any case.
    """

    options: ClassVar[tuple[str, ...]] = ()
    metrics: tuple[Metric, ...] = (LOSS,)
    monitor: str = LOSS.name
    columns: tuple[str, ...] = ()

    # How a task is made.

    @classmethod
    def for_dataset(cls, dataset: Dataset, options: Mapping[str, Any]) -> Self:
        """Make the task of training on a dataset.

        Args:
            dataset: The data.
            options: Those of `options` that the user gave, by name.

        Raises:
            DataError: The samples have no targets of this task.
        """
        return cls()

    @classmethod
    def for_run(cls, run: RunDirectory) -> Self:
        """Make the task of predicting with the model of a run: read what `write` wrote.

        Raises:
            RunError: A file is missing or damaged.
        """
        return cls()

    @classmethod
    def example(cls) -> Self:
        """Make a small task that the conformance kit checks models with."""
        return cls()

    def write(self, run: RunDirectory) -> None:
        """Write to a run what a prediction needs to know, before the first epoch."""

    # The model.

    @property
    def output_size(self) -> int:
        """Second argument of a model's `build`, for instance the number of classes."""
        raise NotImplementedError

    def check_model(self, model: keras.Model) -> None:
        """Check that the outputs of a model are those that the task needs.

        Raises:
            ValueError: They are not; the message says what they are and what is expected.
        """

    def check_outputs(self, outputs: Any) -> None:
        """Check the values that a model computes; for the conformance kit.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.

        Raises:
            ValueError: They have no meaning for this task.
        """

    # Training.

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return what the model should learn for some samples.

        Args:
            samples: Samples of the dataset.
            indices: (n,) int64.

        Returns:
            Arrays (n, ...) by name. Shape (but for n) and dtype are the same in every call.
        """
        raise NotImplementedError

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Move targets as an augmentation has moved the pixels.

        Args:
            targets: As `targets` returned them.
            transforms: (n, 2, 3) float32, from a point of the stored image to the same point of
                the augmented one; `cnnforge.data.transforms` defines the coordinates.

        Returns:
            The targets of the augmented images. By default they are the same.
        """
        return targets

    def read(
        self, samples: Samples, indices: np.ndarray
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Read images and targets for training, augmented if the samples are.

        Args:
            samples: Samples of one epoch.
            indices: (n,) int64.

        Returns:
            (n, H, W, C) uint8, and the targets.
        """
        if not isinstance(samples, AugmentedSamples):
            return samples.fetch(indices), self.targets(samples, indices)
        images, transforms = samples.augmented(indices)
        targets = self.targets(samples.samples, indices)
        return images, targets if transforms is None else self.transformed(targets, transforms)

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        """Compute the loss of every sample of a batch with `keras.ops`, differentiably.

        Args:
            targets: Tensors (n, ...) by name.
            outputs: Tensors (n, ...) in the structure of the model's outputs.

        Returns:
            (n,) float32. A step minimizes their mean plus what regularizers add.
        """
        raise NotImplementedError

    def sums(self, targets: Mapping[str, Any], outputs: Any) -> Mapping[str, Any]:
        """Compute with `keras.ops` what is summed over the training samples of an epoch.

        Args:
            targets: Tensors (n, ...) by name.
            outputs: Tensors (n, ...) in the structure of the model's outputs.

        Returns:
            Scalars by name: one for each `Metric.sum` but that of the loss.
        """
        return {}

    # Evaluation.

    def measure(self, targets: Mapping[str, np.ndarray], outputs: Any) -> Mapping[str, np.ndarray]:
        """Compute the metrics of each of some samples with NumPy; `evaluator` takes their means.

        Args:
            targets: Arrays (n, ...) by name.
            outputs: Arrays (n, ...) in the structure of the model's outputs.

        Returns:
            (n,) float64 for each metric.
        """
        raise NotImplementedError

    def evaluator(self, dataset: Dataset, samples: Samples, indices: np.ndarray) -> Evaluator:
        """Begin to evaluate a model on samples of a dataset, which may be another than its own.

        Args:
            dataset: The dataset.
            samples: Some of its samples.
            indices: (N,) int64, which of them; their outputs are added in this order.

        Raises:
            UsageError: The model cannot know the targets of these samples.
        """
        return _MeanEvaluator(self, samples, indices)

    def report(self, run: RunDirectory, evaluation: Evaluation) -> None:
        """Write tables and figures of an evaluation to a run; `evaluation.json` is there already.

        Args:
            run: The run.
            evaluation: What an evaluator of this task returned.
        """

    def table(self, evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
        """Return what `cnnforge evaluate` shows below the metrics: headings and rows.

        Args:
            evaluation: What an evaluator of this task returned.
        """
        return [], []

    # Prediction.

    def truth(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray
    ) -> Sequence[Any] | None:
        """Return what is true of some samples, for the rows of a prediction.

        Args:
            dataset: The dataset.
            samples: Some of its samples.
            indices: (n,) int64, which of them.

        Returns:
            n values, or `None` if it is not known.
        """
        return None

    def rows(
        self, outputs: Any, names: Sequence[str], truth: Sequence[Any] | None, top_k: int
    ) -> Sequence[Row]:
        """Say what a model predicts for some samples.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.
            names: n texts: where each sample came from.
            truth: What `truth` returned.
            top_k: Number of answers that a row may name, if the task ranks them.

        Returns:
            n rows.
        """
        raise NotImplementedError

    def unread_row(self, name: str, reason: str) -> Row:
        """Return the row of an image that could not be read.

        Args:
            name: Where it should have come from.
            reason: One line.
        """
        return ValueRow(name, error=reason)

    def csv_table(self, rows: Sequence[Row]) -> str:
        """Write rows as CSV: `file`, the columns of the task, `error` if a row has one."""
        return csv_table(rows, self.columns)

    def summary(self, rows: Sequence[Row]) -> str:
        """Return a sentence about all rows for the user; empty if there is nothing to say."""
        return ""

    def submission(self, rows: Sequence[Row]) -> str:
        """Write rows in the form that a competition takes.

        Raises:
            UsageError: The task has no such form.
        """
        raise UsageError(
            "--submission is for a classification, and the model of this run does something "
            "else: write its table with --output FILE"
        )

    # What follows from the above.

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of what is summed over the training samples, the loss included."""
        return tuple(metric.sum for metric in self.metrics if metric.sum is not None)

    def training_metrics(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """Return the metrics of training as means over `count` samples, by name."""
        return {it.name: sums[it.sum] / count for it in self.metrics if it.sum is not None}

    def monitored(self, name: str | None = None) -> Metric:
        """Return the metric that decides which epoch is the best one.

        Args:
            name: Name of the metric; `None`: the task's own choice.

        Raises:
            UnknownNameError: The task has no such metric.
        """
        known = {metric.name: metric for metric in self.metrics}
        wanted = self.monitor if name is None else name
        if wanted in known:
            return known[wanted]
        close = difflib.get_close_matches(wanted, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UnknownNameError(f"there is no metric named {wanted!r} to monitor; {hint}")


class _MeanEvaluator:
    """Takes the mean of every metric over the samples."""

    def __init__(self, task: Task, samples: Samples, indices: np.ndarray) -> None:
        self._task, self._samples, self._indices = task, samples, indices
        self._done = 0
        # Values of single samples: the mean of all is rounded once, however they were cut.
        self._parts: list[Mapping[str, np.ndarray]] = []

    def add(self, outputs: Any) -> None:
        first = outputs
        while isinstance(first, dict | list | tuple):
            first = next(iter(first.values() if isinstance(first, dict) else first))
        count = len(first)
        chosen = self._indices[self._done : self._done + count]
        self._done += count
        self._parts.append(self._task.measure(self._task.targets(self._samples, chosen), outputs))

    def result(self) -> Evaluation:
        names = [metric.name for metric in self._task.metrics]
        columns = {n: np.concatenate([part[n] for part in self._parts]) for n in names}
        means = {name: float(np.mean(column, dtype=np.float64)) for name, column in columns.items()}
        return Evaluation(samples=self._done, metrics=means)
