"""The fallback route: `tf.numpy_function` with `tf.custom_gradient`; slow, but documented API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from cnnforge.ops._definition import GRAD, Step
from cnnforge.ops._shapes import Shape
from cnnforge.ops._tf_register import second_order_error

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp


class _FunctionError(tf.errors.InvalidArgumentError, ValueError):
    """What the C API route reports.

    Eager mode passes the exception on as it is; a graph makes of a ValueError what this is.
    """

    def __init__(self, message: str) -> None:
        super().__init__(None, None, message)


def call(op: ArrayOp, tensors: Sequence[tf.Tensor], values: Mapping[str, Any]) -> list[tf.Tensor]:
    """Apply an op to checked tensors."""
    input_shapes: list[Shape] = [
        (None,) * item.rank if t.shape.rank is None else tuple(t.shape)
        for t, item in zip(tensors, op.inputs, strict=True)
    ]
    shapes = op.output_shapes(input_shapes, values)

    def forward(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        results = op.run(*arrays, **values)
        return [results] if len(op.outputs) == 1 else list(results)

    @tf.custom_gradient
    def apply(*inputs: tf.Tensor) -> Any:
        results = _numpy_function(op, forward, inputs, [item.dtype for item in op.outputs])
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
                made = _backward(op, step, reads, input_shapes, values)
                for item, source, t in zip(step.writes, step.shape_source or (), made, strict=True):
                    t.set_shape(known[source].shape)
                    found[item.name] = t
            return [found.get(GRAD + item.name) for item in op.inputs]

        return results, gradient

    return list(apply(*tensors))


def _backward(
    op: ArrayOp,
    step: Step,
    reads: Sequence[tf.Tensor],
    input_shapes: Sequence[Shape],
    values: Mapping[str, Any],
) -> list[tf.Tensor]:
    def run(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        found = op.run_backward_step(step, arrays, input_shapes, values)
        return [found[item.name] for item in step.writes]

    # tf.numpy_function passes for not differentiable, so that a gradient of a gradient would
    # silently be zero.
    @tf.custom_gradient
    def apply(*inputs: tf.Tensor) -> Any:
        def gradient(*_: tf.Tensor | None) -> None:
            raise second_order_error(op.name)

        return _numpy_function(op, run, inputs, [item.dtype for item in step.writes]), gradient

    return list(apply(*reads))


def _numpy_function(
    op: ArrayOp,
    function: Callable[..., list[np.ndarray[Any, Any]]],
    inputs: Sequence[tf.Tensor],
    dtypes: Sequence[np.dtype[Any]],
) -> list[tf.Tensor]:
    def guarded(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        try:
            return function(*arrays)
        except Exception as error:
            raise _FunctionError(
                f"ArrayOp {op.name!r}: raised {type(error).__name__}: {error}"
            ) from error

    # Not stateful: what nobody needs is then pruned, as the C API route has it.
    made = tf.numpy_function(guarded, inputs, [tf.as_dtype(d) for d in dtypes], stateful=False)
    return list(made) if isinstance(made, (list, tuple)) else [made]
