"""Run plans (the kernels for one shape) in Numba's CUDA simulator, for tests without a device.

The arrays are in host memory. To turn the simulator on, set ``NUMBA_ENABLE_CUDASIM=1`` before Numba
is imported. The simulator cannot run warp-wide instructions or inline assembly.
``codegen/simulator.py`` describes how it finds missing barriers.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.cuda.codegen.jit import SIMULATED, Kernel
from cnnforge_kernels.cuda.runtime.arrays import View, strides_unless_contiguous
from cnnforge_kernels.cuda.runtime.plans import Plan

# `launch` gets the addresses of arrays, but not their sizes. So a kernel may access this many
# elements after an address.
_REACH = 1 << 14
FUNCTIONS = 0xF000
_launching = threading.Lock()


class Memory:
    """Flat memory that raises an error for every index outside it.

    A NumPy array would accept a negative index. The simulator also copies NumPy arrays before and
    after each launch. It does not copy this object.
    """

    def __init__(self, array: NDArray):
        self._array = array
        self._size = array.size

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._size:
            raise IndexError(f"read at {index} of {self._size}")
        return self._array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not 0 <= index < self._size:
            raise IndexError(f"write at {index} of {self._size}")
        self._array[index] = value


def simulate(plan: Plan, **arrays: NDArray) -> None:
    """Run a plan in the simulator on C-contiguous arrays, passed by the names that the plan uses.

    Raises:
        RuntimeError: The simulator is off.
        ValueError: An array is not C-contiguous.
        IndexError: A kernel reads or writes outside an array.
    """
    if not SIMULATED:
        raise RuntimeError("The CUDA simulator is off: set NUMBA_ENABLE_CUDASIM=1.")
    memory = {"scratch": Memory(np.full(plan.scratch, np.nan, np.float32))}
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"`{name}` must be C-contiguous.")
        memory[name] = Memory(array.reshape(-1))
    for launch in plan.launches:
        arguments = [
            memory[value] if isinstance(value, str) else np.int32(value)
            for value in launch.arguments
        ]
        launch.kernel.simulated[launch.grid, launch.kernel.threads](*arguments)


class Allocation:
    """Host memory that is filled with NaN and, like a driver's memory, 256-byte aligned."""

    def __init__(self, size: int):
        base = np.full(size + 512, 0xFF, np.uint8)
        start = -base.ctypes.data % 256
        self.values = base[start : start + size]
        self.pointer = self.values.ctypes.data
        self.freed = False

    def free(self) -> None:
        """Record that the memory was freed."""
        self.freed = True


@dataclass
class Driver:
    """Replaces ``driver.Driver`` in tests. The memory of its device is host memory.

    It records every launch. If the simulator is on, it also runs the kernels.

    Attributes:
        memories: Allocations in order.
        streams: Address of the stream of each call of ``launch``.
        launches: Tuple (kernel, grid, arguments) of each launch.
        functions: Loaded kernels. The kernel at index i has the address ``FUNCTIONS + i``.
    """

    memories: list[Allocation] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]] = field(default_factory=list)
    functions: list[Kernel] = field(default_factory=list)

    @property
    def kernels(self) -> list[str]:
        """First word of the name of each launched kernel."""
        return [kernel.name.split()[0] for kernel, _, _ in self.launches]

    def capability(self, device: int) -> tuple[int, int]:
        """Return a compute capability that lacks the tensor-core instructions of the kernels."""
        return 7, 5

    def identity(self, device: int) -> str:
        """Return the name under which the tuner stores its choices."""
        return "simulator"

    def measurable(self, device: int, stream: int) -> bool:
        """Whether launches can be timed. Here they always can."""
        return True

    def seconds(self, launches: list[Any], device: int, stream: int) -> float:
        """Run launches and return a made-up time, the same for all."""
        self.launch(launches, device, stream)
        return 1.0

    def locate(self, array: Any) -> View:
        """Return the ``View`` of the NumPy array ``values`` of an object."""
        values = array.values
        strides = tuple(step // values.itemsize for step in values.strides)
        lies = strides_unless_contiguous(values.shape, strides)
        return View(values.ctypes.data, values.shape, values.dtype, 0, True, array, lies)

    def allocate(self, size: int, device: int, stream: int) -> Allocation:
        """Allocate ``size`` bytes."""
        self.memories.append(Allocation(size))
        return self.memories[-1]

    def function(self, kernel: Kernel, device: int) -> int:
        """Return the made-up address of a kernel."""
        if kernel not in self.functions:
            self.functions.append(kernel)
        return FUNCTIONS + self.functions.index(kernel)

    def launch(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> None:
        """Launch kernels, given as tuples (kernel, grid, arguments), in this order."""
        self.streams.append(stream)
        self.launches += launches
        for kernel, grid, arguments in launches:
            ready = []
            for value, name in zip(arguments, kernel.arguments, strict=True):
                # Check the types, because the real driver needs an int for a pointer, and a NumPy
                # scalar of the kernel's dtype for a number.
                pointer = name.endswith("*")
                expected = int if pointer else np.dtype(name).type
                if type(value) is not expected:
                    raise TypeError(f"{kernel.name}: {value!r} for {name}")
                ready.append(_memory_at(value, name[:-1]) if pointer else value)
            if SIMULATED:
                kernel.simulated[grid, kernel.threads](*ready)

    def launch_kernel(self) -> Any:
        """Return a C function that replaces ``cuLaunchKernel`` and calls ``launch``.

        The caller must keep a reference to the function as long as other code uses its address.
        """
        number, word = ctypes.c_uint, ctypes.c_void_p

        @ctypes.CFUNCTYPE(ctypes.c_int, word, *[number] * 7, word, word, word)
        def launch(function, x, y, z, threads, _y, _z, shared, stream, places, _extra):
            kernel = self.functions[function - FUNCTIONS]
            if (threads, _y, _z, shared) != (kernel.threads, 1, 1, kernel.dynamic_shared):
                return 1
            names = kernel.arguments
            pointers = (ctypes.c_void_p * len(names)).from_address(places)
            arguments = []
            for name, place in zip(names, pointers, strict=True):
                dtype = np.dtype("uint64" if "*" in name else name)
                value = np.frombuffer(ctypes.string_at(place or 0, dtype.itemsize), dtype)[0]
                arguments.append(int(value) if "*" in name else value)
            # The simulator can run only one launch at a time, and several threads may call this.
            with _launching:
                self.launch([(kernel, (x, y, z), arguments)], 0, stream or 0)
            return 0

        return launch


def _memory_at(address: int, name: str) -> Memory:
    dtype = np.dtype(name)
    content = (ctypes.c_char * (_REACH * dtype.itemsize)).from_address(address)
    return Memory(np.frombuffer(content, dtype))
