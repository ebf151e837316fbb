"""Evaluators compute the metrics of a task. They get the outputs of a model batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cnnforge.data import Samples
from cnnforge.tasks.metric import Evaluation, Metric
from cnnforge.utils.structures import flatten


class Evaluator(Protocol):
    """Computes an evaluation. It gets the outputs of the model batch by batch."""

    def add(self, outputs: Any) -> None:
        """Add the outputs of the next samples.

        Args:
            outputs: (n, ...) arrays in the structure of the model's outputs.
        """
        ...

    def result(self) -> Evaluation:
        """Return the evaluation of all samples. It must not depend on the batch sizes."""
        ...


class Measuring(Protocol):
    """The functions of a task that `MeanEvaluator` calls."""

    metrics: tuple[Metric, ...]

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the targets of samples, as `cnnforge.tasks.Task.targets`."""
        ...

    def measure(self, targets: Mapping[str, np.ndarray], outputs: Any) -> Mapping[str, np.ndarray]:
        """Compute the metrics of each sample, as `cnnforge.tasks.Task.measure`."""
        ...


class MeanEvaluator:
    """Averages every metric over the samples."""

    def __init__(self, task: Measuring, samples: Samples, indices: np.ndarray) -> None:
        self._task, self._samples, self._indices = task, samples, indices
        self._done = 0
        # Keep one value per sample, and average at the end. A mean of the means of batches would
        # depend on the batch sizes.
        self._parts: list[Mapping[str, np.ndarray]] = []

    def add(self, outputs: Any) -> None:
        """Add the outputs of the next samples."""
        count = len(flatten(outputs)[0])
        chosen = self._indices[self._done : self._done + count]
        self._done += count
        self._parts.append(self._task.measure(self._task.targets(self._samples, chosen), outputs))

    def result(self) -> Evaluation:
        """Return the mean of every metric."""
        names = [metric.name for metric in self._task.metrics]
        columns = {n: np.concatenate([part[n] for part in self._parts]) for n in names}
        means = {name: float(np.mean(column, dtype=np.float64)) for name, column in columns.items()}
        return Evaluation(samples=self._done, metrics=means)
