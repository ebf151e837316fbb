"""Choose how ops run on TensorFlow's CUDA devices.

Experimental: not yet run on a device.

There are two routes, `stream` and `dlpack` (see `Choice`). With neither of them, TensorFlow copies
the tensors to the CPU and the results back. The choice is made when an op is first used on a
machine with a CUDA device. Before that, nothing is compiled or imported for the device.

Environment:
    CNNFORGE_TENSORFLOW_GPU: `auto` chooses the first route whose self-test passes, `stream` and
        `dlpack` choose this route, and `off`, the default, chooses neither.
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
EXPERIMENTAL = "experimental: not yet run on a device"
Way = Literal["stream", "dlpack", "off"]

_lock = threading.RLock()


@dataclass(frozen=True)
class Choice:
    """The way in which ops run on CUDA devices.

    Attributes:
        way: With `"stream"`, CUDA kernels are launched on TensorFlow's own stream. With `"dlpack"`,
            Python code gets the addresses of tensors by DLPack, launches the kernels and waits for
            the device. With `"off"`, TensorFlow copies tensors to the CPU.
        reason: Reason for the choice.
        kernels: The functions to register with TensorFlow for each op, with `"stream"`.
    """

    way: Way
    reason: str
    kernels: CudaKernels | None = None


_choice: Choice | None = None


def choose() -> Choice:
    """Return the choice, which is made on the first call.

    Raises:
        UsageError: `CNNFORGE_TENSORFLOW_GPU` names a route that does not work.
    """
    global _choice
    if _choice is None:
        with _lock:
            if _choice is None:
                _choice = _decide(os.environ.get(ROUTE_VARIABLE))
    return _choice


def kernels(op: ArrayOp) -> CudaKernels | None:
    """Return the functions to register for an op on CUDA devices; `None` without `"stream"`."""
    return choose().kernels if _usable(op) else None


def hands_over(op: ArrayOp) -> bool:
    """Whether an op uses the route `"dlpack"`, in which Python code launches its CUDA kernels."""
    return _usable(op) and choose().way == "dlpack"


def describe() -> str:
    """Describe the choice, and its reason, in one line."""
    choice = choose()
    names = {
        "stream": "launched on TensorFlow's own stream",
        "dlpack": "handed over by DLPack, waiting for the device",
    }
    if choice.way == "off":
        return f"GPU: none ({choice.reason})"
    text = f"GPU: {names[choice.way]} ({EXPERIMENTAL}; {choice.reason})"
    lacking = {missing(op) for op in registered_ops() if op.cuda is not None} - {None}
    return "; ".join(
        [text, *(f"some ops on the CPU: {reason}" for reason in sorted(map(str, lacking)))]
    )


def _usable(op: ArrayOp) -> bool:
    if op.cuda is None:
        return False
    wanted = os.environ.get(ROUTE_VARIABLE)
    if _choice is None and wanted == "auto" and _no_device() is None and missing(op) is not None:
        # This op cannot use the device. So do not call `choose`, whose self-test takes seconds.
        return False
    if choose().way == "off":
        return False
    reason = missing(op)
    if reason is not None and wanted in ("stream", "dlpack"):
        raise UsageError(
            f"{ROUTE_VARIABLE}={wanted} does not work for the op {op.name!r}: {reason}"
        )
    return reason is None


def _decide(wanted: str | None) -> Choice:
    if wanted is None:
        off = f"{EXPERIMENTAL}; {ROUTE_VARIABLE}=auto switches it on"
        return Choice("off", _no_device() or off)
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
        raise UsageError(f"{ROUTE_VARIABLE}={wanted} does not work: {reason}")
    return Choice("off", reason)


@cache
def _no_device() -> str | None:
    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    if not tf.config.list_physical_devices("GPU") or not tf.config.list_logical_devices("GPU"):
        return "TensorFlow sees none"
    return None


# The functions below import modules only when they are called, because these imports take a second.


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
