"""`ArrayOp`: Numba functions over arrays as a differentiable op of the active Keras backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numba import types

from cnnforge.ops import routes
from cnnforge.ops.definition.attributes import check_attributes
from cnnforge.ops.definition.checks import define
from cnnforge.ops.op_base import OpCore, Values

_ops: dict[str, ArrayOp] = {}


def registered_ops() -> tuple[ArrayOp, ...]:
    """All ops that have been defined, in the order of their definition."""
    return tuple(_ops.values())


class ArrayOp(OpCore):
    """A differentiable op made of Numba functions, wired by the names of their parameters.

    `forward` reads inputs and attributes and writes outputs. A backward function reads inputs,
    outputs, attributes and `grad_<output>`, and writes `grad_<input>`. A function takes those that
    it names. Arrays are C-contiguous; outputs and gradients are handed in uninitialised; whatever
    is only read must not be written to. Functions may allocate, raise, and be parallel, and
    several threads may run them at once. Their addresses are aligned to the size of an element
    and no better.

    Defining an op is cheap: nothing is compiled and no framework is imported before its first
    use. Functions decorated with `@numba.njit(cache=True)`, and plain ones that stand in a file,
    are compiled once: a second process compiles nothing. (Numba notices a change of the file that
    a function stands in, not of the functions that it calls in other files.) A plain function
    stays what it is, for tests and debuggers; of a decorated one that is `py_func`. Where nothing
    is compiled yet a second process helps: it imports the module of a backward function, compiles
    that and runs it on arrays of random numbers, or zeros for integers (design.md, section 5).

    Attributes:
        name: The op's name.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, in the order in which they are returned.
        backward_steps: The backward functions, what each reads and which gradients it writes.
        cuda: The module that computes the op on CUDA devices; `None` where there is none.

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
        cuda: str | None = None,
    ) -> None:
        """Define an op.

        Args:
            name: lower_snake_case, unique in the process. The same module may define it again
                (a notebook cell run twice): the new functions then replace the old ones.
            forward: A Numba function that writes every output, or a plain Python function, which
                is then compiled as `numba.njit(cache=True)` does.
            backward: A function of the same kind, or several, each computing some of the
                gradients; in a graph only those that are needed run. `None`: the op has no
                gradients, and asking for one is an error.
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
            cuda: The module that computes the op on CUDA devices, imported when a tensor there
                first needs it. Its functions have the names and the parameters of those above, and
                `stream`: the address of the CUDA stream on which they launch, waiting for nothing.
                They get what has a CUDA array interface (under torch, torch tensors). Under
                TensorFlow the module needs two functions more, without which tensors are copied to
                the CPU: `missing() -> str | None` says what it lacks on this machine, and
                `record(call)` runs a call of its functions without launching anything and returns
                what they would have launched: launches (`function`, `grid`, `block`, `shared`,
                `arguments`, as `cnnforge_kernels.cuda.runtime.recording.Recorded`) and the memory
                that they need besides the arrays, as (address, bytes).

        Raises:
            ValueError: Something does not fit; the message names the op, the function and the
                argument.
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
        self._module = self._definition.forward.function.py_func.__module__
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
        results = routes.active().call(self, tensors, values)
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
