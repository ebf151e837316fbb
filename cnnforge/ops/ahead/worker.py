"""The worker process: take jobs, compile their functions, and call them.

Numba writes the result to its disk cache, where the parent finds it. A function is called with
arrays so that its kernels are compiled too: only a call shows which kernels it needs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import FunctionType
from typing import Any, NoReturn

import numba
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.ahead.job import FRAMEWORKS, Job, digest, find, make_array
from cnnforge.ops.compiling.entry import launch_threads
from cnnforge_disk_cache import share_disk_cache

# Time limit of a job in seconds; a signal then ends the worker. If a function hangs, it holds the
# GIL, and the thread that watches the parent cannot run to end the worker.
_MAX_SECONDS = 200


class _Refusal(MetaPathFinder):
    """Refuse to import a framework, and remember that a module tried to import one.

    If that module catches the error, it may define other functions than in the parent. So the
    worker then ends.
    """

    asked = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise an error for a framework; leave other modules to the next finder."""
        if name.partition(".")[0] in FRAMEWORKS:
            self.asked = True
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)


def main(queue: int, file: int) -> NoReturn:
    """Do the jobs in a queue until it is empty or the parent ends.

    Args:
        queue: File descriptor of the queue, which holds the index of each job as a byte.
        file: File descriptor of a file with the pickled list of all jobs.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _leave_no_core()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    share_disk_cache()
    # Not `read`, because all workers share the descriptor, and with it the position in the file.
    jobs: Sequence[Job] = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    while number := os.read(queue, 1):
        signal.alarm(_MAX_SECONDS)
        # The parent compiles the function again, and reports the error.
        with contextlib.suppress(Exception):
            _do(jobs[number[0]], refusal)
        if refusal.asked:
            break
    os._exit(0)


def _leave_no_core() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _do(job: Job, refusal: _Refusal) -> None:
    function = find(job.module, job.name)
    if isinstance(function, FunctionType):
        # `ArrayOp` decorates a plain function in the same way.
        function = numba.njit(cache=True)(function)
    if refusal.asked or not isinstance(function, Dispatcher) or digest(function) != job.digest:
        return
    function.compile(job.signature)
    if job.arguments is not None:
        launch_threads()
        _try(function, job.signature, job.arguments)


def _try(function: Dispatcher, signature: Sequence[Any], arguments: Sequence[Any]) -> None:
    ready = [
        make_array(*value) if type_.name.startswith("array") else value
        for type_, value in zip(signature, arguments, strict=True)
    ]
    # Call the code for exactly this signature. `function(*ready)` would choose among all signatures
    # that are compiled.
    function.overloads[tuple(signature)].entry_point(*ready)
