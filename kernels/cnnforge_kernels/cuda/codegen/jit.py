"""Decorators that make CUDA kernels and intrinsics from Python functions.

A ``Kernel`` is a Python function with the types of its arguments and its launch bounds. It is
compiled when it is first needed, or Numba's CUDA simulator runs it. Importing a module with kernels
compiles nothing, so the import needs neither a driver nor numba-cuda.

Kernels index flat memory. On a device their arguments are pointers. In the simulator
(``NUMBA_ENABLE_CUDASIM=1``, set before Numba is imported) they are flat arrays. The simulator
supports fewer compiler options than numba-cuda, so this module passes none to it.

Kernels call no device functions. numba-cuda compiles a device function for the current device, and
fails without a device. Code that several kernels share is an ``intrinsic``, a function that the
compiler inserts at each call.
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

# Without numba-cuda, `numba.cuda` is an older module that is a part of Numba. Do not use that one.
cuda: Any = None
if AVAILABLE:
    from numba import cuda

_SCALARS = ("float32", "uint8", "uint16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True, eq=False)
class Kernel:
    """A CUDA kernel as a Python function, not yet compiled.

    Attributes:
        name: Unique name, which includes the constants of the kernel, such as
            ``"conv2d_direct 5x5x1x8"``.
        function: Python function that each CUDA thread runs.
        arguments: Type of each argument: ``"float32*"`` (a pointer), ``"int32"``, ...
        threads: Number of threads per block. It limits the registers that the compiler may use.
        blocks: Minimum number of blocks that must fit on a multiprocessor at the same time; 0 if
            the compiler decides.
        dynamic_shared: Dynamic shared memory in bytes.
        since: Minimum compute capability that has the instructions of the kernel.
        identity: Values that change the code of the function, in addition to its source files.
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
        """The name without special characters, as a part of the symbol that profilers show."""
        return re.sub(r"\W+", "_", self.name)

    @property
    def launch_bounds(self) -> int | tuple[int, int]:
        """Value of the option ``launch_bounds`` of numba-cuda."""
        return (self.threads, self.blocks) if self.blocks else self.threads

    @cached_property
    def signature(self) -> Any:
        """Numba signature. Raises ``CudaUnavailableError`` without numba-cuda."""
        if not AVAILABLE:
            raise no_numba_cuda()
        return cuda.types.void(*(_numba_type(name) for name in self.arguments))

    @cached_property
    def simulated(self) -> Any:
        """Kernel for the simulator: ``kernel.simulated[grid, block](*arrays_and_numbers)``."""
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
    """Return a decorator that turns a function into a ``Kernel`` with these attributes."""
    for argument in arguments:
        if argument.removesuffix("*") not in _SCALARS:
            raise ValueError(
                f"kernel {name!r}: unknown type {argument!r}, expected one of {_SCALARS}"
            )

    def decorate(function: Callable[..., None]) -> Kernel:
        made = Kernel(name, function, arguments, threads, blocks, dynamic_shared, since, identity)
        # The compiler takes the symbol of the kernel in the machine code from these names.
        function.__name__ = function.__qualname__ = made.symbol
        return made

    return decorate


def intrinsic(twin: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes an intrinsic from a code generator.

    Args:
        twin: Python function that the simulator runs instead of the intrinsic. If the simulator
            cannot run the code, such as inline assembly, pass ``no_twin``.

    Returns:
        The decorator. The code generator has the form that ``numba.extending.intrinsic`` expects.
    """

    def decorate(generator: Callable[..., Any]) -> Any:
        if not AVAILABLE or SIMULATED:
            return twin
        from numba.cuda.extending import intrinsic as compiled

        return compiled(generator)

    return decorate


def no_twin(*_: Any) -> Any:
    """Raise an error: the simulator cannot run this instruction."""
    raise NotImplementedError("The simulator cannot run this instruction; only a device can.")


if SIMULATED:
    from cnnforge_kernels.cuda.codegen import simulator

    simulator.install()
