"""Test whether ops can be registered through TensorFlow's C API.

The test runs once, before the first op is used. If it fails with the installed TensorFlow, ops run
through `tf.numpy_function` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import tensorflow as tf

from cnnforge.ops.array_op import ArrayOp


@numba.njit(cache=True)
def _affine(inputs, factor, offset, outputs):
    for index in range(inputs.size):
        outputs[index] = factor[0] * inputs[index] + np.float32(offset)


@numba.njit(cache=True)
def _affine_backward(inputs, factor, grad_outputs, grad_inputs, grad_factor):
    grad_factor[0] = 0
    for index in range(inputs.size):
        grad_inputs[index] = factor[0] * grad_outputs[index]
        grad_factor[0] += inputs[index] * grad_outputs[index]


def _affine_shape(inputs, factor):
    return inputs


def run(call: Callable[..., Sequence[Any]]) -> None:
    """Run an op and its gradient, eagerly and in a graph, and check the results.

    Args:
        call: The function `call(op, tensors, values)` of the C API route.

    Raises:
        RuntimeError: A result is wrong.
        Exception: TensorFlow, the C API or Numba has raised it.
    """
    op = ArrayOp(
        "cnnforge_self_test",
        forward=_affine,
        backward=_affine_backward,
        inputs={"inputs": 1, "factor": 1},
        outputs={"outputs": 1},
        output_shapes=_affine_shape,
        attributes={"offset": 1.5},
    )

    def compute(inputs: Any, factor: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([inputs, factor])
            (outputs,) = call(op, (inputs, factor), {"offset": 0.25})
        return outputs, *tape.gradient(outputs, [inputs, factor])

    def check() -> None:
        if not tf.executing_eagerly():
            return
        with tf.device("CPU:0"):
            inputs, factor = tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0])
            for route in (compute, tf.function(compute, autograph=False)):
                results = [result.numpy().tolist() for result in route(inputs, factor)]
                if results != [[2.25, 4.25, 6.25], [2.0, 2.0, 2.0], [6.0]]:
                    raise RuntimeError(f"the self-test of TensorFlow's C API gave {results}")

    # Often an op is first used while a graph is built, within a gradient tape and a distribution
    # strategy. A new thread has none of these, so run the check in one. (`tf.init_scope` leaves the
    # graph too, but within it the tape of this test would record nothing.)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check).result()
