"""The command `cnnforge train`: trains a model and writes a run directory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    find_run,
    find_weights,
    load_plugins,
    print_json,
)
from cnnforge.cli._epochs import best_table, epoch_line, progress_note, waiting_note
from cnnforge.cli._train_options import show_options, with_options
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.utils.names import printable

if TYPE_CHECKING:
    from cnnforge.cli._render import ProgressDisplay
    from cnnforge.tasks import Evaluation
    from cnnforge.training import Event, Session


@with_options(OptimizerOptions, after="batch_size")
def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[:ARG]",
            help="Name of the model; some take an argument after a colon.  [default: lenet]",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A folder with one sub-folder per class, a .csv file, or the name of a dataset.  "
            "[default: mnist5k]",
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Number of epochs; +10 with --resume adds ten.  [default: 20]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per training step.  [default: 64]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed; equal seeds give equal weights.  [default: 0]"
        ),
    ] = None,
    split_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed of the validation split.  [default: the value of --seed]"
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="auto|numba|keras",
            help="Implementation of the layers; auto measures and uses the faster one.  "
            "[default: auto]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the run directories.  [default: runs]"),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Resize the images to this size.  [default: the size of the data]"
        ),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="auto|grayscale|rgb", help="Color mode of the images.  [default: auto]"
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Fraction of the images used for validation.  [default: 0.2]"
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Fail if a file cannot be read; else skip it."),
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Keep decoded images in a file, for later epochs and runs.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Read options from a file, such as the config.toml of a run."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume this run, or latest, from its last saved state."),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|RUN",
            help="Take the weights that fit from a run, latest, or a .keras or .weights.h5 file.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(metavar="X", help="Label smoothing factor, such as 0.1.  [default: 0]"),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="balanced", help="Weight the loss inversely to the class frequencies."
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Validation metric that selects the best epoch: accuracy, loss, "
            "balanced_accuracy or macro_f1.  [default: accuracy]",
        ),
    ] = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Run this callback after every epoch, such as early_stopping:5; repeatable.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Apply this augmentation to the training images, such as shift:2; repeatable.",
        ),
    ] = None,
    plugin: PluginOption = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print all options and their sources, then exit."),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Train a model and write a run directory.

    Ctrl-C saves the state and exits; --resume continues the run. Exit codes: 0 success, 1 failure,
    2 usage error, 130 or 143 interrupted.
    """
    from cnnforge.configuration import check_types, read_config

    if resume is not None:
        resume = find_run(resume)
    written = {
        "model": model,
        "data": data,
        "batch_size": batch_size,
        "seed": seed,
        "split_seed": split_seed,
        "kernels": kernels,
        "output": None if output is None else str(output.expanduser()),
        "image_size": image_size,
        "color": color,
        "validation_fraction": validation_fraction,
        "strict": strict,
        "cache": cache,
        "init_from": None if init_from is None else str(find_weights(init_from)),
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "monitor": monitor,
        "callback": tuple(callback) if callback else None,
        "augment": tuple(augment) if augment else None,
        "plugin": tuple(plugin) if plugin else None,
        **options,
    }
    given = {name: value for name, value in written.items() if value is not None}
    given = check_types(given, "command line")
    configured = read_config(config.expanduser()) if config else {}
    if print_config:
        show_options(given, configured, epochs, resume, json)
        return
    with ExitStack() as claims:
        session = _prepare(given, configured, epochs, resume, claims)
        _run(session, json)


def _prepare(
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    resume: Path | None,
    claims: ExitStack,
) -> Session:
    from cnnforge.cli import _render
    from cnnforge.cli._import_keras import import_keras
    from cnnforge.configuration import parse_epochs, resolve

    if resume is not None:
        from cnnforge.runs import RunDirectory

        # Opened before the import of Keras, which takes seconds, to report a wrong run at once.
        claims.enter_context(RunDirectory.open(resume, needs=()).claimed())
        import_keras()
        from cnnforge import training

        return training.resume(
            resume, {**configured, **given}, epochs, load_plugins, _render.message
        )
    if epochs is not None:
        given["epochs"] = parse_epochs(epochs)
    options, _ = resolve(given, configured)
    plugins = load_plugins(options.plugin)
    _ = plugins.models[options.model.partition(":")[0]]
    for names, registry in (
        (options.callback, plugins.callbacks),
        (options.augment, plugins.augmentations),
    ):
        _ = [registry[name.partition(":")[0]] for name in names]
    from cnnforge.data.references import find_dataset

    # Checked before the import of Keras, which takes seconds.
    find_dataset(options.data, plugins.datasets)
    _render.message(
        f"preparing {options.model} on {printable(options.data)} (kernels are compiled once on a "
        "machine)"
    )
    import_keras()
    from cnnforge import training

    session = training.start(options, plugins, _render.message)
    claims.enter_context(session.run.claimed())
    return session


def _run(session: Session, json: bool) -> None:
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.training import StopOnSignal

    path = session.run.path
    _render.message(f"run directory: {path}")
    _ctrl_c.set_message(f"interrupted; go on with 'cnnforge train --resume {path}'")
    if session.size is not None:
        _render.message(session.size.describe())
    for warning in session.warnings:
        _render.message(f"note: {warning}")
    if session.checks:
        results = [result for check in session.checks for result in check.results]
        worst = max(result.max_error / result.allowed for result in results)
        layers = ", ".join(dict.fromkeys(check.layer for check in session.checks))
        _render.message(
            f"kernels: {layers} run on Numba kernels, checked at this model's shapes: max error "
            f"{worst:.0%} of the tolerance"
        )
    for line in _kept_by_the_framework(session):
        _render.message(line)
    if session.finished:
        done = f"all {session.options.epochs} epochs are done; {_how_to_continue(session)}"
        _render.message(_stopped(session) or done)
        _finish(session, session.report(), json)
        return
    with _ctrl_c.saving(), StopOnSignal() as stop:
        with _render.progress() as display:
            result = session.train([_Progress(session, display)], stop)
        if result.interrupted:
            _render.message(
                f"interrupted by {stop.name}; the state is saved; go on with "
                f"'cnnforge train --resume {path}'"
            )
            raise typer.Exit(stop.exit_code)
    if _stopped(session):
        _render.message(_stopped(session))
    _ctrl_c.set_message(
        "interrupted; the model is saved, but tables or figures are missing; write them with "
        f"'cnnforge train --resume {path}'"
    )
    _finish(session, session.report(), json)


def _kept_by_the_framework(session: Session) -> list[str]:
    """List the layers for which `--kernels auto` chose the framework, with the reasons."""
    if session.options.kernels != "auto":
        return []
    kept = [choice for choice in session.implementations if choice.implementation == "keras"]
    faster = [f"{choice.layer} ({1 / choice.ratio:.1f} times)" for choice in kept if choice.ratio]
    lines = [
        f"kernels: the framework computes {choice.layer}: {choice.reason}"
        for choice in kept
        if not choice.ratio
    ]
    if faster:
        lines.append(f"kernels: the framework is faster at {', '.join(faster)}, and computes these")
    return lines


def _stopped(session: Session) -> str:
    """Return a sentence: why a callback ended training, and how to continue.

    Return "" if no callback ended training.
    """
    state = session.state
    if state is None or not state.stopped:
        return ""
    return f"stopped after epoch {state.epoch}: {state.stopped}; {_how_to_continue(session)}"


def _how_to_continue(session: Session) -> str:
    """Return a sentence about how to continue a finished run."""
    path = session.run.path
    if session.options.ends:
        return f"for a new run from its weights use --init-from {path}"
    return f"to continue, use --resume {path} --epochs +10"


def _finish(session: Session, evaluation: Evaluation, json: bool) -> None:
    from cnnforge.cli import _render

    state = session.state
    assert state is not None
    assert state.best is not None
    seconds = sum(row.seconds for row in state.history)
    if json:
        from cnnforge.data import summarize

        print_json(
            {
                "run": str(session.run.path),
                "model": session.options.model,
                "data": session.dataset.name,
                "found": summarize(session.dataset).as_dict(),
                "notes": list(session.warnings),
                "epochs": state.epoch,
                "best_epoch": state.best.epoch,
                "seconds": seconds,
                "images_per_second": state.history[-1].images_per_second,
                "waiting": state.history[-1].waiting,
                "weights": state.digest(),
                "validation": evaluation.as_dict(),
            }
        )
        return
    best = state.history[state.best.epoch - 1]
    columns, rows = best_table(session.task, best, evaluation)
    _render.table([f"best epoch {best.epoch}/{state.epoch}", *columns], rows)
    typer.echo(f"{seconds:.1f} s of training, {best.images_per_second:,.0f} images/s")
    typer.echo(f"run directory: {session.run.path}")


class _Progress:
    """Receives the events of a training: updates the progress bar and prints a line per epoch."""

    def __init__(self, session: Session, display: ProgressDisplay) -> None:
        self._display, self._task = display, session.task
        self._metric = session.task.monitored(session.options.monitor)
        self._total = session.options.epochs
        self._started = False
        self._session, self._noted = session, False

    def __call__(self, event: Event) -> None:
        from cnnforge.training import BatchesDone, EpochBegun, EpochEnded

        if isinstance(event, EpochBegun):
            if not self._started:
                self._started = True
                self._display.start("", event.epochs * event.batches)
                self._display.advance((event.epoch - 1) * event.batches + event.batch)
                self._done = event.batch
        elif isinstance(event, BatchesDone):
            self._display.advance(
                event.batch - self._done,
                progress_note(self._task, event, self._total),
            )
            self._done = event.batch
        elif isinstance(event, EpochEnded):
            self._done = 0
            self._display.message(epoch_line(self._task, self._metric, event, self._display.width))
            note = "" if self._noted else waiting_note(self._session, event.metrics)
            if note:
                self._noted = True
                self._display.message(f"note: {note}")
