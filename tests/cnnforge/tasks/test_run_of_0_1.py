"""A run that cnnforge 0.1 made: it loads, predicts, and goes on with the same numbers."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from cnnforge.cli import main
from cnnforge.runs.named_plugins import remember
from cnnforge.training import StateStore

DATA = Path(__file__).parents[2] / "data"
# What cnnforge 0.1 measured when it went on with this run itself.
LOSSES = {1: 1.080311, 2: 0.882679, 3: 0.6705922, 4: 0.5937264, 5: 0.5062737}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a copy of the run, after the third of five epochs."""
    run = tmp_path / "run-0.1"
    shutil.copytree(DATA / "run-0.1", run)
    plugin = str(DATA / "run_0_1_plugin.py")
    config = run / "config.toml"
    config.write_text(config.read_text().replace('"run_0_1_plugin.py"', json.dumps(plugin)))
    # Whoever has trained it has named it.
    remember([plugin])
    return run


def test_its_state_is_read(run: Path) -> None:
    state, warnings = StateStore(run / "last").load()
    assert warnings == []
    assert state is not None
    assert (state.epoch, state.batch) == (3, 0)
    assert [row.val_loss for row in state.history] == pytest.approx(
        [LOSSES[1], LOSSES[2], LOSSES[3]], rel=1e-6
    )
    assert state.best is not None
    assert set(state.best.values) == {"accuracy", "loss"}
    assert state.callbacks == {"builtin/halve_on_plateau:1": {"waited": 0}}


def test_it_predicts_and_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--kernels", "keras", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(LOSSES[3], abs=1e-3)
    assert found["samples"] == 12
    assert main(["predict", str(run), "stripes", "--kernels", "keras", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert {row["label"] for row in rows} <= {"top", "middle", "bottom"}


def test_it_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["epochs"], found["best_epoch"]) == (5, 5)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = {int(row["epoch"]): float(row["val_loss"]) for row in rows}
    assert losses == pytest.approx(LOSSES, abs=1e-3)
    # Columns that 0.1 did not have are empty for its epochs.
    assert [bool(row["val_macro_f1"]) for row in rows] == [False] * 3 + [True] * 2


def test_what_it_could_not_ask_for_cannot_be_changed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(run), "--monitor", "macro_f1"]) == 2
    assert "has monitor = None, not macro_f1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clip_norm = 0.001", "has clip_norm = None, not 0.001"),
        ('schedule = "step:1"', "has schedule = constant, not step:1"),
        ('optimizer = "sgd"', "has optimizer = adam, not sgd"),
        ("split_seed = 1", "has split_seed = 0, not 1"),
        ("label_smoothing = 0.1", "has label_smoothing = 0.0, not 0.1"),
    ],
)
def test_an_option_that_its_state_lacks_cannot_be_added_to_its_configuration(
    run: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.toml"
    config.write_text(f"{line}\n{config.read_text()}")
    assert main(["train", "--resume", str(run)]) == 2
    assert message in capsys.readouterr().err
