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
from types import ModuleType

import numba
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.ahead.job import FRAMEWORKS, find
from cnnforge.ops.ahead.pool import Pool, Task
from cnnforge.ops.ahead.process import VARIABLE
from cnnforge.ops.definition.definition import Step
from cnnforge.utils.processors import usable_processors
from cnnforge.utils.timing import wait_before_timing
from cnnforge_disk_cache import is_compiled, is_durable, share_disk_cache

_EXIT_SECONDS = 2.0


def available() -> bool:
    """Whether a second process may compile for this one, and gains anything."""
    return (
        os.environ.get(VARIABLE, "1") != "0"
        and hasattr(os, "fork")
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
        and not numba.config.DISABLE_JIT
        and usable_processors() > 1
        and not _pool.closed
    )


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
    imported = (
        value.__name__ for value in list(vars(known).values()) if isinstance(value, ModuleType)
    )
    return not FRAMEWORKS & {name.partition(".")[0] for name in imported}


_pool = Pool()


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
    _pool = Pool(closed=True)
    if helper is not None:
        # It would not see the end of the process that it works for.
        helper.forget()


share_disk_cache()
wait_before_timing(wait)
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
