"""Compiling ahead: a helper process compiles gradients while this one compiles forward functions.

Numba compiles on one thread. Where nothing is on the disk yet, the first training on a machine, the
other cores wait meanwhile. So when an op is first used, its backward functions become jobs of a
second process, which leaves what it has compiled in the disk cache. What this process needs first
it compiles first, in its order; the other one begins with what is needed last, the gradients of
the first layer, and goes on to the forward kernels of the last.

A function is compiled by one of the two only: who comes to one that the other has begun waits for it,
or leaves it to later. Nothing depends on the other process. What it cannot do, or does not finish,
is compiled here.

Environment:
    CNNFORGE_COMPILE_AHEAD: `0` starts no such process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from types import ModuleType
from typing import Any

import numba
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops._ahead_job import Job, digest, find
from cnnforge.ops._definition import Step
from cnnforge.ops._shared_cache import is_compiled, is_durable, share_disk_cache

VARIABLE = "CNNFORGE_COMPILE_AHEAD"

# How long a function that the other process has begun is waited for.
_PATIENCE = 60.0
# The other process ends when it has had nothing to do for so long.
_IDLE_SECONDS = 10.0
_MOST_STARTS = 3

_SOURCE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cnnforge.ops import _ahead_worker
_ahead_worker.main()
"""
_FRAMEWORKS = {"keras", "tensorflow", "torch", "jax"}


class _Place(Enum):
    """Where a function is."""

    NOWHERE = auto()
    HERE = auto()
    THERE = auto()
    # On disk, or nothing that the other process can do anything about.
    SETTLED = auto()


@dataclass(frozen=True, eq=False)
class Task:
    """A step to compile, and to try on some arguments (`None`: not)."""

    step: Step
    signature: tuple[types.Type, ...]
    arguments: tuple[Any, ...] | None


def available() -> bool:
    """Whether a second process may compile for this one, and gains anything."""
    return (
        os.environ.get(VARIABLE, "1") != "0"
        and hasattr(os, "fork")
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
        and not numba.config.DISABLE_JIT
        and _processors() > 1
        and not _pool.closed
    )


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def can_travel(function: Dispatcher, signature: tuple[types.Type, ...]) -> bool:
    """Whether another process can find a function, and this one what it makes of it.

    False also where nothing is to be done: it is compiled.
    """
    module, name = function.py_func.__module__, function.py_func.__qualname__
    there = sys.modules.get(module)
    if module == "__main__" or there is None or not is_durable(function):
        return False
    imported = (value.__name__ for value in vars(there).values() if isinstance(value, ModuleType))
    if _FRAMEWORKS & {name.partition(".")[0] for name in imported}:
        return False
    return find(module, name) is function and not is_compiled(function, signature)


class _Pool:
    """The tasks, the other process, and the thread that hands it one after the other."""

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._places: dict[Step, _Place] = {}
        self._backward: deque[Task] = deque()
        self._forward: list[Task] = []
        self._forward_count = 0
        self._unable: set[str] = set()
        self._starts = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, task: Task) -> None:
        """Have a task done, if there is time."""
        with self._changed:
            if self.closed:
                return
            if task.step.is_forward:
                # This process compiles it at once; only its kernels are for the other.
                self._places.setdefault(task.step, _Place.HERE)
                self._forward.append(task)
                self._forward_count += 1
            else:
                self._places.setdefault(task.step, _Place.NOWHERE)
                self._backward.append(task)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="cnnforge-ahead", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:
                    # The interpreter is about to end.
                    self.closed = True

    @contextlib.contextmanager
    def compiling(self, step: Step) -> Iterator[None]:
        """While this process compiles or loads a step; waits until the other does not."""
        with self._changed:
            known = step in self._places
            if known:
                if not self._changed.wait_for(
                    lambda: self._places[step] is not _Place.THERE, _PATIENCE
                ):
                    self.close()
                if self._places[step] is _Place.NOWHERE:
                    self._places[step] = _Place.HERE
        try:
            yield
        finally:
            if known:
                self._settle(step)

    def close(self) -> None:
        """End the other process, and start none again."""
        with self._changed:
            self.closed = True
            if self.process is not None:
                self.process.kill()
            self._changed.notify_all()

    def _settle(self, step: Step) -> None:
        with self._changed:
            self._places[step] = _Place.SETTLED
            self._changed.notify_all()

    def _take(self) -> Task | None:
        """The next task that the other process can do."""
        for task in self._backward:
            if self._places[task.step] is not _Place.HERE:
                self._backward.remove(task)
                return task
        # The first half is this process': where both would be at the same kernel nothing is won.
        if 2 * len(self._forward) > self._forward_count and (
            self._places[self._forward[-1].step] is not _Place.HERE
        ):
            return self._forward.pop()
        return None

    def _serve(self) -> None:
        while True:
            with self._changed:
                task: Task | None = None

                def found() -> bool:
                    nonlocal task
                    task = None if self.closed else self._take()
                    return self.closed or task is not None

                self._changed.wait_for(found, _IDLE_SECONDS)
                if task is None:
                    self._thread = None
                    break
                if task.step.function.py_func.__module__ in self._unable:
                    self._places[task.step] = _Place.SETTLED
                    continue
                if self._places[task.step] is _Place.NOWHERE:
                    self._places[task.step] = _Place.THERE
            try:
                self._do(task)
            except OSError:
                # It has died: the next task starts another one.
                self._end_process()
            finally:
                self._settle(task.step)
        self._end_process()

    def _do(self, task: Task) -> None:
        from cnnforge.ops import _ahead_worker as words

        process = self.process or self._start()
        if process is None:
            return
        function = task.step.function.py_func
        job = Job(
            function.__module__,
            function.__qualname__,
            digest(task.step.function),
            task.signature,
            task.arguments,
        )
        os.write(process.stdin.fileno(), pickle.dumps(job))
        while (word := os.read(process.stdout.fileno(), 1)) == words.COMPILED:
            self._settle(task.step)
        if word != words.DONE:
            self._unable.add(function.__module__)
        if word not in (words.DONE, words.CANNOT):
            self._end_process()

    def _start(self) -> subprocess.Popen[bytes] | None:
        if next(self._starts) >= _MOST_STARTS:
            self.closed = True
            return None
        flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", _SOURCE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # What the terminal sends, an interrupt for one, is not for it.
            start_new_session=True,
        )
        with self._changed:
            self.process = process
            if self.closed:
                process.kill()
        return process

    def _end_process(self) -> None:
        with self._changed:
            process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


_pool = _Pool()


def add(task: Task) -> None:
    """Have a step compiled ahead."""
    _pool.add(task)


def compiling(step: Step) -> contextlib.AbstractContextManager[None]:
    """A context in which this process compiles a step, or loads what the other has compiled."""
    return _pool.compiling(step)


def _at_exit() -> None:
    _pool.close()
    if _pool.process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _pool.process.wait(1)


def _after_fork() -> None:
    global _pool
    process = _pool.process
    _pool = _Pool(closed=True)
    if process is not None:
        # The other process would not see its end if the one that has started it ends.
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                os.close(pipe.fileno())
        process.returncode = 0


share_disk_cache()
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
