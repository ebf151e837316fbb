"""Commands draw on a terminal, and nothing elsewhere."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pictures import write_classes

from cnnforge.callbacks import EpochMetrics
from cnnforge.cli import _render, main
from cnnforge.cli._training import _Progress
from cnnforge.cli.predict import predict
from cnnforge.tasks.classification.task import Classification
from cnnforge.training import BatchesDone, EpochBegun, EpochEnded

HALF = "▀"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data") / "photos", {"cat": 8, "dog": 8})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    command = ["train", "detector_backbone", "--data", str(data), "--kernels", "keras"]
    command += ["--image-size", "32"]
    assert main([*command, "--epochs", "1", "--output", str(output)]) == 0
    return output / "detector_backbone-photos-001"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_predict_shows_pictures(run: Path, data: Path, capsys: Any) -> None:
    assert main(["predict", str(run), str(data / "cat"), "--limit", "3", "--show"]) == 0
    out = capsys.readouterr().out
    # Colors of a terminal with 256 of them.
    assert re.search(r"\x1b\[38;5;\d+;48;5;\d+m▀", out)
    lines = plain(out)
    # Each picture is 20x15 pixels, enlarged to 38 columns; two are side by side.
    assert lines[0].count(HALF) == 2 * 20
    assert len([line for line in lines if HALF in line]) == 2 * 8
    assert all(len(line) <= 80 for line in lines)
    captions = [line for line in lines if re.match(r"(cat|dog) \d", line)]
    assert len(captions) == 2
    assert re.match(r"\.\..*photos/cat/0.png  +\.\..*photos/cat/1.png", lines[8])
    assert any(line.split()[-2:] == ["next", "best"] for line in lines)


def test_predict_shows_its_progress(
    run: Path, data: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(predict, "_STEP", 3)
    monkeypatch.setattr(_render.ProgressDisplay, "advance", lambda self, count: steps.append(count))
    assert main(["predict", str(run), str(data / "cat"), str(data / "dog"), "--limit", "14"]) == 0
    assert steps == [3, 3, 3, 3]
    assert re.search(r"images.* 0/14 ", " ".join(plain(capsys.readouterr().err)))


def test_true_colors(run: Path, data: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert main(["predict", str(run), str(data / "cat" / "0.png"), "--show"]) == 0
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m▀", capsys.readouterr().out)


def test_a_wrong_class_is_told(run: Path, data: Path, capsys: Any) -> None:
    assert main(["predict", str(run), f"images:{data}", "--show"]) == 0
    assert re.search(r"(cat|dog) \d\d\.\d\d% \(true: (cat|dog)\)", capsys.readouterr().out)


def test_the_first_twelve_are_shown(run: Path, data: Path, capsys: Any) -> None:
    folders = [str(data / "cat"), str(data / "dog")]
    assert main(["predict", str(run), *folders, "--show"]) == 0
    out, err = capsys.readouterr()
    captions = [line for line in plain(out) if re.match(r"(cat|dog) \d\d", line)]
    assert len(captions) == 6
    assert "the pictures of the first 12 of 16 images are shown" in " ".join(plain(err))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NO_COLOR": "1"}, "the environment variable NO_COLOR is set"),
        ({"TERM": "xterm"}, "the terminal has fewer than 256 colors"),
        ({"FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}, "stdout is not a terminal"),
    ],
)
def test_a_terminal_without_pictures(
    variables: dict[str, str],
    reason: str,
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["predict", str(run), str(data / "cat" / "0.png"), "--show"]) == 0
    out, err = capsys.readouterr()
    assert HALF not in out
    assert f"note: --show shows no pictures: {reason}" in " ".join(plain(err))
    assert main(["data", "show", str(data), "--output", str(tmp_path / "a.png")]) == 0
    assert HALF not in capsys.readouterr().out


def test_an_encoding_without_blocks(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_render, "shows_unicode", lambda stream: False)
    assert _render.no_pictures() == "the encoding of stdout has no block characters"
    with _render.progress() as display:
        assert not display.shows_curves


def test_json_is_all(run: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    picture, sheet = str(data / "cat" / "0.png"), str(tmp_path / "a.png")
    for command in (
        ["predict", str(run), picture, "--show"],
        ["evaluate", str(run)],
        ["data", "show", str(data), "--output", sheet],
        ["data", "convert", str(data), str(tmp_path / "b")],
    ):
        assert main([*command, "--json"]) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out
        found = json.loads(out)
        assert ("--show shows no pictures with --json" in err) == ("--show" in command)
        if command[:2] == ["data", "show"]:
            assert found["sheet"] == sheet
            assert [row["class"] for row in found["rows"]] == ["cat", "dog"]
        if command[:2] == ["data", "convert"]:
            assert (found["images"], found["classes"]) == (16, ["cat", "dog"])
            assert (found["objects"], found["written"]) == (None, f"images:{tmp_path / 'b'}")


def test_data_show_shows_the_first_rows(tmp_path: Path, capsys: Any) -> None:
    data = write_classes(tmp_path / "photos", {f"class {n}": 6 for n in range(6)})
    assert main(["data", "show", str(data), "--output", str(tmp_path / "a.png")]) == 0
    out, err = capsys.readouterr()
    lines = plain(out)
    assert [line for line in lines if HALF not in line] == [f"class {n}" for n in range(5)]
    # Four images of 18 columns fit.
    assert lines[1].count(HALF) == 4 * 18
    assert all(len(line) <= 80 for line in lines)
    assert "the first 5 of 6 rows; the sheet has all" in " ".join(plain(err))


def test_confused_classes_after_training_and_evaluation(
    run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The run is finished, so this only shows its result.
    for command in (["evaluate", str(run)], ["train", "--resume", str(run)]):
        assert main(command) == 0
        text = " ".join(plain(capsys.readouterr().out))
        assert "images of each true class" in text or "no class is confused" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["evaluate", str(run)]) == 0
    assert "true class" not in capsys.readouterr().out


class Display:
    """A progress bar that keeps the courses."""

    width, shows_curves = 80, True

    def __init__(self) -> None:
        self.curves: list[str] = []

    def start(self, description: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, note: str = "", curve: str = "") -> None:
        self.curves.append(curve)

    def message(self, text: str) -> None:
        pass


def courses(history: list[EpochMetrics], *, batch: int = 0, plain: bool = False) -> list[str]:
    """Return the courses of an epoch of four batches with the losses 4, 2, 2 and 1."""
    state = SimpleNamespace(history=history)
    session: Any = SimpleNamespace(
        task=Classification(["a", "b"]),
        options=SimpleNamespace(monitor=None, epochs=2, cache=True),
        state=state,
    )
    display: Any = Display()
    progress = _Progress(session, display, plain=plain)
    progress(EpochBegun(len(history) + 1, 2, batch, 4))
    losses = [4.0, 2.0, 2.0, 1.0]
    for done in range(batch + 1, 5):
        values = {"loss": sum(losses[:done]) / done, "accuracy": 0.5}
        progress(BatchesDone(len(history) + 1, done, 4, values, 10.0))
    return display.curves[1:]


def row(loss: float) -> EpochMetrics:
    values = {"loss": loss, "accuracy": 0.5, "val_loss": loss, "val_accuracy": 0.5}
    return EpochMetrics(1, values, 0.01, 1.0, 10.0)


def test_the_course_has_the_loss_of_each_batch() -> None:
    # The events have the mean of the epoch: 4, 3, 2.67 and 2.25.
    assert courses([]) == ["", "█▁", "█▁▁", "█▃▃▁"]


def test_the_course_of_a_resumed_run_begins_with_its_epochs() -> None:
    assert courses([row(8.0)])[-1] == "████▄▂▂▁"
    assert courses([row(8.0)], batch=2)[-1][:4] == "████"


def test_there_is_no_course_with_json_or_without_a_terminal() -> None:
    assert courses([], plain=True) == ["", "", "", ""]


def test_the_course_begins_again_with_each_epoch() -> None:
    session: Any = SimpleNamespace(
        task=Classification(["a", "b"]),
        options=SimpleNamespace(monitor=None, epochs=2, cache=True),
        state=None,
    )
    display: Any = Display()
    progress = _Progress(session, display, plain=False)
    for epoch in (1, 2):
        progress(EpochBegun(epoch, 2, 0, 2))
        for done in (1, 2):
            values = {"loss": 2.0, "accuracy": 0.5}
            progress(BatchesDone(epoch, done, 2, values, 10.0))
        progress(EpochEnded(row(2.0), 2, best=True))
    assert display.curves[-1] == "▁▁▁▁"
