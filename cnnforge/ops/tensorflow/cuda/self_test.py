"""Test whether an op can be computed on TensorFlow's CUDA devices by one of the routes.

Experimental: not yet run on a device.

The test runs once, before any other op is registered. A route that fails it is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import tensorflow as tf

from cnnforge.ops.array_op import ArrayOp


@numba.njit(cache=True)
def affine(inputs, factor, offset, outputs):
    """Write `factor * inputs + offset`, all (N,) float32, to `outputs`."""
    for index in range(inputs.size):
        outputs[index] = factor[0] * inputs[index] + np.float32(offset)


def _affine_shape(inputs, factor):
    return inputs


@cache
def make_op() -> ArrayOp:
    """Make an op that computes outputs = factor * inputs + offset."""
    return ArrayOp(
        "cnnforge_cuda_self_test",
        forward=affine,
        inputs={"inputs": 1, "factor": 1},
        outputs={"outputs": 1},
        output_shapes=_affine_shape,
        attributes={"offset": 1.5},
        cuda="cnnforge.ops.tensorflow.cuda.probe",
    )


def run(call: Callable[..., Sequence[Any]], kind: str = "GPU") -> None:
    """Run an op on the first device, eagerly and in a graph, and check the results.

    Args:
        call: The function `call(op, tensors, values)` of the route to test.
        kind: TensorFlow's name of the kind of device.

    Raises:
        RuntimeError: A result is wrong, or was computed on another device.
        Exception: TensorFlow, the driver or the route has raised it.
    """
    op = make_op()

    def compute(inputs: Any, factor: Any) -> Any:
        return call(op, (inputs, factor), {"offset": 0.25})[0]

    def check() -> None:
        with tf.device(f"{kind}:0"):
            inputs, factor = tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0])
            for route in (compute, tf.function(compute, autograph=False)):
                # The first call makes a recipe, and the second one finds it.
                for _ in range(2):
                    result = route(inputs, factor)
                    if kind not in result.device:
                        raise RuntimeError(f"the self-test ran on {result.device}")
                    if result.numpy().tolist() != [2.25, 4.25, 6.25]:
                        raise RuntimeError(f"the self-test gave {result.numpy().tolist()}")

    # The caller may be building a graph, or be within a gradient tape or a distribution strategy. A
    # new thread has none of these, so run the check in one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check).result()
