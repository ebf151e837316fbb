"""Read the results of a sweep from its study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from cnnforge.errors import RunError, one_line
from cnnforge.sweeping.space import Value
from cnnforge.sweeping.storage import JOURNAL
from cnnforge.tasks import Metric
from cnnforge.utils.structured_text import MALFORMED

BEST = "best.toml"
"""Name of the file with the configuration of the best trial."""
_STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}
_MIN_FOR_IMPORTANCE = 4
# A dimension is important if the best quarter of the trials has other values than the rest.
_BEST_SHARE = 0.25


@dataclass(frozen=True)
class TrialRow:
    """A trial of a sweep.

    Attributes:
        number: Number of the trial, from 0.
        state: `"done"`, `"pruned"`, `"failed"` or `"unfinished"`.
        value: Best validation value of the metric. That of the last epoch for a pruned trial;
            `None` if no epoch has ended.
        epochs: Number of epochs that were reported.
        values: The value of each dimension, by name.
        run: Name of the run directory; `None` before it is made.
        error: Why the trial failed, or `None`.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    values: dict[str, Value]
    run: str | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        return {
            "trial": self.number,
            "state": self.state,
            "value": self.value,
            "epochs": self.epochs,
            "options": self.values,
            "run": self.run,
            "error": self.error,
        }


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        folder: The folder of the sweep.
        metric: The metric of its trials.
        trials: The trials in their order.
        importance: Share of each dimension, by name, the largest first. It is large if the values
            in the best quarter of the trials differ much from those of all trials (PED-ANOVA).
            Empty if fewer than four trials are done.
        best: The best trial that is done, or `None`.
    """

    folder: Path
    metric: Metric
    trials: Sequence[TrialRow]
    importance: dict[str, float]
    best: TrialRow | None

    @property
    def ranked(self) -> list[TrialRow]:
        """The trials, the best first. Those that are done come before the others."""
        sign = -1 if self.metric.best == "max" else 1
        order = list(_STATES.values())
        return sorted(
            self.trials,
            key=lambda t: (
                order.index(t.state),
                0 if t.value is None else sign * t.value,
                t.number,
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        best = self.best
        return {
            "folder": str(self.folder),
            "metric": self.metric.name,
            "direction": self.metric.best,
            "trials": [each.as_dict() for each in self.trials],
            "importance": self.importance,
            "best": None if best is None else best.as_dict(),
            "config": None if best is None else str(self.folder / BEST),
        }


def result_of(folder: Path, study: Any, metric: Metric) -> SweepResult:
    """Read the trials of a study.

    Args:
        folder: The folder of the sweep.
        study: The study.
        metric: The metric of the trials.
    """
    rows = [
        TrialRow(
            number=each.number,
            state=_STATES[each.state.name],
            value=each.value,
            epochs=max(each.intermediate_values, default=0),
            values=dict(each.params),
            run=each.user_attrs.get("run"),
            error=each.user_attrs.get("error"),
        )
        for each in study.get_trials(deepcopy=False)
    ]
    done = [each for each in rows if each.state == "done"]
    best = (
        next((each for each in done if each.number == study.best_trial.number), None)
        if (done)
        else None
    )
    importance: dict[str, float] = {}
    if len(done) >= _MIN_FOR_IMPORTANCE and len({each.value for each in done}) > 1:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE)
        try:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except MALFORMED as error:
            # For instance a dimension whose end is too large for NumPy.
            raise RunError(
                f"{folder / JOURNAL} cannot be read ({one_line(error)}): restore it, or begin a "
                "new sweep with another --output"
            ) from error
        importance = {name: float(share) for name, share in found.items()}
    return SweepResult(folder, metric, rows, importance, best)
