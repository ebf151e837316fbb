"""Batch normalization by given moments, against the oracle."""

import numba
import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close, error_bounds
from cnnforge_kernels import reference

# Lanes, folds of several rows, rows wider than a strip.
CHANNELS = [1, 3, 5, 8, 16, 17, 64, 130, 300]
ROWS = [1, 2, 7, 33, 255, 4096]
EPSILON = 1e-3


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of_channels(channels):
    """gamma, beta, mean and variance."""
    gamma, beta, mean, other = (values(channels, seed=seed) for seed in range(1, 5))
    return 1 + gamma / 2, beta, mean, other**2 + np.float32(0.1)


def check(inputs):
    gamma, beta, mean, variance = of_channels(inputs.shape[-1])
    rows, grads = inputs.size // inputs.shape[-1], values(*inputs.shape, seed=5)
    out = np.full(inputs.shape, np.nan, np.float32)
    known = inputs, gamma, beta, mean, variance
    outputs = kernels.batch_normalization_inference(*known, epsilon=EPSILON, out=out)
    assert outputs is out
    expected = reference.batch_norm_inference(*known, epsilon=EPSILON)
    # A few roundings; channels that vary less than others have larger results than the rms of all.
    assert_close(outputs, expected, 16)
    known, out = (inputs, gamma, mean, variance, grads), np.full(inputs.shape, np.nan, np.float32)
    found = kernels.batch_normalization_inference_grads(*known, epsilon=EPSILON, out=out)
    assert found[0] is out
    wanted = reference.batch_norm_inference_gradients(*known, epsilon=EPSILON)
    assert_close(found[0], wanted[0], 16)
    # What is summed says how large an error may be: little may be left of it.
    away, inverse = np.abs(grads * (inputs - mean)), 1 / np.sqrt(variance + EPSILON)
    scale = np.abs(gamma * inverse)
    each = away * inverse, np.abs(grads), np.abs(grads) * scale, away * scale * inverse**2 / 2
    for got, exact, summands in zip(found[1:], wanted[1:], each, strict=True):
        axes = tuple(range(inputs.ndim - 1))
        root, bound = error_bounds(summands.sum(axes) / rows**0.5, 16 * rows)
        error = np.abs(got - exact)
        assert error.max() <= bound
        assert np.sqrt(np.mean(error**2)) <= root


@pytest.mark.parametrize("channels", CHANNELS)
def test_against_the_oracle(channels):
    for rows in ROWS:
        check(values(rows, channels))


@pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (2, 3, 4, 5, 6)], ids=str)
def test_any_rank(shape):
    check(values(*shape))


def test_no_rows():
    gamma, beta, mean, variance = of_channels(3)
    known = np.zeros((0, 3), np.float32), gamma
    outputs = kernels.batch_normalization_inference(*known, beta, mean, variance, epsilon=EPSILON)
    assert outputs.shape == (0, 3)
    found = kernels.batch_normalization_inference_grads(
        *known, mean, variance, known[0], epsilon=EPSILON
    )
    assert found[0].shape == (0, 3)
    assert all((array == 0).all() for array in found[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_stay_in_their_element(value):
    inputs, grads = values(64, 24), values(64, 24, seed=5)
    gamma, beta, mean, variance = of_channels(24)
    options = {"epsilon": EPSILON}
    known = gamma, beta, mean, variance
    clean = kernels.batch_normalization_inference(inputs, *known, **options)
    inputs[40, 3] = value
    outputs = kernels.batch_normalization_inference(inputs, *known, **options)
    changed = np.zeros((64, 24), bool)
    changed[40, 3] = True
    np.testing.assert_array_equal(outputs[~changed], clean[~changed])
    np.testing.assert_array_equal(outputs[changed], np.float32(value) * np.sign(gamma[3]))
    # The gradient of the inputs does not depend on them.
    found = kernels.batch_normalization_inference_grads(
        inputs, gamma, mean, variance, grads, **options
    )
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1][3])
    assert np.isfinite(np.delete(found[1], 3)).all()


def test_the_number_of_threads_changes_no_bit():
    inputs, grads = values(5000, 24), values(5000, 24, seed=5)
    gamma, beta, mean, variance = of_channels(24)
    options, found = {"epsilon": EPSILON}, []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        outputs = kernels.batch_normalization_inference(
            inputs, gamma, beta, mean, variance, **options
        )
        known = inputs, gamma, mean, variance, grads
        found.append([outputs, *kernels.batch_normalization_inference_grads(*known, **options)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": np.zeros(4, np.float32)}, "mean"),
        ({"variance": np.zeros(5)}, "variance"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"inputs": np.zeros((3, 5))}, "inputs"),
    ],
)
def test_wrong_arguments_are_errors(changed, message):
    names = "gamma", "beta", "mean", "variance"
    given = {"inputs": values(3, 5), "epsilon": EPSILON}
    given |= dict(zip(names, of_channels(5), strict=True)) | changed
    with pytest.raises(ValueError, match=f"`{message}`"):
        kernels.batch_normalization_inference(**given)
