"""Start a training on several devices, or join the other processes of one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cnnforge.distributed.loopback import closed_unless_needed
from cnnforge.distributed.meeting import ended_after, meet
from cnnforge.distributed.tf_config import VARIABLE, Cluster, read_cluster
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import NotFiniteError, UsageError, WorkerError
from cnnforge.runs import CONFIG

ALL = "all"
"""Value of `--devices` that stands for all devices."""
# Seconds until a new run must be visible on another machine.
_VISIBLE = 60.0
_TASK = re.compile(r"/task:(\d+)")


@dataclass(frozen=True)
class Joining:
    """The devices and workers that the user asks for.

    Args:
        devices: Value of `--devices`, or `None`.
        cluster: The processes of `TF_CONFIG`; `None` if it is not set.
        seconds: Max time to wait for the other processes.
    """

    devices: str | None = None
    cluster: Cluster | None = None
    seconds: float = 0.0

    @classmethod
    def checked(
        cls, devices: str | None, seconds: float, environment: Mapping[str, str]
    ) -> Joining:
        """Check `--devices` and `TF_CONFIG`, before the import of Keras.

        Args:
            devices: Value of `--devices`, or `None`.
            seconds: Max time to wait for the other processes.
            environment: The variables of the environment.

        Raises:
            UsageError: A value has another form, or both are given.
        """
        cluster = read_cluster(environment)
        if devices is not None and devices != ALL and not (devices.isdecimal() and int(devices)):
            raise UsageError(f"--devices is {devices!r}: expected a number from 1, or all")
        if devices is not None and cluster is not None:
            raise UsageError(
                f"--devices divides a step among the devices of one process, and {VARIABLE} names "
                f"{len(cluster.addresses)} processes with one device each: leave out --devices, or "
                f"unset {VARIABLE}"
            )
        return cls(devices, cluster, seconds)

    @property
    def rank(self) -> int:
        """Index of this process among the workers."""
        return 0 if self.cluster is None else self.cluster.rank

    @property
    def alone(self) -> bool:
        """Whether there is one device and one process."""
        return self.devices is None and self.cluster is None

    def join(self, tell: Callable[[str], None]) -> Workers:
        """Use several devices, or wait for the other processes, as the user asks.

        Args:
            tell: Function that shows a line to the user.

        Returns:
            The workers of the training.

        Raises:
            UsageError: The backend is not TensorFlow, or there are fewer devices.
            WorkerError: A process has not started in time.
        """
        if self.alone:
            return ALONE
        from keras import backend

        if backend.backend() != "tensorflow":
            raise UsageError(
                "training on several devices or processes needs the Keras backend tensorflow, and "
                f"it is {backend.backend()}: leave out --devices, unset {VARIABLE}, or set "
                "KERAS_BACKEND=tensorflow"
            )
        from cnnforge.backends.tensorflow_devices import one_of_several_processes, several_devices

        cluster = self.cluster
        if cluster is None:
            count = None if self.devices in (ALL, None) else int(self.devices)
            replicas = several_devices(count)
            if replicas is None:
                return ALONE
            tell(f"training on {replicas.count} devices")
            return Workers(replicas=replicas)
        size = len(cluster.addresses)
        tell(f"waiting for the other {size - 1} of {size} workers")
        left = meet(cluster, self.seconds)
        with closed_unless_needed(cluster, tell), ended_after(left):
            replicas = one_of_several_processes(
                cluster.rank,
                size,
                cluster.index_on_host,
                cluster.addresses[cluster.rank],
            )
        return Workers(cluster.rank, size, replicas.reduce, replicas, cluster.addresses)


def run_of_first(workers: Workers, output: Path) -> Path:
    """Return the run directory that the first worker makes, when it is there.

    Args:
        workers: The workers.
        output: Folder for the run directories on this machine.

    Raises:
        WorkerError: The run is not in the folder.
    """
    path = output / workers.from_first(None)
    # A folder in a network may show new files seconds later.
    end = time.monotonic() + _VISIBLE
    while not (path / CONFIG).exists():
        if time.monotonic() > end:
            raise WorkerError(
                f"the run that worker 0 has begun is not here: {path}; --output must name one "
                "folder that all machines see"
            )
        time.sleep(0.1)
    return path


@contextmanager
def loss_explained(workers: Workers) -> Iterator[None]:
    """Convert the errors that follow the end of another worker.

    Args:
        workers: The workers.

    Raises:
        WorkerError: Another worker has ended, or cannot be reached.
    """
    if not workers.are_several:
        yield
        return
    from cnnforge.backends.tensorflow_devices import LOST

    try:
        yield
        # The first worker writes the report. If the others ended before, it would miss them.
        workers.wait()
    except LOST as error:
        raise WorkerError(
            f"{_lost(workers, str(error))} has ended or cannot be reached; start all workers "
            "again, with --resume RUN if the run has begun"
        ) from error
    except NotFiniteError:
        # All workers raise it after the same step.
        leave(workers)
        raise
    leave(workers)


def leave(workers: Workers) -> None:
    """Wait until the others have the result of the last sum, of which this worker has a part.

    Call it before this process ends, if all workers end at the same point.

    Args:
        workers: The workers.
    """
    if not workers.are_several:
        return
    from cnnforge.backends.tensorflow_devices import LOST

    # The first one that leaves may end before another one has the result of this sum. Nothing
    # depends on it.
    with suppress(*LOST):
        workers.wait()


def _lost(workers: Workers, message: str) -> str:
    """Return the worker that TensorFlow's message names.

    The message is several thousand letters long. It may name no other worker.
    """
    named = [int(number) for number in _TASK.findall(message)]
    others = [rank for rank in named if rank != workers.rank and rank < workers.size]
    if not others and workers.size == 2:
        others = [1 - workers.rank]
    return f"worker {others[0]} ({workers.addresses[others[0]]})" if others else "another worker"
