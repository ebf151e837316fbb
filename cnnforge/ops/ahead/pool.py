"""Worker processes that compile, and the queue that they take their jobs from."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from cnnforge.ops.ahead.job import Job

VARIABLE = "CNNFORGE_COMPILE_AHEAD"
# A worker needs about 200 MB.
MAX_WORKERS = 8
# The number of a job is one byte in the queue.
_MAX_JOBS = 255
# The limit for all jobs together. What a worker does later is compiled by this process.
_MAX_SECONDS = 300.0

# A worker has the import path of this process, which may have changed since it has started.
_SOURCE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cnnforge.ops.ahead.worker import main
main(*map(int, sys.argv[2:]))
"""


def run_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Run jobs in worker processes, and wait until all of them have ended.

    A pipe that holds the numbers of the jobs is the queue: each worker reads the next byte. A
    worker that dies loses the job that it has taken, and no other.

    Args:
        jobs: The jobs, in the order in which to begin them.
        processes: The number of workers.

    Raises:
        OSError: There are no file descriptors, or the disk is full.
    """
    jobs = jobs[:_MAX_JOBS]
    workers: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as file:
        file.write(pickle.dumps(jobs))
        file.flush()
        queue, filled = os.pipe()
        try:
            os.write(filled, bytes(range(len(jobs))))
            os.close(filled)
            # If the system allows no more processes, there are fewer workers, or none.
            with contextlib.suppress(OSError):
                for _ in range(processes):
                    workers.append(_start(queue, file.fileno()))
            _wait(workers)
        finally:
            os.close(queue)
            for worker in workers:
                _end(worker)


def _start(queue: int, jobs: int) -> subprocess.Popen[bytes]:
    flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    return subprocess.Popen(
        [sys.executable, *flags, "-c", _SOURCE, path, str(queue), str(jobs)],
        # Nothing is written to it. Its end tells the worker that this process has ended.
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, VARIABLE: "0"},
        pass_fds=[queue, jobs],
        # A Ctrl-C in the terminal is meant for this process only, which ends its workers.
        start_new_session=True,
    )


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _MAX_SECONDS
    with contextlib.suppress(subprocess.TimeoutExpired):
        for worker in workers:
            worker.wait(max(0.0, deadline - time.monotonic()))


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    # Not longer: the system may keep a killed process for minutes, for instance on a slow disk.
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(1)
    if worker.stdin is not None:
        worker.stdin.close()
