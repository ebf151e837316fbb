"""How ops reach TensorFlow's CUDA devices: decided when one is first used where there are any.

Nothing is asked of a device, compiled or imported for it before that.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import tensorflow as tf

from cnnforge.errors import UsageError, message_of
from cnnforge.ops.array_op import registered_ops
from cnnforge.ops.cuda_module import missing

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp
    from cnnforge.ops.tensorflow.cuda.registration import CudaKernels

ROUTE_VARIABLE = "CNNFORGE_TENSORFLOW_GPU"
Way = Literal["stream", "dlpack", "off"]

_lock = threading.RLock()


@dataclass(frozen=True)
class Choice:
    """How ops reach CUDA devices.

    Attributes:
        way: `"stream"`: they launch on TensorFlow's own; `"dlpack"`: Python hands tensors over and
            waits; `"off"`: TensorFlow copies them to the CPU.
        reason: Why.
        kernels: What is registered, with `"stream"`.
    """

    way: Way
    reason: str
    kernels: CudaKernels | None = None


_choice: Choice | None = None


def choose() -> Choice:
    """The way, decided on the first call.

    Raises:
        UsageError: `CNNFORGE_TENSORFLOW_GPU` asks for what cannot be had.
    """
    global _choice
    if _choice is None:
        with _lock:
            if _choice is None:
                _choice = _decide(os.environ.get(ROUTE_VARIABLE, "auto"))
    return _choice


def kernels(op: ArrayOp) -> CudaKernels | None:
    """What is to be registered for an op on CUDA devices; `None`: nothing."""
    return choose().kernels if _usable(op) else None


def hands_over(op: ArrayOp) -> bool:
    """Whether Python hands an op's tensors over."""
    return _usable(op) and choose().way == "dlpack"


def describe() -> str:
    """One line: the way and why."""
    choice = choose()
    names = {
        "stream": "launched on TensorFlow's own stream",
        "dlpack": "handed over by DLPack, waiting for the device",
        "off": "none",
    }
    text = f"GPU: {names[choice.way]} ({choice.reason})"
    if choice.way == "off":
        return text
    lacking = {missing(op) for op in registered_ops() if op.cuda is not None} - {None}
    return "; ".join(
        [text, *(f"some ops on the CPU: {reason}" for reason in sorted(map(str, lacking)))]
    )


def _usable(op: ArrayOp) -> bool:
    if op.cuda is None:
        return False
    wanted = os.environ.get(ROUTE_VARIABLE, "auto")
    if _choice is None and wanted == "auto" and _no_device() is None and missing(op) is not None:
        # Nothing is compiled for what would not be used.
        return False
    if choose().way == "off":
        return False
    reason = missing(op)
    if reason is not None and wanted != "auto":
        raise UsageError(
            f"{ROUTE_VARIABLE}={wanted} cannot be had for the op {op.name!r}: {reason}"
        )
    return reason is None


def _decide(wanted: str) -> Choice:
    if wanted not in ("auto", "stream", "dlpack", "off"):
        raise UsageError(f"{ROUTE_VARIABLE} is {wanted!r}, expected auto, stream, dlpack or off")
    if wanted == "off":
        return Choice("off", f"{ROUTE_VARIABLE}=off")
    reason = _no_device()
    if reason is None:
        reasons = []
        for way, attempt in (("stream", _try_stream), ("dlpack", _try_dlpack)):
            if wanted not in ("auto", way):
                continue
            try:
                return attempt("; ".join([*reasons, "its self-test passed"]))
            except Exception as error:
                reasons.append(f"{way}: {message_of(error)}")
        reason = "; ".join(reasons)
    if wanted != "auto":
        raise UsageError(f"{ROUTE_VARIABLE}={wanted} cannot be had: {reason}")
    return Choice("off", reason)


@cache
def _no_device() -> str | None:
    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    if not tf.config.list_physical_devices("GPU") or not tf.config.list_logical_devices("GPU"):
        return "TensorFlow sees none"
    return None


# What follows is imported where there is a device: compiling and loading it takes a second.


def _try_stream(reason: str) -> Choice:
    from cnnforge.ops.tensorflow import registration
    from cnnforge.ops.tensorflow.cuda import self_test
    from cnnforge.ops.tensorflow.cuda.probe import launch_function
    from cnnforge.ops.tensorflow.cuda.registration import CudaKernels
    from cnnforge.ops.tensorflow.cuda.stream import stream_function

    found = CudaKernels("GPU", stream_function(), launch_function())

    def call(op: ArrayOp, tensors: list[tf.Tensor], values: dict[str, float]) -> list[tf.Tensor]:
        registration.register_steps(op, found)
        return registration.call(op, tensors, values)

    self_test.run(call)
    return Choice("stream", reason, found)


def _try_dlpack(reason: str) -> Choice:
    from cnnforge.ops.tensorflow.cuda import dlpack, self_test

    self_test.run(dlpack.call)
    return Choice("dlpack", reason)
