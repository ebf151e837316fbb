"""Whether kernels can run on a CUDA device."""

from __future__ import annotations

from functools import cache

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError


@cache
def missing() -> str | None:
    """What is missing, and how to get it; ``None`` where a device can be used."""
    # Numba's CUDA compiler takes half a second to import: who has no device shall not pay for it.
    from cnnforge_kernels.cuda.runtime.driver import driver

    try:
        driver()
    except CudaUnavailableError as error:
        return str(error)
    return None
