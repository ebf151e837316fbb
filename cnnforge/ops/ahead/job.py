"""What is asked of the process that compiles ahead: a function, its types, arrays to try it on.

The function travels as its module and its name. What the other process finds there need not be what
this one has: a module may read the environment, and a test may replace a number that a compiled
function then holds for ever. So a digest of all that the function is made of goes with it.
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

# What the other process says of a job, a byte each.
COMPILED, DONE, CANNOT = b"c", b"d", b"x"

# They take seconds to import, memory, and graphics cards.
FRAMEWORKS = frozenset({"keras", "tensorflow", "torch", "jax"})

# What nobody changes, and too much to look at.
_FIXED = {"numba", "numpy", "llvmlite", "math", "builtins", "ctypes"}
# More than this is not allocated to try a function.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Job:
    """A function to compile.

    Attributes:
        module: Its module.
        name: Its qualified name there.
        digest: That of `digest`.
        signature: The Numba types of its parameters.
        arguments: For each parameter its value, or (dtype, shape) of an array; `None`: compile it
            and do not run it.
    """

    module: str
    name: str
    digest: str
    signature: tuple[types.Type, ...]
    arguments: tuple[Any, ...] | None


def find(module: str, name: str) -> Any:
    """What a module has under a qualified name; `None`: nothing.

    Raises:
        Exception: Whatever the module raises when it is imported.
    """
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def arguments(
    step: Step, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """The arguments of a job; `None` where the arrays are too large to be tried.

    Args:
        step: The step.
        shapes: The shape of every array that it reads or writes.
        values: The value of every attribute.
    """
    arrays = {item.name: item for item in (*step.reads, *step.writes)}
    if sum(_bytes(item, shapes[name]) for name, item in arrays.items()) > _MOST_BYTES:
        return None
    return tuple(
        (arrays[name].dtype.str, shapes[name]) if name in arrays else values[name]
        for name in parameters(step.function)
    )


def _bytes(item: Array, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * item.dtype.itemsize


def make_array(dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """An array to try a function on: numbers between 0 and 1, or zeros where they are integers."""
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return np.zeros(shape, kind)
    return np.random.default_rng(0).random(shape, np.float32).astype(kind)


def digest(function: Dispatcher) -> str:
    """A digest of a function: its code, what it calls, and what it takes from outside."""
    made = hashlib.sha256()
    for part in _parts(function, set()):
        made.update(part.encode())
        made.update(b"\n")
    return made.hexdigest()


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
    """Whether the `repr` of a constant says something else in another process."""
    return isinstance(constant, (CodeType, frozenset))


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]
