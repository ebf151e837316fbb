"""The steps of a program as a graph that can be changed."""

from __future__ import annotations

from collections import Counter

from cnnforge_kernels.plan.kinds import KINDS
from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import Shape, Step


class Graph:
    """The steps of a program, which rules merge and replace.

    A merged step stands where the later one of the two stood, so all that it reads is known.

    Args:
        program: The program.

    Attributes:
        steps: The steps by the name of their value, in the order in which they run.
        shapes: The shape of each value.
    """

    def __init__(self, program: Program) -> None:
        self.steps: dict[str, Step] = {step.output: step for step in program.steps}
        self.shapes: dict[str, Shape] = dict(program.shapes)
        self._outputs = program.outputs
        self._kept = set(program.output_names)
        self._users: dict[str, Counter[str]] = {name: Counter() for name in self.steps}
        for step in program.steps:
            self._read(step, 1)

    def program(self) -> Program:
        """Return the steps as a program."""
        return Program(tuple(self.steps.values()), self._outputs)

    def before(self, step: Step, place: int = 0) -> Step | None:
        """Return the step that computes an input, if only ``step`` reads its value.

        Args:
            step: A step.
            place: Number of the input.

        Returns:
            The step before it, or ``None`` if others read its value too.
        """
        name = step.inputs[place]
        if name in self._kept or self._users[name].total() != 1:
            return None
        return self.steps[name]

    def readers(self, name: str) -> list[Step]:
        """Return the steps that read a value, in the order in which they run."""
        found = self._users[name]
        if len(found) < 2:
            return [self.steps[reader] for reader in found]
        return [self.steps[reader] for reader in self.steps if reader in found]

    def merge(self, before: Step, step: Step, merged: Step) -> None:
        """Replace two steps by one, which computes the value of the second.

        Args:
            before: The first step; only ``step`` reads its value.
            step: The second step.
            merged: The step in their place.
        """
        self.replace(step, merged)
        self._read(before, -1)
        del self.steps[before.output], self._users[before.output], self.shapes[before.output]

    def replace(self, step: Step, other: Step) -> None:
        """Replace a step by another one that computes the same value.

        Args:
            step: The step.
            other: The step in its place, with the same output.
        """
        self._read(step, -1)
        self.steps[step.output] = other
        self._read(other, 1)
        shapes = [self.shapes[name] for name in other.inputs]
        self.shapes[other.output] = KINDS[other.kind].shape(other, shapes)

    def swap(self, before: Step, step: Step, first: Step, second: Step) -> None:
        """Replace two steps by two others: in the places of both, with the same outputs.

        Args:
            before: The first step; only ``step`` reads its value.
            step: The second step.
            first: The step in place of ``before``.
            second: The step in place of ``step``.
        """
        self.replace(before, first)
        self.replace(step, second)

    def drop(self, step: Step, same: str) -> bool:
        """Remove a step whose value another step computes, and say whether it was possible.

        Args:
            step: The step. An output of the program cannot be removed.
            same: Name of an earlier value that is equal.
        """
        if step.output in self._kept:
            return False
        for name in list(self._users[step.output]):
            user = self.steps[name]
            inputs = tuple(same if it == step.output else it for it in user.inputs)
            self.replace(user, user.changed(inputs=inputs))
        self._read(step, -1)
        del self.steps[step.output], self._users[step.output], self.shapes[step.output]
        return True

    def _read(self, step: Step, times: int) -> None:
        for name in step.inputs:
            users = self._users[name]
            users[step.output] += times
            if users[step.output] <= 0:
                del users[step.output]
