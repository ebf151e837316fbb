"""Train one model with several workers of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

# These options say where the workers are. The commands of the workers do not have them.
_OWN = ("--workers", "--address")
# Options of the first command that hold for the ones that continue its run.
_FLAGS = ("--json", "--trust-model")
_KEPT = ("--startup-timeout",)


def train_with_workers(
    workers: int,
    address: str,
    startup_timeout: float,
    arguments: Sequence[str],
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    resume: Path | None,
    deadline: float | None,
) -> None:
    """Train with several workers, and show what the first one prints.

    Args:
        workers: Number of workers.
        address: The address of the cluster.
        startup_timeout: Max number of seconds until all have started.
        arguments: The command line, from the word `train`.
        given: Options from the command line, by name.
        configured: Options from a config file, by name.
        epochs: Value of `--epochs`, or `None`.
        resume: The run to continue; `None`: a new run.
        deadline: Value of `time.monotonic()` at which training stops; `None`: no limit.

    Raises:
        UsageError: An option is wrong.
        CnnforgeError: Ray cannot be used, or training has failed.
        typer.Exit: Training was interrupted by a signal.
    """
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.cli._train_options import check_new
    from cnnforge.configuration import check_types
    from cnnforge.distributed.machines import Place
    from cnnforge.distributed.ray_train import RayTrain
    from cnnforge.runs import CONFIG, RunDirectory
    from cnnforge.runs.named_plugins import plugins_of_run
    from cnnforge.utils.stop_signals import StopOnSignal

    if resume is None:
        options, _ = check_new(dict(given), configured, epochs)
        output, data = Path(options.output).expanduser(), options.data
        plugins = options.plugin
    else:
        stored, _ = RunDirectory.open(resume, needs=()).read_config()
        stored = check_types(stored, str(resume / CONFIG))
        output, data = resume.parent, stored["data"]
        named = {**configured, **given}.get("plugin", ())
        plugins = plugins_of_run(resume, stored.get("plugin", ()), named)
    # Another machine has not remembered which plugins the user has named.
    naming = [text for each in plugins for text in ("--plugin", each)]

    def resumed(run: Path) -> list[str]:
        command = ["train", "--resume", str(run), *kept(arguments), *naming]
        if deadline is not None:
            command += ["--time-limit", f"{max(1, int(deadline - time.monotonic()))}s"]
        return command

    def show(line: str, stream: str) -> None:
        if stream == "out":
            typer.echo(line)
        else:
            _render.message(line)

    training = RayTrain(
        command=("-P", "-m", "cnnforge.cli.workers.command"),
        arguments=[*_with_run(without(arguments, _OWN), resume), *(naming if resume else ())],
        resumed=resumed,
        run=resume,
        output=output,
        place=Place.here(output, data, *_paths({**configured, **given, "plugin": plugins})),
        workers=workers,
        address=address,
        startup_timeout=startup_timeout,
        show=show,
        tell=_render.message,
    )
    with _ctrl_c.saving(), StopOnSignal() as stop:
        training.train(stop)
    if stop():
        cause = "Ctrl-C" if stop.name == "SIGINT" else stop.name
        _render.message(
            f"interrupted by {cause}; the state is saved; {training.how_to_go_on()}"
            if training.run is not None
            else f"interrupted by {cause}; {training.how_to_go_on()}"
        )
        raise typer.Exit(stop.exit_code)


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values.

    Args:
        arguments: The command line.
        names: Names of options that take a value.
    """
    left, skip = [], False
    for each in arguments:
        if not skip and each.partition("=")[0] not in names:
            left.append(each)
        skip = not skip and each in names
    return left


def kept(arguments: Sequence[str]) -> list[str]:
    """Return the options of a command line that hold for a command which continues its run.

    Args:
        arguments: The command line.
    """
    found = [each for each in arguments if each in _FLAGS]
    for each, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if each in _KEPT:
            found += [each, value]
        elif each.partition("=")[0] in _KEPT:
            found.append(each)
    return found


def _with_run(arguments: list[str], run: Path | None) -> list[str]:
    """Replace `latest` by the run that it means: the workers must not choose another one."""
    if run is None:
        return arguments
    return [*without(arguments, ("--resume",)), "--resume", str(run)]


def _paths(options: Mapping[str, Any]) -> list[str]:
    """Return the values of options that may be paths."""
    values = [options.get("init_from"), options.get("weights"), *(options.get("plugin") or ())]
    return [each for each in values if isinstance(each, str)]
