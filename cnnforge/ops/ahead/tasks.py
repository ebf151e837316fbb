"""The tasks that an op gives to compile-ahead when it is first called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from cnnforge.ops import ahead
from cnnforge.ops.ahead.job import arguments
from cnnforge.ops.ahead.pool import Task
from cnnforge.ops.compiling.program import Program
from cnnforge.ops.definition.definition import GRAD, Definition, Step
from cnnforge.ops.definition.shapes import Shape

# What a dimension that is not known yet, mostly the batch, is taken for: where less is too large,
# it is less.
_STAND_INS = (32, 8, 1)

Rule = Callable[[Sequence[Shape], Mapping[str, Any]], Sequence[Shape]]


class Expectations:
    """The tasks of an op.

    Args:
        definition: The op.
        programs: Its steps, compiled.
        output_shapes: Its shape rule, as `OpCore.output_shapes`.
    """

    def __init__(
        self, definition: Definition, programs: Mapping[Step, Program], output_shapes: Rule
    ) -> None:
        self._definition = definition
        self._programs = programs
        self._output_shapes = output_shapes
        self._known: set[Any] = set()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps that another process can compile and nobody has."""
        if not ahead.available():
            return ()
        return tuple(
            step
            for step in self._programs
            if ahead.can_travel(step.function, self._programs[step].argument_types)
        )

    def expect(
        self,
        shapes: Sequence[Shape],
        values: Mapping[str, Any],
        wanted: Sequence[bool],
        in_graph: bool,
    ) -> None:
        """Hand over the tasks of a use of the op, as `OpCore.expect`."""
        key = (tuple(shapes), tuple(values.values()), tuple(wanted), in_graph)
        if key in self._known:
            return
        self._known.add(key)
        gradients = {
            GRAD + item.name
            for item, want in zip(self._definition.inputs, wanted, strict=True)
            if want
        }
        for step in self.steps:
            if step.is_forward and not in_graph:
                continue
            if not step.is_forward and not any(item.name in gradients for item in step.writes):
                continue
            found = self._arguments(step, shapes, values)
            task = (step, found)
            if task not in self._known:
                self._known.add(task)
                program = self._programs[step]
                types, shares = program.argument_types, self._shares(step)
                ahead.add(Task(step, types, found, shares, program.is_made))

    def _shares(self, step: Step) -> bool:
        """Whether it is the gradient of what comes in, apart from that of weights.

        For a convolution it is one in its turn.
        """
        first = GRAD + self._definition.inputs[0].name
        return len(self._definition.backward) > 1 and first in {item.name for item in step.writes}

    def _arguments(
        self, step: Step, shapes: Sequence[Shape], values: Mapping[str, Any]
    ) -> tuple[Any, ...] | None:
        for stand_in in _STAND_INS:
            full = [tuple(stand_in if n is None else n for n in shape) for shape in shapes]
            try:
                outputs = self._output_shapes(full, values)
            except ValueError:
                return None
            items = (*self._definition.inputs, *self._definition.outputs)
            known = {
                name: shape
                for item, shape in zip(items, (*full, *outputs), strict=True)
                for name in (item.name, GRAD + item.name)
            }
            found = arguments(step, known, values)
            if found is not None:
                return found
        return None
