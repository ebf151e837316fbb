"""The command `cnnforge runs`: lists the runs in a folder."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, print_json
from cnnforge.utils.names import as_argument, printable

if TYPE_CHECKING:
    from cnnforge.runs.listing import RunSummary

# Columns that a narrow terminal leaves out, in this order. The first two are part of the name that
# `train` gives to a run.
_OPTIONAL = ("model", "data", "size", "when")
# Number of columns between two cells of a table.
_GAP = 3


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of run directories.")
    ] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """List the runs in a folder, the newest first.

    Other commands take the newest run as `latest`, or FOLDER/latest.
    """
    from cnnforge.errors import UsageError
    from cnnforge.runs.finding import is_run
    from cnnforge.runs.listing import list_runs

    folder = Path(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        what = f"{folder} is a file" if os.path.exists(folder) else f"there is no folder {folder}"
        raise UsageError(
            f"{what}: 'cnnforge train' makes runs in the folder runs; for another folder, type: "
            "cnnforge runs FOLDER"
        )
    if is_run(folder):
        raise UsageError(
            f"{folder} is a run, not a folder of runs; type: cnnforge runs "
            f"{as_argument(folder.parent)}"
        )
    found = list_runs(folder)
    if json:
        print_json({"folder": str(folder), "runs": [_as_json(run) for run in found]})
        return
    from cnnforge.cli import _render

    if not found:
        _render.message(f"there is no run in {folder}: {_other_folder(folder)}")
        return
    metrics = {run.metric for run in found if run.best is not None}
    common = metrics.pop() if len(metrics) == 1 else ""
    rows = [_cells(run, common) for run in found]
    columns = _fitting(rows, _render.table_width())
    _render.table(columns, [[row[column] for column in columns] for row in rows])
    for run in found:
        if run.reason:
            _render.message(f"{run.path.name}: {run.reason}")


def _other_folder(folder: Path) -> str:
    """Return where runs are, or how to make one, if a folder has none."""
    from cnnforge.runs.finding import DEFAULT_FOLDER, runs_in

    if DEFAULT_FOLDER.is_dir() and runs_in(DEFAULT_FOLDER):
        return f"the folder {DEFAULT_FOLDER} has runs; type: cnnforge runs"
    output = "" if folder == DEFAULT_FOLDER else f" --output {as_argument(folder)}"
    return f"'cnnforge train{output}' makes one"


def _cells(run: RunSummary, common: str) -> dict[str, str]:
    """Return the cells of a run by column. `common` is the metric of all runs; "" if they differ.

    All cells are texts.
    """
    best = "" if run.best is None else f"{run.best:.2%}" if run.percent else f"{run.best:.4f}"
    if best and not common:
        best = f"{run.metric} {best}"
    total = run.total_epochs
    return {
        "run": printable(run.path.name),
        "model": run.model.rpartition("/")[2],
        "data": printable(_short(run.data)),
        "epochs": "" if total is None or run.epochs is None else f"{run.epochs}/{total}",
        (common or "best").replace("_", " "): best,
        "state": run.state,
        "size": _size(run.bytes),
        "when": _when(run.time),
    }


def _fitting(rows: list[dict[str, str]], width: int) -> list[str]:
    """Return the names of the columns that fit into a width, in characters."""
    columns = list(rows[0])
    for name in _OPTIONAL:
        widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
        if sum(widths) + _GAP * (len(widths) - 1) <= width:
            break
        columns.remove(name)
    return columns


def _short(data: str) -> str:
    """Return the last part of the reference of a dataset: `photos` for `images:/home/me/photos`."""
    name, colon, argument = data.partition(":")
    return (PurePath(argument).name or argument) if colon else name.rpartition("/")[2]


def _size(count: int) -> str:
    """Return a number of bytes as a text such as `0.4 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _when(time: float) -> str:
    """Return the time of day for today, and the date for an earlier day."""
    then = datetime.fromtimestamp(time)
    return f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%Y-%m-%d}"


def _as_json(run: RunSummary) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "state": run.state,
        "reason": run.reason or None,
        "model": run.model or None,
        "data": run.data or None,
        "epochs": run.epochs,
        "total_epochs": run.total_epochs,
        "metric": run.metric or None,
        "best": run.best,
        "bytes": run.bytes,
        "time": datetime.fromtimestamp(run.time, UTC).isoformat(timespec="seconds"),
    }
