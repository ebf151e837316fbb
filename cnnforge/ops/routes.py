"""Find the *route* from ops to the active Keras backend: the module that calls ops under it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from cnnforge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnforge.ops.array_op import ArrayOp

_MODULES = {"tensorflow": "cnnforge.ops.tensorflow", "torch": "cnnforge.ops.torch"}


class Route(Protocol):
    """The functions of a module in `_MODULES`."""

    def call(self, op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """Apply an op to its inputs; `values` holds every attribute."""
        ...

    def register(self, op: ArrayOp) -> None:
        """Register an op with the framework, so that saved graphs that use it can be loaded."""
        ...

    def describe(self) -> str:
        """Describe the route, and why it was chosen, in one line."""
        ...


def active() -> Route:
    """Return the route to the active Keras backend.

    Raises:
        UsageError: The backend has no route.
    """
    # Keras also imports its backend, which takes seconds. So import Keras only when an op is used.
    keras = importlib.import_module("keras")
    backend = keras.backend.backend()
    if backend not in _MODULES:
        raise UsageError(
            f"the Keras backend is {backend!r}, and ops made of Numba functions run under "
            f"{', '.join(_MODULES)}; set KERAS_BACKEND=tensorflow before Python starts"
        )
    return cast("Route", importlib.import_module(_MODULES[backend]))
