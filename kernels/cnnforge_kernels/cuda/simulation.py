"""Plans run by Numba's CUDA simulator, on NumPy arrays: for tests, with no device.

It needs ``NUMBA_ENABLE_CUDASIM=1`` before Numba is imported. It knows no warp-wide instructions and
no inline assembly, and it sees neither races nor missing barriers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.cuda.jit import SIMULATED
from cnnforge_kernels.cuda.plans import Plan


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
