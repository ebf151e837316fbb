"""T25 to T27: several processes train one model; and several devices of one process.

The processes are on this machine, and TF_CONFIG names them, as SLURM's scripts and Kubernetes do.
"""

import csv
import json
import os
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from faulty_toy import ONE_BATCH, QUICK
from faulty_toy import __file__ as PLUGIN
from forked import SLOW
from strangers import answers, outer_address

slow = pytest.mark.skipif(not SLOW, reason="takes minutes: make test-slow")

EPOCHS, BATCHES = 4, 6
ADAM = ("--optimizer", "adam", "--augment", "shift:1")
# A worker that survives the end of another one ends within this time.
MAX_SECONDS = 30.0

# Each worker begins with other weights, and writes the digest of all variables after each epoch.
DIGESTS = """
import os
from cnnforge.training import loop, setup
prepare = setup.prepare
setup.prepare = lambda seed: prepare(seed + int(os.environ["TOY_RANK"]))
finish = loop._Run.finish_epoch
def finish_and_write(self, *rest):
    finish(self, *rest)
    with open(os.environ["TOY_DIGESTS"], "a") as file:
        print(self.current().digest(), file=file)
loop._Run.finish_epoch = finish_and_write
"""


def free_ports(count):
    with ExitStack() as opened:
        taken = [
            opened.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
            for _ in range(count)
        ]
        return [each.getsockname()[1] for each in taken]


@pytest.fixture
def start(commands):
    """Return `start(*arguments, size=2, ranks=None, environments={}, ports=None)`.

    It returns the running workers by rank.
    """

    def start(*arguments, size=2, ranks=None, environments=None, before="", ports=None):
        names = [f"127.0.0.1:{port}" for port in ports or free_ports(size)]
        running = {}
        for rank in range(size) if ranks is None else ranks:
            task = {"type": "worker", "index": rank}
            config = {"cluster": {"worker": names}, "task": task}
            environment = {
                "TF_CONFIG": json.dumps(config),
                "TOY_RANK": str(rank),
                "CUDA_VISIBLE_DEVICES": "",
                **(environments or {}).get(rank, {}),
            }
            running[rank] = commands.start(
                *arguments,
                "--json",
                before=ONE_BATCH + QUICK + before,
                environment=environment,
            )
        return running

    return start


def waited(running):
    return [running[rank].wait() for rank in sorted(running)]


def arguments(model, folder, *more):
    options = ("--data", "toy", "--kernels", "keras", "--batch-size", "8", "--plugin", PLUGIN)
    return ("train", model, *options, "--epochs", str(EPOCHS), "--output", str(folder), *more)


def rows(run):
    with (Path(run) / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def close_to_one(run, alone):
    """Compare the course of the losses with that of a training on one device."""
    for row, other in zip(rows(run), rows(alone), strict=True):
        for name in ("loss", "val_loss"):
            assert row[name] == pytest.approx(other[name], abs=1e-5, rel=1e-5)
        assert row["accuracy"] == other["accuracy"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_two_devices_of_one_process(train, whole, tmp_path):
    """The last batch of 48 images has one image, so one device has none."""
    # A schedule and an average have variables of their own, with a copy on each device.
    of_optimizer = ("--schedule", "step:1", "--ema", "0.9", "--clip-norm", "1")
    options = ("--epochs", "2", "--batch-size", "47", *of_optimizer)
    ended = train("plain", tmp_path, *options, "--devices", "2")
    assert ended.code == 0, ended.err
    assert "training on 2 devices" in ended.err
    close_to_one(ended.json["run"], whole("plain", *options).json["run"])
    if not SLOW:
        return
    again = train("plain", tmp_path, *options, "--devices", "2")
    assert again.json["weights"] == ended.json["weights"]
    note = train("--resume", Path(ended.json["run"]), "--epochs", "3")
    assert note.code == 0, note.err
    assert "was trained on 2 devices so far, and goes on with 1" in note.err


def test_more_devices_than_there_are(train, tmp_path):
    ended = train("plain", tmp_path, "--devices", "1000")
    assert ended.code == 2
    (line,) = ended.errors
    assert "--devices is 1000, and this machine has" in line
    assert not list(tmp_path.iterdir())


@slow
@pytest.mark.parametrize("size", [2, 3])
def test_t25_workers_with_other_seeds_have_the_same_bits_after_each_epoch(
    start, whole, tmp_path, size
):
    """With 7 images a batch, the parts of three workers differ; the last batch has 6."""
    more = ("--batch-size", "7", "--learning-rate", "0.05")
    places = [tmp_path / f"digests-{rank}" for rank in range(size)]
    running = start(
        *arguments("plain", tmp_path / "runs", *more),
        size=size,
        environments={rank: {"TOY_DIGESTS": str(place)} for rank, place in enumerate(places)},
        before=DIGESTS,
    )
    ended = waited(running)
    assert [each.code for each in ended] == [0] * size, [each.err for each in ended]
    found = [place.read_text().split() for place in places]
    assert len(set(found[0])) == EPOCHS
    assert all(each == found[0] for each in found)
    close_to_one(ended[0].json["run"], whole("plain", "--epochs", str(EPOCHS), *more).json["run"])
    for each in ended[1:]:
        assert (each.out, each.err) == ("", "")


@pytest.fixture(scope="module")
def expected():
    """The digest of an uninterrupted training of two workers; empty until it is known."""
    return []


@slow
@pytest.mark.parametrize("trial", range(10))
def test_t26_one_of_two_workers_is_killed(start, expected, tmp_path, trial):
    """At a random step of a random epoch; both are started again. It ends with the same bits."""
    command = arguments("small", tmp_path, *ADAM)
    if not expected:
        both = start(*arguments("small", tmp_path / "whole", *ADAM))
        ended = waited(both)
        assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
        expected.append(ended[0].json["weights"])
    draws = random.Random(trial)
    victim, at = draws.randrange(2), draws.randrange(1, EPOCHS * BATCHES)
    running = start(*command, environments={victim: {"TOY_SIGNAL": f"{signal.SIGKILL} {at}"}})
    assert running[victim].wait().code == 128 + signal.SIGKILL
    begun = time.monotonic()
    survivor = running[1 - victim].wait()
    assert time.monotonic() - begun < MAX_SECONDS
    assert survivor.code == 4, survivor.err
    (line,) = survivor.errors
    assert f"worker {victim} (127.0.0.1:" in line
    assert "has ended or cannot be reached; start all workers again, with --resume RUN" in line
    assert "Traceback" not in survivor.err
    run = tmp_path / "small-toy-001"
    resumed = start("train", "--resume", run)
    ended = waited(resumed)
    assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
    assert ended[0].json["weights"] == expected[0]


@slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_stands_still_ends_both(start, tmp_path, victim):
    """As a machine that is paused. It goes on after the other worker has ended."""
    environments = {victim: {"TOY_SIGNAL": f"{signal.SIGSTOP} 9"}}
    running = start(*arguments("small", tmp_path, *ADAM), environments=environments)
    ended = running[1 - victim].wait()
    running[victim].kill(signal.SIGCONT)
    for rank, each in ((1 - victim, ended), (victim, running[victim].wait())):
        assert each.code == 4, each.err
        (line,) = each.errors
        assert "has ended or cannot be reached; start all workers again" in line, rank
        assert "Traceback" not in each.err


@slow
def test_a_port_that_is_in_use_is_named(start, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        ports = [*free_ports(1), taken.getsockname()[1]]
        running = start(*arguments("plain", tmp_path, "--startup-timeout", "5s"), ports=ports)
        ended = waited(running)
    assert [each.code for each in ended] == [1, 4], [each.err for each in ended]
    (line,) = ended[1].errors
    assert f"worker 1 cannot listen at 127.0.0.1:{ports[1]} (" in line
    assert "TensorFlow could not connect the workers within 30 seconds" in ended[0].err


def test_t29_other_machines_cannot_connect_to_workers_of_this_one(start, tmp_path):
    outer = outer_address()
    ports, is_over = free_ports(2), threading.Event()
    seen_here, seen_outside = set(), set()

    def connect():
        while not is_over.wait(0.005):
            for port in ports:
                seen_outside.update([port] if answers(outer, port, 0.2) else [])
                seen_here.update([port] if answers("127.0.0.1", port) else [])

    stranger = threading.Thread(target=connect)
    stranger.start()
    ended = waited(start(*arguments("plain", tmp_path, "--epochs", "1"), ports=ports))
    is_over.set()
    stranger.join()
    assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
    assert seen_here == set(ports)
    assert not seen_outside
    assert "other machines" not in ended[0].err


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_t27_a_worker_that_never_starts(start, tmp_path, rank):
    begun = time.monotonic()
    running = start(*arguments("plain", tmp_path, "--startup-timeout", "5s"), ranks=[rank])
    ended = running[rank].wait()
    # The import of TensorFlow precedes the wait.
    assert time.monotonic() - begun < 5 + MAX_SECONDS
    assert ended.code == 4
    (line,) = ended.errors
    assert f"worker {1 - rank} (127.0.0.1:" in line
    assert "has not started within 5 seconds" in line
    assert not list(tmp_path.iterdir())


@slow
@pytest.mark.parametrize("target", [0, 1])
def test_a_signal_to_one_worker_saves_and_ends_both(start, tmp_path, target):
    environment = {"TOY_SIGNAL": f"{signal.SIGTERM} 9"}
    running = start(
        *arguments("small", tmp_path / "runs", *ADAM), environments={target: environment}
    )
    ended = waited(running)
    assert [each.code for each in ended] == [143, 143], [each.err for each in ended]
    assert "the state is saved; go on with" in ended[0].err
    both = start(*arguments("small", tmp_path / "whole", *ADAM))
    expected = waited(both)[0].json["weights"]
    resumed = start("train", "--resume", tmp_path / "runs" / "small-toy-001")
    assert waited(resumed)[0].json["weights"] == expected


@slow
def test_values_that_are_not_finite_end_both(start, tmp_path):
    running = start(*arguments("plain", tmp_path, "--learning-rate", "1e38"))
    ended = waited(running)
    assert [each.code for each in ended] == [3, 3], [each.err for each in ended]
    assert "the last saved state is finite" in ended[0].err
    assert ended[1].err.startswith("error: worker 1: ")


@slow
@pytest.mark.parametrize(
    ("more", "name", "values"),
    [
        ((("--epochs", "3"), ("--epochs", "+2")), "epochs", "3, not 4"),
        (((), ("--epochs", "3")), "epochs", "2, not 3"),
        (("001", "002"), "resume", "small-toy-001, not small-toy-002"),
    ],
)
def test_workers_that_resume_with_other_options_are_told(
    start, train, tmp_path, more, name, values
):
    for _ in range(2):
        assert train("small", tmp_path, "--epochs", "2").code == 0
    ports, running = free_ports(2), {}
    for rank, own in enumerate(more):
        number, options = (own, ()) if name == "resume" else ("001", own)
        command = ("train", "--resume", tmp_path / f"small-toy-{number}", *options)
        running |= start(*command, ranks=[rank], ports=ports)
    ended = waited(running)
    expected = f"the first worker has {name} = {values}: start all workers with the same options"
    assert ended[1].err == f"error: worker 1: {expected}\n"
    assert [each.code for each in ended] == [4, 2], [each.err for each in ended]
    assert "worker 1 (127.0.0.1:" in ended[0].errors[0]


@slow
def test_a_worker_that_joins_a_new_run_with_another_number_of_epochs_is_told(start, tmp_path):
    ports = free_ports(2)
    running = start(*arguments("small", tmp_path), ranks=[0], ports=ports)
    running |= start(*arguments("small", tmp_path, "--epochs", "9"), ranks=[1], ports=ports)
    ended = waited(running)
    expected = f"the first worker has epochs = {EPOCHS}, not 9: start all workers with the same"
    assert expected in ended[1].err
    assert [each.code for each in ended] == [4, 2], [each.err for each in ended]


@slow
def test_a_worker_that_resumes_another_run_than_the_new_one_is_told(start, train, tmp_path):
    assert train("small", tmp_path, "--epochs", "2").code == 0
    ports = free_ports(2)
    running = start(*arguments("small", tmp_path), ranks=[0], ports=ports)
    running |= start("train", "--resume", tmp_path / "small-toy-001", ranks=[1], ports=ports)
    ended = waited(running)
    assert "the first worker has resume = small-toy-002, not small-toy-001" in ended[1].err
    assert [each.code for each in ended] == [4, 2], [each.err for each in ended]
