"""Sweeps whose trials run in workers of Ray: the same trials, whatever dies."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import toy_sweep
from cluster_command import Command, parent_of
from kill_sweep import trials_of, write_pictures
from local_ray import PATIENCE, adopt_orphans

from cnnforge.distributed.machines import Place
from cnnforge.distributed.ray_tune import RayTune
from cnnforge.errors import CnnforgeError
from cnnforge.runs.finding import runs_in
from cnnforge.sweeping.processes import Process
from cnnforge.sweeping.results import SweepResult
from cnnforge.sweeping.trials import MAX_DEATHS

TRIALS = 4


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOY_SECONDS", "TOY_FAILS", "TOY_DIES"):
        monkeypatch.delenv(name, raising=False)


def workers(folder: Path, count: int, *needed: Path) -> RayTune:
    start = functools.partial(Process, [str(toy_sweep.TRAINER)], folder, None)
    place = Place(Path.cwd(), [folder, *needed])
    return RayTune(start, folder, place, count, "local", PATIENCE, MAX_DEATHS)


def shown(result: SweepResult) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.value, t.values, t.epochs) for t in result.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep on this machine that was not interrupted."""
    return toy_sweep.run(tmp_path_factory.mktemp("whole") / "sweep", TRIALS)


def test_one_worker_has_the_trials_of_one_process(whole: SweepResult, tmp_path: Path) -> None:
    """A sweep that was begun without Ray goes on with it, and the other way round."""
    toy_sweep.run(tmp_path, 1)
    toy_sweep.run(tmp_path, TRIALS - 1, executor=workers(tmp_path, 1))
    assert shown(toy_sweep.run(tmp_path, TRIALS)) == shown(whole)
    assert len(runs_in(tmp_path)) == TRIALS
    assert not list(tmp_path.glob(".ray-*"))


def test_a_killed_process_of_a_trial_is_replaced(
    whole: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DIES", "2")
    lines: list[str] = []
    found = toy_sweep.run(tmp_path, 1, executor=workers(tmp_path, 1), lines=lines)
    assert shown(found) == shown(whole)[:1]
    assert len(runs_in(tmp_path)) == 1
    assert "trial 0: its process was ended by SIGKILL; it goes on from its last state" in lines


def test_a_stop_keeps_the_running_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: SweepResult
) -> None:
    monkeypatch.setenv("TOY_SECONDS", "1")
    lines: list[str] = []
    found = toy_sweep.run(
        tmp_path,
        2,
        executor=workers(tmp_path, 1),
        lines=lines,
        should_stop=lambda: any(tmp_path.glob("*/metrics.csv")),
    )
    assert [each.state for each in found.trials] == ["unfinished"]
    monkeypatch.setenv("TOY_SECONDS", "0")
    assert shown(toy_sweep.run(tmp_path, TRIALS)) == shown(whole)


def test_a_sweep_ends_if_nothing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAILS", "all")
    with pytest.raises(CnnforgeError, match=r"the first 3 trials failed.*not a finite number"):
        toy_sweep.run(tmp_path, 8, executor=workers(tmp_path, 2))


def test_a_machine_that_does_not_see_the_data_is_named(tmp_path: Path) -> None:
    folder, data = tmp_path / "sweep", tmp_path / "data"
    folder.mkdir()
    with pytest.raises(CnnforgeError, match=rf"the machine .* does not see {data}: all machines"):
        toy_sweep.run(folder, 2, executor=workers(folder, 1, data))


def test_t28_a_killed_worker_of_a_real_sweep(tmp_path: Path) -> None:
    """The process of a trial is killed, and Ray's process of another one."""
    adopt_orphans()
    write_pictures(tmp_path / "data", 30)
    options = ("--data", "data", "--epochs", "8", "--kernels", "keras", "--trials", "3")
    space = ("--space", "learning_rate=1e-3..3e-2", "--space", "optimizer=adam,sgd")
    sweep = ("sweep", "lenet", *options, *space, "--no-prune")
    expected = Command(tmp_path, *sweep, "--output", "whole")
    assert expected.wait() == 0, expected.err
    command = Command(tmp_path, *sweep, "--output", "killed", "--workers", "1")
    try:
        for kill in range(2):
            command.says(f"trial {kill} begins")
            table = tmp_path / "killed" / f"lenet-data-00{kill + 1}" / "metrics.csv"
            end = time.monotonic() + PATIENCE
            while not table.exists() and time.monotonic() < end:
                time.sleep(0.005)
            (process,) = command.titled("cnnforge.cli.sweep.worker")
            os.kill(process if kill == 0 else parent_of(process), signal.SIGKILL)
            command.says(f"trial {kill}: its ")
        assert command.wait() == 0, command.err
    finally:
        command.end()
    assert (
        "trial 0: its process was ended by SIGKILL; it goes on from its last state" in command.err
    )
    assert "trial 1: its Ray worker was killed" in command.err
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")
    assert len(runs_in(tmp_path / "killed")) == 3
    for number in (1, 2, 3):
        names = (tmp_path / each / f"lenet-data-00{number}" for each in ("whole", "killed"))
        one, other = (np.load(each / "plan.npz") for each in names)
        assert one.files
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
