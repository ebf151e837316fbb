"""What is compiled ahead and by whom: the tasks, and the thread that hands them out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from numba import types

from cnnforge.ops.ahead.job import CANNOT, COMPILED, DONE, Job, digest
from cnnforge.ops.ahead.process import Helper
from cnnforge.ops.definition.definition import Step

# How long a function that the other process has begun is waited for.
_PATIENCE = 120.0
# The other process ends when it has had nothing to do for so long.
_IDLE_SECONDS = 10.0
_MOST_STARTS = 3


class Place(Enum):
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


class Pool:
    """The tasks, the other process, and the thread that hands it one after the other.

    Attributes:
        closed: Whether it takes no more tasks.
        helper: The other process, while there is one.
        thread: The thread, while there is one.
    """

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.helper: Helper | None = None
        self._changed = threading.Condition()
        self._places: dict[Step, Place] = {}
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
                self._places[task.step] = Place.SETTLED
            if task.step.is_forward:
                # This process compiles it at once; only its kernels are for the other.
                self._places.setdefault(task.step, Place.HERE)
                self._forward.append(task)
                self._forward_count += 1
            else:
                self._places.setdefault(task.step, Place.NOWHERE)
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
                    lambda: self._places[step] is not Place.THERE, _PATIENCE
                )
                if not free:
                    self.close()
                elif self._places[step] is Place.NOWHERE:
                    self._places[step] = Place.HERE
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
            self._places[step] = Place.SETTLED
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
                if self._places[task.step] is Place.NOWHERE:
                    self._places[task.step] = Place.THERE
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
            elif self._places[task.step] is not Place.HERE:
                self._backward.remove(task)
                return task
        # The first half is this process': where both would be at the same kernel nothing is won.
        while 2 * len(self._forward) > self._forward_count:
            if self._places[self._forward[-1].step] is Place.HERE:
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
