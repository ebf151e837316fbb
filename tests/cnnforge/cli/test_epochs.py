"""The lines of `train` about its epochs fit into a terminal."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cnnforge.cli import _render
from cnnforge.cli._epochs import best_table, epoch_line, progress_note, waiting_note
from cnnforge.cli._training import names_or_counts
from cnnforge.data import ImageFiles
from cnnforge.tasks import Evaluation
from cnnforge.tasks.classification import Classification
from cnnforge.training import BatchesDone, EpochEnded, EpochMetrics

TASK = Classification(("a", "b"))
VALUES = {
    "loss": 12.4326,
    "accuracy": 1.0,
    "val_loss": 10.5768,
    "val_accuracy": 1.0,
    "val_balanced_accuracy": 1.0,
    "val_macro_f1": 1.0,
}


def ended(epochs: int = 20, seconds: float = 0.48, best: bool = True) -> EpochEnded:
    return EpochEnded(EpochMetrics(epochs, VALUES, 1e-3, seconds, 123_456.0), epochs, best)


@pytest.mark.parametrize("monitor", ["accuracy", "loss", "macro_f1", "balanced_accuracy"])
@pytest.mark.parametrize("seconds", [0.48, 12345.67])
@pytest.mark.parametrize("epochs", [9, 1000])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_an_epoch_is_one_line_that_fits(
    width: int, epochs: int, seconds: float, monitor: str
) -> None:
    metric = TASK.monitored(monitor)
    line = epoch_line(TASK, metric, ended(epochs, seconds), width)
    assert len(line) <= width
    assert line.startswith(f"epoch {epochs}/{epochs}  ")
    assert line.endswith("  best")
    assert f"val {metric.short}" in line or f"{metric.short} " in line
    # An epoch that is not the best one has the same form.
    assert epoch_line(TASK, metric, ended(epochs, seconds, best=False), width) == line[:-6]


def test_the_more_columns_the_more_is_said() -> None:
    metric = TASK.monitored()
    assert epoch_line(TASK, metric, ended(), 60) == (
        "epoch 20/20  val loss 10.5768  val acc 100.00%  best"
    )
    assert epoch_line(TASK, metric, ended(), 82) == (
        "epoch 20/20  loss 12.4326 val 10.5768  acc 100.00% val 100.00%  0.48 s  best"
    )
    assert epoch_line(TASK, metric, ended(), 120).endswith("0.48 s  123,456 images/s  best")


class Terminal(Console):
    """A terminal of some columns, whose output is kept."""

    columns = 60
    kept: io.StringIO

    def __init__(self, **options: Any) -> None:
        super().__init__(
            file=self.kept,
            width=self.columns,
            force_terminal=True,
            color_system=None,
            **{name: value for name, value in options.items() if name not in ("stderr", "width")},
        )


@pytest.fixture(params=[60, 80])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(Terminal, "columns", request.param)
    monkeypatch.setattr(Terminal, "kept", io.StringIO(), raising=False)
    monkeypatch.setattr(_render, "Console", Terminal)
    return Terminal.kept


def test_the_table_and_the_messages_fit(terminal: io.StringIO) -> None:
    metrics = {name.removeprefix("val_"): value for name, value in VALUES.items()}
    evaluation = Evaluation(samples=9, metrics=metrics)
    columns, rows = best_table(TASK, ended().metrics, evaluation)
    _render.table(["best epoch 1000/1000", *columns], rows)
    _render.message("word " * 40)
    _render.message(f"run directory: /{'x' * 100}")
    printed = terminal.getvalue()
    # What can be broken is; a path is not.
    long = [line for line in printed.split("\n") if len(line) > Terminal.columns]
    assert long == [f"/{'x' * 100}"]
    assert printed.count("word") == 40
    # Each row of the table is one line.
    (training,) = [line for line in printed.split("\n") if line.startswith("training")]
    assert training.split() == ["training", "12.4326", "100.00%"]


def test_the_bar_fits(terminal: io.StringIO) -> None:
    event = BatchesDone(1000, 4, 9, {"loss": 12.3456, "accuracy": 1.0}, 123_456.0)
    note = progress_note(TASK, event, 1000)
    with _render.progress() as display:
        assert display.width == Terminal.columns
        display.start("", 99_999)
        display.advance(5_000, note=note)
        display._progress.refresh()
        shown = "\n".join(
            "".join(segment.text for segment in line)
            for line in display._progress.console.render_lines(
                display._progress.get_renderable(), pad=False
            )
        )
    assert len(shown.split("\n")) == 1
    assert len(shown) <= Terminal.columns
    assert note.partition("  acc")[0] in shown


def test_a_file_gets_lines_of_80_columns() -> None:
    assert _render.progress().width == 80


@pytest.mark.parametrize(
    ("waiting", "seconds", "cache", "files", "note"),
    [
        (0.1, 100.0, False, True, ""),
        (0.9, 1.0, False, True, ""),
        (
            0.45,
            100.0,
            False,
            True,
            "training waited for images 45% of the time in epoch 3; to decode them only once, "
            "press Ctrl-C and go on with 'cnnforge train --resume runs/x --cache'",
        ),
        (0.45, 100.0, True, True, "training waited for images 45% of the time in epoch 3"),
        (0.45, 100.0, False, False, "training waited for images 45% of the time in epoch 3"),
    ],
)
def test_a_note_says_that_training_waits(
    waiting: float, seconds: float, cache: bool, files: bool, note: str
) -> None:
    samples = ImageFiles(["x.png"], np.zeros(1), (2, 2, 1)) if files else None
    session: Any = SimpleNamespace(
        options=SimpleNamespace(cache=cache),
        dataset=SimpleNamespace(train=samples),
        run=SimpleNamespace(path="runs/x"),
    )
    row = EpochMetrics(3, VALUES, 1e-3, seconds, 10.0, waiting)
    assert waiting_note(session, row) == note


def test_a_line_names_few_layers_and_counts_many() -> None:
    few = {"conv1": "Conv2D", "pool1": "MaxPooling2D"}
    assert names_or_counts(few) == "conv1, pool1"
    many = {f"norm{n}": "BatchNormalization" for n in range(9)} | few
    assert names_or_counts(many) == "9 BatchNormalization, 1 Conv2D, 1 MaxPooling2D"
