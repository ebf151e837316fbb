"""Compile the functions of a model's ops before its first step, in several processes.

Numba compiles on one thread. At the first training on a machine nothing is in the disk cache yet,
and the other processors would be idle. So the caller first calls its layers on symbolic tensors
within `collecting`. There, each call of an op adds a `Use` to a list, and nothing is compiled.
`compile_ahead` then starts worker processes, which do not import TensorFlow or torch. They compile
the functions and call them once, so that their kernels are compiled too. The parent finds the
results in Numba's disk cache.

Training also works without workers: if they cannot compile a function, the parent compiles it when
the function is first called.

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
    """Collect the uses of ops within the block, and do not compile their functions there.

    Yields:
        A list. Each call of an op within the block adds its use.
    """
    uses: list[Use] = []
    token = _uses.set(uses)
    try:
        yield uses
    finally:
        _uses.reset(token)


def collect(use: Use) -> None:
    """Add a use of an op to the list that `collecting` has yielded; do nothing outside of it."""
    uses = _uses.get()
    if uses is not None:
        uses.append(use)


def is_collecting() -> bool:
    """Whether the caller is within `collecting`, so that nothing needs to be compiled yet."""
    return _uses.get() is not None


def compile_ahead(uses: Sequence[Use], *, gradients: bool = True) -> None:
    """Compile the functions of ops in worker processes, and wait until these have ended.

    Args:
        uses: The uses of the ops, from `collecting`.
        gradients: Whether to compile the backward functions as well.
    """
    if not available():
        return
    # A failure costs only time. For instance, a function may use an object that cannot be pickled.
    with contextlib.suppress(Exception):
        jobs = make_jobs(uses, gradients)
        # Do not start a worker for a single job: the parent compiles this function as fast.
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
