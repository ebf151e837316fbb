"""Compile the functions of a model's ops before its first step, in several processes.

Numba compiles on one thread. At the first training on a machine nothing is in the disk cache yet,
and the other processors would be idle. So the caller calls its layers symbolically within
`collecting`, which notes every use of an op instead of compiling it. `compile_ahead` then starts
worker processes, which import no framework. They compile the functions and call them once, so that
their kernels are compiled too. This process finds the results in the disk cache.

Nothing depends on the workers. A function that they cannot compile is compiled here when it is
first called.

Environment:
    CNNFORGE_COMPILE_AHEAD: `0` starts no workers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import numba

from cnnforge.ops.ahead.pool import MAX_WORKERS, VARIABLE, run_jobs
from cnnforge.ops.ahead.tasks import Use, make_jobs
from cnnforge.utils.processors import usable_processors
from cnnforge_disk_cache import share_disk_cache

_uses: ContextVar[list[Use] | None] = ContextVar("uses", default=None)

share_disk_cache()


@contextlib.contextmanager
def collecting() -> Iterator[list[Use]]:
    """Note the uses of ops in a graph instead of compiling their functions.

    Yields:
        The uses, a list that grows.
    """
    uses: list[Use] = []
    token = _uses.set(uses)
    try:
        yield uses
    finally:
        _uses.reset(token)


def collect(use: Use) -> None:
    """Note a use of an op, if the caller is within `collecting`."""
    uses = _uses.get()
    if uses is not None:
        uses.append(use)


def is_collecting() -> bool:
    """Whether the caller is within `collecting`, so that nothing needs to be compiled yet."""
    return _uses.get() is not None


def compile_ahead(uses: Sequence[Use], *, gradients: bool = True) -> None:
    """Compile the functions that some uses of ops need in worker processes, and wait for them.

    Args:
        uses: The uses, from `collecting`.
        gradients: Whether to compile the backward functions as well.
    """
    if not available():
        return
    # A failure costs only time. For instance, a function may use an object that cannot be pickled.
    with contextlib.suppress(Exception):
        jobs = make_jobs(uses, gradients)
        # For a single job no worker is started: this process compiles the function as fast.
        if len(jobs) > 1:
            run_jobs(jobs, min(usable_processors(), len(jobs), MAX_WORKERS))


def available() -> bool:
    """Whether workers can be started and would save time."""
    return (
        os.environ.get(VARIABLE, "1") != "0"
        and usable_processors() > 1
        and os.name == "posix"
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
        and not numba.config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]
    )
