"""Write the results of a sweep: a table, a figure, and the best configuration."""

from __future__ import annotations

from collections.abc import Sequence

from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory, to_csv, to_toml
from cnnforge.runs.finding import is_run
from cnnforge.sweeping.figure import draw
from cnnforge.sweeping.results import BEST, SweepResult
from cnnforge.sweeping.space import Dimension
from cnnforge.utils.atomic_files import atomic_path, write_text

TABLE, FIGURE = "trials.csv", "sweep.png"


def write_results(result: SweepResult, space: Sequence[Dimension]) -> None:
    """Write `trials.csv`, `best.toml` and `sweep.png` into the folder of a sweep.

    Args:
        result: The result.
        space: The dimensions.

    Raises:
        RunError: A file could not be written, or the configuration of the best run cannot be read.
    """
    names = [each.name for each in space]
    header = ["trial", "state", result.metric.name, "epochs", *names, "run", "error"]
    rows = [
        [
            each.number,
            each.state,
            "" if each.value is None else f"{each.value:.7g}",
            each.epochs,
            *("" if each.values.get(name) is None else each.values[name] for name in names),
            each.run or "",
            each.error or "",
        ]
        for each in result.trials
    ]
    try:
        write_text(result.folder / TABLE, to_csv(header, rows))
        if result.best is not None and result.best.run is not None:
            _write_best(result)
        if any(each.value is not None for each in result.trials):
            with atomic_path(result.folder / FIGURE) as path:
                draw(path, result, space)
    except OSError as error:
        raise RunError(
            f"the results could not be written to {result.folder}: {error.strerror or error}; free "
            "space, and type the command again"
        ) from error


def _write_best(result: SweepResult) -> None:
    best, metric = result.best, result.metric
    assert best is not None
    run = result.folder / str(best.run)
    if not is_run(run):
        # The user has deleted it.
        return
    options, _ = RunDirectory(run).read_config()
    options.pop("output", None)
    value = metric.text(best.value or 0.0)
    write_text(
        result.folder / BEST,
        f"# The best of {len(result.trials)} trials: trial {best.number}, validation "
        f"{metric.title} {value}.\n# To train with it: cnnforge train --config {BEST}\n"
        + to_toml(options),
    )
