"""Limit the time and the memory of a layer's first run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from cnnforge.utils.available_memory import available_memory

try:
    import resource
except ImportError:  # Windows
    resource = None

TIME_LIMIT = 180.0


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Limit time and memory within the context.

    Native code that does not end cannot be interrupted from here: `cnnforge.ops.audit.tracing`
    limits its time.

    Raises:
        TimeoutError: Python code has not ended after `TIME_LIMIT` seconds of CPU time.
        MemoryError: The code asks for more memory than is left.
    """
    with _limited_memory(), _limited_time():
        yield


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGPROF"):
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError(
            f"it has not ended after {TIME_LIMIT:g} s of CPU time: look for a loop without end"
        )

    before = signal.signal(signal.SIGPROF, late)
    # CPU time, since on a busy machine everything takes longer.
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    left = available_memory()
    used = _used()
    if resource is None or left is None or used is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + left
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _used() -> int | None:
    """Return the number of bytes of this process's address space."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
