"""Report whether the CUDA kernels can run here, and which of their features are experimental."""

from __future__ import annotations

from functools import cache

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError

EXPERIMENTAL = "experimental: not yet run on a device"


@cache
def missing() -> str | None:
    """Return a message that says what is missing; ``None`` if a device can be used."""
    # Imported here because the import of numba-cuda takes half a second. Users without a device,
    # which may not call this function, do not wait for it.
    from cnnforge_kernels.cuda.runtime.driver import driver

    try:
        driver()
    except CudaUnavailableError as error:
        return str(error)
    return None


def experimental() -> dict[str, str]:
    """Return, for the name of each experimental feature, whether it is on and how to turn it on."""
    from cnnforge_kernels.cuda.runtime import tuning

    tuner = "on" if tuning.enabled() else f"off, {tuning.VARIABLE}=1 turns it on"
    cores = 'off, `precision="tf32"` or `"bfloat16"` of a call turns them on'
    return {"tuner": f"{EXPERIMENTAL}; {tuner}", "tensor cores": f"{EXPERIMENTAL}; {cores}"}
