"""Dataclasses for the definition of an op: its arrays, and its functions (steps)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.np.numpy_support import as_dtype

from cnnforge.ops.definition.attributes import Attribute

GRAD = "grad_"


@dataclass(frozen=True)
class Array:
    """An array that an op reads or writes: its name and its Numba type."""

    name: str
    type: types.Array

    @cached_property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.type.ndim

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype of the elements."""
        return as_dtype(self.type.dtype)

    @cached_property
    def dtype_name(self) -> str:
        """Name of the dtype, which is the same in every framework."""
        return self.dtype.name

    @cached_property
    def is_float(self) -> bool:
        """Whether there is a gradient with respect to the array."""
        return isinstance(self.type.dtype, types.Float)

    def gradient(self) -> Array:
        """Return the `Array` of the gradient with respect to this array."""
        return Array(GRAD + self.name, self.type)


@dataclass(frozen=True, eq=False)
class Step:
    """One function of an op (the forward function or a backward function), and its arrays.

    Attributes:
        op: The op's name.
        function: The function, decorated with `numba.njit`.
        reads: The arrays that are passed in, in the order of the argument block.
        writes: The arrays that the function computes.
        shape_source: For each array in `writes`, the name of the array in `reads` that has the same
            shape. It is `None` for the forward function: the shape rule computes these shapes.
    """

    op: str
    function: Dispatcher
    reads: tuple[Array, ...]
    writes: tuple[Array, ...]
    shape_source: tuple[str, ...] | None

    @property
    def is_forward(self) -> bool:
        """Whether this is the op's forward function."""
        return self.shape_source is None

    @property
    def label(self) -> str:
        """Name of the step in error messages."""
        kind = "forward" if self.is_forward else "backward"
        return f"ArrayOp {self.op!r}: the {kind} function {self.function.__name__!r}"


@dataclass(frozen=True)
class Definition:
    """The definition of an op; `checks.define` makes and checks it."""

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    attributes: tuple[Attribute, ...]
    forward: Step
    backward: tuple[Step, ...]
    shape_rule: Callable[..., Any]


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a plain or a compiled function."""
    return tuple(inspect.signature(getattr(function, "py_func", function)).parameters)
