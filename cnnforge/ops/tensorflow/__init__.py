"""Call ops under Keras' TensorFlow backend, by one of two routes, and check their arguments.

One route registers ops through TensorFlow's C API (`registration.py`). Its calls take 0.4
microseconds. The other route is `tf.numpy_function`, with 20 microseconds a call. It is used only
if the self-test of the C API route fails.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numba
import tensorflow as tf

from cnnforge.ops.tensorflow import cuda, export

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

ROUTE_VARIABLE = "CNNFORGE_TENSORFLOW_ROUTE"
_C_API, _NUMPY_FUNCTION = "c_api", "numpy_function"

_lock = threading.RLock()


@dataclass(frozen=True)
class _Choice:
    module: ModuleType
    name: str
    reason: str


_choice: _Choice | None = None


def call(op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[tf.Tensor]:
    """Apply an op.

    Args:
        op: The op.
        tensors: One for each input: a tensor, a variable, or a value that TensorFlow converts.
        values: The value of every attribute.

    Returns:
        The outputs.

    Raises:
        ValueError: The rank of an input is wrong, or the shape rule rejects the shapes.
        TypeError: The dtype of an input is wrong.
    """
    choice = _choose()
    if not tf.executing_eagerly():
        export.warn(op)
    ready = []
    for item, value in zip(op.inputs, tensors, strict=True):
        tensor = tf.convert_to_tensor(value)
        op.check_tensor(item, tensor.dtype.name, tensor.shape.rank)
        ready.append(tensor)
    if op.cuda is not None and choice.name == _C_API and cuda.hands_over(op):
        from cnnforge.ops.tensorflow.cuda import dlpack

        return dlpack.call(op, ready, values)
    return choice.module.call(op, ready, values)


def call_of(op: ArrayOp, tensor: Any) -> tuple[list[tf.Tensor], dict[str, Any]] | None:
    """Return the inputs and attributes of the node that computes a tensor.

    Args:
        op: The op that the node must be of.
        tensor: Any tensor.

    Returns:
        The inputs and the values of all attributes. It is `None` if the tensor is not computed by
        this op, or not in the graph that is being built. The route `tf.numpy_function` has no nodes
        that can be found.
    """
    choice = _choose()
    if choice.name != _C_API or tf.executing_eagerly():
        return None
    return choice.module.call_of(op, tensor)


def padding_of(tensor: Any) -> tuple[tf.Tensor, tuple[tuple[int, int], ...]] | None:
    """Return the tensor that a zero padding reads, and the widths of the padding.

    Args:
        tensor: Any tensor.

    Returns:
        The tensor, and for each of its axes the number of zeros before and after it. It is `None`
        if the tensor is not padded with zeros, or not in the graph that is being built.
    """
    if not tf.is_symbolic_tensor(tensor):
        return None
    if tensor.graph is not tf.compat.v1.get_default_graph() or tensor.op.type != "Pad":
        return None
    inputs, given = tensor.op.inputs
    widths = tf.get_static_value(given)
    if widths is None:
        return None
    return inputs, tuple((int(before), int(after)) for before, after in widths)


def register(op: ArrayOp) -> None:
    """Register an op with TensorFlow, so that a SavedModel that contains the op can be loaded."""
    choice = _choose()
    if choice.name == _C_API:
        choice.module.register(op)


def describe() -> str:
    """Describe the routes to the CPU and to CUDA devices, and why they were chosen, in one line."""
    choice = _choose()
    if choice.name != _C_API:
        return f"tensorflow: tf.numpy_function ({choice.reason})"
    return f"tensorflow: C API ({choice.reason}); {cuda.describe()}"


def _choose() -> _Choice:
    global _choice
    if _choice is None:
        with _lock:
            if _choice is None:
                _choice = _decide(os.environ.get(ROUTE_VARIABLE, "auto"))
    return _choice


def _decide(wanted: str) -> _Choice:
    if wanted not in ("auto", _C_API, _NUMPY_FUNCTION):
        raise ValueError(
            f"{ROUTE_VARIABLE} is {wanted!r}, expected auto, {_C_API} or {_NUMPY_FUNCTION}"
        )
    reason = f"{ROUTE_VARIABLE}={wanted}"
    if numba.config.DISABLE_JIT:
        reason = "NUMBA_DISABLE_JIT=1, so that functions run as Python"
    elif wanted != _NUMPY_FUNCTION:
        try:
            from cnnforge.ops.tensorflow import registration, self_test

            registration.cuda_kernels = cuda.kernels
            self_test.run(registration.call)
            return _Choice(registration, _C_API, "its self-test passed")
        except Exception as error:
            if wanted == _C_API:
                raise
            reason = f"the C API route failed: {type(error).__name__}: {error}"
    from cnnforge.ops.tensorflow import numpy_function

    warnings.warn(
        f"Numba ops run through tf.numpy_function, at 20 to 40 microseconds more a call: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
    return _Choice(numpy_function, _NUMPY_FUNCTION, reason)
