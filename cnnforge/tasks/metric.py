"""Metrics: what they are called, what their values are, and which of two epochs is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        name: Column of `metrics.csv`; the value of the validation samples has `val_` before it.
        title: Name in a sentence or above a figure, for instance `"macro F1"`.
        short: Name in a line of 60 columns, for instance `"F1"`.
        best: Whether the best value is the largest or the smallest one.
        percent: Whether the value is a share, 0 to 1, that is shown in percent.
        sum: Name of the sum whose mean over the training samples is this metric in training;
            `None`: it is measured on the validation samples only.
    """

    name: str
    title: str
    short: str
    best: Literal["max", "min"] = "max"
    percent: bool = False
    sum: str | None = None

    def text(self, value: float) -> str:
        """Return a value as it is shown: `"92.80%"`, `"0.2357"`."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"


LOSS = Metric("loss", "loss", "loss", "min", sum="loss")
"""The loss, which every task has: the mean of `Task.losses` in training, with regularizers."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The quality of a model on some samples.

    Attributes:
        samples: Number of samples, at least 1.
        metrics: Value of every metric of the task, by name.
    """

    samples: int
    metrics: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain values, ready for JSON."""
        return {"samples": self.samples, **self.metrics}


def is_better(metric: Metric, new: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Compare two epochs by a metric, and by the loss if it is the same.

    Args:
        metric: The metric that decides.
        new: Values of the new epoch, by name of the metric.
        best: Values of the best epoch so far; `None`: there was none.
    """

    def rank(values: Mapping[str, float]) -> tuple[float, float]:
        value = values[metric.name]
        return (value if metric.best == "max" else -value), -values[LOSS.name]

    return best is None or rank(new) > rank(best)
