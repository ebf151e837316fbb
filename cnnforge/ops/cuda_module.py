"""Find the functions that compute an op on CUDA devices, and record the kernels that they launch.

They are in the module that the op names as its `cuda` (see `ArrayOp`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cnnforge.ops.definition.definition import Step, parameters

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

# Launches are recorded without real tensors. Instead, each tensor gets an invented address, a TiB
# after the one before it, so that a recorded pointer shows which tensor it points into. Nothing is
# read or written at these addresses.
_STEP = 1 << 40


class Launch(Protocol):
    """One recorded launch of a CUDA kernel.

    Attributes:
        function: The address of the `CUfunction`.
        grid: Numbers of blocks along x, y, z.
        block: Number of threads in a block, along x.
        shared: Size of the dynamic shared memory in bytes.
        arguments: Arguments of the kernel: `int` for a pointer, a NumPy scalar for a number.
    """

    function: int
    grid: tuple[int, int, int]
    block: int
    shared: int
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class DevicePointer:
    """An array on a CUDA device, which a function of a CUDA module gets as an argument.

    Attributes:
        pointer: Address of the first element.
        shape: Shape of the array.
        dtype: Dtype of the elements.
        device: Index of the device.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
        }


@dataclass(frozen=True)
class Recording:
    """The recorded launches of a step (one function of an op).

    Attributes:
        launches: The launches, in the order in which they were made.
        memories: (address, bytes) of the temporary memory that the launches use.
        tensors: (address, bytes) of the tensors that the step reads, then of those that it writes.
    """

    launches: Sequence[Launch]
    memories: Sequence[tuple[int, int]]
    tensors: Sequence[tuple[int, int]]


def missing(op: ArrayOp) -> str | None:
    """Return why the launches of an op cannot be recorded, or `None` if they can be recorded."""
    if op.cuda is None:
        return "no implementation for CUDA devices"
    try:
        module = importlib.import_module(op.cuda)
    except ImportError as error:
        return f"{op.cuda} cannot be imported: {error}"
    if not hasattr(module, "record"):
        return f"{op.cuda} has no function 'record'"
    said = getattr(module, "missing", None)
    return said() if said is not None else None


def experimental(ops: Iterable[ArrayOp]) -> dict[str, str]:
    """Collect the experimental features of the modules that compute ops on CUDA devices.

    Args:
        ops: The ops. A module may have a function `experimental()` that returns such a dict.

    Returns:
        A dict from the name of each feature to a text: its state, and what switches it on.
    """
    features: dict[str, str] = {}
    for name in sorted({op.cuda for op in ops if op.cuda is not None}):
        try:
            listed = getattr(importlib.import_module(name), "experimental", None)
            features |= listed() if listed is not None else {}
        except ImportError:
            # Without Numba's CUDA compiler there are no such features.
            continue
    return features


def record(
    op: ArrayOp,
    step: Step,
    shapes: Sequence[tuple[int, ...]],
    values: Mapping[str, Any],
    device: int,
    aligned: bool,
) -> Recording:
    """Record the kernels that a step launches for given shapes, without running them.

    The kernels are compiled and loaded.

    Args:
        op: The op. Its CUDA module must have the function `record`.
        step: The step.
        shapes: Shapes of the tensors that the step reads, then of those that it writes.
        values: The value of every attribute.
        device: The index of the device.
        aligned: Whether all tensors begin at multiples of 16 bytes.

    Raises:
        Exception: The author's functions have raised it.
    """
    arrays = {
        item.name: DevicePointer(
            _STEP * (number + 1) + (0 if aligned else item.dtype.itemsize),
            tuple(shape),
            item.dtype,
            device,
        )
        for number, (item, shape) in enumerate(
            zip((*step.reads, *step.writes), shapes, strict=True)
        )
    }
    function = cuda_functions(op)[step]
    given = {**values, **arrays}
    arguments = {name: given[name] for name in parameters(step.function)}
    launches, memories = importlib.import_module(str(op.cuda)).record(
        lambda: function(**arguments, stream=0)
    )
    tensors = [(array.pointer, array.nbytes) for array in arrays.values()]
    return Recording(launches, memories, tensors)


@cache
def cuda_functions(op: ArrayOp) -> Mapping[Step, Callable[..., None]]:
    """Return, for each step of an op, the function of the module `op.cuda` that computes it.

    Raises:
        ValueError: A function is missing, or its parameters are not those of the function for the
            CPU and `stream`.
    """
    module = importlib.import_module(str(op.cuda))
    found = {}
    for step in (op.forward_step, *op.backward_steps):
        name = step.function.__name__
        function = getattr(module, name, None)
        if function is None:
            raise ValueError(
                f"{step.label}: {op.cuda} has no function {name!r} to compute it on CUDA devices"
            )
        given = inspect.signature(function).parameters
        needed = {
            name
            for name, parameter in given.items()
            if parameter.default is inspect.Parameter.empty
        }
        expected = {*parameters(step.function), "stream"}
        if not needed <= expected <= set(given):
            raise ValueError(
                f"{step.label}: its function in {op.cuda} has the parameters "
                f"{', '.join(given)}; expected {', '.join(sorted(expected))}"
            )
        found[step] = function
    return found
