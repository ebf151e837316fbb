"""`cnnforge sweep`: one real sweep, and wrong inputs."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.cli.sweep import worker
from cnnforge.runs import RunDirectory
from cnnforge.runs.listing import FINISHED, list_runs
from cnnforge.sweeping import storage

SPACE = ["--space", "learning_rate=1e-3..3e-2", "--space", "optimizer=adam,sgd"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number, label in enumerate(("dark", "bright")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for each in range(12):
            pixels = random.integers(100 * number, 100 * number + 90, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{each}.png")
    return tmp_path / "data"


class Orders:
    """Stands for the sweep of a worker, and keeps its answers."""

    def __init__(self, go_on: bool) -> None:
        self.stop, self.answers, self._go_on = threading.Event(), [], go_on

    def next(self) -> dict[str, Any]:
        return {"go_on": self._go_on}

    def tell(self, **answer: Any) -> None:
        self.answers.append(answer)


def check_that_a_run_is_continued(run: Path, value: float) -> None:
    """A worker gets the run of a worker that was killed after the last epoch."""
    order = {"train": {}, "resume": str(run), "metric": "accuracy"}
    sweep: Any = Orders(True)
    worker._train(sweep, order)
    assert sweep.answers == [
        {"run": str(run)},
        {"epoch": 1, "epochs": 1, "value": pytest.approx(value)},
        {"done": pytest.approx(value)},
    ]
    sweep = Orders(False)
    with pytest.raises(worker._Pruned):
        worker._train(sweep, order)
    assert "done" not in sweep.answers[-1]


def test_a_sweep_trains_ordinary_runs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best configuration, trained again, gives the value of the sweep."""
    fixed = ["lenet", "--data", str(data), "--epochs", "1", "--kernels", "keras"]
    command = ["sweep", *fixed, *SPACE, "--trials", "2", "--output", "s"]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert "space: learning_rate: 0.001 to 0.03, log scale" in captured.err
    assert [each["state"] for each in found["trials"]] == ["done", "done"]
    assert all(run.state == FINISHED for run in list_runs(Path("s")))
    best = found["best"]
    options, _ = RunDirectory(Path("s") / best["run"]).read_config()
    assert options["learning_rate"] == best["options"]["learning_rate"]
    assert options["split_seed"] == 0
    check_that_a_run_is_continued(Path("s") / best["run"], best["value"])
    # Nothing is left to do, so no process is started.
    assert main(command) == 0
    captured = capsys.readouterr()
    assert f"best configuration: {Path('s', 'best.toml')}" in captured.out
    assert "trial 0" not in captured.err
    assert main(["train", "--config", "s/best.toml", "--output", "again", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["validation"]["accuracy"] == pytest.approx(best["value"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "learing_rate=1..2"], "did you mean 'learning_rate'?"),
        (["--space", "learning_rate=1e-2..1e-3"], "is empty"),
        (["--space", "batch_size=few..many"], "must be a whole number, got 'few'"),
        (["--space", "learning_rate=0..1"], "learning_rate must be a number above 0"),
        ([], "the space is empty"),
        ([*SPACE, "--data", "mnist5kk"], "did you mean 'mnist5k'?"),
        ([*SPACE, "--time-limit", "soon"], "--time-limit must be a time"),
        (["lenett", *SPACE], "did you mean 'lenet'?"),
        (["--epochs", "3", "--space", "epochs=2..9"], "epochs has the value 3 and is in the space"),
    ],
)
def test_wrong_input_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_sweep_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.parent / "s").mkdir()
    described = {"format": 1, "options": {"epochs": 3}, "space": {}, "metric": "accuracy"}
    (data.parent / "s" / "sweep.json").write_text(json.dumps(described))
    command = ["sweep", "lenet", "--data", str(data), *SPACE, "--epochs", "4", "--output", "s"]
    assert main(command) == 2
    assert "s has another sweep, in which epochs is 3, and now 4" in capsys.readouterr().err


def test_the_install_line_is_given_without_optuna(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "find_spec", lambda name: None)
    assert main(["sweep", *SPACE]) == 1
    assert "pip install 'cnnforge[sweep]'" in capsys.readouterr().err
