"""Bind the steps of a program to memory: what is left is to run the kernel calls."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from cnnforge_kernels.plan.buffers import Places
from cnnforge_kernels.plan.kinds import KINDS
from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import Step


class Prepared:
    """The steps of a program with their packed weights, for all bindings of a plan.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        self.program = program


class Binding:
    """A program that is bound to memory and a number of images.

    Two threads must not run it at the same time.

    Args:
        prepared: The prepared steps.
        places: Where each value stands.
        memory: Float32 memory, aligned to 64 bytes.
        count: Number of images.
        dtype: Dtype of the images, uint8 or float32.

    Attributes:
        values: The values by name, views (count, ...) of the memory.
    """

    def __init__(
        self, prepared: Prepared, places: Places, memory: np.ndarray, count: int, dtype: np.dtype
    ) -> None:
        program = prepared.program
        self.values: dict[str, np.ndarray] = {}
        for name, shape in program.shapes.items():
            begin = count * places.offsets[name]
            view = memory[begin : begin + count * prod(shape)]
            self.values[name] = view.reshape(count, *shape)
        self._first = program.steps[0]
        self._runs: list[Callable[[], None]] = []
        for step in program.steps[1:]:
            if step.kind != "reshape":
                self._runs.append(self._in_numpy(step))

    def run(self, images: np.ndarray) -> None:
        """Compute all values.

        Args:
            images: (count, H, W, C) of the dtype.
        """
        converted = images.astype(np.float32, copy=False)
        self.values[self._first.output][...] = KINDS["input"].compute(self._first, [converted])
        for run in self._runs:
            run()

    def _in_numpy(self, step: Step) -> Callable[[], None]:
        """Return a function that computes a step in NumPy, because no kernel can do it."""
        inputs, output = [self.values[name] for name in step.inputs], self.values[step.output]

        def run() -> None:
            output[...] = KINDS[step.kind].compute(step, inputs)

        return run
