"""Summarize the runs in a folder from their small files. Nothing here imports Keras."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnforge.configuration import TrainingOptions, check_types
from cnnforge.errors import RunError, UsageError
from cnnforge.runs import CONFIG, EVALUATION, METRICS, MODEL, RunDirectory
from cnnforge.runs.finding import runs_in, time_of

FINISHED = "finished"
INTERRUPTED = "interrupted"
TRAINING = "training now"
NO_EPOCH = "no finished epoch"
DAMAGED = "damaged"
NEWER = "newer format"

_VALIDATION = "val_"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Facts about a run, which `cnnforge runs` shows.

    Attributes:
        path: The run directory.
        state: One of the constants of this module, such as `FINISHED`.
        time: Time when training last wrote the configuration or the metrics, in seconds since 1970.
        bytes: Size of all its files.
        reason: Error message, if the state is `DAMAGED` or `NEWER`; else "".
        model: Qualified name of the model; "" if it is unknown.
        data: Reference of the dataset; "" if it is unknown.
        epochs: Number of finished epochs; `None` if it is unknown.
        total_epochs: Number of epochs that were asked for; `None` if it is unknown.
        metric: Name of the metric that selects the best epoch; "" if it is unknown.
        percent: Whether the metric is shown in percent.
        best: Its validation value in the best epoch; `None` if no epoch has one.
    """

    path: Path
    state: str
    time: float
    bytes: int
    reason: str = ""
    model: str = ""
    data: str = ""
    epochs: int | None = None
    total_epochs: int | None = None
    metric: str = ""
    percent: bool = False
    best: float | None = None


def list_runs(folder: Path) -> list[RunSummary]:
    """Summarize the runs in a folder, the newest first.

    Args:
        folder: An existing folder. Sub-folders that are not runs are left out.

    Returns:
        A summary of each run, also of a damaged one.

    Raises:
        UsageError: The folder cannot be read.
    """
    return [_summarize(path) for path in runs_in(folder)]


def _summarize(path: Path) -> RunSummary:
    facts: dict[str, Any] = {"path": path, "time": time_of(path), "bytes": _bytes(path)}
    try:
        run = RunDirectory.open(path, needs=())
    except UsageError as error:
        return RunSummary(**facts, state=NEWER, reason=str(error))
    except RunError as error:
        return RunSummary(**facts, state=DAMAGED, reason=str(error))
    try:
        stored, table = run.read_config()
        options = TrainingOptions(**check_types(stored, str(path / CONFIG)))
        facts |= {"model": str(table.get("model", options.model)), "data": options.data}
        facts["total_epochs"] = options.epochs
        columns = _validation_metrics(path / METRICS)
        for name in (METRICS, MODEL) if columns or (path / MODEL).exists() else ():
            if not (path / name).is_file():
                raise RunError(f"{path} has no {name}")
        facts["epochs"] = epochs = max(map(len, columns.values()), default=0)
        facts |= _best(options, table, columns)
    except (UsageError, RunError) as error:
        return RunSummary(**facts, state=DAMAGED, reason=str(error))
    return RunSummary(**facts, state=_state(run, epochs, options.epochs))


def _state(run: RunDirectory, epochs: int, total: int) -> str:
    if run.is_claimed:
        return TRAINING
    if not epochs:
        return NO_EPOCH
    evaluation = run.path / EVALUATION
    done = evaluation.is_file() and (epochs >= total or _ended_early(run, epochs, total))
    return FINISHED if done else INTERRUPTED


def _ended_early(run: RunDirectory, epochs: int, total: int) -> bool:
    """Return whether a callback ended a run, which was not resumed for more epochs since then."""
    path = run.path / EVALUATION
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if "finished" in report:
            numbers = report.get("epochs"), report.get("total_epochs")
            return bool(report["finished"]) and numbers == (epochs, total)
        # An older version of cnnforge has written it. It is newer than the other files, because it
        # was written last, unless the clock of the computer was changed.
        return path.stat().st_mtime >= time_of(run.path)
    except (OSError, ValueError, TypeError):
        return False


def _validation_metrics(path: Path) -> dict[str, list[float]]:
    """Read the validation metrics of every epoch from `metrics.csv`, by name."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            name.removeprefix(_VALIDATION): [float(row[name] or "nan") for row in rows]
            for name in (rows[0] if rows else ())
            if name.startswith(_VALIDATION)
        }
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _best(
    options: TrainingOptions, table: dict[str, Any], columns: dict[str, list[float]]
) -> dict[str, Any]:
    """Return the monitored metric with its best value.

    A run of cnnforge before this version does not name the default metric of its task.
    """
    name = str(table.get("monitor", options.monitor or ""))
    name = name or ("accuracy" if "accuracy" in columns else "loss")
    best = min if table.get("monitor_best", "min" if name == "loss" else "max") == "min" else max
    values = [value for value in columns.get(name, ()) if not math.isnan(value)]
    percent = bool(table.get("monitor_percent", name != "loss"))
    return {"metric": name, "percent": percent, "best": best(values) if values else None}


def _bytes(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        # Training may delete a state while its size is read.
        return total
    return total
