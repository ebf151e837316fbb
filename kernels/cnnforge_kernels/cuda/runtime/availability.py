"""State of the CUDA kernels: whether they can run on a device, and what is experimental."""

from __future__ import annotations

from functools import cache

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError

EXPERIMENTAL = "experimental: not yet run on a device"


@cache
def missing() -> str | None:
    """Return a message that names the missing part; ``None`` if a device can be used."""
    # Import lazily: the CUDA compiler of Numba takes half a second, also without a device.
    from cnnforge_kernels.cuda.runtime.driver import driver

    try:
        driver()
    except CudaUnavailableError as error:
        return str(error)
    return None


def experimental() -> dict[str, str]:
    """Return the state of each experimental feature, and how to turn it on, by name."""
    from cnnforge_kernels.cuda.runtime import tuning

    tuner = "on" if tuning.enabled() else f"off, {tuning.VARIABLE}=1 turns it on"
    cores = 'off, `precision="tf32"` or `"bfloat16"` of a call turns them on'
    return {"tuner": f"{EXPERIMENTAL}; {tuner}", "tensor cores": f"{EXPERIMENTAL}; {cores}"}
