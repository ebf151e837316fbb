"""Steps that call a function from outside of this package, such as an op of a plugin.

A file only names the function. Nothing is imported here because a file names it: whoever opens the
file provides the function under this name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnforge_kernels.plan.steps import PlanError, Shape, Step

_provided: dict[str, Callable[..., Any]] = {}


def provide_op(name: str, function: Callable[..., Any]) -> None:
    """Provide the function that steps of the kind ``"op"`` call by a name.

    Args:
        name: Name of the function, the option ``op`` of the steps.
        function: It gets float32 arrays as arguments and the attributes as keyword arguments, and
            returns an array, or a tuple of arrays. Several threads may call it at the same time.
    """
    _provided[name] = function


def _op_shape(step: Step, shapes: list[Shape]) -> Shape:
    options = step.options
    names = {*range(len(shapes)), *step.arrays}
    unknown = [each for each in options["arguments"] if each not in names]
    if unknown or not isinstance(options["op"], str) or type(options["output"]) is not int:
        raise ValueError(f"the call of {options['op']!r} is not complete")
    return tuple(int(size) for size in options["shape"])


def _op(step: Step, inputs: list[np.ndarray]) -> np.ndarray:
    options = step.options
    if options["op"] not in _provided:
        raise PlanError(f"step {step.output!r} needs the op {options['op']}, which is not provided")
    arguments = [
        inputs[each].astype(np.float32, copy=False) if isinstance(each, int) else step.arrays[each]
        for each in options["arguments"]
    ]
    # JSON has no tuples.
    attributes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options["attributes"].items()
    }
    results = _provided[options["op"]](*arguments, **attributes)
    result = results[options["output"]] if isinstance(results, tuple) else results
    return np.asarray(result).astype(inputs[0].dtype, copy=False)


KINDS = {"op": (_op_shape, _op)}
