"""Options of `train --workers` and `sweep --workers`, without Ray."""

import functools
import threading
from pathlib import Path
from typing import Any

import pytest
import toy_sweep

from cnnforge.cli import main
from cnnforge.cli.sweep import worker
from cnnforge.cli.workers.training import kept, without
from cnnforge.distributed import addresses
from cnnforge.distributed.machines import Place
from cnnforge.distributed.ray_tune import RayTune, _supervise
from cnnforge.model_files.trust import models_are_trusted
from cnnforge.sweeping.processes import Process
from cnnforge.sweeping.trials import MAX_DEATHS

SPACE = ["--space", "optimizer=adam,sgd"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--address", "auto"], "--address is for several workers: add --workers N"),
        (["train", "--workers", "2", "--address", "nowhere"], "expected local, auto, HOST:PORT"),
        (["train", "--workers", "2", "--devices", "2"], "leave out --devices, or --workers"),
        (["train", "--workers", "2", "--repeat", "3"], "--repeat trains on one device and in one"),
        (["train", "--workers", "2", "--startup-timeout", "soon"], "--startup-timeout must be a"),
        (["train", "--workers", "0"], "--workers"),
        (["train", "lenett", "--workers", "2"], "did you mean 'lenet'?"),
        (["sweep", *SPACE, "--address", "auto"], "--address is for several workers: add --workers"),
        (["sweep", *SPACE, "--startup-timeout", "9s"], "--startup-timeout is for several workers"),
        (
            ["sweep", *SPACE, "--workers", "2", "--parallel", "2"],
            "--parallel runs trials on this machine, and --workers with Ray: leave out one of them",
        ),
    ],
)
def test_wrong_options_are_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "find_spec", lambda name: True)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["train"], ["sweep", *SPACE]])
def test_ray_can_be_missing(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)
    assert main([*command, "--workers", "2"]) == 2
    assert "pip install 'cnnforge[cluster]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_worker_starts_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "find_spec", lambda name: True)
    config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", config)
    assert main(["train", "--workers", "2"]) == 2
    assert "leave out --workers, or unset TF_CONFIG" in capsys.readouterr().err


def test_command_lines_of_workers() -> None:
    line = ["train", "lenet", "--workers", "2", "--json", "--address=auto", "--startup-timeout"]
    line += ["9m", "--epochs", "+3"]
    assert without(line, ("--workers", "--address")) == [
        *("train", "lenet", "--json", "--startup-timeout", "9m", "--epochs", "+3")
    ]
    assert kept(line) == ["--json", "--startup-timeout", "9m"]
    assert kept(["train", "--startup-timeout=9m"]) == ["--startup-timeout=9m"]


class Here(RayTune):
    """Runs trials as Ray's workers would, in this process. Each dies as often as `dies` says."""

    def run(self, sweep: Any, should_stop: Any) -> None:
        desk: Any = self
        self.sweep = sweep
        while (number := self._answer(sweep, {})) is not None:
            for _ in range(self.max_deaths):
                try:
                    _supervise({"trial": number}, self.start, desk, self.place, 1)
                    break
                except RuntimeError:
                    continue
            else:
                self._answer(sweep, {"trial": number, "lost": True})

    def ask(self, **question: Any) -> Any:
        return self._answer(self.sweep, question)

    def is_stopped(self) -> bool:
        return False


def here(folder: Path) -> Here:
    start = functools.partial(Process, [str(toy_sweep.TRAINER)], folder, None)
    return Here(start, folder, Place(folder, [folder]), 1, "local", 60.0, MAX_DEATHS)


def test_trials_of_workers_are_those_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOY_DIES", "2")
    lines: list[str] = []
    (tmp_path / "one").mkdir()
    found = toy_sweep.run(tmp_path / "one", 2, executor=here(tmp_path / "one"), lines=lines)
    assert "trial 0: its process was ended by SIGKILL; it goes on from its last state" in lines
    # Without workers, the same sweep goes on.
    again = toy_sweep.run(tmp_path / "one", 3)
    whole = toy_sweep.run(tmp_path / "other", 3)
    values = [(t.number, t.state, t.value, t.values) for t in whole.trials]
    assert [(t.number, t.state, t.value, t.values) for t in again.trials] == values
    assert [t.value for t in found.trials] == [t.value for t in whole.trials[:2]]


def test_a_trial_that_always_dies_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = here(tmp_path)
    executor.start = functools.partial(Process, ["-c", "exit(7)"], tmp_path, None)
    lines: list[str] = []
    with pytest.raises(Exception, match="the first 1 trials failed"):
        toy_sweep.run(tmp_path, 1, executor=executor, lines=lines)
    assert lines[-1] == (
        "trial 0 failed: its process ended with exit code 7; see " + str(tmp_path / "worker.log")
    )
    assert sum("it goes on from its last state" in line for line in lines) == 2


def test_a_sweep_can_trust_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option reaches the process that trains, and the message that names it is right."""
    seen = []

    class Stop(Exception):
        pass

    class Orders:
        stop = threading.Event()

        def next(self) -> dict[str, Any]:
            seen.append(models_are_trusted())
            raise Stop

    monkeypatch.setattr(worker, "_Sweep", lambda *_: Orders())
    monkeypatch.setattr(worker, "answers_of_worker", lambda: None)
    for given in ([], ["--trust-model"]):
        monkeypatch.setattr(worker.sys, "argv", ["worker", *given])
        with pytest.raises(Stop):
            worker.main()
    assert seen == [False, True]
