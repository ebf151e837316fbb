"""Which Keras backend is active, and the module that takes ops to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from cnnforge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnforge.ops.array_op import ArrayOp

_MODULES = {"tensorflow": "cnnforge.ops.tensorflow", "torch": "cnnforge.ops.torch"}


class Route(Protocol):
    """What a module in `_MODULES` offers."""

    def call(self, op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """Apply an op to as many inputs as it has; `values` holds every attribute."""
        ...

    def register(self, op: ArrayOp) -> None:
        """Make an op known to the framework, so that saved graphs that use it can be loaded."""
        ...

    def describe(self) -> str:
        """One line: the route and why it was chosen."""
        ...


def active() -> Route:
    """The route to the active Keras backend.

    Raises:
        UsageError: There is none.
    """
    # Keras imports its backend, which takes seconds: not before an op is used.
    keras = importlib.import_module("keras")
    backend = keras.backend.backend()
    if backend not in _MODULES:
        raise UsageError(
            f"the Keras backend is {backend!r}, and ops made of Numba functions run under "
            f"{', '.join(_MODULES)}; set KERAS_BACKEND=tensorflow before Python starts"
        )
    return cast("Route", importlib.import_module(_MODULES[backend]))
