"""The jobs of worker processes. A job names a function to compile, its types, and arguments.

The worker finds the function by its module and name. In the worker, the name may stand for other
code than in the parent. For instance, a test in the parent may have replaced a constant that the
function uses. So a job also contains a digest of the function's code and of everything that the
code uses.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.definition.definition import Array, Step, parameters

# Workers do not import these packages: an import takes seconds and memory, and may reserve a
# graphics card.
FRAMEWORKS = frozenset({"keras", "tensorflow", "torch", "jax"})

# Modules that are left out of a digest. They are the same in every process, and large.
_FIXED = {"numba", "numpy", "llvmlite", "math", "builtins", "ctypes"}
# Max total size of the arrays that are allocated to try a function, in bytes.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Job:
    """A function to compile and to call once.

    Attributes:
        module: Module of the function.
        name: Qualified name of the function in the module.
        digest: Digest of the function, from `digest`.
        signature: Numba types of the parameters.
        arguments: Arguments of the call. An array is given as (dtype, shape). With `None`, the
            function is compiled, but not called.
    """

    module: str
    name: str
    digest: str
    signature: tuple[types.Type, ...]
    arguments: tuple[Any, ...] | None


def find(module: str, name: str) -> Any:
    """Return the object that has a qualified name in a module, or `None` if it does not exist.

    Raises:
        Exception: The import of the module has raised it.
    """
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def arguments(
    step: Step, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """Return the `arguments` of a `Job`, or `None` if the arrays are too large to be allocated.

    Args:
        step: The step (function of an op) that the job compiles.
        shapes: The shape of every array that the step reads or writes, by name.
        values: The value of every attribute.
    """
    arrays = {item.name: item for item in (*step.reads, *step.writes)}
    if sum(_bytes(item, shapes[name]) for name, item in arrays.items()) > _MAX_BYTES:
        return None
    return tuple(
        (arrays[name].dtype.str, shapes[name]) if name in arrays else values[name]
        for name in parameters(step.function)
    )


def _bytes(item: Array, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * item.dtype.itemsize


def make_array(dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return an array of random floats between 0 and 1, or of zeros if the dtype is an integer."""
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return np.zeros(shape, kind)
    return np.random.default_rng(0).random(shape, np.float32).astype(kind)


def digest(function: Dispatcher) -> str:
    """Return a digest of a function: its code, the functions that it calls, and its globals."""
    result = hashlib.sha256()
    for part in _parts(function, set()):
        result.update(part.encode())
        result.update(b"\n")
    return result.hexdigest()


def _parts(thing: Any, seen: set[int], names: Sequence[str] = ()) -> Iterator[str]:
    if isinstance(thing, Dispatcher):
        if id(thing) not in seen:
            seen.add(id(thing))
            yield repr(sorted(thing.targetoptions.items(), key=str))
            yield from _parts(thing.py_func, seen)
    elif isinstance(thing, FunctionType):
        if id(thing) not in seen and _root(thing.__module__) not in _FIXED:
            seen.add(id(thing))
            yield f"{thing.__code__.co_filename} {thing.__module__} {thing.__qualname__}"
            yield from _function_parts(thing, seen)
    elif isinstance(thing, ModuleType):
        if _root(thing.__name__) not in _FIXED:
            for name in names:
                if hasattr(thing, name):
                    yield f"{thing.__name__}.{name}"
                    yield from _parts(getattr(thing, name), seen)
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype} {thing.shape} {hashlib.sha256(thing.tobytes()).hexdigest()}"
    elif isinstance(thing, tuple):
        yield f"tuple of {len(thing)}"
        for item in thing:
            yield from _parts(item, seen)
    elif isinstance(thing, (int, float, complex, str, bytes, np.generic, type(None))):
        yield repr(thing)
    else:
        yield f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}"


def _function_parts(function: FunctionType, seen: set[int]) -> Iterator[str]:
    names: list[str] = []
    for code in _codes(function.__code__):
        yield f"{code.co_code.hex()} {code.co_varnames}"
        yield from (repr(item) for item in code.co_consts if not _is_unordered(item))
        names += code.co_names
    for name in names:
        if name in function.__globals__:
            yield name
            yield from _parts(function.__globals__[name], seen, names)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _codes(item)


def _is_unordered(constant: Any) -> bool:
    """Whether the `repr` of a constant differs between processes."""
    return isinstance(constant, (CodeType, frozenset))


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]
