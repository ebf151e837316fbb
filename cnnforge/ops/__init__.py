"""Numba functions over arrays as differentiable ops of the active Keras backend."""

from __future__ import annotations

import os

# An op's functions may have parallel loops, which Numba runs on OpenMP. OpenMP's idle threads spin
# by default, and on a busy machine they take the cores from TensorFlow's threads. These variables
# must be set before Numba starts its threads, because it then loads the OpenMP library.
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
    """Register all ops that are defined so far with the framework.

    An op registers itself when it is first used. Only a graph that is loaded from disk (a
    TensorFlow SavedModel) needs its ops before that: import the modules that define them, then
    call this function. It may be called again after further imports.

    Raises:
        cnnforge.errors.UsageError: The active Keras backend has no route.
        ValueError: An op was defined again, with inputs, outputs or attributes that differ from
            those with which it is registered.
    """
    active = routes.active()
    for op in registered_ops():
        active.register(op)


def route() -> str:
    """Describe the route from ops to the active Keras backend, and why it was chosen.

    Returns:
        One line, for instance `"tensorflow: C API (its self-test passed)"`.

    Raises:
        cnnforge.errors.UsageError: The active Keras backend has no route.
    """
    return routes.active().describe()
