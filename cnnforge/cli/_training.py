"""Prepare and run a training session, and print its progress and its result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli._common import load_plugins
from cnnforge.cli._epochs import best_table, epoch_line, features_line, progress_note, waiting_note
from cnnforge.cli.terminal.sparkline import Sparkline
from cnnforge.cli.terminal.tables import show_details
from cnnforge.utils.names import as_argument, from_its_weights, printable, resume_command

if TYPE_CHECKING:
    from cnnforge.cli._render import ProgressDisplay
    from cnnforge.distributed.joining import Joining
    from cnnforge.distributed.workers import Workers
    from cnnforge.tasks import Evaluation
    from cnnforge.training import BatchesDone, Event, Session

# Max number of layers that are named in a line.
_MAX_NAMES = 8


def prepare(
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    resume: Path | None,
    claims: ExitStack,
    joining: Joining | None = None,
) -> Session:
    """Prepare a new run, or the continuation of one.

    Args:
        given: Options from the command line, by name.
        configured: Options from a config file, by name.
        epochs: Value of `--epochs`, or `None`.
        resume: The run to continue; `None`: a new run.
        claims: Stack that keeps the run claimed until it is closed, and the other workers watched.
        joining: The devices, and the other workers; `None`: one device and no other worker.

    Raises:
        CnnforgeError: See `cnnforge.training.start` and `cnnforge.training.resume`.
    """
    from cnnforge.cli import _render
    from cnnforge.cli._import_keras import import_keras
    from cnnforge.distributed.joining import Joining, loss_explained, run_of_first

    joining = joining or Joining()

    def join() -> Workers:
        import_keras()
        workers = joining.join(_render.message)
        claims.enter_context(loss_explained(workers))
        return workers

    if resume is not None:
        from cnnforge.runs import RunDirectory

        # Opened before the import of Keras, which takes seconds, to report a wrong run at once.
        run = RunDirectory.open(resume, needs=())
        if run.had_model and not run.model.is_file():
            # `doctor` resumes copies without a model, so `training.resume` permits it.
            raise run.model_is_gone()
        if joining.rank == 0:
            claims.enter_context(run.claimed())
        workers = join()
        from cnnforge import training

        return training.resume(
            resume, {**configured, **given}, epochs, load_plugins, _render.message, workers
        )
    from cnnforge.cli._train_options import check_new

    # Checked before the import of Keras, which takes seconds.
    options, plugins = check_new(given, configured, epochs)
    _render.message(
        f"preparing {options.model or 'a model'} on {printable(options.data)} (kernels are "
        "compiled once on a machine)"
    )
    workers = join()
    from cnnforge import training

    if not workers.is_first:
        path = run_of_first(workers, Path(options.output))
        return training.resume(
            path, {**configured, **given}, None, load_plugins, _render.message, workers, joins=True
        )
    session = training.start(options, plugins, _render.message, workers)
    claims.enter_context(session.run.claimed())
    # The others wait for these in `run_of_first` and in `training.resume`.
    workers.from_first(session.run.path.name)
    workers.from_first(session.options.epochs)
    return session


def train_and_report(
    session: Session, deadline: float | None = None, *, json: bool = False
) -> Evaluation | None:
    """Train a session to its end, and write its report.

    Args:
        session: The session.
        deadline: Value of `time.monotonic()` at which training stops; `None`: no limit.
        json: Whether the result is printed as JSON. Then the course of the loss is not shown.

    Returns:
        The evaluation of the best epoch on the validation samples. `None` if the time was over
        before the first epoch was done.

    Raises:
        DataError: A sample can no longer be read. The last saved state can be resumed.
        typer.Exit: Training was interrupted by a signal.
    """
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.distributed.joining import leave
    from cnnforge.errors import DataError
    from cnnforge.training import StopOnSignal

    path = session.run.path
    _render.message(f"run directory: {path}")
    _ctrl_c.set_message(f"interrupted; go on with {resume_command(path)}")
    if session.size is not None:
        _render.message(session.size.describe())
    for line in session.fine_tuning:
        _render.message(line)
    for warning in session.warnings:
        _render.message(f"note: {warning}")
    if session.checks:
        worst = max(check.worst for check in session.checks)
        layers = {check.layer: check.kind for check in session.checks}
        _render.message(
            f"kernels: {names_or_counts(layers)} run on Numba kernels, checked at this model's "
            f"shapes: max error {worst:.0%} of the tolerance"
        )
    for line in _kept_by_the_framework(session):
        _render.message(line)
    if session.finished and not session.workers.is_first:
        return None
    if session.finished:
        count = session.options.epochs
        epochs = "the only epoch is" if count == 1 else f"all {count} epochs are"
        done = f"{epochs} done; {_how_to_continue(session)}"
        _render.message(_stopped(session) or done)
        return session.report()
    _show_tensorboard(session)

    def time_is_over() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    with _ctrl_c.saving(), StopOnSignal() as stop:
        with _render.progress() as display:
            progress = _Progress(session, display, plain=json or _render.is_plain())
            try:
                result = session.train([progress], lambda: stop() or time_is_over())
            except DataError as error:
                advice = f"then go on with {resume_command(path)}"
                raise DataError(f"{error}; put it right, {advice}") from error
        # A signal to one of several workers ends all of them in the same way.
        code = session.workers.highest(stop.exit_code) if result.interrupted else 0
        if code:
            name = stop.name or "a signal to another worker"
            cause = "Ctrl-C" if name == "SIGINT" else name
            _render.message(
                f"interrupted by {cause}; the state is saved; go on with {resume_command(path)}"
            )
            leave(session.workers)
            raise typer.Exit(code)
    if not session.workers.is_first:
        return None
    if result.interrupted:
        _render.message(_time_limit(session))
        if result.state.best is None:
            return None
    elif _stopped(session):
        _render.message(_stopped(session))
    _ctrl_c.set_message(
        "interrupted; the model is saved, but tables or figures are missing; write them with "
        f"{resume_command(path)}"
    )
    return session.report()


def _time_limit(session: Session) -> str:
    """Return a sentence: where the time limit stopped training, and how to continue."""
    state = session.state
    assert state is not None
    where = f"in epoch {state.epoch + 1} of {session.options.epochs}"
    model = "" if state.best else ", before the first epoch was done, so there is no model yet"
    return (
        f"the time limit is reached {where}{model}; the state is saved; go on with "
        f"{resume_command(session.run.path)}"
    )


def _show_tensorboard(session: Session) -> None:
    """Say how to open the TensorBoard files of a session, if it writes any."""
    if not session.options.tensorboard:
        return
    from importlib.util import find_spec

    from cnnforge.cli import _render

    missing = "; it is not installed: pip install 'cnnforge[tensorboard]'"
    _render.message(
        f"TensorBoard shows the curves: tensorboard --logdir {as_argument(session.run.path)}"
        + ("" if find_spec("tensorboard") else missing)
    )


def _kept_by_the_framework(session: Session) -> list[str]:
    """List the layers for which `--kernels auto` chose the framework, with the reasons."""
    if session.options.kernels != "auto":
        return []
    kept = [choice for choice in session.implementations if choice.implementation == "keras"]
    faster = {
        f"{choice.layer} ({1 / choice.ratio:.1f} times)": choice.kind
        for choice in kept
        if choice.ratio
    }
    lines = [
        f"kernels: the framework computes {choice.layer}: {choice.reason}"
        for choice in kept
        if not choice.ratio
    ]
    if faster:
        lines.append(
            f"kernels: the framework is faster at {names_or_counts(faster)}, and computes these"
        )
    return lines


def names_or_counts(layers: Mapping[str, str]) -> str:
    """Return the names of layers, or how many there are of each kind if there are many.

    Args:
        layers: The kind of each layer, by its name.
    """
    if len(layers) <= _MAX_NAMES:
        return ", ".join(layers)
    counts = Counter(layers.values()).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in counts)


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
        return from_its_weights(path)
    return f"to continue, use --resume {as_argument(path)} --epochs +10"


def as_dict(session: Session, evaluation: Evaluation | None) -> dict[str, Any]:
    """Return the result of a session as plain values, for `--json`."""
    from cnnforge.data import summarize

    state = session.state
    assert state is not None
    result = {
        "run": str(session.run.path),
        "model": session.options.model,
        "data": session.dataset.name,
        "found": summarize(session.dataset).as_dict(),
        "notes": list(session.warnings),
        "epochs": state.epoch,
        "best_epoch": None if state.best is None else state.best.epoch,
        "seconds": sum(row.seconds for row in state.history),
        "images_per_second": state.history[-1].images_per_second if state.history else None,
        "waiting": state.history[-1].waiting if state.history else None,
        "weights": state.digest(),
        "validation": None if evaluation is None else evaluation.as_dict(),
    }
    if session.test is not None:
        result["test"] = session.test.as_dict()
    return result


def show_result(session: Session, evaluation: Evaluation) -> None:
    """Print a table of the best epoch, the time, and the path of the run."""
    from cnnforge.cli import _render

    state = session.state
    assert state is not None
    assert state.best is not None
    seconds = sum(row.seconds for row in state.history)
    best = state.history[state.best.epoch - 1]
    columns, rows = best_table(session.task, best, evaluation, session.test)
    _render.table([f"best epoch {best.epoch}/{state.epoch}", *columns], rows)
    if not _render.is_plain():
        show_details(session.task, evaluation)
        _render.result("")
    typer.echo(f"{seconds:.1f} s of training, {best.images_per_second:,.0f} images/s")
    typer.echo(f"run directory: {session.run.path}")
    _render.message(
        f"to use the model, type: cnnforge predict {as_argument(session.run.path)} IMAGES"
    )


class _Progress:
    """Receives the events of a training: updates the progress bar and prints a line per epoch.

    Args:
        session: The session.
        display: The progress bar.
        plain: Whether the course of the loss is left out.
    """

    def __init__(self, session: Session, display: ProgressDisplay, *, plain: bool) -> None:
        self._display, self._task = display, session.task
        self._metric = session.task.monitored(session.options.monitor)
        self._total = session.options.epochs
        self._started = False
        self._session, self._noted = session, False
        self._done, self._loss = 0, 0.0
        self._curve = None if plain or not display.shows_curves else Sparkline()

    def __call__(self, event: Event) -> None:
        from cnnforge.training import BatchesDone, EpochBegun, EpochEnded, FeaturesKept

        if isinstance(event, EpochBegun):
            if not self._started:
                self._started = True
                self._display.start("", event.epochs * event.batches)
                self._display.advance((event.epoch - 1) * event.batches + event.batch)
                self._done = event.batch
                self._begin_curve(event.batches)
        elif isinstance(event, BatchesDone):
            self._display.advance(
                event.batch - self._done,
                progress_note(self._task, event, self._total),
                self._extend_curve(event),
            )
            self._done = event.batch
        elif isinstance(event, FeaturesKept):
            self._display.message(features_line(event))
        elif isinstance(event, EpochEnded):
            self._done, self._loss = 0, 0.0
            self._display.message(epoch_line(self._task, self._metric, event, self._display.width))
            note = "" if self._noted else waiting_note(self._session, event.metrics)
            if note:
                self._noted = True
                self._display.message(f"note: {note}")

    def _begin_curve(self, batches: int) -> None:
        """Begin the course of the loss with the epochs that a resumed run has."""
        from cnnforge.tasks import LOSS

        state = self._session.state
        if self._curve is not None and state is not None:
            for row in state.history:
                self._curve.add(row.values[LOSS.name], batches)

    def _extend_curve(self, event: BatchesDone) -> str:
        """Add the loss of the batches since the last event, and return the course of the loss."""
        from cnnforge.tasks import LOSS

        if self._curve is None:
            return ""
        mean, new = event.values[LOSS.name], event.batch - self._done
        # The event has the mean of all batches of the epoch. A resumed epoch begins in its middle.
        before = self._loss if self._loss or not self._done else mean * self._done
        self._loss = mean * event.batch
        self._curve.add((self._loss - before) / max(1, new), new)
        return self._curve.text()
