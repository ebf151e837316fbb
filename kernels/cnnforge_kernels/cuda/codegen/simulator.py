"""Changes to Numba's CUDA simulator that make it find more mistakes in less time.

* Shared and local memory start as NaN. If a kernel reads an element before the first write, the
  result is NaN.
* The CUDA threads of a block run one after the other, in order. Each runs until it waits at a
  barrier or ends. If a barrier is missing, a thread always reads a value before a later thread
  writes it, or overwrites a value before a later thread reads it. The unchanged simulator runs the
  threads concurrently, so such a mistake may stay hidden.
* If a kernel has no barriers, one Python thread runs all its CUDA threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel, kernelapi


def install() -> None:
    """Make the changes in this process."""
    kernelapi.FakeCUDAShared.array = _array(shared=True)
    kernelapi.FakeCUDALocal.array = _array(shared=False)
    kernel.BlockThread.syncthreads = _wait
    kernel.BlockManager.run = _run_block


def _array(shared: bool) -> Callable[..., Any]:
    """Return a function that replaces ``cuda.shared.array`` or ``cuda.local.array``."""

    def array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> Any:
        element = np.dtype(dtype)
        fresh = np.full(shape, np.nan if element.kind == "f" else 0x5A, element)
        if not shared:
            return fresh
        # All threads of a block share the array: the first thread makes it, and the other threads
        # find it by the line of the call.
        frame = sys._getframe(1)
        return self._allocations.setdefault((frame.f_code.co_filename, frame.f_lineno), fresh)

    return array


def _wait(thread: Any) -> None:
    """Replace ``cuda.syncthreads()``: pass control to the next thread."""
    thread._manager.turn.release()
    thread.syncthreads_event.wait()
    thread.syncthreads_event.clear()
    if thread.abort:
        raise RuntimeError("another thread failed")


def _run_block(manager: Any, block: tuple[int, int, int], *args: Any) -> None:
    points = list(np.ndindex(*manager._block_dim))
    if "syncthreads" not in manager._f.__code__.co_names:
        current: Any = threading.current_thread()
        current.blockIdx = kernel.Dim3(*block)
        for point in points:
            current.threadIdx = kernel.Dim3(*point)
            manager._f(*args)
        return
    manager.turn = threading.Semaphore(0)
    threads = [_make_thread(manager, block, point, args) for point in points]
    for thread in threads:
        thread.start()
        _await_turn(thread, threads)
    while waiting := [thread for thread in threads if not thread.ended]:
        for thread in waiting:
            thread.syncthreads_event.set()
            _await_turn(thread, threads)


def _make_thread(
    manager: Any, block: tuple[int, int, int], point: tuple[int, ...], args: tuple
) -> Any:
    def run() -> None:
        try:
            manager._f(*args)
        finally:
            thread.ended = True
            manager.turn.release()

    thread: Any = kernel.BlockThread(run, manager, block, point, False)
    thread.ended = False
    return thread


def _await_turn(thread: Any, threads: list[Any]) -> None:
    """Return when ``thread`` waits at a barrier or has ended. Raise its exception, if any."""
    thread._manager.turn.acquire()
    if not thread.ended:
        return
    thread.join()
    if thread.exception:
        for other in threads:
            other.abort = True
            other.syncthreads_event.set()
        raise thread.exception[0].with_traceback(thread.exception[1])
