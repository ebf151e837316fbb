"""The command `cnnforge sweep`: tries options of a training, and finds the best."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    TrustModelOption,
    load_plugins,
    print_json,
)
from cnnforge.cli.workers.options import (
    AddressOption,
    StartupTimeoutOption,
    WorkersOption,
    check_workers,
)
from cnnforge.utils.names import as_argument

if TYPE_CHECKING:
    from cnnforge.plugin_host.discovery import Plugins
    from cnnforge.sweeping.results import SweepResult
    from cnnforge.sweeping.space import Dimension
    from cnnforge.sweeping.trials import Executor, Sweep
    from cnnforge.tasks import Metric

_MAX_SHOWN = 20
_MIN_FOR_IMPORTANCE = 30


def sweep(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[:ARG]",
            help="Name of the model.  [default: chosen by the size of the images]",
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.toml|KEY=VALUES",
            help="An option of train and its values: learning_rate=1e-4..1e-2 for a range, "
            "optimizer=adam,sgd for choices; repeatable.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="The data, as for train.  [default: mnist5k]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Epochs of a trial.  [default: 20]")
    ] = None,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of trials of the sweep.")
    ] = 20,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop this long after the start of the command, such as 30m or 8h; the same "
            "command continues.",
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=64, help="Number of trials at a time.  [default: 1]"),
    ] = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    startup_timeout: StartupTimeoutOption = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune/--no-prune",
            help="End a trial early if it is worse than the median of the others.",
        ),
    ] = True,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Random seed of the sweep and its runs.  [default: 0]"),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="auto|numba|keras", help="Implementation of the layers.  [default: auto]"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options of train that are not in the space."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the sweep and its run directories.")
    ] = Path("runs/sweep"),
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Try options of a training, and find the best of them.

    Each trial is an ordinary run. Type the same command again to continue a sweep that was stopped
    or killed. The configuration of the best trial is written to best.toml, for train --config.
    """
    from cnnforge.configuration import check_types, parse_time, read_config
    from cnnforge.errors import UsageError
    from cnnforge.sweeping.space import read_space
    from cnnforge.sweeping.storage import check_optuna, claimed, open_study

    check_optuna()
    where = check_workers(workers, address, startup_timeout)
    if workers is not None and parallel is not None:
        raise UsageError(
            "--parallel runs trials on this machine, and --workers with Ray: leave out one of them"
        )
    deadline = None if time_limit is None else time.monotonic() + parse_time(time_limit)
    dimensions = read_space(space or [])
    written = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "seed": seed,
        "kernels": kernels,
        "plugin": tuple(plugin) if plugin else None,
    }
    given = check_types({k: v for k, v in written.items() if v is not None}, "command line")
    configured = read_config(Path(os.path.expanduser(config))) if config else {}
    base = {**configured, **given}
    _check_free(base, dimensions)
    base.pop("output", None)
    folder = output.expanduser()
    plugins = load_plugins(base.get("plugin", ()))
    options = _check(base, dimensions, plugins)
    metric = _metric(options.data, options.monitor, plugins)
    # The validation samples of all trials are the same, whatever their seeds.
    base["split_seed"] = options.split_seed
    from cnnforge.cli import _ctrl_c, _render

    for each in dimensions:
        _render.message(f"space: {each.describe()}")
    again = f"type the same command again to continue the sweep in {folder}"
    _ctrl_c.set_message(f"interrupted; {again}")
    with claimed(folder) as lock:
        description = {
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in base.items()},
            "space": {each.name: each.text for each in dimensions},
            "metric": metric.name,
            "direction": "maximize" if metric.best == "max" else "minimize",
            "prune": prune,
        }
        study, storage = open_study(folder, description, _render.message)
        from cnnforge.sweeping.files import write_results
        from cnnforge.sweeping.results import result_of
        from cnnforge.sweeping.trials import Sweep

        run = Sweep(
            folder=folder,
            space=dimensions,
            options=base,
            study=study,
            storage=storage,
            metric=metric.name,
            shown=metric.text,
            seed=options.seed,
            prune=prune,
            tell=_render.message,
        )
        needed = (folder, options.data, base.get("init_from"), base.get("weights"), *(plugin or ()))
        executor = (
            _processes(folder, lock, parallel or 1, trust_model)
            if workers is None
            else _workers(folder, workers, where, needed, trust_model)
        )
        code = _run(run, executor, trials, deadline, again)
        result = result_of(folder, study, metric)
        write_results(result, dimensions)
    with _render.optional(f"everything is saved in {folder}"):
        if json:
            print_json(result.as_dict())
        else:
            _show(result)
    if code:
        raise typer.Exit(code)


def _arguments(trust_model: bool) -> list[str]:
    """Return the arguments of Python that start a process for trials."""
    return ["-P", "-m", "cnnforge.cli.sweep.worker", *(["--trust-model"] if trust_model else [])]


def _processes(folder: Path, lock: int | None, parallel: int, trust_model: bool) -> Executor:
    """Return what runs the trials in processes of this machine."""
    from cnnforge.sweeping.local import LocalProcesses
    from cnnforge.sweeping.processes import Process
    from cnnforge.utils.processors import usable_processors

    threads = max(1, usable_processors() // parallel) if parallel > 1 else None
    start = functools.partial(Process, _arguments(trust_model), folder, lock, threads)
    return LocalProcesses(start, parallel)


def _workers(
    folder: Path,
    workers: int,
    where: tuple[str, float],
    needed: Sequence[str | Path | None],
    trust_model: bool,
) -> Executor:
    """Return what runs the trials in workers of Ray."""
    from cnnforge.distributed.machines import Place
    from cnnforge.distributed.ray_tune import RayTune
    from cnnforge.sweeping.processes import Process
    from cnnforge.sweeping.trials import MAX_DEATHS

    return RayTune(
        # The lock of the folder cannot be inherited on another machine.
        start=functools.partial(Process, _arguments(trust_model), folder, None),
        folder=folder,
        place=Place.here(*needed),
        workers=workers,
        address=where[0],
        startup_timeout=where[1],
        max_deaths=MAX_DEATHS,
    )


def _run(run: Sweep, executor: Executor, trials: int, deadline: float | None, again: str) -> int:
    """Run the trials, and return the exit code: 0, or 128 plus the number of a signal."""
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.errors import RunError
    from cnnforge.utils.stop_signals import StopOnSignal

    def should_stop() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    with _ctrl_c.saving(), StopOnSignal() as stop:
        try:
            ended = run.run(executor, trials, should_stop)
        except OSError as error:
            # Optuna could not write its journal.
            raise RunError(
                f"the journal of the sweep could not be written: {error.strerror or error}; make "
                f"room; {again}"
            ) from error
    if stop():
        _render.message(f"interrupted by {stop.name}; the states are saved; {again}")
        return stop.exit_code
    if not ended:
        _render.message(f"the time limit is reached; the states are saved; {again}")
    return 0


def _check_free(base: Mapping[str, Any], space: Sequence[Dimension]) -> None:
    from cnnforge.errors import UsageError

    for each in space:
        if each.name in base:
            raise UsageError(
                f"{each.name} has the value {base[each.name]} and is in the space: leave out one of"
                " them"
            )


def _check(base: Mapping[str, Any], space: Sequence[Dimension], plugins: Plugins) -> Any:
    """Check the options and the space. Return the options without those of the space."""
    from cnnforge.cli._train_options import resolve_for_model
    from cnnforge.data.references import find_dataset
    from cnnforge.sweeping.space import check_space

    check_space(space, lambda values: resolve_for_model({**base, **values}, {}, plugins))
    # An end of a range is only checked with others, so the base may lack a value that it needs.
    first = {each.name: each.option(each.extremes[0]) for each in space}
    try:
        options, _ = resolve_for_model(base, {}, plugins)
    except Exception:
        options, _ = resolve_for_model({**base, **first}, {}, plugins)
    find_dataset(options.data, plugins.datasets)
    return options


def _metric(data: str, monitor: str | None, plugins: Plugins) -> Metric:
    from cnnforge.data.references import find_dataset
    from cnnforge.tasks import load_task

    spec, _ = find_dataset(data, plugins.datasets)
    return load_task(plugins.tasks[spec.task]).example().monitored(monitor)


def _show(result: SweepResult) -> None:
    from cnnforge.cli import _render
    from cnnforge.sweeping.files import FIGURE, TABLE
    from cnnforge.sweeping.results import BEST
    from cnnforge.sweeping.trials import shown_value

    names = list(result.trials[0].values) if result.trials else []
    ranked = result.ranked
    shown = ranked[:_MAX_SHOWN] if _render.is_terminal() else ranked
    rows = [
        [
            each.number,
            "" if each.value is None else result.metric.text(each.value),
            each.state,
            each.epochs,
            *(shown_value(each.values.get(name)) for name in names),
            each.run or "",
        ]
        for each in shown
    ]
    heading = ["trial", result.metric.short, "state", "epochs", *names, "run"]
    _render.table(heading, rows)
    if len(shown) < len(ranked):
        _render.message(f"{len(ranked) - len(shown)} more trials: {result.folder / TABLE}")
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        done = sum(each.state == "done" for each in result.trials)
        rough = f" (rough, from {done} trials)" if done < _MIN_FOR_IMPORTANCE else ""
        typer.echo(f"importance: {shares}{rough}")
    if result.best is not None:
        typer.echo(f"figure: {result.folder / FIGURE}")
        typer.echo(f"best configuration: {result.folder / BEST}")
        best = result.folder / BEST
        _render.message(f"to train with it, type: cnnforge train --config {as_argument(best)}")
