"""Compiling ahead: a second process compiles gradients while this one compiles forward functions.

Numba compiles on one thread. Where nothing is on the disk yet, the first training on a machine, the
other cores would wait. So when an op is first used, its backward functions become tasks of a
second process, which leaves what it has compiled in the disk cache. What this process needs first
it compiles first, in its order. The other one goes about it so that the two do not meet before the
end: it begins with what shares no kernel with a forward function, as the gradients of weights do
not, goes on to the other gradients, those of the last layer first, and then to the forward kernels
of the last layers.

One process compiles a function: who comes to one that the other has begun waits for it, or leaves
it for later. Nothing depends on the second process. What it cannot do, or does not finish, is
compiled here.

Environment:
    CNNFORGE_COMPILE_AHEAD: `0` starts no such process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from types import ModuleType
from typing import Any

import numba
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge._timing import wait_before_timing
from cnnforge.ops._ahead_job import CANNOT, COMPILED, DONE, FRAMEWORKS, Job, digest, find
from cnnforge.ops._ahead_process import VARIABLE, Helper
from cnnforge.ops._definition import Step
from cnnforge.ops._shared_cache import is_compiled, is_durable, share_disk_cache

# How long a function that the other process has begun is waited for.
_PATIENCE = 120.0
# The other process ends when it has had nothing to do for so long.
_IDLE_SECONDS = 10.0
_MOST_STARTS = 3
_EXIT_SECONDS = 2.0


class _Place(Enum):
    """Where a function is compiled."""

    NOWHERE = auto()
    HERE = auto()
    THERE = auto()
    # It is on disk, or the other process can do nothing about it.
    SETTLED = auto()


@dataclass(frozen=True, eq=False)
class Task:
    """A step to compile.

    Attributes:
        step: The step.
        signature: The types of its parameters.
        arguments: What it is tried on; `None`: it is not.
        shares: Whether it probably has kernels in common with the forward function.
        is_made: Whether this process has compiled it, so that only its kernels are left.
    """

    step: Step
    signature: tuple[types.Type, ...]
    arguments: tuple[Any, ...] | None
    shares: bool
    is_made: bool

    @property
    def module(self) -> str:
        """Where the function is found."""
        return self.step.function.py_func.__module__

    def job(self) -> Job:
        """What the other process is told."""
        function = self.step.function
        name = function.py_func.__qualname__
        return Job(self.module, name, digest(function), self.signature, self.arguments)


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
    """Whether a function is not compiled yet, and another process can find it.

    False also for one whose module has imported a framework, which is refused there.
    """
    module, name = function.py_func.__module__, function.py_func.__qualname__
    known = sys.modules.get(module)
    if module == "__main__" or known is None or not is_durable(function):
        return False
    found = find(module, name)
    if is_compiled(function, signature) or not (found is function or found is function.py_func):
        return False
    imported = (value.__name__ for value in vars(known).values() if isinstance(value, ModuleType))
    return not FRAMEWORKS & {name.partition(".")[0] for name in imported}


class _Pool:
    """The tasks, the other process, and the thread that hands it one after the other."""

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.helper: Helper | None = None
        self._changed = threading.Condition()
        self._places: dict[Step, _Place] = {}
        self._backward: list[Task] = []
        self._forward: list[Task] = []
        self._forward_count = 0
        self._unable: set[str] = set()
        self._starts = 0
        self._idle = False
        self.thread: threading.Thread | None = None

    def add(self, task: Task) -> None:
        """Have a task done, if there is time."""
        with self._changed:
            if self.closed:
                return
            if task.is_made:
                self._places[task.step] = _Place.SETTLED
            if task.step.is_forward:
                # This process compiles it at once; only its kernels are for the other.
                self._places.setdefault(task.step, _Place.HERE)
                self._forward.append(task)
                self._forward_count += 1
            else:
                self._places.setdefault(task.step, _Place.NOWHERE)
                # Those that share are in reverse order, behind the others.
                self._backward.insert(sum(not it.shares for it in self._backward), task)
            self._idle = False
            self._changed.notify_all()
            if self.thread is None:
                # A daemon: what it waits for is nothing to keep a process alive for.
                thread = threading.Thread(target=self._serve, name="cnnforge-ahead", daemon=True)
                try:
                    thread.start()
                    self.thread = thread
                except RuntimeError:
                    # No threads are to be had, or the interpreter is about to end.
                    self.closed = True

    @contextlib.contextmanager
    def compiling(self, step: Step) -> Iterator[None]:
        """While this process compiles or loads a step; waits until the other does not."""
        with self._changed:
            known = step in self._places
            if known:
                free = self._changed.wait_for(
                    lambda: self._places[step] is not _Place.THERE, _PATIENCE
                )
                if not free:
                    self.close()
                elif self._places[step] is _Place.NOWHERE:
                    self._places[step] = _Place.HERE
        try:
            yield
        finally:
            if known:
                self._settle(step)

    def wait(self) -> None:
        """Wait until the other process has done all that it can."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.thread is None or self._idle, _PATIENCE)
        if not done:
            self.close()

    def close(self) -> None:
        """End the other process, and start none again."""
        with self._changed:
            self.closed = True
            if self.helper is not None:
                self.helper.kill()
            self._changed.notify_all()

    def _settle(self, step: Step) -> None:
        with self._changed:
            self._places[step] = _Place.SETTLED
            self._idle = False
            self._changed.notify_all()

    def _serve(self) -> None:
        while (task := self._next()) is not None:
            try:
                done = self._do(task)
            # A function may be made of things of any kind. This process compiles what is left.
            except Exception:
                done = False
            if not done:
                self._unable.add(task.module)
            self._settle(task.step)

    def _next(self) -> Task | None:
        """Wait for a task; `None`: there is no more, and the other process has ended."""
        with self._changed:
            task = self._take()
            while task is None and not self.closed:
                self._idle = True
                self._changed.notify_all()
                # What this process compiles is a task when it is done.
                patience = None if self._backward else _IDLE_SECONDS
                changed = self._changed.wait(patience)
                task = self._take()
                if not changed:
                    break
            self._idle = False
            if task is not None and not self.closed:
                if self._places[task.step] is _Place.NOWHERE:
                    self._places[task.step] = _Place.THERE
                return task
            self.thread = None
            self._changed.notify_all()
            helper, self.helper = self.helper, None
        if helper is not None:
            helper.end()
        return None

    def _take(self) -> Task | None:
        """The next task that the other process can do."""
        for task in self._backward[:]:
            if task.module in self._unable:
                self._backward.remove(task)
            elif self._places[task.step] is not _Place.HERE:
                self._backward.remove(task)
                return task
        # The first half is this process': where both would be at the same kernel nothing is won.
        while 2 * len(self._forward) > self._forward_count:
            if self._places[self._forward[-1].step] is _Place.HERE:
                break
            task = self._forward.pop()
            if task.module not in self._unable:
                return task
        return None

    def _do(self, task: Task) -> bool:
        """Have a task done; False: it cannot be."""
        helper = self.helper or self._start()
        if helper is None:
            return False
        word = b""
        for word in helper.do(task.job()):
            if word == COMPILED:
                self._settle(task.step)
        if word not in (DONE, CANNOT):
            with self._changed:
                self.helper = None
            helper.end()
        return word == DONE

    def _start(self) -> Helper | None:
        with self._changed:
            self._starts += 1
            if self.closed or self._starts > _MOST_STARTS:
                self.closed = True
                return None
        try:
            helper = Helper()
        except OSError:
            return None
        with self._changed:
            self.helper = helper
            if self.closed:
                helper.kill()
        return helper


_pool = _Pool()


def add(task: Task) -> None:
    """Have a step compiled ahead."""
    _pool.add(task)


def wait() -> None:
    """Wait until the other process does nothing: it would take a core from what is timed."""
    _pool.wait()


def compiling(step: Step) -> contextlib.AbstractContextManager[None]:
    """A context in which this process compiles a step, or loads what the other has compiled."""
    return _pool.compiling(step)


def _at_exit() -> None:
    _pool.close()
    thread = _pool.thread
    if thread is not None:
        thread.join(_EXIT_SECONDS)


def _after_fork() -> None:
    global _pool
    helper = _pool.helper
    _pool = _Pool(closed=True)
    if helper is not None:
        # It would not see the end of the process that it works for.
        helper.forget()


share_disk_cache()
wait_before_timing(wait)
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
