"""Decide whether a kernel can compute a layer, and warn if the framework must compute the layer."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from cnnforge_kernels.cuda.runtime import availability

_said: set[str] = set()


class KernelUnavailableWarning(UserWarning):
    """The warning that no kernel can compute a layer, so that the framework computes the layer."""


def kernel_fits(layer: keras.layers.Layer, inputs: Any, missing: str | None = None) -> bool:
    """Return whether a kernel can compute a call of a layer.

    The result depends on the layer's data format, and on the dtype and the device of the inputs. If
    it is ``False``, a ``KernelUnavailableWarning`` states the reason. Each reason is stated only
    once.

    Args:
        layer: Layer that is called.
        inputs: Inputs of the call.
        missing: Reason why no kernel can compute this call, if the layer has found one.
    """
    reason = missing or _missing(layer, inputs)
    if reason is None:
        return True
    message = f"{type(layer).__name__}: no kernel for {reason}: the framework's own is used"
    if message not in _said:
        _said.add(message)
        warnings.warn(message, KernelUnavailableWarning, stacklevel=2)
    return False


def _missing(layer: Any, inputs: Any) -> str | None:
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    # Only PyTorch's tensors have a device with a `type`. Other tensors count as tensors on the CPU.
    # That is correct because TensorFlow copies inputs to the device of the op by itself.
    device = getattr(getattr(inputs, "device", None), "type", "cpu")
    data_format = getattr(layer, "data_format", "channels_last")
    if data_format != "channels_last":
        return f"data_format={data_format!r} (the kernels need 'channels_last')"
    if dtype != "float32" or layer.compute_dtype != "float32":
        other = layer.compute_dtype if dtype == "float32" else dtype
        return f"the dtype {other} (the kernels compute in float32)"
    if device not in ("cpu", "meta", "cuda"):
        return f"the device {device} (the kernels run on CPUs and CUDA devices)"
    if device == "cuda" and (driver := availability.missing()):
        return f"the device cuda ({driver})"
    return None
