"""Find functions of ops that change inputs, write outside of outputs, or leave gaps in outputs.

This is slow, and meant for tests. Within `audit()`, each call of a function runs it twice. Before
each run, the outputs and some memory around them are filled with a pattern of bytes, which differs
between the two runs. Afterwards the memory around the outputs must still hold the pattern, and the
inputs must equal copies that were made before the runs. If an output element holds the pattern
after both runs, the function has never written it. (The first pattern is a NaN in float types, so a
float to which the function only adds is also found.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from cnnforge.ops.compiling.program import Program

Values = np.ndarray[Any, Any]

# In the first pattern all bits are set. In every float type this is a NaN, but its bits differ from
# those of a NaN that arithmetic on numbers gives. So a NaN result is not taken for the pattern.
_PATTERNS = (0xFF, 0x5A)
_GUARD = 256


@dataclass
class Audit:
    """The result of an audit.

    Attributes:
        functions: The labels of the functions that ran.
        faults: One sentence for each fault that was found.
    """

    functions: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


@contextmanager
def audit() -> Iterator[Audit]:
    """Check every op that is called eagerly under the active Keras backend within the context.

    Within the context, all ops run on NumPy arrays, also those that otherwise run through
    TensorFlow's C API or on torch tensors.

    Yields:
        The result. Each call of an op adds to it.
    """
    found = Audit()

    def run(
        self: Program, arrays: Sequence[Values], shapes: Any, attribute_words: Any
    ) -> list[Values]:
        return _run(found, original, self, arrays, shapes, attribute_words)

    original = Program.run
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
        yield found


def _torch_run(self: Any, step: Any, known: Any, results: Any) -> None:
    """Run a step on NumPy arrays; `audit` replaces the method `Call._run_on_cpu` by this."""
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


def _run(
    found: Audit,
    original: Callable[..., list[Values]],
    program: Program,
    arrays: Sequence[Values],
    shapes: Sequence[Sequence[int]],
    attribute_words: Sequence[int],
) -> list[Values]:
    step = program.step
    found.functions.add(step.label)
    before = [array.copy() for array in arrays]
    results: list[list[Values]] = []
    for pattern in _PATTERNS:
        memories: list[Values] = []

        def filled(
            shape: Sequence[int],
            dtype: np.dtype[Any],
            pattern: int = pattern,
            memories: list[Values] = memories,
        ) -> Values:
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            memory = np.full(size + 2 * _GUARD + 64, pattern, np.uint8)
            begin = _GUARD + -(memory.ctypes.data + _GUARD) % 64
            memories.append(memory)
            return memory[begin : begin + size].view(dtype).reshape(shape)

        with mock.patch("cnnforge.ops.compiling.program.aligned_empty", filled):
            results.append(original(program, arrays, shapes, attribute_words))
        for item, array, memory in zip(step.writes, results[-1], memories, strict=True):
            begin = array.ctypes.data - memory.ctypes.data
            around = np.concatenate([memory[:begin], memory[begin + array.nbytes :]])
            if (around != pattern).any():
                _note(found, f"{step.label} writes outside of {item.name!r}, {array.shape}")
    for item, array, copy in zip(step.reads, arrays, before, strict=True):
        changed = _bytes(array) != _bytes(copy)
        if changed.any():
            where, count = _first(changed.any(-1))
            _note(
                found,
                f"{step.label} modified {item.name!r}, which it may only read: {count} of "
                f"{array.size} elements, first at {where}",
            )
            if array.flags.writeable:
                array[...] = copy
    for item, *pair in zip(step.writes, *results, strict=True):
        untouched = (_bytes(pair[0]) == _PATTERNS[0]).all(-1)
        if not item.is_float:
            # A result may equal the first pattern by chance. It is the same in both runs, so it
            # cannot also equal the second pattern.
            untouched &= (_bytes(pair[1]) == _PATTERNS[1]).all(-1)
        if untouched.any():
            where, count = _first(untouched)
            _note(
                found,
                f"{count} of {pair[0].size} elements of {item.name!r} were never written (or added "
                f"to before they were set), first at {where}: {step.label}",
            )
    return results[-1]


def _bytes(array: Values) -> Values:
    """Return the bytes of an array, (*shape, bytes per element) uint8."""
    flat = np.ascontiguousarray(array).reshape(array.shape)
    return (
        flat.view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
        if array.ndim
        else (flat.reshape(1).view(np.uint8))
    )


def _first(mask: Values) -> tuple[tuple[int, ...], int]:
    return tuple(int(i) for i in np.argwhere(mask)[0]), int(mask.sum())


def _note(found: Audit, fault: str) -> None:
    if fault not in found.faults:
        found.faults.append(fault)
