"""Decorators for kernels: compiled lazily for a device, or run by Numba's CUDA simulator.

A ``Kernel`` is a Python function with the types of its arguments and its launch bounds. Nothing is
compiled when a module is imported, so that it imports with no driver and with no numba-cuda.

Kernels index flat memory: where a device passes pointers, the simulator
(``NUMBA_ENABLE_CUDASIM=1``, set before Numba is imported) passes flat NumPy arrays. It knows fewer
options than the compiler; they are dropped here.

Kernels call no device functions: numba-cuda compiles those for the device that is there, and fails
where there is none. What several kernels share is an ``intrinsic``.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cnnforge_kernels.cuda.codegen.errors import no_numba_cuda

AVAILABLE = importlib.util.find_spec("numba_cuda") is not None
SIMULATED = AVAILABLE and os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

# Without numba-cuda, Numba would bring its own, older `numba.cuda`.
cuda: Any = None
if AVAILABLE:
    from numba import cuda

_SCALARS = ("float32", "uint8", "uint16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel as it was written, before anything is compiled.

    Attributes:
        name: unique among the kernels and their specialisations: ``"conv2d_direct 5x5x1x8"``.
        function: the Python function.
        arguments: type of each argument: ``"float32*"`` (a pointer), ``"int32"``, ...
        threads: threads of a block; the compiler is told that there are never more.
        blocks: blocks that shall fit on a multiprocessor at a time; 0 leaves it to the compiler.
        dynamic_shared: bytes of dynamic shared memory.
        since: the least compute capability that has the instructions.
        identity: everything that the function's code depends on besides the source files.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[str, ...]
    threads: int
    blocks: int = 0
    dynamic_shared: int = 0
    since: tuple[int, int] = (7, 5)
    identity: tuple = ()

    @property
    def symbol(self) -> str:
        """The name as part of that in machine code, where profilers show it."""
        return re.sub(r"\W+", "_", self.name)

    @property
    def launch_bounds(self) -> int | tuple[int, int]:
        """What numba-cuda calls ``launch_bounds``."""
        return (self.threads, self.blocks) if self.blocks else self.threads

    @cached_property
    def signature(self) -> Any:
        """The Numba signature. Raises ``CudaUnavailableError`` without numba-cuda."""
        if not AVAILABLE:
            raise no_numba_cuda()
        return cuda.types.void(*(_numba_type(name) for name in self.arguments))

    @cached_property
    def simulated(self) -> Any:
        """The kernel of the simulator: ``kernel.simulated[grid, block](*arrays_and_numbers)``."""
        if not SIMULATED:
            raise RuntimeError("The CUDA simulator is off: set NUMBA_ENABLE_CUDASIM=1.")
        return cuda.jit(self.function)


def _numba_type(name: str) -> Any:
    scalar = getattr(cuda.types, name.removesuffix("*"))
    return cuda.types.CPointer(scalar) if name.endswith("*") else scalar


def kernel(
    name: str,
    *arguments: str,
    threads: int,
    blocks: int = 0,
    dynamic_shared: int = 0,
    since: tuple[int, int] = (7, 5),
    identity: tuple = (),
) -> Callable[[Callable[..., None]], Kernel]:
    """Decorate a kernel; the arguments are those of ``Kernel``."""
    for argument in arguments:
        if argument.removesuffix("*") not in _SCALARS:
            raise ValueError(f"kernel {name!r}: type {argument!r} is none of {_SCALARS}")

    def decorate(function: Callable[..., None]) -> Kernel:
        made = Kernel(name, function, arguments, threads, blocks, dynamic_shared, since, identity)
        # From here the compiler takes the name.
        function.__name__ = function.__qualname__ = made.symbol
        return made

    return decorate


def intrinsic(twin: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate the code generator of an intrinsic; ``twin`` is what the simulator runs instead.

    The generator is written as for ``numba.extending.intrinsic``. Inline assembly of warp-wide
    instructions has no twin: pass ``no_twin``.
    """

    def decorate(generator: Callable[..., Any]) -> Any:
        if not AVAILABLE or SIMULATED:
            return twin
        from numba.cuda.extending import intrinsic as compiled

        return compiled(generator)

    return decorate


def no_twin(*_: Any) -> Any:
    """Stand in for an instruction that the simulator cannot run."""
    raise NotImplementedError("This instruction exists on a device only, not in the simulator.")


if SIMULATED:
    from cnnforge_kernels.cuda.codegen import simulator

    simulator.install()
