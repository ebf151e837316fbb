"""Compare two workers on one core each with one worker on one core, and measure their traffic.

Run ``python benchmarks/bench_workers.py [resnet20] [resnet50]``. Each worker is a process on a core
of its own, with one thread. One worker takes steps of a whole batch; two workers take the same
steps with a half of the batch each. They take their steps alternately, and never at the same time.
The bytes through the loopback device are counted in a network namespace of the workers' own, if
this user may make one. The table at the end is a calculation: the time of a step with 8, 64 and 512
workers, from what was measured and from the speeds of networks.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

BATCH_SIZES = {"resnet20": 64, "resnet50": 16}
SIDES = {"resnet20": 32, "resnet50": 224}
STEPS = {"resnet20": 4, "resnet50": 1}
CLASSES = 10
# Gbit/s and seconds for a message from one machine to the next; assumptions, not measurements.
NETWORKS = {"10 Gbit/s": (10.0, 50e-6), "100 Gbit/s": (100.0, 10e-6)}
WORKERS = (8, 64, 512)
_NEW_NETWORK = 0x40000000
# Number of lines that are shown of the messages of a worker that has ended.
_LINES = 30
# Seconds until the other worker has noticed the end of one.
_NOTICED = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two workers with one.")
    parser.add_argument("models", nargs="*", default=["resnet20"], metavar="|".join(BATCH_SIZES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--kernels", default="keras", choices=["keras", "numba"])
    parser.add_argument("--side", type=int, help="height and width of the images")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.models:
        if name not in BATCH_SIZES:
            parser.error(f"no benchmark of {name!r}: choose from {', '.join(BATCH_SIZES)}")
    if options.worker:
        work(options.models[0], options.kernels, options.side)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("this process may use one processor only, and two workers need two")
    apart = own_network()
    for name in options.models:
        side = options.side or SIDES[name]
        measure(name, options.rounds, options.kernels, side, cores, apart)


def own_network() -> bool:
    """Move this process to a network namespace of its own; return whether that was possible."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        return False
    # The loopback device of a new namespace is down: set its flags "up" and "running".
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, 0x8914, struct.pack("16sh", b"lo", 0x41) + b"\0" * 14)
    return True


def loopback_bytes() -> int:
    """Return the number of bytes that the loopback device has received."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("there is no loopback device")


class Worker:
    """A worker process that waits for commands."""

    def __init__(self, options: list[str], core: int, config: dict[str, Any] | None) -> None:
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "OMP_WAIT_POLICY": "passive",
            "TF_CONFIG": json.dumps(config) if config else "",
            **dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
        }
        command = [sys.executable, __file__, *options, "--worker", "yes"]
        self.name = f"worker {config['task']['index']} of two" if config else "the only worker"
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 - used while the process runs
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        # `answer` notices that the worker has ended.
        with suppress(BrokenPipeError):
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """Return the answer; `None` if the worker has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def how_it_ended(self) -> str:
        """Wait for the end of the process, and return how it has ended, with its messages."""
        try:
            code = self.process.wait(_NOTICED)
        except subprocess.TimeoutExpired:
            how = "still runs"
        else:
            how = f"ended with code {code}" if code >= 0 else f"got {signal.Signals(-code).name}"
        self.messages.seek(0)
        lines = self.messages.read().splitlines()[-_LINES:]
        return "\n".join([f"{self.name} {how}; its last messages:", *(f"  {x}" for x in lines)])


def ask(workers: list[Worker], command: str) -> Any:
    """Let all workers execute a command together; return the answer of the slowest one."""
    for worker in workers:
        worker.send(command)
    answers = [worker.answer() for worker in workers]
    if None in answers:
        # If one worker ends, the other one ends too, and only one of them has the cause.
        sys.exit("\n".join(worker.how_it_ended() for worker in workers))
    return max(answers)


def measure(name: str, rounds: int, kernels: str, side: int, cores: list[int], apart: bool) -> None:
    with ExitStack() as opened:
        taken = [opened.enter_context(closing(socket.create_server(("", 0)))) for _ in range(2)]
        ports = [each.getsockname()[1] for each in taken]
    names = [f"127.0.0.1:{port}" for port in ports]
    configs = [
        {"cluster": {"worker": names}, "task": {"type": "worker", "index": rank}}
        for rank in range(2)
    ]
    options = [name, "--kernels", kernels, "--side", str(side)]
    one = [Worker(options, cores[0], None)]
    two = [Worker(options, cores[rank], configs[rank]) for rank in range(2)]
    parameters = ask(one, "parameters")
    ask(two, "parameters")
    for workers in (one, two):
        ask(workers, "steps")
    ask(two, "reduce")
    times: dict[str, list[float]] = {"one": [], "two": [], "reduce": []}
    traffic = []
    for _ in range(rounds):
        times["one"].append(ask(one, "steps"))
        before = loopback_bytes()
        times["two"].append(ask(two, "steps"))
        traffic.append(loopback_bytes() - before)
        times["reduce"].append(ask(two, "reduce"))
    for worker in one + two:
        worker.process.kill()
        worker.process.wait()
    steps, batch = STEPS[name], BATCH_SIZES[name]
    single, double = (statistics.median(times[key]) / steps for key in ("one", "two"))
    ratios = sorted(a / b for a, b in zip(times["one"], times["two"], strict=True))
    sent, gradients = min(traffic) / steps, 4 * parameters
    reduction = min(times["reduce"])
    low, high = ratios[len(ratios) // 5], ratios[-1 - len(ratios) // 5]
    print(
        f"{name}, {side}x{side}, batch {batch}, {kernels} layers, {rounds} rounds of {steps} steps"
    )
    print(
        f"  one worker on one core:   {single:.4f} s a step (min {min(times['one']) / steps:.4f})"
    )
    print(
        f"  two workers, a core each: {double:.4f} s a step (min {min(times['two']) / steps:.4f})"
    )
    print(f"  ratio: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    print(f"  ratio of the min times: {min(times['one']) / min(times['two']):.2f}")
    where = "in a network of their own" if apart else "with all other traffic of this machine"
    print(f"  loopback, {where}: {sent:,.0f} bytes a step, gradients have {gradients:,} bytes: "
          f"{sent / gradients:.3f} times")  # fmt: skip
    speed = gradients / reduction / 1e9
    print(f"  sum of the gradients alone: {reduction * 1e3:.2f} ms, {speed:.3f} GB/s")
    expect(name, min(times["one"]) / steps, gradients, reduction)


def expect(name: str, step: float, gradients: int, reduction: float) -> None:
    """Print the expected efficiency with many workers.

    A step takes the time of one worker for its own batch, then 2 (n - 1) messages of 1/n of the
    gradients each. The speed is that of the network or that of two workers on the loopback device,
    the lower one.
    """
    print(f"  calculated for {name}, a batch of {BATCH_SIZES[name]} for each worker:")
    for network, (gigabits, latency) in NETWORKS.items():
        # With two workers, each sends the whole gradients once.
        speed = min(gigabits * 1e9 / 8, gradients / reduction)
        cells = []
        for workers in WORKERS:
            messages = 2 * (workers - 1)
            waiting = messages / workers * gradients / speed + messages * latency
            efficiency = step / (step + waiting)
            cells.append(f"{workers}: {efficiency:.1%} ({waiting * 1e3:.1f} ms)")
        print(f"    {network}: {', '.join(cells)}", flush=True)


def work(name: str, kernels: str, side: int) -> None:
    """Execute the commands on stdin."""
    import keras
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    # One thread would wait for the other worker, and none would be left to send to it.
    tf.config.threading.set_inter_op_parallelism_threads(2)

    from cnnforge.backends import Trainer, prepare, with_one_op
    from cnnforge.conversion import forge
    from cnnforge.distributed.joining import Joining
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.tasks.classification import Classification

    workers = Joining.checked(None, 300.0, os.environ).join(lambda line: None)
    prepare(0)
    plugins, batch, shape = discover(), BATCH_SIZES[name], (side, side, 3)
    if name == "resnet50":
        model = plugins.models["keras"].load()(shape, CLASSES, argument="ResNet50")
    else:
        model = plugins.models[name].load()(shape, CLASSES)
    model = forge(model, "keras" if kernels == "keras" else "numba", layers=plugins.layers)
    optimizer = with_one_op(keras.optimizers.Adam)(1e-4)
    task = Classification(tuple(map(str, range(CLASSES))))
    make = Trainer if workers.replicas is None else workers.replicas.trainer
    trainer = make(model, task, optimizer, batch)
    generator, count = np.random.default_rng(0), batch * STEPS[name]
    own = workers.own_of_batches(np.arange(count), batch)
    images = generator.integers(0, 256, (count, *shape)).astype(np.uint8)[own]
    labels = (np.arange(count) % CLASSES).astype(np.int32)[own]
    parameters = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    array = np.ones(parameters, np.float32)
    for line in sys.stdin:
        begun = time.perf_counter()
        command, found = line.strip(), 0.0
        if command == "parameters":
            found = parameters
        elif command == "steps":
            trainer.train(images, {"label": labels}, {}, count)
            found = time.perf_counter() - begun
        else:
            workers.reduce(array)
            found = time.perf_counter() - begun
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
