"""Bind the steps of a program to memory: what is left is to run the kernel calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from cnnforge_kernels.cpu.runtime.call_list import Call, CallList
from cnnforge_kernels.plan.buffers import Places
from cnnforge_kernels.plan.depthwise_blocks import PreparedBlock, depthwise_blocks
from cnnforge_kernels.plan.kernels import Bind, conversion, prepare
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
        self._conversion = conversion(program.steps[0])
        self._steps: dict[str, Bind | None] = {}
        self.blocks = depthwise_blocks(program)
        self._prepared_blocks: dict[str, PreparedBlock] = {}

    def convert(self, images: np.ndarray, target: np.ndarray) -> Call:
        """Return the call that converts images to float32, and scales them.

        Args:
            images: (N, H, W, C) uint8 or float32, C-contiguous.
            target: (N, H, W, C) float32, C-contiguous.
        """
        (call,) = self._conversion.bind(images, target)
        return call

    def calls(self, step: Step, inputs: list[np.ndarray], output: np.ndarray) -> list[Call] | None:
        """Return the calls that compute a step, or ``None`` if no kernel can.

        Args:
            step: A step.
            inputs: Its inputs, with the batch dimension.
            output: Its result, with the batch dimension.
        """
        if step.output not in self._steps:
            shapes = self.program.shapes
            known = [shapes[name] for name in step.inputs]
            self._steps[step.output] = prepare(step, known, shapes[step.output])
        bind = self._steps[step.output]
        return None if bind is None else bind(inputs, output)

    def block_calls(self, name: str, values: dict[str, np.ndarray]) -> list[Call]:
        """Return the calls that compute a block of steps.

        Args:
            name: Name of the result of the block.
            values: All values by name, with the batch dimension.
        """
        block = self.blocks[name]
        if name not in self._prepared_blocks:
            self._prepared_blocks[name] = PreparedBlock(block)
        added = [values[other] for other in block.last.inputs[1:]]
        return self._prepared_blocks[name].bind(values[block.source], added, values[name])


class Binding:
    """A program that is bound to memory and a number of images.

    Two threads must not run it at the same time.

    Args:
        prepared: The prepared steps.
        places: The places of the values.
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
        between = {name for block in prepared.blocks.values() for name in block.between}
        for name, shape in program.shapes.items():
            if name in between:
                continue
            begin = count * places.offsets[name]
            view = memory[begin : begin + count * prod(shape)]
            self.values[name] = view.reshape(count, *shape)
        first = program.steps[0]
        target = self.values[first.output]
        # Only the address of the images changes. It is the first field of the argument block.
        convert = prepared.convert(np.empty(target.shape, dtype), target)
        self._args = convert.args
        self._runs = list(_runs(self._calls(prepared, convert)))

    def run(self, images: np.ndarray) -> None:
        """Compute all values.

        Args:
            images: (count, H, W, C) of the dtype, C-contiguous.
        """
        # Faster than `images.ctypes.data`.
        self._args[0] = images.__array_interface__["data"][0]
        for run in self._runs:
            run()

    def _calls(self, prepared: Prepared, convert: Call) -> Iterator[Call | Callable[[], None]]:
        yield convert
        for step in prepared.program.steps[1:]:
            if step.output not in self.values:
                # A block computes this step together with others.
                continue
            if step.output in prepared.blocks:
                yield from prepared.block_calls(step.output, self.values)
                continue
            inputs, output = [self.values[name] for name in step.inputs], self.values[step.output]
            calls = prepared.calls(step, inputs, output)
            if calls is None:
                yield _in_numpy(step, inputs, output)
            else:
                yield from calls


def _runs(calls: Any) -> Iterator[Callable[[], None]]:
    """Yield lists of kernel calls, and what runs in Python between them."""
    together: list[Call] = []
    for call in calls:
        if isinstance(call, Call):
            together.append(call)
            continue
        if together:
            yield CallList(together)
        together = []
        yield call
    if together:
        yield CallList(together)


def _in_numpy(step: Step, inputs: list[np.ndarray], output: np.ndarray) -> Callable[[], None]:
    """Return a function that computes a step in NumPy, because no kernel can do it."""

    def run() -> None:
        output[...] = KINDS[step.kind].compute(step, inputs)

    return run
