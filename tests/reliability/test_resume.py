"""T1 to T4: a run that was killed goes on, and ends with the same bits."""

import random
import signal
from pathlib import Path

import pytest
from forked import SLOW

# A run has 5 epochs of 6 batches. It has at most 4 kills, each before the seventh batch that it
# reads, so no kill comes after its end.
EPOCHS, BATCHES = 5, 6
ADAM = ("--optimizer", "adam", "--augment", "shift:1")


def kill_and_resume(train, model, folder, arguments, kills, draws):
    """Kill a run at random batches, resume it to its end, and return its result."""
    run = folder / f"{model}-toy-001"
    for _ in range(kills):
        at = draws.randrange(1, BATCHES + 1)
        where = {"TOY_SIGNAL": f"{signal.SIGKILL} {at}"}
        if run.exists():
            ended = train("--resume", run, environment=where)
        else:
            ended = train(model, folder, *arguments, environment=where)
        assert ended.code == 128 + signal.SIGKILL, ended.err
        assert "Traceback" not in ended.err
    assert len(list(folder.iterdir())) == 1
    return train("--resume", run)


@pytest.mark.parametrize("run", range(5 if SLOW else 1))
def test_t01_a_killed_run_ends_with_the_same_bits(train, whole, tmp_path, run):
    """20 kills in five runs; 3 kills in a short test."""
    arguments = ("--epochs", str(EPOCHS))
    draws = random.Random(run)
    ended = kill_and_resume(train, "plain", tmp_path, arguments, 4 if SLOW else 3, draws)
    assert ended.code == 0, ended.err
    expected = whole("plain", *arguments).json
    assert ended.json["weights"] == expected["weights"]
    assert ended.json["validation"] == expected["validation"]
    assert not list(tmp_path.rglob(".cnnforge-tmp-*"))


@pytest.mark.parametrize("run", range(5 if SLOW else 1))
def test_t02_the_same_with_dropout_batch_normalization_adam_and_augmentation(
    train, whole, tmp_path, run
):
    arguments = ("--epochs", str(EPOCHS), *ADAM)
    draws = random.Random(100 + run)
    ended = kill_and_resume(train, "small", tmp_path, arguments, 4 if SLOW else 1, draws)
    assert ended.code == 0, ended.err
    assert ended.json["weights"] == whole("small", *arguments).json["weights"]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--batch-size", "16"), {}, "has batch_size = 8, not 16"),
        (("--seed", "5"), {}, "has seed = 0, not 5"),
        ((), {"TOY_SEED": "9"}, "the data toy are not those of the run"),
    ],
    ids=["batch size", "seed", "data"],
)
def test_t03_a_changed_config_is_refused(train, whole, arguments, environment, message):
    run = Path(whole("plain", "--epochs", str(EPOCHS)).json["run"])
    ended = train("--resume", run, *arguments, environment=environment)
    assert ended.code == 2
    (line,) = ended.errors
    assert message in line


def test_t04_a_finished_run_has_nothing_to_do(train, whole):
    first = whole("plain", "--epochs", str(EPOCHS)).json
    run = Path(first["run"])
    before = {path: path.read_bytes() for path in (run / "last").iterdir()}
    model = (run / "model.keras").read_bytes()
    ended = train("--resume", run)
    assert ended.code == 0
    assert f"all {EPOCHS} epochs are done" in ended.err
    assert ended.json["weights"] == first["weights"]
    assert {path: path.read_bytes() for path in (run / "last").iterdir()} == before
    assert (run / "model.keras").read_bytes() == model
