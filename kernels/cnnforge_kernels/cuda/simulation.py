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

FakeCUDAArray: Any = None
if SIMULATED:
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray


def simulate(plan: Plan, **arrays: NDArray) -> None:
    """Run a plan; ``arrays`` are C-contiguous, by the names that the plan uses.

    Raises:
        RuntimeError: the simulator is off.
        ValueError: an array is not C-contiguous.
    """
    if not SIMULATED:
        raise RuntimeError("The CUDA simulator is off: set NUMBA_ENABLE_CUDASIM=1.")
    flat = {name: array.reshape(-1) for name, array in arrays.items()}
    for name, array in flat.items():
        if array.size and not np.shares_memory(array, arrays[name]):
            raise ValueError(f"`{name}` must be C-contiguous.")
    flat["scratch"] = np.full(plan.scratch, np.nan, np.float32)
    # Not `to_device`, which copies: an array may be passed twice.
    flat = {name: FakeCUDAArray(array) for name, array in flat.items()}
    for launch in plan.launches:
        arguments = [
            flat[value] if isinstance(value, str) else np.int32(value) for value in launch.arguments
        ]
        launch.kernel.simulated[launch.grid, launch.kernel.threads](*arguments)
