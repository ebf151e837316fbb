"""The base class of `ArrayOp`, with the methods that the modules for TensorFlow and torch call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnnforge.ops import ahead
from cnnforge.ops.ahead.tasks import Use
from cnnforge.ops.compiling.program import Program
from cnnforge.ops.definition.attributes import decode_attributes, encode_attributes
from cnnforge.ops.definition.definition import Array, Definition, Step, parameters
from cnnforge.ops.definition.shapes import Shape, output_shapes

# Max number of results of the shape rule that an op keeps.
_MAX_KNOWN_SHAPES = 256

Values = np.ndarray[Any, Any]


class OpBase:
    """Base of `ArrayOp` with compiled functions, shapes and checks, for use inside `cnnforge.ops`.

    Attributes:
        name: The op's name.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, in the order in which they are returned.
        backward_steps: The backward functions, with the arrays that each reads and writes.
    """

    def __init__(self, definition: Definition, prepare: Callable[..., Any] | None) -> None:
        self._definition = definition
        self.name = definition.name
        self.inputs: tuple[Array, ...] = definition.inputs
        self.outputs: tuple[Array, ...] = definition.outputs
        self.backward_steps: tuple[Step, ...] = definition.backward
        self._label = f"ArrayOp {self.name!r}"
        steps = (definition.forward, *self.backward_steps)
        self._programs = {step: Program(definition, step) for step in steps}
        self._lock = threading.RLock()
        self._prepare = prepare
        self._prepared: set[Any] = set()
        self._known_shapes: dict[Any, tuple[Shape, ...]] = {}
        self._check_prepare()

    def run_backward_step(
        self,
        step: Step,
        arrays: Sequence[Values],
        input_shapes: Sequence[Shape],
        values: Mapping[str, Any],
    ) -> dict[str, Values]:
        """Run one backward function on NumPy arrays.

        Args:
            step: One of `backward_steps`.
            arrays: The arrays that the step reads.
            input_shapes: The shapes of the op's inputs, with `None` for an unknown dimension. They
                are passed to `prepare`.
            values: The value of every attribute.

        Returns:
            The gradients by name, `grad_<input>`.
        """
        ready = self._ready(step.reads, arrays)
        self.prepare(input_shapes, values, gradient=True)
        shape_of = {item.name: array.shape for item, array in zip(step.reads, ready, strict=True)}
        shapes = [shape_of[source] for source in step.shape_source or ()]
        results = self._programs[step].run(ready, shapes, self.encode(values))
        return {item.name: array for item, array in zip(step.writes, results, strict=True)}

    @property
    def forward_step(self) -> Step:
        """The forward function, with the arrays that it reads and writes."""
        return self._definition.forward

    def program(self, step: Step) -> Program:
        """Return the program (the machine code) of a step, and compile it if needed.

        Raises:
            ValueError: Numba cannot compile the step's function.
        """
        program = self.laid_out(step)
        if not program.is_made:
            with self._lock:
                _ = program.entry
        return program

    @property
    def programs(self) -> Mapping[Step, Program]:
        """The program of each step (function of the op); it is compiled on first use."""
        return self._programs

    def collect(self, shapes: Sequence[Shape], values: Mapping[str, Any]) -> None:
        """Add this use of the op to the list of `cnnforge.ops.ahead.collecting`, if that is active.

        Args:
            shapes: The shape of every input; `None` for an unknown dimension.
            values: The value of every attribute.
        """
        ahead.collect(Use(self, shapes, values))

    def laid_out(self, step: Step) -> Program:
        """Compile only the shape rule of a step, and return the step's program.

        A CUDA device needs no more, because it does not run the step's function for the CPU.

        Raises:
            ValueError: Numba cannot compile the shape rule.
        """
        program = self._programs[step]
        with self._lock:
            _ = program.shape_entry
        return program

    def output_shapes(
        self, shapes: Sequence[Shape], values: Mapping[str, Any]
    ) -> tuple[Shape, ...]:
        """Return the shape of every output, with `None` for an unknown dimension.

        Raises:
            ValueError: The shape rule rejects the shapes.
        """
        key = (tuple(shapes), tuple(values.values()))
        found = self._known_shapes.get(key)
        if found is None:
            found = output_shapes(self._definition, shapes, values)
            if len(self._known_shapes) < _MAX_KNOWN_SHAPES:
                self._known_shapes[key] = found
        return found

    def prepare(
        self, shapes: Sequence[Shape], values: Mapping[str, Any], *, gradient: bool = False
    ) -> None:
        """Call the `prepare` of the op's author, unless it has been called with these arguments.

        Args:
            shapes: The shape of every input; `None` for an unknown dimension.
            values: The value of every attribute.
            gradient: `True` before the gradients are computed, `False` before the op itself.
        """
        if self._prepare is None:
            return
        known: dict[str, Any] = dict(values)
        known |= {item.name: shape for item, shape in zip(self.inputs, shapes, strict=True)}
        known["gradient"] = gradient
        arguments = {name: known[name] for name in parameters(self._prepare)}
        if gradient and "gradient" not in arguments:
            return
        key = tuple(arguments.values())
        with self._lock:
            if key not in self._prepared:
                self._prepare(**arguments)
                self._prepared.add(key)

    @property
    def has_prepare(self) -> bool:
        """Whether the op's author has given a function `prepare`."""
        return self._prepare is not None

    def encode(self, values: Mapping[str, Any]) -> list[int]:
        """Encode the values of all attributes as a list of 64-bit words."""
        return encode_attributes(self._definition.attributes, values)

    def decode(self, words: Sequence[int]) -> dict[str, Any]:
        """Return the values of all attributes, by name, from the words that `encode` made.

        Raises:
            ValueError: The number of words is wrong.
        """
        return decode_attributes(self._definition.attributes, words)

    def check_differentiable(self) -> None:
        """Raise an error if the op has no gradients.

        Raises:
            ValueError: The op has no backward function.
        """
        if not self.backward_steps:
            raise ValueError(
                f"{self._label} has no backward function, so nothing can be differentiated "
                "through it; give it one, or keep it out of what is differentiated "
                "(keras.ops.stop_gradient)"
            )

    def check_tensor(self, item: Array, dtype: str, rank: int | None) -> None:
        """Check the dtype and the rank of a tensor against those declared.

        Raises:
            TypeError: The dtype is wrong.
            ValueError: The rank is wrong.
        """
        if dtype != item.dtype_name:
            raise TypeError(
                f"{self._label}: {item.name!r} has the dtype {dtype}, expected {item.dtype_name}; "
                f"convert it with keras.ops.cast({item.name}, {item.dtype_name!r})"
            )
        if rank is not None and rank != item.rank:
            raise ValueError(
                f"{self._label}: {item.name!r} has {rank} dimensions, expected {item.rank}"
            )

    def _check_count(self, tensors: Sequence[Any]) -> None:
        if len(tensors) != len(self.inputs):
            names = ", ".join(item.name for item in self.inputs)
            raise ValueError(
                f"{self._label} was called with {len(tensors)} inputs, expected "
                f"{len(self.inputs)}: {names}"
            )

    def _ready(self, declared: Sequence[Array], arrays: Sequence[Values]) -> list[Values]:
        ready = []
        for item, array in zip(declared, arrays, strict=True):
            array = np.asarray(array)
            self.check_tensor(item, array.dtype.name, array.ndim)
            ready.append(np.require(array, requirements=["C", "A"]))
        return ready

    def _check_prepare(self) -> None:
        if self._prepare is None:
            return
        known = {item.name for item in (*self.inputs, *self._definition.attributes)} | {"gradient"}
        for name in parameters(self._prepare):
            if name not in known:
                raise ValueError(
                    f"{self._label}: prepare: parameter {name!r} is not an input or attribute of "
                    f"the op; there are {', '.join(sorted(known))}"
                )
