"""Find the *route* to the active Keras backend: the module that calls ops under this backend."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

from cnnforge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnforge.ops.array_op import ArrayOp

_MODULES = {"tensorflow": "cnnforge.ops.tensorflow", "torch": "cnnforge.ops.torch"}

_replacement: ContextVar[Route | None] = ContextVar("replacement", default=None)


class Route(Protocol):
    """The functions that each module in `_MODULES` must have."""

    def call(self, op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """Apply an op to its inputs, and return its outputs; `values` holds every attribute."""
        ...

    def call_of(self, op: ArrayOp, tensor: Any) -> tuple[list[Any], dict[str, Any]] | None:
        """Return the inputs and attributes of the call that computes a tensor: see `ArrayOp`."""
        ...

    def padding_of(self, tensor: Any) -> tuple[Any, tuple[tuple[int, int], ...]] | None:
        """Return the tensor that a zero padding reads: see `cnnforge.ops.padding_of`."""
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
        UsageError: There is no module for the backend.
    """
    replacement = _replacement.get()
    if replacement is not None:
        return replacement
    # Importing Keras also imports its backend, which takes seconds. So wait until an op is used.
    keras = importlib.import_module("keras")
    backend = keras.backend.backend()
    if backend not in _MODULES:
        raise UsageError(
            f"the Keras backend is {backend!r}, and ops made of Numba functions run under "
            f"{', '.join(_MODULES)}; set KERAS_BACKEND=tensorflow before Python starts"
        )
    return cast("Route", importlib.import_module(_MODULES[backend]))


@contextmanager
def replaced(route: Route) -> Iterator[None]:
    """Let ops use another route during the block, in this thread.

    Args:
        route: The route.
    """
    token = _replacement.set(route)
    try:
        yield
    finally:
        _replacement.reset(token)
