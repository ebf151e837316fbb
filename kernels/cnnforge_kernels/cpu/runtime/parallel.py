"""Run the tasks of a kernel on several threads.

A thread fetches a few tasks at a time and then the next few, because the threads of a shared
machine are not equally fast. The result does not depend on which thread runs a task.

Numba's own threads are not used, for two reasons. Numba's ``workqueue`` layer aborts the process if
several threads of TensorFlow call it at once. Numba's OpenMP layer starts new threads for each
calling thread, and these wait at barriers while other threads use the cores.
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
    cached_cfunc,
    cached_njit,
    forget_kernel,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel

# The C function behind `numba.get_num_threads`. It returns the number of threads that the calling
# thread may use. Numba's Python function contains a pointer, so a compiled function that calls the
# Python function could not be kept on disk.
_threads_allowed = types.ExternalFunction("get_num_threads", types.int32())


@cache
def _compiled_driver() -> Any:
    # This call loads the library that contains the C function of _threads_allowed.
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
def DRIVER(_: int) -> Any:
    """Run all tasks of a kernel: ``driver(block, grain, _)``.

    ``block`` has three values: the address of the kernel, the address of the kernel's argument
    block, and the number of tasks. ``grain`` is that of ``run_kernel``.
    """
    if not posix.available():
        return _compiled_serial_driver()
    driver = _compiled_driver()
    thread_pool.start()
    return driver


@cached_njit()
def run_kernel(slot: int, args: Any, tasks: int, grain: int) -> None:
    """Run all tasks of a kernel on all threads, from compiled code.

    Args:
        slot: Slot number of the kernel: the name of its family plus the kernel's index.
        args: Argument block of the kernel, an int64 array.
        tasks: Number of tasks. Each call of the kernel runs a part of the tasks 0 to ``tasks - 1``.
        grain: Number of tasks that a thread runs at a time; choose it so that they take about 20
            microseconds. A number below 1 means 1. If ``tasks`` is not larger than ``grain``, the
            caller runs all tasks.

    Example:
        >>> import numpy as np
        >>> from numba import carray
        >>> from cnnforge_kernels.authoring import KERNEL_SIGNATURE, cached_cfunc, cached_njit
        >>> from cnnforge_kernels.authoring import kernel_family, run_kernel
        >>> @kernel_family(1)
        ... def SQUARE(number):
        ...     @cached_cfunc(KERNEL_SIGNATURE)
        ...     def kernel(args, begin, end):
        ...         numbers = carray(args, end)
        ...         for index in range(begin, end):
        ...             numbers[index] = numbers[index] ** 2
        ...     return kernel
        >>> @cached_njit()
        ... def square(numbers):
        ...     run_kernel(SQUARE, numbers, numbers.size, 2)
        >>> numbers = np.arange(5)
        >>> square(numbers)
        >>> numbers
        array([ 0,  1,  4,  9, 16])
    """
    kernel = kernel_address(slot)
    if tasks <= grain:
        call_kernel(kernel, address_of(args), 0, tasks)
        return
    block = np.zeros(3, np.int64)
    block[0] = kernel
    block[1] = address_of(args)
    block[2] = tasks
    # With a grain of 0, a thread would take no task and never end.
    call_kernel(kernel_address(DRIVER), address_of(block), max(grain, 1), 0)
    # The driver got only the addresses of these two arrays. Numba frees an array after its last
    # use, so use the arrays here, to keep them until the driver has finished.
    block[0] = args[0]


def threading_layer() -> str:
    """Return how kernels run: ``"thread_pool"``, or ``"serial"`` without POSIX threads."""
    return "thread_pool" if posix.available() else "serial"


def _after_fork() -> None:
    thread_pool.forget()
    forget_kernel(DRIVER)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
