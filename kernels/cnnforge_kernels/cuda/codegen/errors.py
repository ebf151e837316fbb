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


def no_device(error: BaseException) -> CudaUnavailableError:
    """The error where the driver is missing, does not answer, or has no device.

    Args:
        error: what the driver, or the search for it, said.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    # A driver that is older than the libraries lacks some of its functions.
    if "INSUFFICIENT_DRIVER" in text or ("Function" in text and "not found" in text):
        advice = (
            "The NVIDIA driver is too old for the installed CUDA libraries. Update the driver, or "
            'install those of CUDA 12: pip install "cnnforge[cuda12]"'
        )
    elif "NO_DEVICE" in text or "INVALID_DEVICE" in text:
        advice = "There is no such CUDA device. Look at CUDA_VISIBLE_DEVICES and at nvidia-smi"
    else:
        advice = (
            "CUDA needs an NVIDIA device and its driver. Install the driver (nvidia-smi shows "
            "whether it works), or pass NumPy arrays to compute on the CPU"
        )
    return CudaUnavailableError(f"{advice}. The driver said: {text}")


def refused(kernel: str, error: BaseException) -> CudaUnavailableError:
    """The error where the driver does not take machine code that was compiled for its device.

    Args:
        kernel: name of the kernel.
        error: what the driver said.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return CudaUnavailableError(
        f"The NVIDIA driver refused the kernel {kernel!r}; it may be too old for the installed "
        "CUDA libraries. Update the driver, or install those of CUDA 12: "
        f'pip install "cnnforge[cuda12]". The driver said: {text}'
    )
