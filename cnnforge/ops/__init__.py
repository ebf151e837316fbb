"""Make differentiable ops of the active Keras backend from Numba functions over arrays."""

from __future__ import annotations

import os
from typing import Any

# The functions of an op may have parallel loops, which Numba runs on OpenMP. By default, OpenMP's
# idle threads spin, so TensorFlow's threads cannot use the cores. These variables stop the
# spinning. Set them before Numba starts its threads, which is when it loads the OpenMP library.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from cnnforge.ops import routes
from cnnforge.ops.array_op import ArrayOp, registered_ops
from cnnforge.ops.single_call import SingleCall, find_single_call, import_path, load_op

__all__ = [
    "ArrayOp",
    "SingleCall",
    "find_single_call",
    "import_path",
    "load_op",
    "padding_of",
    "register",
    "route",
]


def padding_of(tensor: Any) -> tuple[Any, tuple[tuple[int, int], ...]] | None:
    """Find the zero padding that computes a tensor of the graph that is being built.

    A convolution can use this to read the tensor before the padding, and to pad it by itself.
    TensorFlow does not run the padding then, because nothing reads its outputs.

    Args:
        tensor: Any tensor.

    Returns:
        The tensor before the padding, and for each of its axes the number of zeros before and after
        it. It is `None` if the tensor is not a padding with zeros, or if it has its values already:
        in eager mode, under torch, and if it is computed outside of the graph that is being built.
    """
    return routes.active().padding_of(tensor)


def register() -> None:
    """Register with the framework all ops that are defined so far.

    An op registers itself when it is first called. But a graph that is loaded from disk (a
    TensorFlow SavedModel) needs its ops before any call. So import the modules that define the
    ops, and call this function before the graph is loaded. It may be called again later.

    Raises:
        cnnforge.errors.UsageError: Ops cannot run under the active Keras backend.
        ValueError: An op was defined again, with inputs, outputs or attributes that differ from
            those with which it is registered.
    """
    active = routes.active()
    for op in registered_ops():
        active.register(op)


def route() -> str:
    """Describe the route (the way to call ops under the active backend), and why it was chosen.

    Returns:
        One line, for instance `"tensorflow: C API (its self-test passed)"`.

    Raises:
        cnnforge.errors.UsageError: Ops cannot run under the active Keras backend.
    """
    return routes.active().describe()
