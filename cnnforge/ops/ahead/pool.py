"""Start the worker processes that compile functions, and give them their jobs."""

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
# A worker needs about 200 MB of memory, so more workers could use up the memory of a machine.
MAX_WORKERS = 8
# The index of a job must fit into one byte of the queue. Further jobs are left out.
_MAX_JOBS = 255
# Time limit for all jobs, in seconds. Then the workers are ended, and the parent compiles the
# functions of unfinished jobs when it calls them.
_MAX_SECONDS = 300.0

# The program of a worker. The parent may have changed its import path since it was started, so the
# worker gets the current path.
_SOURCE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cnnforge.ops.ahead.worker import main
main(*map(int, sys.argv[2:]))
"""


def run_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Run jobs in worker processes, and wait until all of them have ended.

    The queue is a pipe that contains the index of each job as a byte. A worker that is ready for a
    job reads the next byte. If a worker dies, only the job that it has begun is lost.

    Args:
        jobs: The jobs, in the order in which to begin them.
        processes: The number of workers.

    Raises:
        OSError: There are no free file descriptors, or the disk is full.
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
            # If the system allows no more processes, go on with the workers that have been started.
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
        [sys.executable, *flags, "-P", "-c", _SOURCE, path, str(queue), str(jobs)],
        # Nothing is written to this pipe. When the parent ends, the pipe closes, and the worker
        # then ends too.
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, VARIABLE: "0"},
        pass_fds=[queue, jobs],
        # In a session of its own, a worker does not get the signal of a Ctrl-C in the terminal.
        # Only the parent gets this signal, and ends its workers.
        start_new_session=True,
    )


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _MAX_SECONDS
    with contextlib.suppress(subprocess.TimeoutExpired):
        for worker in workers:
            worker.wait(max(0.0, deadline - time.monotonic()))


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    # Wait for only a second, because a killed process may need minutes to end, for instance if it
    # writes to a slow disk.
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(1)
    if worker.stdin is not None:
        worker.stdin.close()
