"""Tests of the changes to the simulator that find mistakes."""

import numpy as np
import pytest

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, quotient
from cnnforge_kernels.cuda.runtime.compiler import compile_kernel
from cnnforge_kernels.cuda.runtime.plans import Launch, Plan
from cnnforge_kernels.cuda.runtime.simulated_driver import simulate

float32, int32 = np.float32, np.int32


@kernel("probe", "float32*", threads=8)
def probe(results):
    shared = cuda.shared.array(8, float32, alignment=16)
    own = cuda.local.array(1, float32)
    thread = int32(cuda.threadIdx.x)
    if thread < 4:
        shared[thread] = float32(1)
    cuda.syncthreads()
    results[thread] = shared[7 - thread]
    results[8 + thread] = own[0]
    results[16 + thread] = divide(thread, 3)
    results[24 + thread] = quotient(thread, 3)


def test_memory_starts_as_nan():
    results = np.zeros(32, np.float32)
    simulate(Plan((Launch(probe, (1, 1, 1), ("results",)),)), results=results)
    np.testing.assert_array_equal(results[:8], [np.nan] * 4 + [1] * 4)
    assert np.isnan(results[8:16]).all()
    np.testing.assert_array_equal(results[16:24], np.arange(8) // 3)
    np.testing.assert_array_equal(results[24:], np.arange(8, dtype=np.float32) / np.float32(3))


def _reversed(barriers):
    """A kernel that reverses its arrays of 8 values through shared memory."""
    FIRST, SECOND = barriers

    @kernel(f"reversed {barriers}", *("float32*",) * 2, "int32", threads=8)
    def reverse(values, results, count):
        shared = cuda.shared.array(8, float32)
        thread = int32(cuda.threadIdx.x)
        for n in range(count):
            shared[thread] = values[8 * n + thread]
            if FIRST:
                cuda.syncthreads()
            results[8 * n + thread] = shared[7 - thread]
            if SECOND:
                cuda.syncthreads()

    return reverse


@pytest.mark.parametrize("barriers", [(True, True), (False, True), (True, False)], ids=str)
def test_a_missing_barrier_shows(barriers):
    values, results = np.arange(24, dtype=np.float32), np.zeros(24, np.float32)
    plan = Plan((Launch(_reversed(barriers), (1, 1, 1), ("values", "results", 3)),))
    simulate(plan, values=values, results=results)
    right = (results.reshape(3, 8) == values.reshape(3, 8)[:, ::-1]).all()
    assert right == all(barriers)


def test_an_exception_of_a_thread_is_raised():
    values, results = np.zeros(24, np.float32), np.zeros(20, np.float32)
    plan = Plan((Launch(_reversed((True, True)), (1, 1, 1), ("values", "results", 3)),))
    with pytest.raises(IndexError, match=r"tid=\[4, 0, 0\] ctaid=\[0, 0, 0\]: write at 20 of 20"):
        simulate(plan, values=values, results=results)


def test_the_compiler_is_off():
    with pytest.raises(CudaUnavailableError, match="NUMBA_ENABLE_CUDASIM"):
        compile_kernel(probe, (9, 0))
