"""The one parallel loop: every kernel is serial over a range of tasks, and this runs it.

Numba's ``omp`` and ``tbb`` threading layers may be entered by several threads at once, as
TensorFlow does; ``workqueue`` aborts the process then, so it is never entered: there the tasks run
in the caller's thread. Tasks are handed out a few at a time, because the threads of a shared
machine are not equally fast. Which thread runs a task never changes a result.
"""

from __future__ import annotations

import os
from typing import Any

# libgomp's idle threads spin for long by default, and starve the threads of whoever called; woken
# from sleep they take 80 us. A short spin covers the gaps between the kernels of a training step:
# 1.9 instead of 1.6 times as fast as stock Keras on two cores (benchmarks/bench_training.py).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

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
def _run_parallel(
    kernel: int, args: int, counter: int, tasks: int, grain: int, threads: int
) -> None:
    # `threads` only bounds the number of iterations: prange itself asks how many threads may run.
    for _ in prange(threads):
        begin = fetch_add(counter, grain)
        while begin < tasks:
            call_kernel(kernel, args, begin, min(begin + grain, tasks))
            begin = fetch_add(counter, grain)


def _start_threads() -> str:
    """Start Numba's thread pool and return its layer: ``omp``, ``tbb`` or ``workqueue``."""
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()
    return numba.threading_layer()


@kernel_family(1)
def _DRIVER(_: int) -> Any:
    """``driver(block, grain, _)``; block = next task (counted up), kernel, its args, tasks."""
    layer = _start_threads()
    most = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    if layer in _PARALLEL_LAYERS:

        @cached_cfunc(KERNEL_SIGNATURE)
        def driver(block: Any, grain: int, _: int) -> None:
            values = carray(block, 4)
            threads = min(most, (values[3] + grain - 1) // grain)
            _run_parallel(values[1], values[2], address_of(values), values[3], grain, threads)

        return driver

    @cached_cfunc(KERNEL_SIGNATURE)
    def serial_driver(block: Any, _grain: int, _: int) -> None:
        values = carray(block, 4)
        call_kernel(values[1], values[2], 0, values[3])

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
    block = np.zeros(4, np.int64)
    block[1] = kernel
    block[2] = address_of(args)
    block[3] = tasks
    call_kernel(kernel_address(_DRIVER), address_of(block), grain, 0)
    block[0] = args[0]  # keeps both blocks alive until here


def threading_layer() -> str:
    """The threading layer that kernels use: ``omp``, ``tbb``, or ``serial``."""
    layer = _start_threads()
    return layer if layer in _PARALLEL_LAYERS else "serial"
