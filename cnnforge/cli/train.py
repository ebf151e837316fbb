"""`cnnforge train`: a model, from its data to its run directory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json
from cnnforge.cli._epochs import best_table, epoch_line, progress_note
from cnnforge.cli._train_options import show_options, with_options
from cnnforge.optimizer_options import OptimizerOptions

if TYPE_CHECKING:
    from cnnforge.cli._render import ProgressDisplay
    from cnnforge.tasks import Evaluation
    from cnnforge.training import Event, Session


@with_options(OptimizerOptions)
def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[:ARG]",
            help="The model, and after a colon its argument, if it takes one.  [default: lenet]",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A folder of images with one sub-folder per class, a .csv file, or the name of a "
            "dataset.  [default: mnist5k]",
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="How often every image is visited; +10 with --resume means ten more.  "
            "[default: 20]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per step.  [default: 64]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The same seed gives the same weights, bit for bit.  [default: 0]"
        ),
    ] = None,
    split_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Runs with the same number have the same validation images, whatever their seed.  "
            "[default: the seed]",
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="auto|numba|keras",
            help="What computes the layers; auto takes whichever is faster.  [default: auto]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where run directories are made.  [default: runs]"),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Resize the images.  [default: the data's own size]"),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="auto|grayscale|rgb", help="The channels of the images.  [default: auto]"
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(metavar="F", help="Which part is kept for validation.  [default: 0.2]"),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Fail at a file that cannot be read."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Read options from a file, such as a run's config.toml."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run, exactly where it stopped."),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE|RUN", help="Start a new run from the weights of a model."),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of the probability that a label gives to all classes alike, for instance "
            "0.1.  [default: 0]",
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="balanced",
            help="Weight the images so that every class adds as much to the loss as another.",
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Metric of the validation images that decides which epoch is the best one: "
            "accuracy, loss, balanced_accuracy or macro_f1.  [default: accuracy]",
        ),
    ] = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Call this after every epoch, for instance early_stopping:5; may be given several "
            "times.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Change the training images, for instance shift:2; may be given several times.",
        ),
    ] = None,
    plugin: PluginOption = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the options, and where each comes from."),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Train a model; a run directory keeps everything about it.

    Ctrl-C saves the state and ends; --resume goes on from there. Exit codes: 0 done, 1 failed,
    2 asked for wrongly, 130 and 143 interrupted.
    """
    from cnnforge.configuration import check_types, read_config

    written = {
        "model": model,
        "data": data,
        "batch_size": batch_size,
        "seed": seed,
        "split_seed": split_seed,
        "kernels": kernels,
        "output": None if output is None else str(output),
        "image_size": image_size,
        "color": color,
        "validation_fraction": validation_fraction,
        "strict": strict,
        "init_from": None if init_from is None else str(init_from),
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
    configured = read_config(config) if config else {}
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
    from cnnforge.cli._import_keras import import_keras
    from cnnforge.configuration import parse_epochs, resolve

    if resume is not None:
        from cnnforge.runs import RunDirectory

        # Before the seconds that an import of Keras takes.
        claims.enter_context(RunDirectory.open(resume, needs=()).claimed())
        import_keras()
        from cnnforge import training

        return training.resume(resume, {**configured, **given}, epochs, load_plugins)
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
    from cnnforge.cli import _render

    _render.message(
        f"preparing {options.model} on {options.data} (kernels are compiled once on a machine)"
    )
    import_keras()
    from cnnforge import training

    session = training.start(options, plugins)
    claims.enter_context(session.run.claimed())
    return session


def _run(session: Session, json: bool) -> None:
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.training import StopOnSignal

    path = session.run.path
    _render.message(f"run directory: {path}")
    _ctrl_c.set_message(f"interrupted; go on with 'cnnforge train --resume {path}'")
    for warning in session.warnings:
        _render.message(f"note: {warning}")
    if session.checks:
        worst = max(it.max_error / it.allowed for check in session.checks for it in check.results)
        layers = ", ".join(dict.fromkeys(check.layer for check in session.checks))
        _render.message(
            f"kernels: {layers} run on Numba kernels, checked at this model's shapes: largest "
            f"error {worst:.0%} of what is allowed"
        )
    for line in _kept_by_the_framework(session):
        _render.message(line)
    if session.finished:
        _render.message(
            _stopped(session) or f"all {session.options.epochs} epochs are done; {_go_on(session)}"
        )
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
        "interrupted; the model is saved, its tables and figures are not all there: they are "
        f"written by 'cnnforge train --resume {path}'"
    )
    _finish(session, session.report(), json)


def _kept_by_the_framework(session: Session) -> list[str]:
    """What `--kernels auto` has left to the framework, and why."""
    if session.options.kernels != "auto":
        return []
    left = [it for it in session.implementations if it.implementation == "keras"]
    faster = [f"{it.layer} ({1 / it.ratio:.1f} times)" for it in left if it.ratio]
    lines = [
        f"kernels: {it.layer} is left to the framework: {it.reason}" for it in left if not it.ratio
    ]
    if faster:
        lines.append(f"kernels: the framework is faster at {', '.join(faster)}, and computes these")
    return lines


def _stopped(session: Session) -> str:
    """What a callback that ended training has to say, and how to go on."""
    state = session.state
    if state is None or not state.stopped:
        return ""
    return f"stopped after epoch {state.epoch}: {state.stopped}; {_go_on(session)}"


def _go_on(session: Session) -> str:
    """How to train a finished run further."""
    if session.options.ends:
        return f"for a new run from its weights use --init-from {session.run.path}"
    return "--epochs +10 with --resume goes on"


def _finish(session: Session, evaluation: Evaluation, json: bool) -> None:
    from cnnforge.cli import _render

    state = session.state
    assert state is not None
    assert state.best is not None
    seconds = sum(row.seconds for row in state.history)
    if json:
        print_json(
            {
                "run": str(session.run.path),
                "model": session.options.model,
                "data": session.dataset.name,
                "epochs": state.epoch,
                "best_epoch": state.best.epoch,
                "seconds": seconds,
                "images_per_second": state.history[-1].images_per_second,
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
    """A listener that draws the bar and says a line per epoch."""

    def __init__(self, session: Session, display: ProgressDisplay) -> None:
        self._display, self._task = display, session.task
        self._metric = session.task.monitored(session.options.monitor)
        self._total = session.options.epochs
        self._started = False

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
