"""`ArrayOp`: Numba functions over arrays as a differentiable op of the active Keras backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numba import types

from cnnforge.ops import _routes
from cnnforge.ops._attributes import check_attributes, decode_attributes, encode_attributes
from cnnforge.ops._definition import Array, Step, define, parameters
from cnnforge.ops._program import Program
from cnnforge.ops._shapes import Shape, output_shapes

_ops: dict[str, ArrayOp] = {}

# How many results of its shape rule an op remembers.
_KNOWN_SHAPES = 256

Values = np.ndarray[Any, Any]


def registered_ops() -> tuple[ArrayOp, ...]:
    """All ops that have been defined, in the order of their definition."""
    return tuple(_ops.values())


class ArrayOp:
    """A differentiable op made of Numba functions, wired by the names of their parameters.

    `forward` reads inputs and attributes and writes outputs. A backward function reads inputs,
    outputs, attributes and `grad_<output>`, and writes `grad_<input>`. A function takes those that
    it names. Arrays are C-contiguous; outputs and gradients are handed in uninitialised; whatever
    is only read must not be written to. Functions may allocate, raise, and be parallel, and
    several threads may run them at once. Their addresses are aligned to the size of an element
    and no better.

    Defining an op is cheap: nothing is compiled and no framework is imported before its first
    use. Decorate the functions with `@numba.njit(cache=True)`: then a second process compiles
    nothing. (Numba notices a change of the file that a function stands in, not of the functions
    that it calls in other files.)

    Attributes:
        name: The op's name.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, in the order in which they are returned.
        backward_steps: The backward functions, what each reads and which gradients it writes.

    Example:
        >>> import numba, numpy as np
        >>> from cnnforge.ops import ArrayOp
        >>> @numba.njit
        ... def double(inputs, outputs):
        ...     outputs[:] = np.float32(2) * inputs
        >>> @numba.njit
        ... def double_backward(grad_outputs, grad_inputs):
        ...     grad_inputs[:] = np.float32(2) * grad_outputs
        >>> op = ArrayOp("double", forward=double, backward=double_backward,
        ...              inputs={"inputs": 1}, outputs={"outputs": 1},
        ...              output_shapes=lambda inputs: inputs)
        >>> op.run(np.ones(3, np.float32))
        array([2., 2., 2.], dtype=float32)
    """

    # TensorFlow's AutoGraph would otherwise rewrite our code, statement by statement, whenever a
    # `tf.function` is traced: this is the mark that `tf.autograph.experimental.do_not_convert`
    # leaves, and setting it needs no TensorFlow.
    autograph_info__: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        name: str,
        *,
        forward: Any,
        backward: Any = None,
        inputs: Mapping[str, int | types.Array],
        outputs: Mapping[str, int | types.Array],
        output_shapes: Callable[..., Any],
        attributes: Mapping[str, Any] | None = None,
        not_differentiable: Sequence[str] = (),
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        """Define an op.

        Args:
            name: lower_snake_case, unique in the process. The same module may define it again
                (a notebook cell run twice): the new functions then replace the old ones.
            forward: A Numba function that writes every output.
            backward: A Numba function, or several, each computing some of the gradients; in a
                graph only those that are needed run. `None`: the op has no gradients, and asking
                for one is an error.
            inputs: Name to rank (float32) or Numba array type.
            outputs: The same for the outputs.
            output_shapes: The shape rule: a plain function over integers that Numba can compile.
                It takes the shapes of the inputs, as tuples, and attributes, under their names,
                and returns the shape of the output, or a tuple of shapes where there are several.
            attributes: Name to default: an int, a float, a bool, or a tuple of ints, whose length
                is then fixed.
            not_differentiable: Inputs of floats that have no gradient.
            prepare: Called before the op is first used with some shapes and attributes, to
                compile what is special to them. It takes, by name, the shapes of inputs (tuples;
                `None` for a dimension that is not known) and attributes, and, if it wants to know,
                `gradient`: False before the op itself, True before its gradients. It may be
                called on any thread, and again with other shapes; it is not called twice with the
                same arguments.

        Raises:
            ValueError: Something does not fit; the message names the op, the function and the
                argument.
        """
        self._definition = define(
            name,
            forward,
            backward,
            inputs,
            outputs,
            output_shapes,
            dict(attributes or {}),
            not_differentiable,
        )
        self.name = name
        self.inputs: tuple[Array, ...] = self._definition.inputs
        self.outputs: tuple[Array, ...] = self._definition.outputs
        self.backward_steps: tuple[Step, ...] = self._definition.backward
        self._label = f"ArrayOp {name!r}"
        steps = (self._definition.forward, *self.backward_steps)
        self._programs = {step: Program(self._definition, step) for step in steps}
        self._module = forward.py_func.__module__
        self._lock = threading.RLock()
        self._prepare = prepare
        self._prepared: set[Any] = set()
        self._known_shapes: dict[Any, tuple[Shape, ...]] = {}
        self._check_prepare()
        other = _ops.get(name)
        if other is not None and other._module != self._module:
            raise ValueError(
                f"{self._label} of the module {self._module!r} has the name of one in "
                f"{other._module!r}; give it another name, for instance "
                f"'{self._module.rpartition('.')[2].strip('_').lower()}_{name}'"
            )
        _ops[name] = self

    def __repr__(self) -> str:
        """The name and the arrays."""
        inputs = ", ".join(f"{item.name}: {item.type}" for item in self.inputs)
        outputs = ", ".join(f"{item.name}: {item.type}" for item in self.outputs)
        return f"ArrayOp({self.name!r}, {inputs} -> {outputs})"

    def __call__(self, *tensors: Any, **attributes: Any) -> Any:
        """Apply the op to tensors of the active Keras backend.

        Args:
            *tensors: The inputs, of the declared ranks and dtypes.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The output, or a tuple of the outputs where there are several.

        Raises:
            ValueError: The number of inputs, a rank, or shapes that the shape rule rejects; or
                a function that Numba cannot compile.
            TypeError: The dtype of an input, or an attribute that does not exist or has another
                type.
            cnnforge.errors.UsageError: There is no route to the active Keras backend.
        """
        self._check_count(tensors)
        values = check_attributes(self._label, self._definition.attributes, attributes)
        results = _routes.active().call(self, tensors, values)
        return results[0] if len(self.outputs) == 1 else tuple(results)

    def run(self, *arrays: Values, **attributes: Any) -> Any:
        """Run the forward function on NumPy arrays, without any framework.

        Args:
            *arrays: The inputs. One that is not C-contiguous is copied.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The output, or a tuple of the outputs; each begins at a multiple of 64 bytes.

        Raises:
            ValueError: As in a call.
            TypeError: As in a call.
            Exception: Whatever the forward function raises.
        """
        self._check_count(arrays)
        values = check_attributes(self._label, self._definition.attributes, attributes)
        step = self._definition.forward
        ready = self._ready(step.reads, arrays)
        shapes = [array.shape for array in ready]
        sizes = self.output_shapes(shapes, values)
        self.prepare(shapes, values)
        results = self._programs[step].run(ready, sizes, self.encode(values))
        return results[0] if len(self.outputs) == 1 else tuple(results)

    def run_backward(
        self,
        inputs: Sequence[Values],
        outputs: Sequence[Values],
        grad_outputs: Sequence[Values | None],
        needed: Sequence[bool] | None = None,
        /,
        **attributes: Any,
    ) -> tuple[Values | None, ...]:
        """Run the backward functions on NumPy arrays, without any framework.

        Args:
            inputs: What the forward function read.
            outputs: What it wrote.
            grad_outputs: The gradient with respect to each output; `None` for one of integers,
                and for one that nothing depends on, which counts as zero.
            needed: For each input whether its gradient is wanted; by default all.
            **attributes: Attributes that differ from their defaults.

        Returns:
            For each input its gradient; `None` where there is none or it is not wanted.

        Raises:
            ValueError: The op has no backward function, or as in a call.
            TypeError: As in a call.
            Exception: Whatever a backward function raises.
        """
        values = check_attributes(self._label, self._definition.attributes, attributes)
        self.check_differentiable()
        known = dict(zip([item.name for item in self.inputs], inputs, strict=True))
        known |= dict(zip([item.name for item in self.outputs], outputs, strict=True))
        for item, array, output in zip(self.outputs, grad_outputs, outputs, strict=True):
            if item.is_float:
                known[item.gradient().name] = np.zeros_like(output) if array is None else array
        wanted = {
            item.gradient().name
            for item, want in zip(self.inputs, needed or [True] * len(self.inputs), strict=True)
            if want
        }
        gradients: dict[str, Values] = {}
        for step in self.backward_steps:
            if any(item.name in wanted for item in step.writes):
                reads = [known[item.name] for item in step.reads]
                shapes = [np.shape(array) for array in inputs]
                gradients |= self.run_backward_step(step, reads, shapes, values)
        names = [item.gradient().name for item in self.inputs]
        return tuple(gradients.get(name) if name in wanted else None for name in names)

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
        program = self._programs[step]
        with self._lock:
            _ = program.shape_entry, program.entry
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
                "(tf.stop_gradient)"
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
