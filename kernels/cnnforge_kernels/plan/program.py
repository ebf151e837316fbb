"""A trained network as plain data: a list of steps and the arrays that they use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge_kernels.plan.kinds import KINDS
from cnnforge_kernels.plan.steps import PlanError, Shape, Step


@dataclass(frozen=True, eq=False)
class Program:
    """A trained network as a list of steps, which run one after another.

    Making it checks that each step gets what it needs, so a program that exists can be run.

    Attributes:
        steps: The steps, in an order in which each reads only earlier values. The first, and no
            other, is of the kind ``"input"``.
        outputs: The outputs in the structure of the model: a name, or a list or dict of such
            structures.

    Raises:
        PlanError: The steps do not fit together.
    """

    steps: tuple[Step, ...]
    outputs: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shapes", _checked_shapes(self.steps))
        for name in self.output_names:
            if name not in self.shapes:
                raise PlanError(f"no step computes the output {name!r}")

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each value, by name, without the batch dimension."""
        return self.__dict__["_shapes"]

    @property
    def image_shape(self) -> Shape:
        """The shape (H, W, C) of an image."""
        return self.shapes[self.steps[0].output]

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, in order. A name can occur several times."""
        return list(names_in(self.outputs))


def names_in(structure: Any) -> Iterator[str]:
    """Yield the names in a structure of outputs, in order.

    Args:
        structure: A name, or a list or dict of structures.

    Raises:
        PlanError: It is something else.
    """
    if isinstance(structure, str):
        yield structure
    elif isinstance(structure, list | dict):
        for part in structure.values() if isinstance(structure, dict) else structure:
            yield from names_in(part)
    else:
        raise PlanError(f"outputs must be names, lists or dicts. Received: {structure!r}")


def filled(structure: Any, values: dict[str, Any]) -> Any:
    """Return a structure of outputs with values in place of the names.

    Args:
        structure: A name, or a list or dict of structures.
        values: The value of each name.
    """
    if isinstance(structure, dict):
        return {key: filled(part, values) for key, part in structure.items()}
    if isinstance(structure, list):
        return [filled(part, values) for part in structure]
    return values[structure]


def _checked_shapes(steps: tuple[Step, ...]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for index, step in enumerate(steps):
        if step.kind not in KINDS:
            raise PlanError(f"no kind of step is called {step.kind!r}")
        if (step.kind == "input") != (index == 0):
            raise PlanError("the first step, and no other, must be the input")
        missing = [name for name in step.inputs if name not in shapes]
        if missing or step.output in shapes:
            raise PlanError(f"step {step.output!r} reads unknown values or computes a value again")
        try:
            _check_arrays(step)
            shape = KINDS[step.kind].shape(step, [shapes[name] for name in step.inputs])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = f"step {step.output!r} of kind {step.kind} is not possible: {error}"
            raise PlanError(reason) from error
        if any(size < 1 for size in shape):
            raise PlanError(f"step {step.output!r} of kind {step.kind} has no output: {shape}")
        shapes[step.output] = shape
    if not steps:
        raise PlanError("it has no steps")
    return shapes


def _check_arrays(step: Step) -> None:
    for name, array in step.arrays.items():
        wanted = np.int64 if name == "index" else np.float32
        if not isinstance(array, np.ndarray) or array.dtype != wanted:
            raise ValueError(f"{name} must be an array of {np.dtype(wanted)}")
