"""Commands in processes of their own, and trainings of small models that faults interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty_toy
import pytest
from forked import Commands, Ended

PLUGIN = faulty_toy.__file__
OPTIONS = ("--data", "toy", "--kernels", "keras", "--batch-size", "8", "--plugin", PLUGIN)

Train = Callable[..., Ended]


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    started = Commands(tmp_path_factory.mktemp("commands"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def train(commands: Commands) -> Train:
    """Return `train(model, output, *arguments)`: a run without figures, saved at every batch.

    With `"--resume"` as the model, `output` is the run. Other keywords are those of
    `Commands.start`; `wait=False` returns the process that runs.
    """

    def train(
        model: str, output: Path, *arguments: str, before: str = "", wait: bool = True, **more: Any
    ) -> Any:
        if model == "--resume":
            given = ["train", model, str(output)]
        else:
            given = ["train", model, *OPTIONS, "--output", str(output)]
        before = faulty_toy.ONE_BATCH + faulty_toy.QUICK + before
        started = commands.start(*given, *arguments, "--json", before=before, **more)
        return started.wait() if wait else started

    return train


@pytest.fixture(scope="session")
def whole(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    """Return `whole(model, *arguments)`: the result of a training that nothing interrupts."""
    known: dict[tuple[str, ...], Ended] = {}

    def whole(model: str, *arguments: str) -> Ended:
        key = model, *arguments
        if key not in known:
            ended = train(model, tmp_path_factory.mktemp("whole"), *arguments)
            assert ended.code == 0, ended.err
            known[key] = ended
        return known[key]

    return whole
