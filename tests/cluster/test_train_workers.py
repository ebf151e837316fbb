"""T28: trainings with two workers of Ray, in which something dies, end with the same bits."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_toy
import pytest
from cluster_command import Command, parent_of
from local_ray import PATIENCE, adopt_orphans, is_loopback, listeners
from strangers import answers, outer_address

EPOCHS = 40
RUN = Path("runs", "small-toy-001")
OPTIONS = (
    *("--data", "toy", "--kernels", "keras", "--batch-size", "8"),
    *("--optimizer", "adam", "--augment", "shift:1", "--epochs", str(EPOCHS)),
    *("--plugin", faulty_toy.__file__, "--output", "runs", "--workers", "2", "--json"),
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts a command in `tmp_path`."""
    adopt_orphans()
    commands = []

    def start(*arguments: str | Path, **environment: str) -> Command:
        commands.append(Command(tmp_path, *arguments, **environment))
        return commands[-1]

    yield start
    for each in commands:
        each.end()


def train(start: Any) -> Command:
    """Start a training whose epochs take about a second."""
    return start("train", "small", *OPTIONS, TOY_WAIT="0.7")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    command = Command(folder, "train", "small", *OPTIONS)
    try:
        assert command.wait() == 0, command.err
        return {"json": json.loads(command.out), "rows": rows(folder / RUN)}
    finally:
        command.end()


def rows(run: Path) -> list[dict[str, str]]:
    """Return the metrics of each epoch, without its time."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    timed = ("seconds", "images_per_second", "waiting")
    return [{k: v for k, v in row.items() if k not in timed} for row in found]


def check_same(command: Command, folder: Path, whole: dict[str, Any], killed: int = 0) -> None:
    """Compare a training that has ended with one that nothing interrupts.

    Args:
        command: The last command of the training.
        folder: Its working directory.
        whole: The result of the other training.
        killed: Number of commands before it that were killed. Each leaves its folder `.ray-*`.
    """
    assert command.wait() == 0, command.err
    assert json.loads(command.out)["weights"] == whole["json"]["weights"]
    assert rows(folder / RUN) == whole["rows"]
    *left, run = sorted(each.name for each in (folder / "runs").iterdir())
    assert run == RUN.name
    assert len(left) == killed
    assert all(each.startswith(".ray-") for each in left)
    assert "Traceback" not in command.err
    assert not command.workers()


def test_t29_other_machines_cannot_connect(started: Any) -> None:
    outer = outer_address()
    command = started("train", "small", *OPTIONS, "--epochs", "2")
    on_all_addresses, reached = set(), set()
    while command.process.poll() is None:
        for _, address, port in listeners(command.processes()):
            if not is_loopback(address):
                on_all_addresses.add(port)
                reached.update([port] if answers(outer, port, 0.2) else [])
        time.sleep(0.02)
    assert command.wait() == 0, command.err
    # TensorFlow's server of each worker.
    assert len(on_all_addresses) == 2
    assert not reached
    assert "other machines" not in command.err


def test_t28_ten_workers_killed_at_a_random_step(started, whole, tmp_path: Path) -> None:
    """Each kill is that of the command, or of Ray's process that supervises it."""
    draws = random.Random(0)
    command = train(started)
    for kill in range(10):
        # Without a new state, a restart is in vain.
        command.says("run directory: ", kill + 1)
        before = command.err.rpartition("run directory: ")[0]
        command.says("epoch ", before.count("epoch ") + 1)
        time.sleep(draws.uniform(0, 2))
        process = command.workers()[draws.randrange(2)]
        os.kill(process if draws.random() < 0.5 else parent_of(process), signal.SIGKILL)
        command.says("all workers start again", kill + 1)
    check_same(command, tmp_path, whole)


@pytest.mark.parametrize(("number", "name"), [(2, "Ctrl-C"), (15, "SIGTERM")])
def test_all_workers_save_at_the_same_step(
    started, whole, tmp_path: Path, number: int, name: str
) -> None:
    command = train(started)
    command.says(f"epoch  3/{EPOCHS}")
    time.sleep(0.3)
    for process in command.processes() if number == 2 else [command.process.pid]:
        # A terminal sends a signal to all processes of the command that are in its group.
        if os.getpgid(process) == os.getpgid(command.process.pid):
            os.kill(process, number)
    assert command.wait() == 128 + number, command.err
    again = f"cnnforge train --resume {RUN} --workers 2"
    assert command.err.splitlines()[-1] == (
        f"interrupted by {name}; the state is saved; go on with '{again}'"
    )
    assert not command.workers()
    check_same(started(*again.split()[1:], "--json"), tmp_path, whole)


def test_the_workers_end_with_a_killed_command(started, whole, tmp_path: Path) -> None:
    command = train(started)
    command.says(f"epoch  3/{EPOCHS}")
    command.process.kill()
    end = time.monotonic() + PATIENCE
    while command.workers() and time.monotonic() < end:
        time.sleep(0.1)
    assert not command.workers()
    again = started("train", "--resume", RUN, "--workers", "2", "--json")
    check_same(again, tmp_path, whole, killed=1)


# A process of its own: what another test has set up in Ray would remain in this one.
THREE_MACHINES = """
import sys
from ray.cluster_utils import Cluster
few = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **few})
for _ in range(3):
    cluster.add_node(num_cpus=1, **few)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Start three machines with one processor each, and yield the address of their cluster."""
    # A token in the home folder of the user is not that of this cluster.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # The workers have the environment of their machine, not that of the command.
    monkeypatch.setenv("TOY_WAIT", "0.7")
    with (tmp_path / "machines.txt").open("wb") as err:
        machines = subprocess.Popen(
            [sys.executable, "-c", THREE_MACHINES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    with machines:
        assert machines.stdout is not None
        address = machines.stdout.readline().strip()
        assert address, (tmp_path / "machines.txt").read_text()
        yield address


def test_t28_a_machine_that_is_lost(started, whole, nodes: str, tmp_path: Path) -> None:
    """The workers go on on another machine."""
    command = started("train", "small", *OPTIONS, "--address", nodes, TOY_WAIT="0.7")
    command.says(f"epoch  3/{EPOCHS}")
    time.sleep(0.4)
    # Ray's process of the machine. All others of the machine end with it.
    os.kill(parent_of(parent_of(command.workers()[1])), signal.SIGKILL)
    command.says("all workers start again")
    check_same(command, tmp_path, whole)
    assert "worker 1 on " in command.err


def test_a_token_for_a_cluster_without_one(started, nodes: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("f" * 64)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = started("train", "small", *OPTIONS, "--address", nodes, **environment)
    assert command.wait() == 1, command.err
    (line,) = command.err.splitlines()
    assert f"was started without a token, and {token} has one: set RAY_AUTH_MODE=disabled" in line


def test_t28_too_few_machines_are_left(started, nodes: str, tmp_path: Path) -> None:
    # Processes of a lost machine train on for half a minute. They must not reach the last epoch.
    options = (*OPTIONS, "--epochs", "400", "--address", nodes, "--startup-timeout", "2m")
    command = started("train", "small", *options, TOY_WAIT="0.7")
    command.says("epoch   2/400")
    # One machine is left, which is too few.
    for process in list(command.workers().values()):
        os.kill(parent_of(parent_of(process)), signal.SIGKILL)
    command.says("is lost with its machine")
    assert command.wait() == 1, command.err
    last = command.err.splitlines()[-1]
    assert "workers have started within 120 s: see that the cluster has enough" in last
    assert f"go on with 'cnnforge train --resume {RUN} --workers 2 --address {nodes}'" in last


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (
            "ray::_Caller.call",
            "Ray's process that directs the workers was killed, or the cluster is lost "
            r"\(ActorDiedError\)",
        ),
        (
            "gcs_server",
            r"the Ray cluster is lost: nothing has answered at 127\.0\.0\.1:\d+ for \d+ s",
        ),
    ],
)
def test_a_process_of_ray_itself_is_killed(
    started: Any, whole: dict[str, Any], tmp_path: Path, process: str, expected: str
) -> None:
    command = train(started)
    command.says(f"epoch  2/{EPOCHS}")
    (found,) = command.titled(process)
    os.kill(found, signal.SIGKILL)
    assert command.wait() == 1, command.err
    again = f"cnnforge train --resume {RUN} --workers 2"
    assert re.fullmatch(f"error: {expected}; go on with '{again}'", command.err.splitlines()[-1])
    assert not command.left()
    check_same(started(*again.split()[1:], "--json"), tmp_path, whole)


def test_an_error_of_a_worker_is_one_line(started, tmp_path: Path) -> None:
    command = started("train", "poisoned", *OPTIONS, "--data", "toy:white")
    assert command.wait() == 3, command.err
    errors = [line for line in command.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "is not a finite number" in errors[0]


def test_training_ends_if_restarts_are_in_vain(started, tmp_path: Path) -> None:
    """Each attempt dies before its first state."""
    command = started("train", "small", *OPTIONS, TOY_SIGNAL=f"{signal.SIGKILL} 1")
    assert command.wait() == 1, command.err
    last = command.err.splitlines()[-1]
    assert last.startswith("error: 3 restarts in a row have given no new state, so training ends; ")
    assert last.endswith(f"go on with 'cnnforge train --resume {RUN} --workers 2'")
    assert not command.workers()
