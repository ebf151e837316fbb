"""Plans run by Numba's CUDA simulator, in host memory: for tests, with no device.

It needs ``NUMBA_ENABLE_CUDASIM=1`` before Numba is imported. It knows no warp-wide instructions and
no inline assembly. ``simulator.py`` says what it sees of missing barriers.
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

# What a kernel may read and write behind a pointer, whose memory's size nobody knows.
_REACH = 1 << 14
FUNCTIONS = 0xF000
_launching = threading.Lock()


class Memory:
    """Flat memory that refuses what lies outside: NumPy would count a negative index from the end.

    The simulator copies NumPy arrays in and out, each time that one is passed; not these.
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
    """Run a plan; ``arrays`` are C-contiguous, by the names that the plan uses.

    Raises:
        RuntimeError: the simulator is off.
        ValueError: an array is not C-contiguous.
        IndexError: a kernel reads or writes outside an array.
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
    """Memory full of NaN, aligned as a driver would align it."""

    def __init__(self, size: int):
        base = np.full(size + 512, 0xFF, np.uint8)
        start = -base.ctypes.data % 256
        self.values = base[start : start + size]
        self.pointer = self.values.ctypes.data
        self.freed = False

    def free(self) -> None:
        """Note that it was given back."""
        self.freed = True


@dataclass
class Driver:
    """Stands in for ``runtime.Driver``: host memory is its device's.

    It notes what is launched; kernels run where the simulator is on.

    Attributes:
        memories: what was allocated.
        streams: the stream of each call.
        launches: (kernel, grid, arguments).
        functions: the kernels that were loaded; that at i has the address ``FUNCTIONS + i``.
    """

    memories: list[Allocation] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]] = field(default_factory=list)
    functions: list[Kernel] = field(default_factory=list)

    @property
    def kernels(self) -> list[str]:
        """The kinds of the kernels that were launched, the first words of their names."""
        return [kernel.name.split()[0] for kernel, _, _ in self.launches]

    def capability(self, device: int) -> tuple[int, int]:
        """That of a device without our tensor cores."""
        return 7, 5

    def identity(self, device: int) -> str:
        """What a measured time belongs to."""
        return "simulator"

    def measurable(self, device: int, stream: int) -> bool:
        """Time can be measured."""
        return True

    def seconds(self, launches: list[Any], device: int, stream: int) -> float:
        """Run launches; a made-up time, the same for all."""
        self.launch(launches, device, stream)
        return 1.0

    def locate(self, array: Any) -> View:
        """Where an object's ``values`` lie."""
        values = array.values
        strides = tuple(step // values.itemsize for step in values.strides)
        lies = strides_unless_contiguous(values.shape, strides)
        return View(values.ctypes.data, values.shape, values.dtype, 0, True, array, lies)

    def allocate(self, size: int, device: int, stream: int) -> Allocation:
        """So many bytes."""
        self.memories.append(Allocation(size))
        return self.memories[-1]

    def function(self, kernel: Kernel, device: int) -> int:
        """A number for a kernel."""
        if kernel not in self.functions:
            self.functions.append(kernel)
        return FUNCTIONS + self.functions.index(kernel)

    def launch(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> None:
        """Launch kernels, (kernel, grid, arguments), one after the other."""
        self.streams.append(stream)
        self.launches += launches
        for kernel, grid, arguments in launches:
            ready = []
            for value, kind in zip(arguments, kernel.arguments, strict=True):
                # As the real driver wants them: pointers as int, numbers in their own size.
                expected = int if kind.endswith("*") else np.dtype(kind).type
                if type(value) is not expected:
                    raise TypeError(f"{kernel.name}: {value!r} for {kind}")
                ready.append(_memory_at(value, kind[:-1]) if kind.endswith("*") else value)
            if SIMULATED:
                kernel.simulated[grid, kernel.threads](*ready)

    def launch_kernel(self) -> Any:
        """A C function that takes the place of ``cuLaunchKernel``, and launches here.

        Whoever holds its address keeps it alive.
        """
        number, word = ctypes.c_uint, ctypes.c_void_p

        @ctypes.CFUNCTYPE(ctypes.c_int, word, *[number] * 7, word, word, word)
        def launch(function, x, y, z, threads, _y, _z, shared, stream, places, _extra):
            kernel = self.functions[function - FUNCTIONS]
            if (threads, _y, _z, shared) != (kernel.threads, 1, 1, kernel.dynamic_shared):
                return 1
            kinds = ["uint64" if "*" in kind else kind for kind in kernel.arguments]
            pointers = (ctypes.c_void_p * len(kinds)).from_address(places)
            arguments = []
            for kind, name, place in zip(kinds, kernel.arguments, pointers, strict=True):
                dtype = np.dtype(kind)
                value = np.frombuffer(ctypes.string_at(place or 0, dtype.itemsize), dtype)[0]
                arguments.append(int(value) if "*" in name else value)
            # The simulator knows one launch at a time.
            with _launching:
                self.launch([(kernel, (x, y, z), arguments)], 0, stream or 0)
            return 0

        return launch


def _memory_at(address: int, kind: str) -> Memory:
    dtype = np.dtype(kind)
    content = (ctypes.c_char * (_REACH * dtype.itemsize)).from_address(address)
    return Memory(np.frombuffer(content, dtype))
