"""The one parallel loop: every kernel is serial over a range of tasks, and this runs it.

Tasks are handed out a few at a time, because the threads of a shared machine are not equally fast.
Which thread runs a task never changes a result. Numba's own threads are not used: its ``workqueue``
layer aborts when several threads come at once, as TensorFlow's do, and of OpenMP's every one of
them has a team of its own, whose barriers wait for cores that others use.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import carray, types

from cnnforge_kernels.cpu.runtime import posix, thread_pool
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    address_of,
    cached_cfunc,
    cached_njit,
    call_kernel,
    forget_kernel,
    kernel_address,
    kernel_family,
)

# What `numba.set_num_threads` has set for the calling thread. The function of that name in compiled
# code takes a pointer from Python, so that nothing which calls it is kept on disk.
_threads_allowed = types.ExternalFunction("get_num_threads", types.int32())


@cache
def _compiled_driver() -> Any:
    # Loads the library that `get_num_threads` is in.
    numba.get_num_threads()

    @cached_cfunc(KERNEL_SIGNATURE)
    def driver(block: Any, grain: int, _: int) -> None:
        values = carray(block, 3)
        thread_pool.run_job(values[0], values[1], values[2], grain, _threads_allowed())

    return driver


@cache
def _compiled_serial_driver() -> Any:
    @cached_cfunc(KERNEL_SIGNATURE)
    def serial_driver(block: Any, _grain: int, _: int) -> None:
        values = carray(block, 3)
        call_kernel(values[0], values[1], 0, values[2])

    return serial_driver


@kernel_family(1)
def _DRIVER(_: int) -> Any:
    """``driver(block, grain, _)``; block = kernel, its args, tasks."""
    if not posix.available():
        return _compiled_serial_driver()
    driver = _compiled_driver()
    thread_pool.start()
    return driver


@cached_njit()
def run_kernel(slot: int, args: Any, tasks: int, grain: int) -> None:
    """Run kernel ``slot`` on the int64 block ``args`` for tasks 0 to ``tasks - 1``.

    ``grain`` tasks are taken at a time; one grain or less runs in the caller's thread.
    """
    kernel = kernel_address(slot)
    if tasks <= grain:
        call_kernel(kernel, address_of(args), 0, tasks)
        return
    block = np.zeros(3, np.int64)
    block[0] = kernel
    block[1] = address_of(args)
    block[2] = tasks
    call_kernel(kernel_address(_DRIVER), address_of(block), grain, 0)
    block[0] = args[0]  # keeps both blocks alive until here


def threading_layer() -> str:
    """What runs the tasks of a kernel: ``crew``, or ``serial`` where there are no POSIX threads."""
    return "crew" if posix.available() else "serial"


def _after_fork() -> None:
    thread_pool.forget()
    forget_kernel(_DRIVER)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
