"""Check that a layer can be made and run, before anything that it computes is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cnnforge.ops.audit import only_shapes
from cnnforge.testing._limits import limited
from cnnforge.testing._subject import Subject, explained, single, tensor
from cnnforge.testing.printed import captured

_MAX_SHOWN = 80


def builds(subject: Subject) -> str:
    """Require that the layer of the case can be made, built and called.

    No function of an op runs: ops return zeros of the shape that their shape rule gives.
    """
    case = subject.case
    _check_shapes(subject)
    given = ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
    with explained(f"the layer cannot be made with ({given})"), limited():
        layer = subject.make()
    with explained(f"the layer cannot be built for inputs of the shape {case.input_shape}"):
        subject.built()
    with (
        explained(f"the layer cannot be called with inputs of the shape {case.input_shape}"),
        limited(),
        only_shapes(),
    ):
        single(layer(tensor(subject.inputs())))
    _check_speed_shape(subject)
    return ""


def _check_shapes(subject: Subject) -> None:
    case = subject.case
    for name in ("input_shape", "speed_shape"):
        shape: Any = getattr(case, name)
        if shape is None:
            continue
        whole = isinstance(shape, tuple) and all(type(it) is int and it > 0 for it in shape)
        if not whole or len(shape) < 2:
            raise AssertionError(
                f"{name}={shape!r} of the case is not a shape: give a tuple of whole numbers, 1 or "
                "more, the batch first"
            )
    if case.speed_shape is not None and len(case.speed_shape) != len(case.input_shape):
        raise AssertionError(
            f"input_shape={case.input_shape} and speed_shape={case.speed_shape} of the case "
            "contradict each other: a layer takes inputs of one number of dimensions"
        )


def _check_speed_shape(subject: Subject) -> None:
    # After `input_shape`: the layer takes that one, so a refusal is about what differs.
    case = subject.case
    if case.speed_shape is None:
        return
    fixed = set(range(1, len(case.input_shape))) - set(subject.sizes)
    for axis in fixed:
        if case.speed_shape[axis] != case.input_shape[axis] and not _takes(subject):
            raise AssertionError(
                f"the layer refuses speed_shape={case.speed_shape} of the case, and takes "
                f"input_shape={case.input_shape}: let axis {axis} agree"
            )


def _takes(subject: Subject) -> bool:
    shape = (1, *(subject.case.speed_shape or ())[1:])
    return math.prod(shape) > 1 << 24 or subject.with_shape(shape).accepted


def runs(subject: Subject) -> str:
    """Require that outputs and gradients can be computed at all, in finite time and memory.

    The functions of ops run with a check of each index and a limit of time.
    """
    with captured(subject.printed), explained("the layer cannot run"), limited():
        _ = subject.traces
    return ""


def prints(subject: Subject) -> str:
    """Require that a layer prints nothing."""
    text = "".join(subject.printed)
    if text.strip():
        raise AssertionError(
            f"the layer prints to stdout in each call: {text.strip()[:_MAX_SHOWN]!r}; remove the "
            "print(), which mixes with the output of commands"
        )
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (builds, runs, prints)
}
