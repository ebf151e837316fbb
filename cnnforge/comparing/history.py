"""Read how a metric changed in the training of a run, and how much it fluctuated at the end."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from cnnforge.runs import METRICS

_MIN_EPOCHS = 4


def history(run: Path, metric: str) -> list[tuple[float, float]]:
    """Return the epochs of a run and the validation values of a metric.

    Args:
        run: The run directory. The result is empty if its `metrics.csv` is missing or damaged.
        metric: Name of the metric.
    """
    column = f"val_{metric}"
    try:
        with (run / METRICS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []


def fluctuation(run: Path, metric: str) -> float | None:
    """Estimate how much a metric fluctuates from epoch to epoch, apart from its trend.

    A run with another seed ends at another point of such a fluctuation. So this is an estimate of
    the spread over seeds that needs only one run.

    Args:
        run: The run directory.
        metric: Name of the metric.

    Returns:
        The standard deviation in the second half of training, at least the last four epochs;
        `None` for fewer epochs, or if a value is not finite.
    """
    values = np.array([value for _, value in history(run, metric)])
    if len(values) < _MIN_EPOCHS or not np.isfinite(values).all():
        return None
    # The steps between epochs have twice the variance of the values; their mean is the trend.
    steps = np.diff(values[-max(_MIN_EPOCHS, len(values) // 2) :])
    return math.sqrt(float(steps.var(ddof=1)) / 2)
