"""Measure the overhead of one op inside a `tf.function`.

Run `python benchmarks/bench_op_overhead.py`. The script times a graph of 100 chained ops and a
graph of 1000 on a tensor of 16 bytes. The graphs differ by 900 ops, so the difference of the two
times, divided by 900, is the time of one op. The fixed time of a call of a graph cancels. The two
graphs are called alternately, and the minimum time of each is used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numba
import numpy as np
import tensorflow as tf

import cnnforge.ops
from cnnforge_plugins.layers.pooling import average_pool2d

SHORT, LONG = 100, 1000
CALLS = 200


@numba.njit(cache=True)
def step(inputs, outputs):
    for index in range(inputs.size):
        outputs[index] = inputs[index] + np.float32(1)


def step_shape(inputs):
    return inputs


step_op = cnnforge.ops.ArrayOp(
    "bench_step",
    forward=step,
    inputs={"inputs": 1},
    outputs={"outputs": 1},
    output_shapes=step_shape,
)


@numba.njit(cache=True)
def pixel(inputs, pool_size, strides, same, outputs):
    outputs[:] = inputs


def pixel_shape(inputs, pool_size, strides, same):
    return inputs


# An op as a plugin would define it, with the same arguments as the built-in op `average_pool2d`.
pixel_op = cnnforge.ops.ArrayOp(
    "bench_pixel",
    forward=pixel,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=pixel_shape,
    attributes={"pool_size": (2, 2), "strides": (2, 2), "same": False},
)
ONE = {"pool_size": (1, 1), "strides": (1, 1), "same": False}


def numpy_step(inputs: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(lambda a: a + np.float32(1), [inputs], tf.float32), 4)


def chain(op: Callable[[tf.Tensor], tf.Tensor], length: int) -> Callable[[tf.Tensor], Any]:
    """Return a `tf.function` of `length` ops, each applied to the result of the previous one."""

    @tf.function(autograph=False)
    def run(inputs: tf.Tensor) -> tf.Tensor:
        for _ in range(length):
            inputs = op(inputs)
        return inputs

    return run


def microseconds(
    op: Callable[[tf.Tensor], tf.Tensor], calls: int, shape: tuple[int, ...] = (4,)
) -> float:
    """Return the time of one op in microseconds."""
    inputs = tf.zeros(shape)
    graphs = [chain(op, SHORT), chain(op, LONG)]
    best = [float("inf")] * 2
    for call in range(calls + 5):
        for index, graph in enumerate(graphs):
            start = time.perf_counter()
            graph(inputs).numpy()
            if call >= 5:
                best[index] = min(best[index], time.perf_counter() - start)
    return (best[1] - best[0]) / (LONG - SHORT) * 1e6


def main() -> int:
    # The op for comparison is `squared_difference`, because TensorFlow's graph optimizer leaves a
    # chain of this op unchanged. It removes or fuses chains of identities, sums and unary ops.
    other = tf.Variable(tf.ones(4))
    results = {
        "tf.math.squared_difference": microseconds(
            lambda inputs: tf.math.squared_difference(inputs, other.value()), CALLS
        ),
        "ArrayOp": microseconds(step_op, CALLS),
        "built-in average_pool2d": microseconds(
            lambda inputs: average_pool2d(inputs, **ONE), CALLS, (1, 1, 1, 4)
        ),
        "the same by a third party": microseconds(
            lambda inputs: pixel_op(inputs, **ONE), CALLS, (1, 1, 1, 4)
        ),
        "tf.numpy_function": microseconds(numpy_step, CALLS // 4),
    }
    print(cnnforge.ops.route())
    for name, cost in results.items():
        print(f"{name:28s} {cost:8.2f} us per op")
    print(json.dumps({name: round(cost, 3) for name, cost in results.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
