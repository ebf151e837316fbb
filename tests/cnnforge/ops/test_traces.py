"""Tests of `tracing`: indices outside of arrays, and races."""

import hashlib

import numba
import numpy as np
import pytest
from numba import prange

from cnnforge.ops import ArrayOp
from cnnforge.ops.audit import memory, traces, tracing


@numba.njit(cache=True)
def neighbour(values, row, column):
    return values[row, column + 1]


@numba.njit(cache=True)
def shifted(inputs, fault, outputs):
    for row in range(inputs.shape[0]):
        for column in range(inputs.shape[1]):
            last = column == inputs.shape[1] - 1
            if last and fault == 0:
                outputs[row, column] = inputs[row, 0]
            elif last and fault == 2:
                outputs[row, column] = inputs[row, column - 2 * column]
            else:
                outputs[row, column] = neighbour(inputs, row, column)


@numba.njit(cache=True, parallel=True)
def sums(grad_outputs, grad_inputs):
    # No race: memory of each iteration's own, and sums that Numba recognizes.
    total = 0.0
    columns = np.zeros(grad_outputs.shape[1], np.float32)
    for row in prange(grad_outputs.shape[0]):
        own = np.zeros(grad_outputs.shape[1], np.float32)
        for column in range(grad_outputs.shape[1]):
            own[column] += grad_outputs[row, column]
            total += grad_outputs[row, column]
        columns += own
        grad_inputs[row] = own
    grad_inputs[0, 0] += np.float32(0) * (np.float32(total) + columns[0])


op = ArrayOp(
    "traces_shifted",
    forward=shifted,
    backward=sums,
    inputs={"inputs": 2},
    outputs={"outputs": 2},
    output_shapes=lambda inputs: inputs,
    attributes={"fault": 0},
)
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "cache_folder", lambda: tmp_path)
    # `plugins check --boundscheck` switches it off in its process.
    monkeypatch.setattr(memory, "enabled", True)


def run(fault):
    with tracing() as found:
        outputs = op.run(VALUES, fault=fault)
    (trace,) = found.values()
    return trace, outputs


def test_a_function_without_faults(tmp_path):
    for _ in range(2):
        trace, outputs = run(0)
        assert trace == traces.Trace()
        np.testing.assert_array_equal(outputs[:, :3], VALUES[:, 1:])
    assert len(list((tmp_path / "traced").iterdir())) == 1


def test_a_changed_default_is_traced_again(monkeypatch):
    @numba.njit
    def moved(values, column, distance=1):
        return values[0, column + distance]

    def marked():
        digest = hashlib.sha256()
        memory._function(moved, digest, set())
        return digest.hexdigest()

    before = marked()
    assert marked() == before
    monkeypatch.setattr(moved.py_func, "__defaults__", (2,))
    assert marked() != before


def test_an_index_outside_of_an_array_is_named():
    trace, _ = run(1)
    assert "index 4 is outside of axis 1 of 'values', which has the size 4" in trace.outside
    assert "in 'neighbour'" in trace.outside
    assert "return values[row, column + 1]), 3 times" in trace.outside
    assert trace.race == ""


def test_a_negative_index_is_no_fault():
    trace, outputs = run(2)
    assert trace.outside == ""
    assert "the negative index -3 of axis 1 of 'inputs' means 1" in trace.wrapped
    assert outputs[0, 3] == VALUES[0, 1]


def test_sums_and_own_memory_are_no_races():
    with tracing() as found:
        (gradient,) = op.run_backward([VALUES], [VALUES], [VALUES])
    assert list(found.values()) == [traces.Trace()]
    np.testing.assert_array_equal(gradient, VALUES)


def test_other_code_is_not_instrumented():
    run(1)
    assert op.run(VALUES, fault=0)[0, 0] == 2

    @numba.njit
    def plain(values):
        return np.sort(values)[::-1].copy()

    np.testing.assert_array_equal(plain(VALUES[0]), VALUES[0][::-1])
