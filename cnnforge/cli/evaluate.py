"""The command `cnnforge evaluate`: evaluates the model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnforge.cli._common import (
    JsonOption,
    KernelsOption,
    PluginOption,
    TrustModelOption,
    find_run,
    load_plugins,
    print_json,
)
from cnnforge.utils.names import as_argument

# Max number of rows on a terminal; a table of a thousand classes hides the line above it.
_MAX_SHOWN = 40


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Labelled data; images that the run was trained on are left out.  [default: the "
            "data of the run]",
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="validation|test",
            help="The part of the data: what the run was not trained on, or the test part, which "
            "data may have.",
        ),
    ] = "validation",
    kernels: KernelsOption = "auto",
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate the model of a run.

    For a classification: accuracy, and precision, recall and F1 of every class.
    """
    from cnnforge.cli._trained import found_as_dict, open_trained, show_found
    from cnnforge.optimizer_options import one_of

    one_of("part", part, ("validation", "test"))
    if data is not None:
        from cnnforge.data.references import check_local

        # A packed or remote file is reported before anything about the run.
        check_local(data)
    run = find_run(run)
    trained = open_trained(run, kernels, plugin, load_plugins, data)
    from cnnforge.errors import UsageError
    from cnnforge.prediction import open_samples
    from cnnforge.prediction.samples import NoTestPartError

    predictor = trained.predictor
    try:
        inputs = open_samples(
            trained.data.reference if data is None else data,
            image_shape=predictor.image_shape,
            datasets=trained.plugins.datasets,
            trained_on=trained.data,
            part=part,  # pyright: ignore[reportArgumentType]
            tasks=trained.plugins.tasks,
        )
    except UsageError as error:
        if data is not None or isinstance(error, NoTestPartError):
            raise
        raise UsageError(
            f"the data of the run cannot be opened: {error}; if they have moved, name their new "
            "place with --data"
        ) from error
    show_found([inputs])
    result = inputs.evaluate(predictor)
    if json:
        found = found_as_dict(inputs)
        print_json({"run": str(run), "data": inputs.what, "found": found, **result.as_dict()})
        return
    from cnnforge.cli import _render

    task = predictor.task
    # Print the monitored metric first.
    metrics = sorted(task.metrics, key=lambda metric: metric.name != task.monitor)
    values = [f"{metric.title} {metric.text(result.metrics[metric.name])}" for metric in metrics]
    title = f"{inputs.what}: {', '.join(values)}"
    columns, rows = task.table(result)
    if columns:
        shown = rows[:_MAX_SHOWN] if _render.is_terminal() else rows
        _render.table(columns, shown, title=title)
        if len(shown) < len(rows):
            _render.message(
                f"{len(rows) - len(shown)} more rows; all are in the result of --json, or of "
                f"'cnnforge evaluate {as_argument(run)} > table.txt'"
            )
    else:
        typer.echo(title)
    if not _render.is_plain():
        from cnnforge.cli.terminal.tables import show_confusion

        show_confusion(task, result)
