"""The one parallel loop: every kernel is serial over a range of tasks, and this runs it.

Numba's ``omp`` and ``tbb`` threading layers may be entered by several threads at once, as
TensorFlow does; ``workqueue`` aborts the process then, so it is never entered: there the tasks run
in the caller's thread. Tasks are handed out a few at a time, because the threads of a shared
machine are not equally fast. Which thread runs a task never changes a result.
"""

from __future__ import annotations

import os
from typing import Any

# libgomp's idle threads spin by default, and starve the threads of whoever called.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba
import numpy as np
from numba import carray, prange

from cnnforge_kernels.cpu.compiled import (
    KERNEL_SIGNATURE,
    address_of,
    cached_cfunc,
    cached_njit,
    call_kernel,
    fetch_add,
    kernel_address,
    kernel_family,
)


_PARALLEL_LAYERS = ("omp", "tbb")


@cached_njit(parallel=True)
def _run_parallel(kernel: int, args: int, tasks: int, grain: int, threads: int) -> None:
    # `threads` only bounds the number of iterations: prange itself asks how many threads may run.
    counter = np.zeros(1, np.int64)
    place = address_of(counter)
    for _ in prange(threads):
        begin = fetch_add(place, grain)
        while begin < tasks:
            call_kernel(kernel, args, begin, min(begin + grain, tasks))
            begin = fetch_add(place, grain)
    counter[0] = 0  # keeps the array alive until here


def _start_threads() -> str:
    """Start Numba's thread pool and return its layer: ``omp``, ``tbb`` or ``workqueue``."""
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()
    return numba.threading_layer()


@kernel_family(1)
def _DRIVER(_: int) -> Any:
    """``driver(block, grain, _)`` with block = kernel, its args, number of tasks."""
    layer = _start_threads()
    most = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    if layer in _PARALLEL_LAYERS:

        @cached_cfunc(KERNEL_SIGNATURE)
        def driver(block: Any, grain: int, _: int) -> None:
            values = carray(block, 3)
            threads = min(most, (values[2] + grain - 1) // grain)
            _run_parallel(values[0], values[1], values[2], grain, threads)

        return driver

    @cached_cfunc(KERNEL_SIGNATURE)
    def serial_driver(block: Any, _grain: int, _: int) -> None:
        values = carray(block, 3)
        call_kernel(values[0], values[1], 0, values[2])

    return serial_driver


@cached_njit()
def run_kernel(slot: int, args: Any, tasks: int, grain: int) -> None:
    """Run kernel ``slot`` on the int64 block ``args`` for tasks 0 to ``tasks - 1``.

    ``grain`` tasks are taken at a time; one grain or less runs in the caller's thread.
    """
    kernel = kernel_address(slot)
    if tasks <= grain:
        call_kernel(kernel, address_of(args), 0, tasks)
        return
    block = np.empty(3, np.int64)
    block[0] = kernel
    block[1] = address_of(args)
    block[2] = tasks
    call_kernel(kernel_address(_DRIVER), address_of(block), grain, 0)
    block[0] = args[0]  # keeps both blocks alive until here


def threading_layer() -> str:
    """The threading layer that kernels use: ``omp``, ``tbb``, or ``serial``."""
    layer = _start_threads()
    return layer if layer in _PARALLEL_LAYERS else "serial"
