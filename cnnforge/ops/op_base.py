"""What the routes to the frameworks use of an op: its steps, compiled; its shapes; its checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from cnnforge.ops import ahead
from cnnforge.ops.ahead.tasks import Expectations
from cnnforge.ops.compiling.program import Program
from cnnforge.ops.definition.attributes import decode_attributes, encode_attributes
from cnnforge.ops.definition.definition import Array, Definition, Step, parameters
from cnnforge.ops.definition.shapes import Shape, output_shapes

# How many results of its shape rule an op remembers.
_KNOWN_SHAPES = 256

Values = np.ndarray[Any, Any]


class OpCore:
    """An op without the calls that its users make; `ArrayOp` adds those.

    Attributes:
        name: The op's name.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, in the order in which they are returned.
        backward_steps: The backward functions, what each reads and which gradients it writes.
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
        self._ahead = Expectations(definition, self._programs, self.output_shapes)

    def run_backward_step(
        self,
        step: Step,
        arrays: Sequence[Values],
        input_shapes: Sequence[Shape],
        values: Mapping[str, Any],
    ) -> dict[str, Values]:
        """Run one backward function on NumPy arrays; for the routes to the frameworks.

        Args:
            step: One of `backward_steps`.
            arrays: What the step reads.
            input_shapes: The shapes of the op's inputs, as far as they are known; for `prepare`.
            values: The value of every attribute.

        Returns:
            The gradients under their names, `grad_<input>`.
        """
        ready = self._ready(step.reads, arrays)
        self.prepare(input_shapes, values, gradient=True)
        shape_of = {item.name: array.shape for item, array in zip(step.reads, ready, strict=True)}
        shapes = [shape_of[source] for source in step.shape_source or ()]
        results = self._programs[step].run(ready, shapes, self.encode(values))
        return {item.name: array for item, array in zip(step.writes, results, strict=True)}

    @property
    def forward_step(self) -> Step:
        """The forward function and what it reads and writes."""
        return self._definition.forward

    def program(self, step: Step) -> Program:
        """The compiled step, for the routes to the frameworks.

        Raises:
            ValueError: Numba cannot compile it.
        """
        program = self.laid_out(step)
        if not program.is_made:
            with ahead.compiling(step), self._lock:
                _ = program.entry
        return program

    @cached_property
    def expects_compilation(self) -> bool:
        """Whether `expect` can save time: some step is on no disk, and another process may help."""
        return bool(self._ahead.steps)

    def expect(
        self,
        shapes: Sequence[Shape],
        values: Mapping[str, Any],
        wanted: Sequence[bool],
        *,
        in_graph: bool,
    ) -> None:
        """Have compiled, by another process, what follows the forward function.

        Args:
            shapes: The shape of every input; `None` for a dimension that is not known.
            values: The value of every attribute.
            wanted: For each input whether its gradient may be asked for.
            in_graph: Whether the op is not to run at once, so that its kernels have time as well.
        """
        self._ahead.expect(shapes, values, wanted, in_graph)

    def laid_out(self, step: Step) -> Program:
        """The step with nothing but its shape rule compiled: what it does is computed elsewhere.

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
        """The shapes of the outputs, as far as those of the inputs are known.

        Raises:
            ValueError: The shape rule rejects the shapes.
        """
        key = (tuple(shapes), tuple(values.values()))
        found = self._known_shapes.get(key)
        if found is None:
            found = output_shapes(self._definition, shapes, values)
            if len(self._known_shapes) < _KNOWN_SHAPES:
                self._known_shapes[key] = found
        return found

    def prepare(
        self, shapes: Sequence[Shape], values: Mapping[str, Any], *, gradient: bool = False
    ) -> None:
        """Call the author's `prepare`, unless it has been called with these arguments.

        Args:
            shapes: The shape of every input; `None` for a dimension that is not known.
            values: The value of every attribute.
            gradient: Whether the gradients are about to be used.
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
        """Whether the author has given a `prepare`."""
        return self._prepare is not None

    def encode(self, values: Mapping[str, Any]) -> list[int]:
        """All attributes as words."""
        return encode_attributes(self._definition.attributes, values)

    def decode(self, words: Sequence[int]) -> dict[str, Any]:
        """The attributes that `encode` has encoded.

        Raises:
            ValueError: Another number of words.
        """
        return decode_attributes(self._definition.attributes, words)

    def check_differentiable(self) -> None:
        """Raise the error of an op without gradients.

        Raises:
            ValueError: The op has no backward function.
        """
        if not self.backward_steps:
            raise ValueError(
                f"{self._label} has no backward function, so that nothing can be differentiated "
                "through it; give it one, or keep it out of what is differentiated "
                "(keras.ops.stop_gradient)"
            )

    def check_tensor(self, item: Array, dtype: str, rank: int | None) -> None:
        """Check the dtype and the rank of a tensor against those declared.

        Raises:
            TypeError: Another dtype.
            ValueError: Another rank.
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
                    f"{self._label}: prepare: parameter {name!r} is no input or attribute of the "
                    f"op; there are {', '.join(sorted(known))}"
                )
