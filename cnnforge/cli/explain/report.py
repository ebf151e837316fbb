"""The command `cnnforge report`: writes the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnforge.cli._common import JsonOption, PluginOption, find_run, load_plugins, print_json


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Write the report of a run again: report.html in the run directory.

    train writes it when training ends. It is one web page that loads nothing from elsewhere: the
    result, curves, errors with pictures, calibration, kernels, configuration and data.
    """
    run = find_run(run)
    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.prediction.opening import plugin_names
    from cnnforge.runs import CONFIG, RunDirectory

    directory = RunDirectory.open(run, needs=(CONFIG,))
    stored, _ = directory.read_config()
    options = TrainingOptions(**check_types(stored, str(directory.path / CONFIG)))
    plugins = load_plugins(plugin_names(run, options.plugin, plugin or ()))
    from cnnforge.reports.run_page import write_report
    from cnnforge.tasks import open_task

    path = write_report(directory, open_task(directory, plugins.tasks))
    if json:
        print_json({"run": str(run), "report": str(path)})
    else:
        typer.echo(path)
