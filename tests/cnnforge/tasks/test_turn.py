"""A third task, its model and its data, all in one file: nothing in the core knows of them."""

import csv
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cnnforge.cli import main

PLUGIN = str(Path(__file__).with_name("turn_plugin.py"))
OPTIONS = ("--data", "turned", "--kernels", "keras", "--batch-size", "8", "--learning-rate", "0.01")
PROGRAM = "import sys; from cnnforge.cli import main; sys.exit(main())"


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return `train(*arguments)`: a run in `tmp_path`, of which it returns the JSON."""

    def train(*arguments: str) -> dict:
        command = ["train", "compass:6", *OPTIONS, "--plugin", PLUGIN, "--output", str(tmp_path)]
        if "--resume" in arguments:
            command = ["train"]
        capsys.readouterr()
        assert main([*command, *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return train


def test_it_trains_evaluates_and_predicts(
    train: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = train("--epochs", "10")
    run = Path(found["run"])
    assert found["validation"]["error"] < 60
    table = tomllib.loads((run / "config.toml").read_text())["run"]
    assert (table["model"], table["task"]) == ("turn_plugin/compass:6", "turn_plugin/turn")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["epoch", "loss", "val_loss", "val_error"]
    best = min(rows, key=lambda row: float(row["val_error"]))
    report = json.loads((run / "evaluation.json").read_text())
    assert report["best_epoch"] == found["best_epoch"] == int(best["epoch"])
    assert report["monitor"] == "error"
    assert report["validation"] == found["validation"]
    assert (run / "curves.png").is_file()
    assert not list(run.glob("c*_matrix*")) + list(run.glob("classes*"))

    assert main(["evaluate", str(run), "--kernels", "keras", "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["error"] == pytest.approx(found["validation"]["error"])
    assert main(["evaluate", str(run), "--kernels", "keras", "--data", "turned:30"]) == 0
    assert capsys.readouterr().out.startswith("turned:30: mean error in degrees ")

    image = tmp_path / "new.png"
    Image.new("L", (12, 12)).save(image)
    files = ["--output", str(tmp_path / "t.csv")]
    command = ["predict", str(run), "turned", str(image), "--kernels", "keras", "--json"]
    assert main([*command, *files]) == 0
    predicted = json.loads(capsys.readouterr().out)["predictions"]
    assert [set(row) for row in predicted[-2:]] == [
        {"file", "angle", "true_angle", "error"},
        {"file", "angle", "error"},
    ]
    assert len(predicted) == 21
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "file,angle,true_angle"
    assert lines[1:-1] == (run / "predictions.csv").read_text().splitlines()[1:]
    assert main([*command[:-1], "--submission", str(tmp_path / "s.csv")]) == 2
    assert "--submission is for classifications" in capsys.readouterr().err


def test_resumed_equals_uninterrupted(train: Callable[..., dict], tmp_path: Path) -> None:
    """Interrupted in mid-epoch, with samples that are made again for each epoch."""
    # 15 batches, of which the first chunk has 8.
    options = ("--epochs", "3", "--data", "turned:120", "--augment", "shift:1")
    options = (*options, "--callback", "halve_on_plateau:1")
    whole = train(*options)
    command = ["train", "compass:6", *OPTIONS, "--plugin", PLUGIN, "--output", str(tmp_path / "i")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command, *options],
        env={**os.environ, "TURN_DELAY": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    run, limit = tmp_path / "i" / "compass-turned_120-001", time.monotonic() + 100
    while not list(run.glob("last/state-*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.terminate()
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 143, error
    assert (run / "last" / "state-00000-0000008.ckpt").is_file()
    resumed = train("--resume", str(run))
    assert resumed["weights"] == whole["weights"]
    assert resumed["validation"] == whole["validation"]
    # Each epoch had other samples: with those of the first one the weights are others.
    assert train(*options, "--seed", "1")["weights"] != whole["weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compass",), "is for the task 'turn', and mnist5k is for 'classification': choose one"),
        (
            ("lenet", "--data", "turned"),
            "'turned' is for 'turn': choose one of its models (compass)",
        ),
        (("compass", "--data", "turned", "--label-smoothing", "0.1"), "label_smoothing is not an"),
        (("compass", "--data", "turned", "--class-weights", "balanced"), "class_weights is not an"),
        (("compass", "--data", "turned", "--monitor", "eror"), "did you mean 'error'?"),
        (("compass", "--data", "turned", "--monitor", "accuracy"), "there are: loss, error"),
        (("compass:x", "--data", "turned"), "invalid literal for int() with base 10: 'x'"),
        (("lenet:wide",), "the model 'lenet' takes no argument, got 'wide': write lenet"),
    ],
)
def test_wrong_requests_end_with_two_and_a_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert main(["train", *arguments, "--plugin", PLUGIN, "--output", str(out)]) == 2
    (line,) = [it for it in capsys.readouterr().err.splitlines() if it.startswith("error: ")]
    assert message.replace("'turned' is", "turned is") in line
    assert not out.exists()
