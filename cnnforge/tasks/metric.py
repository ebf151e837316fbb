"""Describe the metrics of a task, hold their values, and find out whether an epoch is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Columns of `metrics.csv`, and values in files, that are not metrics. A metric must not have one of
# these names.
RESERVED_NAMES = ("epoch", "learning_rate", "seconds", "images_per_second", "waiting", "samples")
VALIDATION_PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of the quality of a model, such as the accuracy.

    All metrics of a task must have different names. The names of metrics and sums must not be
    `epoch`, `learning_rate`, `seconds`, `images_per_second`, `waiting` or `samples`, and must not
    begin with `val_`. A task that breaks these rules raises a `PluginError`.

    Attributes:
        name: Name, which is also the column of the training value in `metrics.csv`. The column of
            the validation value has the prefix `val_`.
        title: Name in a sentence or above a figure, for instance `"macro F1"`.
        short: Name in a narrow table, for instance `"F1"`.
        best: `"max"` if a higher value is better, `"min"` if a lower one is.
        percent: Whether the value is a fraction, 0 to 1, that is shown in percent.
        sum: Name of a sum over the training samples that `Task.sums` computes. The training value
            is this sum divided by the number of samples. `None`: the metric has only a validation
            value.
    """

    name: str
    title: str
    short: str
    best: Literal["max", "min"] = "max"
    percent: bool = False
    sum: str | None = None

    def text(self, value: float) -> str:
        """Format a value, for instance as `"92.80%"` or `"0.2357"`."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"


LOSS = Metric("loss", "loss", "loss", "min", sum="loss")
"""The loss, a metric of every task. In training it is the mean of `Task.losses` plus the
regularization losses."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The values of the metrics of a model, computed on some samples.

    Attributes:
        samples: Number of samples, at least 1.
        metrics: Value of every metric of the task, by name.
    """

    samples: int
    metrics: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values, ready for JSON."""
        return {"samples": self.samples, **self.metrics}


def is_better(metric: Metric, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Return whether a new epoch is better than the best epoch so far.

    The epochs are compared by a metric and, if its values are equal, by the validation loss. NaN is
    worse than every number.

    Args:
        metric: The monitored metric.
        new: Validation metrics of the new epoch, by name.
        best: Validation metrics of the best epoch so far; `None` for the first epoch.
    """

    def rank(values: Mapping[str, float]) -> tuple[float, float]:
        value = values[metric.name] * (1 if metric.best == "max" else -1)
        # A comparison with NaN is always false, so a first epoch with NaN would remain the best one
        # forever. Replace NaN by the lowest value.
        return (-math.inf if math.isnan(value) else value), -values[LOSS.name]

    return best is None or rank(new) > rank(best)
