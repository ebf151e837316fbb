"""Make jobs for the worker processes from the uses of ops in a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.ahead.job import FRAMEWORKS, Job, arguments, digest, find
from cnnforge.ops.compiling.program import Program
from cnnforge.ops.definition.definition import GRAD, Array, Step
from cnnforge.ops.definition.shapes import Shape
from cnnforge_disk_cache import is_compiled, is_durable

# Sizes that replace an unknown dimension, usually the batch, when a worker calls a function. It
# uses the first of these sizes with which the arrays are not too large.
_STAND_INS = (32, 8, 1)


class Op(Protocol):
    """The part of `cnnforge.ops.op_base.OpBase` that this module needs."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @property
    def programs(self) -> Mapping[Step, Program]:
        """The program (machine code) of each step (function of the op)."""
        ...

    def output_shapes(
        self, shapes: Sequence[Shape], values: Mapping[str, Any]
    ) -> tuple[Shape, ...]:
        """Return the shape of every output, with `None` for an unknown dimension."""
        ...


@dataclass(frozen=True)
class Use:
    """A use of an op in a model: the shapes and attributes with which the model calls it.

    Attributes:
        op: The op.
        shapes: The shape of every input; `None` for an unknown dimension.
        values: The value of every attribute.
    """

    op: Op
    shapes: Sequence[Shape]
    values: Mapping[str, Any]


def make_jobs(uses: Sequence[Use], gradients: bool) -> list[Job]:
    """Make jobs for the functions of the used ops, except functions that are compiled already.

    Args:
        uses: The uses.
        gradients: Whether the backward functions are needed.

    Returns:
        One job for each function and each set of shapes and attributes, in the order in which to
        begin them. The first jobs of all functions come before the second ones, so that a function
        is compiled before its second job begins. Among these, backward functions come before
        forward ones, because most of them take longer.
    """
    jobs: list[tuple[int, bool, Job]] = []
    for step, (program, calls) in _calls(uses, gradients).items():
        function, types_ = step.function, program.argument_types
        if program.is_made or not _can_travel(function, types_):
            continue
        name, digest_ = function.py_func.__qualname__, digest(function)
        for number, call in enumerate(calls or [None]):
            job = Job(function.py_func.__module__, name, digest_, types_, call)
            jobs.append((number, step.is_forward, job))
    return [job for *_, job in sorted(jobs, key=lambda entry: entry[:2])]


def _calls(
    uses: Sequence[Use], gradients: bool
) -> dict[Step, tuple[Program, list[tuple[Any, ...]]]]:
    """Return a dict from each step (function) of the used ops to two values.

    The two values are the step's program, and a list of the arguments of the calls that a worker
    tries.
    """
    found: dict[Step, tuple[Program, list[tuple[Any, ...]]]] = {}
    for use in uses:
        for step, program in use.op.programs.items():
            if step.is_forward or gradients:
                _, calls = found.setdefault(step, (program, []))
                call = _call(use, step)
                if call is not None and call not in calls:
                    calls.append(call)
    return found


def _can_travel(function: Dispatcher, signature: tuple[types.Type, ...]) -> bool:
    """Whether a worker should compile a function: it is not compiled, and a worker can import it.

    A worker cannot import a module that imports a framework, so the result is then `False`.
    """
    module, name = function.py_func.__module__, function.py_func.__qualname__
    known = sys.modules.get(module)
    if module == "__main__" or known is None or not is_durable(function):
        return False
    found = find(module, name)
    if is_compiled(function, signature) or not (found is function or found is function.py_func):
        return False
    imported = (
        value.__name__ for value in list(vars(known).values()) if isinstance(value, ModuleType)
    )
    return not FRAMEWORKS & {name.partition(".")[0] for name in imported}


def _call(use: Use, step: Step) -> tuple[Any, ...] | None:
    op = use.op
    for stand_in in _STAND_INS:
        full = [tuple(stand_in if n is None else n for n in shape) for shape in use.shapes]
        try:
            outputs = op.output_shapes(full, use.values)
        except ValueError:
            return None
        shapes = {
            name: shape
            for item, shape in zip((*op.inputs, *op.outputs), (*full, *outputs), strict=True)
            for name in (item.name, GRAD + item.name)
        }
        found = arguments(step, shapes, use.values)
        if found is not None:
            return found
    return None
