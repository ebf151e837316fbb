"""Record the kernel launches of a call and run nothing, for frameworks that launch kernels.

In some frameworks, such as TensorFlow, Python code cannot get the CUDA stream. The plugin for such
a framework records the launches of a function of ``launch.py`` once per shape. When the op runs,
the framework launches the recorded kernels on its stream, with the addresses of its own arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime.arrays import View

# Placeholder addresses for memory that a call allocates while it is recorded. They are larger than
# every real address, and one TiB apart, so no two allocations overlap.
_FIRST, _STEP = 1 << 56, 1 << 40


@dataclass(frozen=True)
class Recorded:
    """One recorded launch of a kernel.

    Attributes:
        function: Address of the kernel, a ``CUfunction`` of the driver.
        grid: Number of blocks along x, y, z.
        block: Number of threads per block, along x.
        shared: Dynamic shared memory in bytes.
        arguments: Arguments of the kernel. A pointer is an ``int``. A number is a NumPy scalar with
            the dtype that the kernel expects.
    """

    function: int
    grid: tuple[int, int, int]
    block: int
    shared: int
    arguments: tuple[Any, ...]


@dataclass
class _Memory:
    pointer: int

    def free(self) -> None:
        """Do nothing, because no memory was allocated."""


@dataclass
class _Recorder:
    """Replaces ``driver.Driver`` and records launches. It loads kernels with the real driver."""

    real: Any
    launches: list[Recorded] = field(default_factory=list)
    memories: list[tuple[int, int]] = field(default_factory=list)

    def capability(self, device: int) -> tuple[int, int]:
        return self.real.capability(device)

    def identity(self, device: int) -> str:
        return self.real.identity(device)

    def measurable(self, device: int, stream: int) -> bool:
        # The tuner cannot measure here, because nothing runs. It uses the choices that it has.
        return False

    def locate(self, array: Any) -> View:
        return self.real.locate(array)

    def allocate(self, size: int, device: int, stream: int) -> _Memory:
        pointer = _FIRST + _STEP * len(self.memories)
        self.memories.append((pointer, size))
        return _Memory(pointer)

    def launch(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> None:
        for kernel, grid, arguments in launches:
            function = self.real.function(kernel, device)
            threads, shared = kernel.threads, kernel.dynamic_shared
            self.launches.append(Recorded(function, grid, threads, shared, tuple(arguments)))


def record(call: Callable[[], None]) -> tuple[list[Recorded], list[tuple[int, int]]]:
    """Call a function and record the launches that it makes on this thread. No kernel runs.

    The arrays of the call may have any address, because no memory is read or written.

    Args:
        call: Function that calls functions of ``launch.py``.

    Returns:
        Two lists. The first has the launches in order. The second has a tuple (address, number of
        bytes) for each temporary array. The caller must allocate such an array, and replace the
        address, which is a placeholder, in the arguments of the launches.

    Raises:
        CudaUnavailableError: The device or numba-cuda is missing.
        Exception: Any exception of ``call``.
    """
    recorder = _Recorder(driver.driver())
    with driver.driven_by(recorder):
        call()
    return recorder.launches, recorder.memories
