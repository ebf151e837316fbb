"""Tests of `audit`: the faults that it finds in functions of ops."""

import keras
import numba
import numpy as np
import pytest

from cnnforge.backends import pullback
from cnnforge.ops import ArrayOp
from cnnforge.ops.audit import audit


@numba.njit(cache=True)
def marks(inputs, fault, outputs, mask):
    for index in range(inputs.size):
        outputs[index] = inputs[index]
        if fault != 1 or index != 2:
            # An untouched byte is 255 as well.
            mask[index] = 255
    if fault == 2:
        mask[-1 - mask.size] = 7
    if fault == 3:
        inputs[1] = 5


@numba.njit(cache=True)
def marks_backward(grad_outputs, fault, grad_inputs):
    if fault != 4:
        grad_inputs[:] = 0
    grad_inputs += grad_outputs


def marks_shapes(inputs):
    return inputs, inputs


marks_op = ArrayOp(
    "audit_marks",
    forward=marks,
    backward=marks_backward,
    inputs={"inputs": 1},
    outputs={"outputs": 1, "mask": numba.uint8[::1]},
    output_shapes=marks_shapes,
    attributes={"fault": 0},
)


class Marks(keras.layers.Layer):
    def __init__(self, fault):
        super().__init__()
        self.fault, self.supports_jit = fault, False

    def call(self, inputs):
        return marks_op(inputs, fault=self.fault)[0]


def run(fault):
    with audit() as found:
        outputs, gradients = pullback(Marks(fault), keras.ops.ones(4))
        (gradient,) = gradients(keras.ops.ones(4))
    assert len(found.functions) == 2
    return found.faults, np.array(outputs), np.array(gradient)


def test_a_function_without_faults():
    faults, outputs, gradient = run(0)
    assert faults == []
    np.testing.assert_array_equal(outputs, np.ones(4))
    np.testing.assert_array_equal(gradient, np.ones(4))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (1, "1 of 4 elements of 'mask' were never written (or added to before they were set), fir"),
        (2, "the forward function 'marks' writes outside of 'mask', (4,)"),
        (3, "'marks' modified 'inputs', which it may only read: 1 of 4 elements, first at (1,)"),
        (4, "4 of 4 elements of 'grad_inputs' were never written (or added to before"),
    ],
)
def test_faults(fault, words):
    (message,), *_ = run(fault)
    assert words in message


def test_arrays_without_dimensions_and_without_elements():
    @numba.njit
    def total(inputs, outputs):
        outputs[()] = inputs.sum()

    op = ArrayOp(
        "audit_total",
        forward=total,
        inputs={"inputs": 2},
        outputs={"outputs": 0},
        output_shapes=lambda inputs: (),
    )
    with audit() as found:
        assert float(op(keras.ops.ones((2, 3)))) == 6
        assert float(op(keras.ops.ones((0, 3)))) == 0
    assert found.faults == []
    assert len(found.functions) == 1


def test_after_the_context_nothing_is_audited():
    with audit() as found:
        pass
    pullback(Marks(3), keras.ops.ones(4))
    assert not found.functions
