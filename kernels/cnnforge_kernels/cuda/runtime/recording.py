"""What a call would launch, without launching it: for callers that launch it themselves.

A framework whose stream Python cannot reach asks once for each shape what the functions of
``launch.py`` would do, and does that, with pointers of its own, whenever the op runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime.arrays import View

# Where recorded memory seems to lie: beyond every real address, a TiB from one to the next.
_FIRST, _STEP = 1 << 56, 1 << 40


@dataclass(frozen=True)
class Recorded:
    """One launch.

    Attributes:
        function: address of the ``CUfunction``.
        grid: blocks along x, y, z.
        block: threads of a block, along x.
        shared: bytes of dynamic shared memory.
        arguments: a pointer is an ``int``, a number a NumPy scalar of the size that the kernel
            takes.
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
        """Do nothing: whoever launches it gives back what it has allocated."""


@dataclass
class _Recorder:
    """Stands in for ``runtime.Driver``, which compiles and loads the kernels all the same."""

    real: Any
    launches: list[Recorded] = field(default_factory=list)
    memories: list[tuple[int, int]] = field(default_factory=list)

    def capability(self, device: int) -> tuple[int, int]:
        return self.real.capability(device)

    def identity(self, device: int) -> str:
        return self.real.identity(device)

    def measurable(self, device: int, stream: int) -> bool:
        # Nothing runs, and the arrays may lie nowhere: the tuner's choices are only followed.
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
    """What a call of functions of ``launch.py`` launches on this thread. Nothing runs.

    Their arrays may lie anywhere: an address is only counted with.

    Args:
        call: calls them.

    Returns:
        The launches, in their order, and the memory that they need besides the arrays, (address,
        bytes): addresses that stand for it among the arguments.

    Raises:
        CudaUnavailableError: there is no device, or no numba-cuda.
        Exception: whatever ``call`` raises.
    """
    recorder = _Recorder(driver.driver())
    with driver.driven_by(recorder):
        call()
    return recorder.launches, recorder.memories
