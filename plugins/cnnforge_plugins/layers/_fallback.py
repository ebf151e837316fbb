"""Decide whether a kernel can compute a layer; if not, the framework does, with one warning."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from cnnforge_kernels.cuda.runtime import availability

_said: set[str] = set()


class KernelUnavailableWarning(UserWarning):
    """A layer computes with the framework's implementation because no kernel fits."""


def kernel_fits(layer: keras.layers.Layer, inputs: Any, missing: str | None = None) -> bool:
    """Return whether a kernel fits a layer's data format, and the dtype and device of its inputs.

    The first ``False`` for each reason warns with a ``KernelUnavailableWarning``.

    Args:
        layer: Layer that is called.
        inputs: Inputs of the call.
        missing: Another reason that the layer has for having no kernel, or ``None``.
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
    # Only torch's tensors have a device with a type; TensorFlow moves inputs to the op by itself.
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
