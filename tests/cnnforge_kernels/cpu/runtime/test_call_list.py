"""A list of prepared kernel calls."""

from __future__ import annotations

import os

import numpy as np
import pytest
from numba import carray

from cnnforge_kernels.authoring import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.runtime.call_list import Call, CallList


@kernel_family(1)
def ADD_INDEX(_):
    @cached_cfunc(KERNEL_SIGNATURE)
    def _add_index(args, begin, end):
        numbers = carray(args, end)
        for index in range(begin, end):
            numbers[index] += index

    return _add_index


@kernel_family(1)
def NEGATE(_):
    @cached_cfunc(KERNEL_SIGNATURE)
    def _negate(args, begin, end):
        numbers = carray(args, end)
        for index in range(begin, end):
            numbers[index] = -numbers[index]

    return _negate


@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize("grain", [1, 7, 2000])
def test_calls_run_in_order_with_all_their_tasks(count, grain):
    numbers = np.zeros(count, np.int64)
    calls = CallList(
        [
            Call(ADD_INDEX, numbers, count, grain),
            Call(NEGATE, numbers, count, grain),
            Call(ADD_INDEX, numbers, count, grain),
            Call(ADD_INDEX, numbers, count, grain),
        ]
    )
    for _ in range(50):
        numbers[:] = 0
        calls()
        np.testing.assert_array_equal(numbers, np.arange(count))


def test_no_calls_and_no_tasks_do_nothing():
    CallList([])()
    numbers = np.ones(3, np.int64)
    CallList([Call(NEGATE, numbers, 0, 1)])()
    assert numbers.tolist() == [1, 1, 1]


def test_a_call_runs_only_if_the_flag_of_an_earlier_call_is_set():
    # The argument block of the first call is the flag itself: task 1 of ADD_INDEX writes word 1.
    words = np.zeros(2, np.int64)
    numbers = np.ones(2, np.int64)
    flag = words[1:]
    sets = Call(ADD_INDEX, words, 2, 4, flag=flag)
    leaves = Call(NEGATE, np.zeros(1, np.int64), 1, 1, flag=flag)
    then = Call(NEGATE, numbers, 2, 1, only_if=flag)
    CallList([sets, then])()
    assert numbers.tolist() == [-1, -1]
    CallList([leaves, then])()  # a flag of an earlier run is set to 0
    assert numbers.tolist() == [-1, -1]
    assert flag[0] == 0


def test_the_list_keeps_the_memory():
    def make():
        numbers = np.zeros(5, np.int64)
        return numbers.ctypes.data, CallList([Call(ADD_INDEX, numbers[:], 5, 1)])

    _, calls = make()
    others = [np.zeros(5, np.int64) for _ in range(100)]
    calls()
    assert not np.any(others)


def test_a_list_runs_in_a_forked_process():
    numbers = np.zeros(1000, np.int64)
    calls = CallList([Call(ADD_INDEX, numbers, 1000, 1)])
    calls()
    child = os.fork()
    if child == 0:
        calls()
        os._exit(0 if np.array_equal(numbers, 2 * np.arange(1000)) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_kernel_that_does_not_exist_is_an_error_when_the_list_is_made():
    with pytest.raises(RuntimeError, match="does not exist"):
        CallList([Call(12345678901234, np.zeros(1, np.int64), 1, 1)])
