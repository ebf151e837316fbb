"""The kernels of a dense layer, compared with NumPy in float64."""

import numba
import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.authoring import dense_forward, dense_grad_inputs, dense_grad_weights

# (samples, channels, filters): tiles that fit, tiles that overlap, several blocks of filters,
# several parts of the channels, of the filters and of the samples.
SIZES = [
    (1, 1, 1),
    (2, 3, 5),
    (7, 9, 17),
    (16, 130, 64),
    (33, 65, 130),
    (70, 300, 10),
    (300, 70, 33),
    (9, 129, 300),
]


def values(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def arrays(samples, channels, filters, with_bias=True):
    bias = values(filters if with_bias else 0, seed=3)
    inputs, weights = values(samples, channels, seed=1), values(channels, filters, seed=2)
    return inputs, weights, bias, values(samples, filters, seed=4)


def forward(inputs, weights, bias, relu):
    outputs = np.full((len(inputs), weights.shape[1]), np.nan, np.float32)
    dense_forward(inputs, weights, bias, relu, outputs)
    return outputs


def backward(inputs, weights, bias, outputs, relu, grads):
    """The gradients of inputs, weights and bias, written over NaN."""
    found = [np.full_like(array, np.nan) for array in (inputs, weights, bias)]
    dense_grad_inputs(inputs, weights, outputs, relu, grads, found[0])
    dense_grad_weights(inputs, weights, bias, outputs, relu, grads, *found[1:])
    return found


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients(sizes, relu, with_bias):
    samples, channels, filters = sizes
    inputs, weights, bias, grads = arrays(*sizes, with_bias)
    outputs = forward(inputs, weights, bias, relu)
    expected = reference.dense(inputs, weights, bias if with_bias else None, relu=relu)
    assert_close(outputs, expected, channels)
    oracle = reference.dense_gradients(inputs, weights, grads, outputs=outputs if relu else None)
    grad_inputs, grad_weights, grad_bias = backward(inputs, weights, bias, outputs, relu, grads)
    assert_close(grad_inputs, oracle[0], filters)
    assert_close(grad_weights, oracle[1], samples)
    if with_bias:
        assert_close(grad_bias, oracle[2], samples)


def test_the_oracle_computes_the_formulas():
    inputs, weights, bias, grads = (array.astype(np.float64) for array in arrays(5, 3, 4))
    outputs = np.maximum(inputs @ weights + bias, 0)
    np.testing.assert_allclose(reference.dense(inputs, weights, bias, relu=True), outputs)
    passed = np.where(outputs > 0, grads, 0)
    expected = passed @ weights.T, inputs.T @ passed, passed.sum(0)
    found = reference.dense_gradients(inputs, weights, grads, outputs=outputs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other)


def test_the_number_of_threads_changes_no_bit():
    inputs, weights, bias, grads = arrays(64, 300, 130)
    results = []
    for threads in (1, numba.get_num_threads()):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            outputs = forward(inputs, weights, bias, True)
            results.append([outputs, *backward(inputs, weights, bias, outputs, True, grads)])
        finally:
            numba.set_num_threads(before)
    for one, many in zip(*results, strict=True):
        assert one.tobytes() == many.tobytes()


@pytest.mark.parametrize("sizes", [(0, 4, 3), (3, 0, 5), (3, 4, 0)], ids=str)
def test_empty_arrays(sizes):
    inputs, weights, bias, grads = arrays(*sizes)
    outputs = forward(inputs, weights, bias, True)
    np.testing.assert_array_equal(outputs, np.maximum(inputs @ weights + bias, 0))
    passed = np.where(outputs > 0, grads, np.float32(0))
    grad_inputs, grad_weights, grad_bias = backward(inputs, weights, bias, outputs, True, grads)
    np.testing.assert_array_equal(grad_inputs, np.zeros_like(inputs))
    np.testing.assert_array_equal(grad_weights, np.zeros_like(weights))
    assert_close(grad_bias, passed.sum(0, dtype=np.float64), max(len(grads), 1))


def test_nan_and_infinity_stay_in_their_places():
    inputs, weights, bias, grads = arrays(9, 40, 20)
    inputs[2, 3], inputs[5, 7] = np.nan, np.inf
    outputs = forward(inputs, weights, bias, True)
    assert np.isnan(outputs[2]).all()
    assert (np.isinf(outputs[5]) == (weights[7] > 0)).all()
    assert np.isfinite(np.delete(outputs, (2, 5), 0)).all()
    grads[4, 6] = np.nan
    outputs[4, 6], outputs[2] = 0, 1
    grad_inputs, _, grad_bias = backward(inputs, weights, bias, outputs, True, grads)
    # A ReLU that is off passes no gradient, whatever arrives.
    assert np.isfinite(grad_inputs).all()
    assert np.isfinite(grad_bias).all()
    outputs[4, 6] = 1
    grad_inputs, _, grad_bias = backward(inputs, weights, bias, outputs, True, grads)
    assert np.isnan(grad_inputs[4]).all()
    assert np.isnan(grad_bias).nonzero()[0].tolist() == [6]
