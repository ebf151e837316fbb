"""1x1 convolutions and their gradients, which products of matrices compute, against the oracle."""

import numba
import numpy as np
import pytest
import winograd_checks

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.conv import conv2d as kernels

# Images, rows, columns, channels, filters, stride.
CASES = [
    (1, 1, 1, 1, 1, 1),
    (3, 1, 1, 70, 40, 1),
    (2, 5, 7, 3, 17, 1),
    (2, 7, 7, 33, 70, 1),
    (5, 3, 2, 17, 9, 1),
    (2, 13, 11, 130, 24, 1),
    (4, 6, 9, 24, 130, 2),
    (3, 7, 5, 300, 150, 3),
    (40, 9, 9, 10, 20, 1),
]


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def results(case, relu, biased):
    """Return the arguments of a convolution, and all that the kernels write over NaN."""
    images, rows, columns, channels, filters, stride = case
    inputs = values((images, rows, columns, channels), 1)
    weights, bias = values((1, 1, channels, filters), 2), values((filters * biased,), 3)
    outputs = np.full((images, -(-rows // stride), -(-columns // stride), filters), np.nan, "f4")
    options = ((stride, stride), True, (1, 1), 1, relu)
    kernels.conv2d_forward(inputs, weights, bias, *options, outputs)
    grads = values(outputs.shape, 4)
    gradients = [np.full_like(array, np.nan) for array in (inputs, weights, bias)]
    kernels.conv2d_grad_inputs(inputs, weights, outputs, *options, grads, gradients[0])
    kernels.conv2d_grad_weights(inputs, weights, bias, outputs, *options, grads, *gradients[1:])
    return inputs, weights, bias, grads, outputs, gradients


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_sizes(case, relu, biased):
    inputs, weights, bias, grads, outputs, gradients = results(case, relu, biased)
    options = {
        "strides": (case[-1],) * 2,
        "same": True,
        "dilation_rate": (1, 1),
        "groups": 1,
    }
    expected = reference.conv2d(inputs, weights, bias if biased else None, relu=relu, **options)
    assert_close(outputs, expected, case[3])
    oracle = reference.conv2d_gradients(
        inputs, weights, grads, outputs=outputs if relu else None, **options
    )
    pixels = grads[..., 0].size
    for got, want, terms in zip(gradients, oracle, (case[4], pixels, pixels), strict=True):
        there = want != 0  # with strides, no output reads some inputs
        if got.size:
            assert not got[~there].any()
            assert_close(got[there], want[there], terms)


@pytest.mark.parametrize("case", [(3, 7, 7, 130, 70, 1), (9, 2, 2, 24, 150, 1)])
def test_the_number_of_threads_changes_nothing(case):
    first = results(case, False, True)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        second = results(case, False, True)
    finally:
        numba.set_num_threads(threads)
    for before, after in zip([first[4], *first[5]], [second[4], *second[5]], strict=True):
        np.testing.assert_array_equal(before, after)


@winograd_checks.narrower_vectors
def test_narrower_vectors(lanes, cpu, features):
    program = """
        for case in tests.CASES[1:8]:
            tests.test_sizes(case, False, True)
        tests.test_sizes(tests.CASES[3], True, True)
    """
    winograd_checks.run_with_narrower_vectors(__file__, lanes, cpu, features, program)
