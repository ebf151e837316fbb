"""When a layer has no kernel for what it is asked: the framework's own computation, said once."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from cnnforge_kernels.cuda.runtime import availability

_said: set[str] = set()


class KernelUnavailableWarning(UserWarning):
    """A layer computes with the framework's implementation because no kernel fits."""


def kernel_fits(layer: keras.layers.Layer, inputs: Any, missing: str | None = None) -> bool:
    """Whether there is a kernel for a layer's data format, and for the dtype and place of inputs.

    The first ``False`` for a reason is accompanied by a ``KernelUnavailableWarning``.

    Args:
        layer: The layer.
        inputs: What it is called with.
        missing: What else the layer knows to have no kernel; ``None``: nothing.
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
    # Only torch's tensors have a device with a type; TensorFlow itself moves what an op needs.
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
