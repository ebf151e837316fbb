"""Define `ArrayOp`, a differentiable op of the Keras backend that is made of Numba functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numba import types

from cnnforge.ops import routes
from cnnforge.ops.definition.attributes import check_attributes
from cnnforge.ops.definition.checks import define
from cnnforge.ops.definition.definition import parameters
from cnnforge.ops.op_base import OpBase, Values

_ops: dict[str, ArrayOp] = {}


def registered_ops() -> tuple[ArrayOp, ...]:
    """Return all ops that are defined, in the order of their definition."""
    return tuple(_ops.values())


class ArrayOp(OpBase):
    """A differentiable op made of Numba functions.

    The parameter names of a function say which arrays and attributes it gets. `forward` reads
    inputs and attributes and writes outputs. A backward function reads inputs, outputs, attributes
    and `grad_<output>`, and writes `grad_<input>`. Arrays are C-contiguous, and aligned only to the
    size of an element. Outputs and gradients are passed in uninitialised. A function must not write
    to the arrays that it reads. It may allocate memory, raise exceptions, and be parallel. Several
    threads may run it at once.

    Defining an op takes little time: nothing is compiled and no framework is imported before the
    op is first used. Functions decorated with `@numba.njit(cache=True)`, and plain functions in a
    file, are compiled once: a second process loads them from disk. (Numba compiles a function again
    if the file that defines it changes, but not if only the file of a function that it calls
    changes.) Tests and debuggers can still run the Python code: a plain function is not changed,
    and a decorated one has the attribute `py_func`.

    Before a model is trained for the first time on a machine, worker processes compile the
    functions of its ops (`cnnforge.ops.ahead`). They import the modules of the functions, and call
    the functions with arrays of random numbers, or of zeros for integers.

    Attributes:
        name: The op's name.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, in the order in which they are returned.
        backward_steps: The backward functions, with the arrays that each reads and writes.
        cuda: Import name of the module whose functions compute the op on CUDA devices, or `None`.

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

    # With this attribute, TensorFlow's AutoGraph does not rewrite the code of this class when a
    # `tf.function` is traced. The decorator `tf.autograph.experimental.do_not_convert` would set
    # the same attribute, but using it means importing TensorFlow.
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
        cuda: str | None = None,
    ) -> None:
        """Define an op.

        Args:
            name: lower_snake_case, unique in the process. The same module may define it again
                (a notebook cell that runs twice): the new functions then replace the old ones.
            forward: A Numba function that writes every output, or a plain Python function, which
                is then compiled as `numba.njit(cache=True)` does.
            backward: A function of the same kind that writes all gradients. Or several functions,
                each of which writes some of the gradients; a graph runs only those that it needs.
                With `None` the op has no gradients, and asking for one is an error.
            inputs: Rank (float32) or Numba array type of every input, by name.
            outputs: Rank or type of every output, by name.
            output_shapes: The shape rule, a plain function over integers that Numba can compile.
                It takes, by name, shapes of inputs, as tuples, and attributes. It returns the shape
                of the output, or a tuple of shapes if there are several outputs.
            attributes: Default of every attribute, by name: an int, a float, a bool, or a tuple of
                ints, whose length is then fixed.
            not_differentiable: Names of float inputs that have no gradient.
            prepare: A function that compiles the kernels for given shapes and attributes; it is
                called before the op is first used with them. It takes, by name, shapes of inputs
                (tuples, with `None` for an unknown dimension), attributes, and `gradient`: False
                before the op itself, True before its gradients. It may be called on any thread,
                and again with other shapes, but not twice with the same arguments.
            cuda: Import name of the module whose functions compute the op on CUDA devices; it is
                imported when the op is first called with a tensor on such a device. Its functions
                have the names and parameters of `forward` and `backward`, and one more parameter,
                `stream`: the address of the CUDA stream on which they launch kernels. They do not
                wait for the kernels. Their arrays have a CUDA array interface (under torch they are
                torch tensors). TensorFlow needs two more functions in this module; without them, it
                copies tensors to the CPU. `missing() -> str | None` says what the module lacks on
                this machine. `record(call)` runs a call of its functions without launching
                anything. It returns the launches (`function`, `grid`, `block`, `shared`,
                `arguments`, as in `cnnforge_kernels.cuda.runtime.recording.Recorded`) and the
                temporary memory that they need, as (address, bytes).

        Raises:
            ValueError: A part of the definition is wrong; the message names the op, the function
                and the argument.
        """
        super().__init__(
            define(
                name,
                forward,
                backward,
                inputs,
                outputs,
                output_shapes,
                dict(attributes or {}),
                not_differentiable,
            ),
            prepare,
        )
        self.cuda = cuda
        function = self._definition.forward.function
        self._module = getattr(function, "py_func", function).__module__
        other = _ops.get(name)
        if other is not None and other._module != self._module:
            raise ValueError(
                f"{self._label} of the module {self._module!r} has the name of one in "
                f"{other._module!r}; give it another name, for instance "
                f"'{self._module.rpartition('.')[2].strip('_').lower()}_{name}'"
            )
        _ops[name] = self

    def __repr__(self) -> str:
        """Return a text with the op's name, and the names and types of its arrays."""
        inputs = ", ".join(f"{item.name}: {item.type}" for item in self.inputs)
        outputs = ", ".join(f"{item.name}: {item.type}" for item in self.outputs)
        return f"ArrayOp({self.name!r}, {inputs} -> {outputs})"

    def __call__(self, *tensors: Any, **attributes: Any) -> Any:
        """Apply the op to tensors of the active Keras backend.

        Args:
            *tensors: The inputs, of the declared ranks and dtypes.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The output, or a tuple of the outputs if there are several.

        Raises:
            ValueError: The number of inputs or a rank is wrong, the shape rule rejects the shapes,
                or Numba cannot compile a function.
            TypeError: The dtype of an input is wrong, an attribute does not exist, or the type of
                its value is wrong.
            cnnforge.errors.UsageError: Ops cannot run under the active Keras backend.
        """
        self._check_count(tensors)
        values = check_attributes(self._label, self._definition.attributes, attributes)
        results = routes.active().call(self, tensors, values)
        return results[0] if len(self.outputs) == 1 else tuple(results)

    def output_shape(self, *shapes: Sequence[int | None], **attributes: Any) -> Any:
        """Return the shape of the output by the shape rule, also for sizes that are not known.

        The `compute_output_shape` of a layer can return it, so that the rule is written once.

        Args:
            *shapes: The shapes of the inputs, in the order of the call; `None` for an unknown size.
                The last ones may be left out if the shape rule does not read them.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The shape of the output, a tuple; or a tuple of shapes if there are several outputs.

        Raises:
            ValueError: The rule rejects the shapes, or a shape is missing or has another number of
                dimensions than the input.
            TypeError: See `__call__`.

        Example:
            >>> squared_relu.output_shape((None, 28, 28, 1))
            (None, 28, 28, 1)
        """
        values = check_attributes(self._label, self._definition.attributes, attributes)
        given = [tuple(shape) for shape in shapes]
        read = parameters(self._definition.shape_rule)
        for item in self.inputs[len(given) :]:
            if item.name in read:
                raise ValueError(
                    f"{self._label}: the shape rule reads the shape of {item.name!r}, and "
                    f"{len(given)} of {len(self.inputs)} shapes were given: give "
                    f"{', '.join(each.name for each in self.inputs)}"
                )
            given.append((1,) * item.rank)
        self._check_count(given)
        for item, shape in zip(self.inputs, given, strict=True):
            if len(shape) != item.rank:
                raise ValueError(
                    f"{self._label}: the shape {shape} of {item.name!r} has {len(shape)} "
                    f"dimensions, expected {item.rank}"
                )
        found = self.output_shapes(given, values)
        return found[0] if len(self.outputs) == 1 else found

    def call_of(self, tensor: Any) -> tuple[list[Any], dict[str, Any]] | None:
        """Find the call of this op that computes a tensor of the graph that is being built.

        A layer can use this to compute itself together with the layer before it: it takes the
        inputs of that layer's op, and computes both with one op of its own. TensorFlow does not run
        the first op, because nothing reads its outputs.

        Args:
            tensor: Any tensor.

        Returns:
            The inputs of the call, and the values of all attributes by name. It is `None` if the
            tensor is not an output of this op, or if it has its values already: in eager mode,
            under torch, and if it is computed outside of the graph that is being built.
        """
        return routes.active().call_of(self, tensor)

    def run(self, *arrays: Values, **attributes: Any) -> Any:
        """Run the forward function on NumPy arrays, without any framework.

        Args:
            *arrays: The inputs; an array that is not C-contiguous is copied.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The output, or a tuple of the outputs; each begins at an address that is a multiple of
            64 bytes.

        Raises:
            ValueError: See `__call__`.
            TypeError: See `__call__`.
            Exception: The forward function has raised it.
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
            inputs: The arrays that the forward function has read.
            outputs: The arrays that the forward function has written.
            grad_outputs: The gradient with respect to each output. It is `None` for an output of
                integers. For another output, `None` means a gradient of zeros.
            needed: For each input, whether its gradient is wanted; by default, all are.
            **attributes: Attributes that differ from their defaults.

        Returns:
            The gradient of each input, or `None` if it does not exist or is not wanted.

        Raises:
            ValueError: The op has no backward function; or see `__call__`.
            TypeError: See `__call__`.
            Exception: A backward function has raised it.
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
