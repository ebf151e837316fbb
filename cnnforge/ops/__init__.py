"""Numba functions over arrays as differentiable ops of the active Keras backend."""

from __future__ import annotations

import os

# An op's functions may have parallel loops, which Numba runs on OpenMP. Its idle threads spin by
# default, and on a busy machine they take the cores from TensorFlow's own threads. It counts only
# if it is set before the OpenMP library is loaded, which Numba does when it launches its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from cnnforge.ops import routes
from cnnforge.ops.array_op import ArrayOp, registered_ops

__all__ = [
    "ArrayOp",
    "register",
    "route",
]


def register() -> None:
    """Make all ops defined so far known to the framework.

    An op registers itself when it is first used. Only a graph that is loaded from disk (a
    TensorFlow SavedModel) needs its ops before that: import the modules that define them, then
    call this. It may be called again after further imports.

    Raises:
        cnnforge.errors.UsageError: There is no route to the active Keras backend.
        ValueError: An op was defined anew with other inputs, outputs or attributes than it was
            registered with.
    """
    route_ = routes.active()
    for op in registered_ops():
        route_.register(op)


def route() -> str:
    """How ops reach the active Keras backend, and why that way.

    Returns:
        One line, for instance `"tensorflow: C API (its self-test passed)"`.

    Raises:
        cnnforge.errors.UsageError: There is no route to the active Keras backend.
    """
    return routes.active().describe()
