"""Errors for a missing CUDA device, driver or compiler."""

from __future__ import annotations

INSTALL = 'pip install "cnnforge[cuda13]"'


class CudaUnavailableError(RuntimeError):
    """CUDA is not available: numba-cuda, the driver or the device is missing.

    The message names the missing part and tells how to get it.
    """


def no_numba_cuda() -> CudaUnavailableError:
    """Return the error for a machine on which numba-cuda, the compiler, is not installed."""
    return CudaUnavailableError(
        "CUDA kernels need numba-cuda, which is not installed. With a driver for "
        f'CUDA 13: {INSTALL}. With a driver for CUDA 12: pip install "cnnforge[cuda12]"'
    )


def no_device(error: BaseException) -> CudaUnavailableError:
    """Return the error for a driver that is missing, too old, does not answer, or has no device.

    Args:
        error: Exception that was raised by the search for the driver or by a call of the driver.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    # The second test: a driver that is older than the libraries lacks functions that they call.
    if "INSUFFICIENT_DRIVER" in text or ("Function" in text and "not found" in text):
        advice = (
            "The NVIDIA driver is too old for the installed CUDA libraries. Update the driver, or "
            'install those of CUDA 12: pip install "cnnforge[cuda12]"'
        )
    elif "NO_DEVICE" in text or "INVALID_DEVICE" in text:
        advice = "The CUDA device was not found. Check CUDA_VISIBLE_DEVICES and nvidia-smi"
    else:
        advice = (
            "CUDA needs an NVIDIA device and its driver. Install the driver (nvidia-smi shows "
            "whether it works), or pass NumPy arrays to compute on the CPU"
        )
    return CudaUnavailableError(f"{advice}. The driver said: {text}")


def refused(kernel: str, error: BaseException) -> CudaUnavailableError:
    """Return the error for a driver that does not load machine code compiled for its device.

    Args:
        kernel: Name of the kernel.
        error: Exception of the driver.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return CudaUnavailableError(
        f"The NVIDIA driver refused the kernel {kernel!r}; it may be too old for the installed "
        "CUDA libraries. Update the driver, or install those of CUDA 12: "
        f'pip install "cnnforge[cuda12]". The driver said: {text}'
    )
