"""Time one layer's inner loop, written in six ways; docs/fast-layers.md explains them.

The loop is that of an involution with windows of 3x3: each pixel has nine weights, and its outputs
are the weighted sums of its window. All versions compute the same.

    python benchmarks/bench_loops.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

# By default, idle threads of OpenMP spin after a loop of `prange`, and take a core from the version
# that is timed next. `cnnforge.ops` sets this variable, too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numba
import numpy as np

from cnnforge_kernels.authoring import aligned_floats, cached_njit, parallel_for, weighted_sum

SHAPE = (8, 28, 28, 64)


@numba.njit(cache=True)
def channels_outside(inputs: Any, weights: Any, outputs: Any) -> None:
    """Loop over the channels first: neighbouring values are far apart in memory."""
    images, rows, columns, channels = outputs.shape
    for n in range(images):
        for c in range(channels):
            for y in range(rows):
                for x in range(columns):
                    total = np.float32(0)
                    for i in range(3):
                        for j in range(3):
                            total += weights[n, y, x, 3 * i + j] * inputs[n, y + i, x + j, c]
                    outputs[n, y, x, c] = total


@numba.njit(cache=True)
def channels_inside(inputs: Any, weights: Any, outputs: Any) -> None:
    """Loop over the channels last, with a sum for each channel: Numba uses SIMD."""
    images, rows, columns, channels = outputs.shape
    for n in range(images):
        for y in range(rows):
            for x in range(columns):
                target = outputs[n, y, x]
                target[:] = 0
                for i in range(3):
                    for j in range(3):
                        weight, source = weights[n, y, x, 3 * i + j], inputs[n, y + i, x + j]
                        for c in range(channels):
                            target[c] += weight * source[c]


@numba.njit(cache=True, parallel=True)
def with_prange(inputs: Any, weights: Any, outputs: Any) -> None:
    """Share the rows between the threads of Numba."""
    images, rows, columns, channels = outputs.shape
    for task in numba.prange(images * rows):
        n, y = task // rows, task % rows
        for x in range(columns):
            target = outputs[n, y, x]
            target[:] = 0
            for i in range(3):
                for j in range(3):
                    weight, source = weights[n, y, x, 3 * i + j], inputs[n, y + i, x + j]
                    for c in range(channels):
                        target[c] += weight * source[c]


@cached_njit()
def row_of(task: int, inputs: Any, weights: Any, outputs: Any) -> None:
    """Compute one row: each sum stays in registers until it is complete."""
    _, rows, columns, channels = outputs.shape
    n, y = task // rows, task % rows
    starts, flat = np.empty(9, np.int64), inputs.reshape(-1)
    for x in range(columns):
        for i in range(3):
            for j in range(3):
                pixel = (n * inputs.shape[1] + y + i) * inputs.shape[2] + x + j
                starts[3 * i + j] = pixel * channels
        weighted_sum(outputs[n, y, x], flat, starts, weights[n, y, x])


@cached_njit()
def with_simd_and_counters(inputs: Any, weights: Any, outputs: Any) -> None:
    """Use `weighted_sum` in a plain loop: Numba counts the references of each slice."""
    for task in range(outputs.shape[0] * outputs.shape[1]):
        row_of(task, inputs, weights, outputs)


@cached_njit()
def with_simd(inputs: Any, weights: Any, outputs: Any) -> None:
    """Use `weighted_sum` on one thread: the grain is the number of tasks."""
    rows = outputs.shape[0] * outputs.shape[1]
    parallel_for(row_of, rows, rows, inputs, weights, outputs)


@cached_njit()
def with_simd_and_threads(inputs: Any, weights: Any, outputs: Any) -> None:
    """Use `weighted_sum`, and share the rows between the threads of cnnforge."""
    parallel_for(row_of, outputs.shape[0] * outputs.shape[1], 4, inputs, weights, outputs)


VERSIONS = (
    channels_outside,
    channels_inside,
    with_prange,
    with_simd_and_counters,
    with_simd,
    with_simd_and_threads,
)


def aligned(values: np.ndarray) -> np.ndarray:
    """Copy an array to the beginning of a cache line, as the arrays of ops are.

    Elsewhere each SIMD register would lie across two cache lines, in some processes and not in
    others.
    """
    copy = aligned_floats(values.size).reshape(values.shape)
    copy[:] = values
    return copy


def main() -> None:
    """Time all versions alternately, and print the best time of each."""
    parser = argparse.ArgumentParser(description="Time one loop, written in six ways.")
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    images, height, width, channels = SHAPE
    rng = np.random.default_rng(0)
    inputs = aligned(rng.normal(size=SHAPE))
    weights = aligned(rng.normal(size=(images, height - 2, width - 2, 9)))
    found = {}
    for version in VERSIONS:
        outputs = aligned(np.full((images, height - 2, width - 2, channels), np.nan))
        version(inputs, weights, outputs)
        found[version] = outputs
        np.testing.assert_allclose(outputs, found[channels_outside], rtol=1e-4, atol=1e-4)
    best = dict.fromkeys(VERSIONS, np.inf)
    for _ in range(rounds):
        for version in VERSIONS:
            # Several calls, because threads that sleep need time to wake up.
            for _ in range(5):
                begin = time.perf_counter()
                version(inputs, weights, found[version])
                best[version] = min(best[version], time.perf_counter() - begin)
    slowest = best[channels_outside]
    for version, seconds in best.items():
        print(f"{version.__name__:24}{1e3 * seconds:8.3f} ms{slowest / seconds:8.1f}x")


if __name__ == "__main__":
    main()
