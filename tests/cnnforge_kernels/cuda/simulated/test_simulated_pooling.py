"""Pooling in the simulator, forward and gradient, against the oracle."""

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.pooling import plans
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime.simulated_driver import simulate


def ties(shape):
    """Values of which many are equal."""
    return np.random.default_rng(1).integers(-3, 4, shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def run(inputs, p):
    small = p.window[0] * p.window[1] <= 256
    largest, mean = poisoned(p.outputs), poisoned(p.outputs)
    argmax = np.full(p.outputs, 255 if small else -5, np.uint8 if small else np.int32)
    grads = np.random.default_rng(2).standard_normal(p.outputs).astype(np.float32)
    grad_largest, grad_mean = poisoned(p.inputs), poisoned(p.inputs)
    simulate(plans.forward(p, True), inputs=inputs, outputs=largest, argmax=argmax)
    simulate(plans.forward(p, False), inputs=inputs, outputs=mean)
    simulate(plans.backward(p, True), grad_outputs=grads, grad_inputs=grad_largest, argmax=argmax)
    simulate(plans.backward(p, False), grad_outputs=grads, grad_inputs=grad_mean)
    return largest, argmax, mean, grads, grad_largest, grad_mean


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("shape", "window", "strides"),
    [
        ((2, 6, 5, 4), (2, 2), (2, 2)),
        ((2, 7, 8, 8), (3, 3), (3, 3)),
        ((1, 9, 10, 3), (4, 4), (4, 4)),
        ((1, 7, 9, 4), (1, 2), (1, 2)),
        # More cells than registers hold at once.
        ((1, 11, 7, 4), (5, 5), (5, 5)),
        ((1, 5, 6, 3), (3, 3), (1, 1)),
        ((1, 7, 5, 4), (3, 2), (2, 1)),
        ((1, 7, 7, 2), (2, 2), (3, 3)),
        ((1, 3, 4, 4), (17, 17), (1, 2)),
        ((1, 18, 17, 1), (17, 17), (1, 2)),
        ((0, 4, 4, 3), (2, 2), (2, 2)),
    ],
)
@pytest.mark.parametrize("aligned", [True, False])
def test_against_the_oracle(shape, window, strides, same, aligned):
    inputs = ties(shape)
    p = Pooling(shape, window, strides, same, aligned)
    largest, argmax, mean, grads, grad_largest, grad_mean = run(inputs, p)
    options = {"pool_size": window, "strides": strides, "same": same}
    best, cells = reference.max_pool2d(inputs, **options)
    np.testing.assert_array_equal(largest, best)
    np.testing.assert_array_equal(argmax, cells)
    area = window[0] * window[1]
    assert_close(grad_largest, reference.max_pool2d_grad(inputs, grads, **options), area)
    assert_close(mean, reference.average_pool2d(inputs, **options), area)
    assert_close(grad_mean, reference.average_pool2d_grad(inputs, grads, **options), area)


@pytest.mark.parametrize(
    ("window", "strides", "expected"),
    [
        ((2, 2), (2, 2), True),
        ((4, 4), (4, 4), True),
        ((5, 5), (5, 5), False),
        ((2, 2), (1, 2), False),
    ],
)
@pytest.mark.parametrize("maximum", [False, True])
def test_windows_side_by_side_have_kernels_of_their_own(window, strides, maximum, expected):
    p = Pooling((2, 9, 9, 8), window, strides, same=True)
    for plan in (plans.forward(p, maximum), plans.backward(p, maximum)):
        for option in plan.options.values():
            (launch,) = option().launches
            assert launch.kernel.name.endswith("windows") == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-42])
def test_special_values(value):
    inputs = ties((1, 4, 6, 4))
    inputs[0, 1, 2, 3] = value
    inputs[0, 2, 2, :] = value
    for window, strides in (((2, 2), (2, 2)), ((3, 3), (1, 1))):
        largest, argmax, *_ = run(inputs, Pooling(inputs.shape, window, strides, True))
        best, cells = reference.max_pool2d(inputs, pool_size=window, strides=strides, same=True)
        np.testing.assert_array_equal(largest, best.astype(np.float32))
        np.testing.assert_array_equal(argmax, cells)


@pytest.mark.parametrize("shape", [(2, 3, 4, 8), (1, 7, 7, 33), (3, 1, 1, 1)])
@pytest.mark.parametrize("aligned", [True, False])
def test_global_average(shape, aligned):
    inputs = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    outputs, grad_inputs = poisoned((shape[0], shape[3])), poisoned(shape)
    simulate(plans.global_forward(shape), inputs=inputs, outputs=outputs)
    pixels = shape[1] * shape[2]
    assert_close(outputs, inputs.astype(np.float64).mean((1, 2)), pixels)
    simulate(plans.global_backward(shape, aligned), grad_outputs=outputs, grad_inputs=grad_inputs)
    expected = np.broadcast_to(outputs[:, None, None, :].astype(np.float64) / pixels, shape)
    assert_close(grad_inputs, expected, 1)
