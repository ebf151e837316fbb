"""The program of a worker process: it compiles the functions of jobs, and calls them.

Numba writes the machine code to its disk cache, where the parent finds it. A function may compile
kernels when it is called, and only a call shows which ones. So the worker calls the function, with
arrays of random numbers.
"""

from __future__ import annotations

import contextlib
import ctypes
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

# Time limit of a job in seconds. After this time, a signal ends the worker. A thread ends the
# worker when the parent ends, but this thread cannot run while a function that hangs holds the GIL.
# Under Linux, a signal ends the worker then.
_MAX_SECONDS = 200
_PR_SET_PDEATHSIG = 1


class _Refusal(MetaPathFinder):
    """Import finder that refuses to import a framework. `asked` says whether a module has tried.

    If the module catches the error, it may define other functions than in the parent. So the worker
    ends after a refusal.
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
        queue: File descriptor of the queue, a pipe that contains the index of each job as a byte.
        file: File descriptor of a file with the pickled list of all jobs.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _end_by_signal()
    _leave_no_core()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    share_disk_cache()
    # `pread`, because all workers share the descriptor: a `read` would move their common position.
    jobs: Sequence[Job] = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    while number := os.read(queue, 1):
        signal.alarm(_MAX_SECONDS)
        # Ignore an error here: the parent compiles the function again, and reports the error.
        with contextlib.suppress(Exception):
            _do(jobs[number[0]], refusal)
        if refusal.asked:
            break
    os._exit(0)


def _leave_no_core() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_by_signal() -> None:
    """Let Linux end this process when its parent ends, also while a function holds the GIL."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


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
    # Call the machine code of exactly this signature. `function(*ready)` would choose a signature
    # by the types of the arguments, and might choose another one.
    function.overloads[tuple(signature)].entry_point(*ready)
