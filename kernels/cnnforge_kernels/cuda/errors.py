"""What can be missing on the way to a CUDA device."""

from __future__ import annotations

INSTALL = 'pip install "cnnforge[cuda13]"'


class CudaUnavailableError(RuntimeError):
    """CUDA was asked for where there is none: no numba-cuda, no driver, no device.

    The message says what is missing and how to get it.
    """


def no_numba_cuda() -> CudaUnavailableError:
    """The error where the compiler of the CUDA kernels is not installed."""
    return CudaUnavailableError(
        "CUDA kernels need numba-cuda, which is not installed. Install it beside a driver for "
        f'CUDA 13 with: {INSTALL} (for a CUDA 12 driver: pip install "cnnforge[cuda12]")'
    )
