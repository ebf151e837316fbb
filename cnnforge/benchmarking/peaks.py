"""What this machine can do at most: multiplications and additions, and bytes moved."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

# 8 KiB: it stays in the first cache, and two vectors of any width fit many times.
_ELEMENTS = 2048
_STEPS = 8
_REPEATS = 4000
# Larger than the last cache of most machines, for all threads together.
_COPIED_BYTES = 256 << 20
_SECONDS = 0.3


@dataclass(frozen=True)
class Peaks:
    """The best of several short measurements on all threads that the kernels use.

    Attributes:
        flops: Float32 operations per second; a fused multiplication and addition counts as two.
        bytes: Bytes per second read and written by a copy from memory to memory. What stays in
            the caches between two calls moves faster.
        threads: How many threads took part.
    """

    flops: float
    bytes: float
    threads: int


@numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _multiply_add(values, a, b, repeats):
    # Elements go through a chain of 8 operations in registers, four vectors side by side. LLVM
    # makes an FMA of each (contracted, not reassociated), as wide as the machine has them.
    quarter = values.size // 4
    for _ in range(repeats):
        for index in range(quarter):
            x, y = values[index], values[index + quarter]
            z, u = values[index + 2 * quarter], values[index + 3 * quarter]
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            x, y, z, u = x * a + b, y * a + b, z * a + b, u * a + b
            values[index], values[index + quarter] = x, y
            values[index + 2 * quarter], values[index + 3 * quarter] = z, u


@numba.njit(nogil=True, cache=True)
def _copy(source, target):
    for index in range(source.size):
        target[index] = source[index]


def measure_peaks() -> Peaks:
    """Measure what this machine can do at most, on as many threads as the kernels use.

    It takes about a second, and three more the first time, for the compiler.
    """
    threads = numba.get_num_threads()
    half, one = np.float32(0.5), np.float32(1)
    _multiply_add(np.zeros(64, np.float32), half, one, 1)
    _copy(np.zeros(64, np.float32), np.zeros(64, np.float32))
    # Aligned to a page, so that no vector lies across two lines.
    values = [np.zeros(_ELEMENTS + 1024, np.float32) for _ in range(threads)]
    values = [it[(-it.ctypes.data // 4) % 1024 :][:_ELEMENTS] for it in values]
    count = _COPIED_BYTES // 8 // threads
    pairs = [(np.ones(count, np.float32), np.ones(count, np.float32)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def compute() -> None:
            list(pool.map(lambda it: _multiply_add(it, half, one, _REPEATS), values))

        def move() -> None:
            list(pool.map(lambda it: _copy(*it), pairs))

        flops = 2 * _STEPS * _ELEMENTS * _REPEATS * threads / _best(compute)
        moved = 8 * count * threads / _best(move)
    return Peaks(flops, moved, threads)


def _best(function: Callable[[], None]) -> float:
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (begun := time.perf_counter()) < end:
        function()
        best = min(best, time.perf_counter() - begun)
    return best
