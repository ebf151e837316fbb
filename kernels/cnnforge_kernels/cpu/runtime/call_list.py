"""Run a list of kernel calls that was prepared earlier, without Python code between the calls.

A trained network computes the same kernels with the same weights again and again. So the argument
blocks of its kernels are filled once, and only the images change. A ``Call`` is one kernel with its
argument block, and a ``CallList`` runs many of them in one call of compiled code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.runtime import parallel
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    compile_kernel,
    kernel_address,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import (
    address_of,
    call_kernel,
    load_int64,
    store_int64,
)

# Fields of a record: the address of the kernel, the address of its argument block, the number of
# tasks, the grain, and the addresses of two flags (0 for none).
_KERNEL, _ARGS, _TASKS, _GRAIN, _FLAG, _ONLY_IF = range(6)
_FIELDS = 6


class Call(NamedTuple):
    """One kernel with its argument block.

    Attributes:
        slot: Slot number of the kernel: the name of its family plus the index of the kernel.
        args: Argument block of the kernel, an int64 array.
        tasks: Number of tasks. If it is 0, the call does nothing.
        grain: Number of tasks that a thread runs at a time (see ``run_kernel``).
        keeps: Objects that own the memory whose addresses are in ``args``.
        flag: (1,) int64 that the kernel sets to 1 to ask for other calls, or ``None``. It is set to
            0 before the kernel runs.
        only_if: ``flag`` of an earlier call. This call runs only if that flag is not 0.
    """

    slot: int
    args: np.ndarray
    tasks: int
    grain: int
    keeps: Any = ()
    flag: np.ndarray | None = None
    only_if: np.ndarray | None = None


@kernel_family(1)
def _RUN_CALLS(_: int) -> Any:
    """Run the records ``begin`` to ``end - 1``, one after another, each on all threads."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _run_calls(records: Any, begin: int, end: int) -> None:
        r = carray(records, (end, _FIELDS))
        block = np.zeros(3, np.int64)
        for index in range(begin, end):
            only_if, flag = r[index, _ONLY_IF], r[index, _FLAG]
            if only_if != 0 and load_int64(only_if) == 0:
                continue
            if flag != 0:
                store_int64(flag, 0)
            tasks, grain = r[index, _TASKS], r[index, _GRAIN]
            if tasks <= grain:
                call_kernel(r[index, _KERNEL], r[index, _ARGS], 0, tasks)
                continue
            block[0] = r[index, _KERNEL]
            block[1] = r[index, _ARGS]
            block[2] = tasks
            call_kernel(kernel_address(parallel.DRIVER), address_of(block), grain, 0)
        # The driver got only the address of `block`. Numba frees an array after its last use.
        block[:0] = 0

    return _run_calls


class CallList:
    """Kernel calls that run one after another.

    Making the list compiles the kernels, or loads them from the disk cache. The list keeps all
    argument blocks, and the objects that own their memory, alive. Two threads must not run one list
    at the same time, because they would write to the same memory.

    Args:
        calls: The calls, in order.

    Raises:
        RuntimeError: A kernel does not exist.

    Example:
        >>> import numpy as np
        >>> from numba import carray
        >>> from cnnforge_kernels.authoring import KERNEL_SIGNATURE, cached_cfunc, kernel_family
        >>> from cnnforge_kernels.cpu.runtime.call_list import Call, CallList
        >>> @kernel_family(1)
        ... def DOUBLE(number):
        ...     @cached_cfunc(KERNEL_SIGNATURE)
        ...     def kernel(args, begin, end):
        ...         for index in range(begin, end):
        ...             carray(args, end)[index] *= 2
        ...     return kernel
        >>> numbers = np.arange(4)
        >>> twice = CallList([Call(DOUBLE, numbers, 4, 1), Call(DOUBLE, numbers, 4, 1)])
        >>> twice()
        >>> numbers
        array([ 0,  4,  8, 12])
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._kept = list(calls)
        self._records = np.zeros((len(calls), _FIELDS), np.int64)
        for record, call in zip(self._records, calls, strict=True):
            record[_KERNEL] = compile_kernel(call.slot)
            record[_ARGS] = call.args.ctypes.data
            record[_TASKS], record[_GRAIN] = call.tasks, call.grain
            record[_FLAG] = 0 if call.flag is None else call.flag.ctypes.data
            record[_ONLY_IF] = 0 if call.only_if is None else call.only_if.ctypes.data
        # Compile the driver here, where an error is an exception.
        compile_kernel(parallel.DRIVER)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._run = prototype(compile_kernel(_RUN_CALLS))
        self._at, self._count = self._records.ctypes.data, len(calls)

    def __len__(self) -> int:
        return self._count

    def __call__(self) -> None:
        """Run the calls. Other Python threads can run meanwhile."""
        self._run(self._at, 0, self._count)
