"""Train one run, or several that differ in their seeds, and print the results."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli._common import load_plugins, print_json
from cnnforge.cli._training import as_dict, prepare, show_result, train_and_report

if TYPE_CHECKING:
    from cnnforge.configuration import TrainingOptions
    from cnnforge.distributed.joining import Joining

_CHOSEN = ("model", "weights", "freeze_epochs", "backbone_rate")
_GO_ON = "type the same command again to go on with all runs"


def run_once(
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    resume: Path | None,
    deadline: float | None,
    json: bool,
    joining: Joining,
) -> None:
    """Train one run, and print its result.

    Args:
        given: Options from the command line, by name.
        configured: Options from a config file, by name.
        epochs: Value of `--epochs`, or `None`.
        resume: The run to continue; `None`: a new run.
        deadline: Value of `time.monotonic()` at which training stops; `None`: no limit.
        json: Whether to print JSON.
        joining: The devices, and the other workers. Only the first worker prints.
    """
    from cnnforge.cli import _render

    _render.speak_as(joining.rank)
    with ExitStack() as claims:
        session = prepare(given, configured, epochs, resume, claims, joining)
        evaluation = train_and_report(session, deadline, json=json)
        if not session.workers.is_first:
            return
        # The run is saved, so a stdout that cannot be written is not an error.
        with _render.optional(f"everything is saved in the run directory {session.run.path}"):
            if json:
                print_json(as_dict(session, evaluation))
            elif evaluation is not None:
                show_result(session, evaluation)


def run_repeatedly(
    count: int,
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    deadline: float | None,
    json: bool,
) -> None:
    """Train runs with successive seeds on one split, and print mean and spread of the metric.

    Runs that an earlier call of the same command has made are continued, or used as they are.

    Args:
        count: Number of runs.
        given: Options from the command line, by name.
        configured: Options from a config file, by name.
        epochs: Value of `--epochs`, or `None`.
        deadline: Value of `time.monotonic()` at which training stops; `None`: no limit.
        json: Whether to print JSON.
    """
    from cnnforge.cli import _render
    from cnnforge.cli._train_options import resolve_for_model
    from cnnforge.configuration import parse_epochs
    from cnnforge.errors import UsageError

    if epochs is not None:
        given["epochs"] = parse_epochs(epochs)
    first, _ = resolve_for_model(given, configured)
    every = [
        {**given, "seed": first.seed + number, "split_seed": first.split_seed}
        for number in range(count)
    ]
    # The last seed may be too large. This is reported before the first run.
    _ = [resolve_for_model(each, configured) for each in every]
    results, values, metric = [], [], None
    for number, each in enumerate(every):
        options, _ = resolve_for_model(each, configured)
        earlier = _earlier_run(options)
        _render.message(
            f"run {number + 1} of {count}: seed {options.seed}"
            + (f", which {earlier} has" if earlier else "")
        )
        with ExitStack() as claims:
            session = None
            if earlier is not None:
                try:
                    session = prepare({"plugin": options.plugin}, {}, None, earlier, claims)
                except UsageError as error:
                    # For instance the data have changed.
                    _render.message(f"note: a new run takes the place of {earlier}: {error}")
            if session is None:
                session = prepare(each, configured, None, None, claims)
            try:
                evaluation = train_and_report(session, deadline, json=json)
            except typer.Exit:
                _render.message(_GO_ON)
                raise
        results.append(as_dict(session, evaluation))
        if not session.finished or evaluation is None:
            _render.message(_GO_ON)
            break
        metric = session.task.monitored(session.options.monitor)
        test = session.test.metrics[metric.name] if session.test else None
        path = str(session.run.path)
        values.append((options.seed, path, evaluation.metrics[metric.name], test))
    parts = {"validation": [each[2] for each in values]}
    if values and values[0][3] is not None:
        parts["test"] = [each[3] for each in values]
    spread = {name: _mean_and_spread(found) for name, found in parts.items() if found}
    if json:
        name = None if metric is None else metric.name
        print_json({"metric": name, "runs": results, **spread})
        return
    if metric is None:
        return
    rows: list[list[object]] = [
        [
            str(seed),
            *(metric.text(value) for value in found if value is not None),
            path,
        ]
        for seed, path, *found in values
    ]
    for label in ("mean", "std"):
        cells = [each[label] for each in spread.values()]
        texts = [metric.text(cell) for cell in cells if cell is not None]
        rows += [[label, *texts, None]] if texts else []
    _render.table(["seed", *(f"{name} {metric.short}" for name in spread), "run"], rows)


def _mean_and_spread(values: list[float]) -> dict[str, float | None]:
    """Return the mean and the standard deviation of a sample, which is `None` for one value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread}


def _earlier_run(options: TrainingOptions) -> Path | None:
    """Find the newest run in the output folder that has the same options; `None` if none has."""
    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.data.references import absolute_reference
    from cnnforge.errors import CnnforgeError
    from cnnforge.runs import RunDirectory
    from cnnforge.runs.finding import runs_in

    # `start` writes the absolute place of the data into the config.
    data = absolute_reference(options.data, load_plugins(options.plugin).datasets)
    wanted = {**options.as_dict(), "data": data}
    folder = Path(options.output)
    for path in runs_in(folder) if folder.is_dir() else ():
        try:
            stored, table = RunDirectory.open(path, needs=()).read_config()
            found = TrainingOptions(**check_types(stored, str(path))).as_dict()
        except CnnforgeError:
            continue
        # `start` chooses the values of these options if the user does not give them.
        chosen = {name for name in _CHOSEN if wanted[name] is None}
        if ("model" in chosen) != bool(table.get("model_chosen")):
            continue
        free = chosen | {"output", "tensorboard", "cache", "thumbnails", "log"}
        if {name for name in wanted if wanted[name] != found[name]} <= free:
            return path
    return None
