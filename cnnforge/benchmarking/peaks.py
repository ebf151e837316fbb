"""Measure the peak speeds of this machine: float32 operations and bytes moved per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

# Number of float32 values that each thread multiplies and adds. These 8 KiB stay in the first-level
# cache, so that memory does not limit the speed. They fill many vector registers of any width.
_ELEMENTS = 2048
_STEPS = 8
_REPEATS = 4000
# Bytes that all threads together read and write in one copy. This is more than the last-level cache
# of most machines, so that the speed of the main memory is measured.
_COPIED_BYTES = 256 << 20
_SECONDS = 0.3


@dataclass(frozen=True)
class Peaks:
    """The peak speeds of a machine. Each is the max of several short measurements on all threads.

    Attributes:
        flops: Float32 operations per second; a fused multiplication and addition counts as two.
        bytes: Bytes read plus bytes written per second in copies of arrays that are larger than
            the caches. Data that stays in the caches between two calls moves faster.
        threads: Number of threads that were measured, the same number as the kernels use.
    """

    flops: float
    bytes: float
    threads: int


@numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _multiply_add(values, a, b, repeats):
    # Each element is multiplied and added eight times while it is in a register. Each step waits
    # for the result of the step before, so four elements are computed at once to hide the latency.
    # LLVM vectorizes the loop and contracts each multiplication and addition into an FMA.
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
    """Measure the peak speeds of this machine, on as many threads as the kernels use.

    The measurement takes about a second. The first call takes three seconds more to compile.
    """
    threads = numba.get_num_threads()
    half, one = np.float32(0.5), np.float32(1)
    _multiply_add(np.zeros(64, np.float32), half, one, 1)
    _copy(np.zeros(64, np.float32), np.zeros(64, np.float32))
    # Each array starts at a page boundary, so that no vector load crosses two cache lines.
    values = [np.zeros(_ELEMENTS + 1024, np.float32) for _ in range(threads)]
    values = [array[(-array.ctypes.data // 4) % 1024 :][:_ELEMENTS] for array in values]
    count = _COPIED_BYTES // 8 // threads
    pairs = [(np.ones(count, np.float32), np.ones(count, np.float32)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def compute() -> None:
            list(pool.map(lambda array: _multiply_add(array, half, one, _REPEATS), values))

        def move() -> None:
            list(pool.map(lambda pair: _copy(*pair), pairs))

        flops = 2 * _STEPS * _ELEMENTS * _REPEATS * threads / _best(compute)
        moved = 8 * count * threads / _best(move)
    return Peaks(flops, moved, threads)


def _best(function: Callable[[], None]) -> float:
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (begun := time.perf_counter()) < end:
        function()
        best = min(best, time.perf_counter() - begun)
    return best
