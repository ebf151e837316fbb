"""The worker process: takes jobs, compiles, and tries what it has compiled.

What it compiles goes to Numba's disk cache, where the process that has started it finds it. A
function is tried on arrays so that its kernels are compiled: only when it runs, it turns out which
ones there are.
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
from typing import Any, BinaryIO, NoReturn

import numba
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.ahead.job import FRAMEWORKS, Job, digest, find, make_array
from cnnforge.ops.compiling.entry import launch_threads
from cnnforge_disk_cache import share_disk_cache

# A job that hangs ends the worker: a function that hangs holds the GIL, and no thread runs.
_MAX_SECONDS = 200


class _Refusal(MetaPathFinder):
    """Refuses to import a framework, and remembers that a module asked for one.

    That module may do without it, and then differ from the one that the parent has: this process
    has to end.
    """

    asked = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise an error for a framework; know nothing of any other module."""
        if name.partition(".")[0] in FRAMEWORKS:
            self.asked = True
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)


def main(taken: int) -> NoReturn:
    """Do the jobs that arrive on stdin, until none is left or the parent ends.

    Args:
        taken: The file descriptor of the queue.
    """
    source = os.fdopen(os.dup(0), "rb")
    _leave_no_core()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    share_disk_cache()
    jobs: Sequence[Job] = pickle.load(source)
    threading.Thread(target=_end_with_parent, args=[source], daemon=True).start()
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    while number := os.read(taken, 1):
        signal.alarm(_MAX_SECONDS)
        # The parent compiles it again, and says what is wrong.
        with contextlib.suppress(Exception):
            _do(jobs[number[0]], refusal)
        if refusal.asked:
            break
    os._exit(0)


def _leave_no_core() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent(source: BinaryIO) -> None:
    source.read()
    os._exit(0)


def _do(job: Job, refusal: _Refusal) -> None:
    function = find(job.module, job.name)
    if isinstance(function, FunctionType):
        # As `ArrayOp` does.
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
    # Not by the function, which would choose among what it has been compiled for.
    function.overloads[tuple(signature)].entry_point(*ready)
