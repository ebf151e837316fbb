"""Record the launches of a call without running them, for callers that launch kernels themselves.

Python code cannot get the stream of some frameworks. Such a framework records the launches of a
function of ``launch.py`` once per shape. When the op runs, it launches them with its own pointers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime.arrays import View

# Placeholder addresses of recorded memory: beyond every real address, one TiB apart.
_FIRST, _STEP = 1 << 56, 1 << 40


@dataclass(frozen=True)
class Recorded:
    """One launch.

    Attributes:
        function: Address of the ``CUfunction``.
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
        """Do nothing: the framework that launches frees its own memory."""


@dataclass
class _Recorder:
    """Replaces ``driver.Driver`` and records launches. The real driver still loads the kernels."""

    real: Any
    launches: list[Recorded] = field(default_factory=list)
    memories: list[tuple[int, int]] = field(default_factory=list)

    def capability(self, device: int) -> tuple[int, int]:
        return self.real.capability(device)

    def identity(self, device: int) -> str:
        return self.real.identity(device)

    def measurable(self, device: int, stream: int) -> bool:
        # Nothing runs, so the tuner cannot measure here. Known choices still apply.
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
    """Record the launches that functions of ``launch.py`` make on this thread. Nothing runs.

    The arrays may have any address, because no memory is read.

    Args:
        call: Function that calls functions of ``launch.py``.

    Returns:
        Two lists: the launches in order, and (address, number of bytes) of each block of memory
        that they need in addition to the arrays. The addresses are placeholders, which the
        arguments of the launches contain.

    Raises:
        CudaUnavailableError: The device or numba-cuda is missing.
        Exception: Any exception of ``call``.
    """
    recorder = _Recorder(driver.driver())
    with driver.driven_by(recorder):
        call()
    return recorder.launches, recorder.memories
