"""Call ops through `tf.numpy_function`, if the C API route fails.

This function is slow, but it is documented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from cnnforge.errors import place_of
from cnnforge.ops.definition.definition import GRAD, Step
from cnnforge.ops.definition.shapes import Shape
from cnnforge.ops.tensorflow.registration import second_order_error

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp


class _FunctionError(tf.errors.InvalidArgumentError, ValueError):
    """An InvalidArgumentError that is also a ValueError.

    In eager mode, TensorFlow passes a ValueError on to the caller. In a graph, it raises an
    InvalidArgumentError instead. With this class, the caller gets an InvalidArgumentError in both
    modes, as from the C API route.
    """

    def __init__(self, node_def: Any, op: Any, message: str, *_: Any) -> None:
        # Keras makes the error again with these arguments, to add the layer to the message.
        super().__init__(node_def, op, message)


# Types of two functions. `run(op, step, tensors, input_shapes, values)` runs a step (one function
# of an op) in Python. `node(function, tensors, dtypes)` calls a Python function as a TensorFlow op.
Run = Callable[..., list[Any]]
Node = Callable[..., list[tf.Tensor]]


def run_on_arrays(
    op: ArrayOp,
    step: Step,
    arrays: Sequence[np.ndarray[Any, Any]],
    input_shapes: Sequence[Shape],
    values: Mapping[str, Any],
) -> list[np.ndarray[Any, Any]]:
    """Run a step on NumPy arrays, and return the arrays that it writes."""
    if step.is_forward:
        results = op.run(*arrays, **values)
        return [results] if len(op.outputs) == 1 else list(results)
    found = op.run_backward_step(step, arrays, input_shapes, values)
    return [found[item.name] for item in step.writes]


def numpy_function(
    function: Callable[..., list[Any]],
    tensors: Sequence[tf.Tensor],
    dtypes: Sequence[np.dtype[Any]],
) -> list[tf.Tensor]:
    """Apply a Python function of NumPy arrays to tensors, as a TensorFlow op."""
    # TensorFlow prunes an unused node from a graph only if the node is not stateful.
    made = tf.numpy_function(function, tensors, [tf.as_dtype(d) for d in dtypes], stateful=False)
    return list(made) if isinstance(made, (list, tuple)) else [made]


def call(
    op: ArrayOp,
    tensors: Sequence[tf.Tensor],
    values: Mapping[str, Any],
    run: Run = run_on_arrays,
    node: Node = numpy_function,
) -> list[tf.Tensor]:
    """Apply an op to tensors whose dtypes and ranks have been checked.

    Args:
        op: The op.
        tensors: Its inputs.
        values: The value of every attribute.
        run: Function that runs a step in Python.
        node: Function that makes a TensorFlow op of a Python function.
    """
    input_shapes: list[Shape] = [
        (None,) * item.rank if t.shape.rank is None else tuple(t.shape)
        for t, item in zip(tensors, op.inputs, strict=True)
    ]
    shapes = op.output_shapes(input_shapes, values)

    @tf.custom_gradient
    def apply(*inputs: tf.Tensor) -> Any:
        results = _apply(op, op.forward_step, inputs, input_shapes, values, run, node)
        for result, shape in zip(results, shapes, strict=True):
            result.set_shape(shape)

        def gradient(*gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
            op.check_differentiable()
            known = {item.name: t for item, t in zip(op.inputs, inputs, strict=True)}
            known |= {item.name: t for item, t in zip(op.outputs, results, strict=True)}
            for item, upstream, output in zip(op.outputs, gradients, results, strict=True):
                if item.is_float:
                    known[GRAD + item.name] = (
                        tf.zeros_like(output) if upstream is None else upstream
                    )
            found: dict[str, tf.Tensor] = {}
            for step in op.backward_steps:
                reads = [known[item.name] for item in step.reads]
                made = _backward(op, step, reads, input_shapes, values, run, node)
                for item, source, t in zip(step.writes, step.shape_source or (), made, strict=True):
                    t.set_shape(known[source].shape)
                    found[item.name] = t
            return [found.get(GRAD + item.name) for item in op.inputs]

        return results, gradient

    return list(apply(*tensors))


def _backward(op: ArrayOp, step: Step, reads: Sequence[tf.Tensor], *others: Any) -> list[tf.Tensor]:
    # The gradient below only raises an error. Without it, a gradient of a gradient would be wrong
    # without an error, because TensorFlow cannot differentiate the code of a Python function.
    @tf.custom_gradient
    def apply(*inputs: tf.Tensor) -> Any:
        def gradient(*_: tf.Tensor | None) -> None:
            raise second_order_error(op.name)

        return _apply(op, step, inputs, *others), gradient

    return list(apply(*reads))


def _apply(
    op: ArrayOp,
    step: Step,
    tensors: Sequence[tf.Tensor],
    input_shapes: Sequence[Shape],
    values: Mapping[str, Any],
    run: Run,
    node: Node,
) -> list[tf.Tensor]:
    def guarded(*given: Any) -> list[Any]:
        try:
            return run(op, step, given, input_shapes, values)
        except Exception as error:
            text = str(error)
            # An error of the op itself, for instance of its shape rule, names the op.
            if not text.startswith(f"ArrayOp {op.name!r}"):
                text = f"{step.label}: raised {type(error).__name__}: {text}{place_of(error)}"
            raise _FunctionError(None, None, text) from error

    return node(guarded, tensors, [item.dtype for item in step.writes])
