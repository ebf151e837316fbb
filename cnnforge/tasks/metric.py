"""Metrics, evaluations, and the comparison of two epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Other columns of `metrics.csv`, and other values of a training state and of an evaluation.
RESERVED_NAMES = ("epoch", "learning_rate", "seconds", "images_per_second", "samples")
VALIDATION_PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of the quality of a model.

    A task with two metrics of one name, or with a name or sum that is reserved, is refused.
    Reserved are `epoch`, `learning_rate`, `seconds`, `images_per_second`, `samples`, and names that
    begin with `val_`.

    Attributes:
        name: Column of `metrics.csv`; the column of the validation value has the prefix `val_`.
        title: Name in a sentence or above a figure, for instance `"macro F1"`.
        short: Name in a narrow table, for instance `"F1"`.
        best: `"max"` if a higher value is better, `"min"` if a lower one is.
        percent: Whether the value is a fraction, 0 to 1, that is shown in percent.
        sum: Name of a sum over the training samples, see `Task.sums`. The training value is this
            sum divided by the number of samples. `None`: the metric is computed for the validation
            samples only.
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
    """The metrics of a model, computed on some samples.

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
    """Return whether a new epoch is better by a metric; if its values are equal, by the loss.

    NaN is worse than every number.

    Args:
        metric: The monitored metric.
        new: Validation metrics of the new epoch, by name.
        best: Validation metrics of the best epoch so far; `None` for the first epoch.
    """

    def rank(values: Mapping[str, float]) -> tuple[float, float]:
        value = values[metric.name] * (1 if metric.best == "max" else -1)
        # NaN is neither above nor below a number, so the epoch would remain the best one.
        return (-math.inf if math.isnan(value) else value), -values[LOSS.name]

    return best is None or rank(new) > rank(best)
