"""T17 to T19: values that are not finite, and a batch that does not fit into memory."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from forked import files_in

from cnnforge.training import StateStore

# The estimate of the memory is wrong here: it says that there is enough.
NO_ESTIMATE = """
from cnnforge.training import setup
setup.available_memory = lambda: None
"""
# The process may take this number of bytes more than it has now.
LIMITED = """
import os, resource
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {bytes}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


def saved_in(run: Path):
    state, warnings = StateStore(run / "last").load()
    assert warnings == []
    assert state is not None
    return state


def test_t17_a_pixel_that_gives_nan(train, tmp_path: Path) -> None:
    ended = train("poisoned", tmp_path, "--data", "toy:white", "--epochs", "2")
    assert ended.code == 3, ended.err
    (line,) = ended.errors
    assert line.startswith("error: the loss in epoch 1, batch ")
    assert " of 6 is not a finite number, first seen in the outputs of layer 'poisoned'" in line
    assert line.endswith("; the last saved state is finite")
    (run,) = tmp_path.iterdir()
    state = saved_in(run)
    assert state.batch > 0
    assert all(np.isfinite(array).all() for array in state.arrays)


@pytest.mark.parametrize("rate", ["1e6", "1e38"])
def test_t18_a_learning_rate_that_is_too_high(train, tmp_path: Path, rate: str) -> None:
    options = ("--epochs", "30", "--optimizer", "sgd", "--learning-rate", rate)
    ended = train("small", tmp_path, *options)
    assert ended.code == 3, ended.err
    (line,) = ended.errors
    assert re.match("error: (the loss in|a weight after) epoch 1, batch [1-6] of 6 is not a", line)
    assert "finite number, first seen in the " in line
    assert "lower the learning rate" in line
    state = saved_in(tmp_path / "small-toy-001")
    assert all(np.isfinite(array).all() for array in state.arrays)


def test_t19_memory_that_runs_out_in_the_middle(train, whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = whole("small", "--epochs", "1").json
    shutil.copytree(first["run"], run)
    ended = train("--resume", run, "--epochs", "3", environment={"TOY_MEMORY": "4"})
    assert ended.code == 1, ended.err
    (line,) = ended.errors
    assert line.startswith("error: memory ran out (small for 6x6x1 images: ")
    assert line.endswith("start a new run with a smaller --image-size or --batch-size")
    assert "Traceback" not in ended.err
    assert not [name for name in files_in(run) if "tmp" in name]
    saved_in(run)
    resumed = train("--resume", run, "--epochs", "3").json
    assert resumed["weights"] == whole("small", "--epochs", "3").json["weights"]


# Memory runs out for the images of the first prediction.
WHILE_IT_PREDICTS = """
from cnnforge.prediction.keras_model import KerasModel
def predict(*_):
    raise MemoryError
KerasModel.predict = predict
"""


def test_t19_memory_that_runs_out_after_the_training(train, whole, tmp_path: Path) -> None:
    ended = train("small", tmp_path, "--epochs", "1", before=WHILE_IT_PREDICTS)
    assert ended.code == 1, ended.err
    run = tmp_path / "small-toy-001"
    assert ended.errors == [
        "error: memory ran out: the model is saved, but tables or figures are missing; close other "
        f"programs, and write them with 'cnnforge train --resume {run}'"
    ]
    assert "Traceback" not in ended.err
    assert (
        train("--resume", run).json["validation"]
        == whole("small", "--epochs", "1").json["validation"]
    )


def test_t19_memory_that_runs_out_in_another_command(whole, commands) -> None:
    from faulty_toy import __file__ as plugin

    run = whole("small", "--epochs", "1").json["run"]
    command = ["predict", run, "toy", "--kernels", "keras", "--plugin", plugin]
    ended = commands.run(*command, before=WHILE_IT_PREDICTS)
    assert ended.code == 1, ended.err
    (line,) = ended.errors
    assert line.startswith("error: memory ran out: close other programs")
    assert "Traceback" not in ended.err


def test_t19_a_batch_that_does_not_fit(train, tmp_path: Path) -> None:
    before = NO_ESTIMATE + LIMITED.format(bytes=1_500_000_000)
    options = ("--epochs", "1", "--batch-size", "48")
    ended = train("hungry", tmp_path, *options, before=before)
    assert ended.code == 1, ended.err
    (line,) = ended.errors
    assert line.startswith("error: memory ran out (hungry for 6x6x1 images: ")
    assert "--batch-size" in line
    assert "Traceback" not in ended.err
