"""Make the definition of an op from the parameter names of its functions, and check it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

import numba
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.definition.attributes import Attribute
from cnnforge.ops.definition.definition import GRAD, Array, Definition, Step, parameters

_DTYPES = (
    types.float32,
    types.float64,
    types.boolean,
    types.int8,
    types.int16,
    types.int32,
    types.int64,
    types.uint8,
    types.uint16,
    types.uint32,
    types.uint64,
)


def define(
    name: str,
    forward: Any,
    backward: Any,
    inputs: Mapping[str, int | types.Array],
    outputs: Mapping[str, int | types.Array],
    output_shapes: Callable[..., Any],
    attributes: Mapping[str, Any],
    not_differentiable: Sequence[str],
) -> Definition:
    """Make the definition of an op, and check everything that can be checked without compiling.

    Raises:
        ValueError: A part of the definition is wrong; the message names the op, the function and
            the argument.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ValueError(f"ArrayOp {name!r}: expected a lower_snake_case name such as 'leaky_relu'")
    op = f"ArrayOp {name!r}"
    ins = tuple(_array(op, "input", key, value) for key, value in inputs.items())
    outs = tuple(_array(op, "output", key, value) for key, value in outputs.items())
    attrs = tuple(Attribute.declare(op, key, value) for key, value in attributes.items())
    _check_names(op, ins, outs, attrs)
    functions = () if backward is None else backward
    functions = tuple(functions) if isinstance(functions, (tuple, list)) else (functions,)
    forward = _compiled(op, "forward", forward)
    functions = tuple(_compiled(op, "backward", function) for function in functions)
    attribute_names = {attribute.name for attribute in attrs}
    first = _forward_step(name, forward, ins, outs, attribute_names)
    steps = tuple(_backward_step(name, item, ins, outs, attribute_names) for item in functions)
    _check_shape_rule(op, output_shapes, ins, attribute_names)
    _check_use(op, ins, (forward, *functions, output_shapes))
    _check_gradients(op, ins, steps, tuple(not_differentiable))
    return Definition(name, ins, outs, attrs, first, steps, output_shapes)


def _compiled(op: str, kind: str, function: Any) -> Dispatcher:
    """Decorate a plain function with `numba.njit`; return a decorated one as it is.

    With `NUMBA_DISABLE_JIT=1`, `numba.njit` returns a plain function, and so does this function.
    """
    if isinstance(function, FunctionType):
        if numba.config.DISABLE_JIT:
            return cast("Dispatcher", function)
        try:
            return numba.njit(cache=True)(function)
        except RuntimeError:
            # Numba's disk cache needs a source file, and this function has none.
            return numba.njit(function)
    if not isinstance(function, Dispatcher):
        raise ValueError(
            f"{op}: the {kind} function {getattr(function, '__name__', function)!r} is a "
            f"{type(function).__name__}, expected a Python function or what numba.njit makes of one"
        )
    return function


def _array(op: str, kind: str, name: str, declared: int | types.Array) -> Array:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{op}: {kind} {name!r}: expected a lower_snake_case name")
    if isinstance(declared, int) and not isinstance(declared, bool) and declared >= 0:
        return Array(name, types.Array(types.float32, declared, "C"))
    if isinstance(declared, types.Array) and declared.layout == "C" and declared.dtype in _DTYPES:
        return Array(name, types.Array(declared.dtype, declared.ndim, "C"))
    raise ValueError(
        f"{op}: {kind} {name!r} is declared as {declared!r}, expected a rank (an integer, for "
        "float32) or a C-contiguous numba array type such as numba.uint8[:, :, :, ::1]"
    )


def _check_names(
    op: str, ins: Sequence[Array], outs: Sequence[Array], attributes: Sequence[Attribute]
) -> None:
    if not ins or not outs:
        raise ValueError(f"{op}: expected at least one input and one output")
    names = [item.name for item in (*ins, *outs, *attributes)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{op}: {name!r} names two of its inputs, outputs and attributes")
        if name.startswith(GRAD) and name[len(GRAD) :] in names:
            raise ValueError(
                f"{op}: {name!r} would be confused with the gradient of {name[len(GRAD) :]!r}; "
                "give it another name"
            )


def _forward_step(
    name: str,
    function: Dispatcher,
    ins: tuple[Array, ...],
    outs: tuple[Array, ...],
    attributes: set[str],
) -> Step:
    names = parameters(function)
    step = Step(name, function, ins, outs, None)
    known = {item.name for item in (*ins, *outs)} | attributes
    for parameter in names:
        if parameter not in known:
            raise ValueError(
                f"{step.label}: parameter {parameter!r} is not an input, output or attribute of "
                f"the op; {_there_are(parameter, known)}"
            )
    for output in outs:
        if output.name not in names:
            raise ValueError(
                f"{step.label} has no parameter {output.name!r}, so no function writes this output"
            )
    return step


def _backward_step(
    name: str,
    function: Dispatcher,
    ins: tuple[Array, ...],
    outs: tuple[Array, ...],
    attributes: set[str],
) -> Step:
    names = parameters(function)
    readable = [*ins, *outs, *(item.gradient() for item in outs if item.is_float)]
    writable = [item.gradient() for item in ins if item.is_float]
    writes = tuple(item for item in writable if item.name in names)
    sources = tuple(item.name[len(GRAD) :] for item in writes)
    # The gradient of an input has the shape of this input. So the input is among the arrays that
    # are passed in, even if the function has no parameter for it.
    reads = tuple(item for item in readable if item.name in names or item.name in sources)
    step = Step(name, function, reads, writes, sources)
    known = {item.name for item in (*readable, *writable)} | attributes
    for parameter in names:
        if parameter in {GRAD + item.name for item in (*ins, *outs)} - known:
            raise ValueError(
                f"{step.label}: parameter {parameter!r}: an array of integers has no gradient"
            )
        if parameter not in known:
            raise ValueError(
                f"{step.label}: parameter {parameter!r} is not an input, output, gradient or "
                f"attribute of the op; {_there_are(parameter, known)}"
            )
    if not writes:
        raise ValueError(
            f"{step.label} computes no gradient, expected a parameter among "
            f"{', '.join(item.name for item in writable)}"
        )
    return step


def _there_are(name: str, known: set[str]) -> str:
    """Return the end of an error message: "did you mean", if a name is close, and all names."""
    close = difflib.get_close_matches(name, sorted(known), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}there are {', '.join(sorted(known))}"


def _check_shape_rule(
    op: str, rule: Callable[..., Any], ins: Sequence[Array], attributes: set[str]
) -> None:
    if not isinstance(rule, (FunctionType, Dispatcher)):
        raise ValueError(
            f"{op}: output_shapes is a {type(rule).__name__}, expected a function of shapes such "
            "as lambda inputs: inputs"
        )
    known = {item.name for item in ins} | attributes
    for parameter in parameters(rule):
        if parameter not in known:
            raise ValueError(
                f"{op}: the shape rule {rule.__name__!r}: parameter {parameter!r} is not an input "
                f"or attribute of the op; {_there_are(parameter, known)}"
            )


def _check_use(op: str, ins: Sequence[Array], functions: Sequence[Callable[..., Any]]) -> None:
    used = {parameter for function in functions for parameter in parameters(function)}
    for item in ins:
        if item.name not in used:
            raise ValueError(
                f"{op}: no function reads the input {item.name!r}, not even "
                f"{functions[0].__name__!r}; leave the input out or read it"
            )


def _check_gradients(
    op: str, ins: Sequence[Array], steps: Sequence[Step], not_differentiable: Sequence[str]
) -> None:
    for name in not_differentiable:
        if name not in {item.name for item in ins}:
            raise ValueError(f"{op}: not_differentiable names {name!r}, which is not an input")
    if not steps:
        return
    writers: dict[str, Step] = {}
    for step in steps:
        for item in step.writes:
            if item.name in writers:
                raise ValueError(
                    f"{step.label}: parameter {item.name!r} is already written by "
                    f"{writers[item.name].function.__name__!r}; one function computes a gradient"
                )
            writers[item.name] = step
    for item in ins:
        written = GRAD + item.name in writers
        if written and item.name in not_differentiable:
            raise ValueError(
                f"{writers[GRAD + item.name].label}: parameter {GRAD + item.name!r}: the input is "
                "named in not_differentiable"
            )
        if item.is_float and not written and item.name not in not_differentiable:
            functions = ", ".join(repr(step.function.__name__) for step in steps)
            raise ValueError(
                f"{op}: no backward function ({functions}) has a parameter "
                f"{GRAD + item.name!r}; compute it, or name {item.name!r} in not_differentiable"
            )
