"""Run all ops on NumPy arrays, through a function that gets each call of an op's function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from cnnforge.ops.compiling.program import Program

Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """A call of one function of an op.

    Attributes:
        program: The program of the function.
        arrays: The arrays that the function reads.
        shapes: The shape of each array that the function writes.
        words: The encoded attributes.
        original: `Program.run`.
    """

    program: Program
    arrays: Sequence[Values]
    shapes: Sequence[Sequence[int]]
    words: Sequence[int]
    original: Callable[..., list[Values]]

    def run(self, arrays: Sequence[Values] | None = None) -> list[Values]:
        """Run the function, and return the arrays that it writes."""
        arrays = self.arrays if arrays is None else arrays
        return self.original(self.program, arrays, self.shapes, self.words)


@contextmanager
def intercept(inspect: Callable[[Call], list[Values]]) -> Iterator[None]:
    """Let `inspect` run the functions of all ops that are called eagerly within the context.

    Args:
        inspect: Function that returns the arrays that the call writes.
    """
    original = Program.run

    def run(
        self: Program, arrays: Sequence[Values], shapes: Any, attribute_words: Any
    ) -> list[Values]:
        return inspect(Call(self, arrays, shapes, attribute_words, original))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Program, "run", run))
        keras = importlib.import_module("keras")
        if keras.backend.backend() == "torch":
            module = importlib.import_module("cnnforge.ops.torch.run")
            stack.enter_context(mock.patch.object(module.Call, "_run_on_cpu", _torch_run))
        else:
            route = importlib.import_module("cnnforge.ops.tensorflow")
            fallback = importlib.import_module("cnnforge.ops.tensorflow.numpy_function")
            choice = route._Choice(fallback, route._NUMPY_FUNCTION, "audit")
            stack.enter_context(mock.patch.object(route, "_choose", return_value=choice))
        yield


def _torch_run(self: Any, step: Any, known: Any, results: Any) -> None:
    """Run a step on NumPy arrays; `intercept` replaces the method `Call._run_on_cpu` by this."""
    from_numpy = importlib.import_module("torch").from_numpy
    arrays = [
        known[item.name].detach().numpy()
        if item.name in known
        else np.zeros(self._shape(item.name), item.dtype)
        for item in step.reads
    ]
    self.op.prepare(self.shapes, self.values, gradient=not step.is_forward)
    shapes = [tuple(tensor.shape) for tensor in results]
    made = self.op.program(step).run(arrays, shapes, self.op.encode(self.values))
    for tensor, array in zip(results, made, strict=True):
        tensor.copy_(from_numpy(array))
