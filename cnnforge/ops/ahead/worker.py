"""The process that compiles ahead: reads jobs, compiles, and tries what it has compiled.

What it compiles goes to Numba's disk cache, where the process that has started it finds it; here
goes only word of it, a byte at a time. To try a function is to have its kernels compiled: which
ones there are turns out when it runs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import FunctionType
from typing import Any, NoReturn

import numba
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.ahead.job import (
    CANNOT,
    COMPILED,
    DONE,
    FRAMEWORKS,
    Job,
    digest,
    find,
    make_array,
)
from cnnforge.ops.compiling.entry import launch_threads
from cnnforge_disk_cache import share_disk_cache

# A function that hangs keeps even the thread that looks after the other process from running.
_MOST_SECONDS = 600


class _Refusal(MetaPathFinder):
    """Refuses to import a framework, and remembers that it was asked.

    A module that then does without it may not be the one that the other process has: this process
    has to end.
    """

    asked = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise an error for what is refused; know nothing of anything else."""
        if name.partition(".")[0] in FRAMEWORKS:
            self.asked = True
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)


def main() -> NoReturn:
    """Serve the process at the other end of stdin and stdout until it ends."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    # What a function prints is not for the user to see, and no reply.
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _leave_no_core()
    share_disk_cache()
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs, waiting), daemon=True).start()
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    while True:
        job = waiting.get()
        signal.alarm(_MOST_SECONDS)
        word = _serve(job, refusal, replies)
        if refusal.asked:
            os._exit(0)
        _reply(replies, word)
        signal.alarm(0)


def _leave_no_core() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _receive(jobs: Any, waiting: queue.SimpleQueue[Job]) -> None:
    try:
        while True:
            waiting.put(pickle.load(jobs))
    finally:
        # The other process has ended, or wants no more.
        os._exit(0)


def _reply(replies: int, word: bytes) -> None:
    try:
        os.write(replies, word)
    except OSError:
        os._exit(0)


def _serve(job: Job, refusal: _Refusal, replies: int) -> bytes:
    try:
        function = find(job.module, job.name)
        if isinstance(function, FunctionType):
            # As `ArrayOp` does.
            function = numba.njit(cache=True)(function)
        if refusal.asked or not isinstance(function, Dispatcher) or digest(function) != job.digest:
            return CANNOT
        function.compile(job.signature)
    except BaseException:
        # The other process will say it, with its own words.
        return CANNOT
    _reply(replies, COMPILED)
    if job.arguments is not None:
        launch_threads()
        with contextlib.suppress(BaseException):
            _try(function, job.signature, job.arguments)
    return DONE


def _try(function: Dispatcher, signature: Sequence[Any], arguments: Sequence[Any]) -> None:
    ready = [
        make_array(*value) if type_.name.startswith("array") else value
        for type_, value in zip(signature, arguments, strict=True)
    ]
    # Not by the function, which would choose among what it has been compiled for.
    function.overloads[tuple(signature)].entry_point(*ready)
