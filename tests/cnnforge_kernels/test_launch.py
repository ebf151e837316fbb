"""The launchers: the same results, and one clear error for what cannot be computed."""

import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference


def values(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_results():
    inputs, weights, bias = values(2, 8, 9, 4), values(3, 3, 2, 6), values(6)
    options = {"strides": (2, 1), "groups": 2}
    outputs = kernels.conv2d(inputs, weights, bias, padding="same", activation="relu", **options)
    oracle = reference.conv2d(inputs, weights, bias, same=True, relu=True, **options)
    assert_close(outputs, oracle, 18)
    grads = values(*outputs.shape)
    expected = reference.conv2d_gradients(
        inputs, weights, grads, outputs=outputs, same=True, **options
    )
    got = kernels.conv2d_grad_inputs(
        grads, weights, inputs.shape, outputs=outputs, padding="same", **options
    )
    assert_close(got, expected[0], 27)
    for result, want in zip(
        kernels.conv2d_grad_weights(
            inputs, grads, weights.shape, outputs=outputs, padding="same", **options
        ),
        expected[1:],
        strict=True,
    ):
        assert_close(result, want, 72)


def test_pooling_results():
    inputs = values(2, 8, 9, 4)
    outputs, argmax = kernels.max_pool2d(inputs, pool_size=3, strides=2, padding="same")
    window = {"pool_size": (3, 3), "strides": (2, 2), "same": True}
    np.testing.assert_array_equal(outputs, reference.max_pool2d(inputs, **window)[0])
    grads = values(*outputs.shape)
    got = kernels.max_pool2d_grad(
        grads, argmax, inputs.shape, pool_size=3, strides=2, padding="same"
    )
    assert_close(got, reference.max_pool2d_grad(inputs, grads, **window), 9)
    mean = kernels.average_pool2d(inputs, pool_size=3, strides=2, padding="same")
    assert_close(mean, reference.average_pool2d(inputs, **window), 9)
    got = kernels.average_pool2d_grad(grads, inputs.shape, pool_size=3, strides=2, padding="same")
    assert_close(got, reference.average_pool2d_grad(inputs, grads, **window), 9)


def test_noncontiguous_arrays():
    inputs, weights = values(9, 8, 2, 4).transpose(2, 1, 0, 3), values(6, 2, 3, 3)[::-1].T
    assert_close(
        kernels.conv2d(
            inputs, weights.copy()[:, :, ::1][..., ::-1][:3, :3, :2][..., :6].repeat(2, 2)
        ),
        reference.conv2d(inputs, weights[..., ::-1].repeat(2, 2)),
        36,
    )


def test_given_output():
    inputs, weights = values(1, 5, 5, 2), values(3, 3, 2, 4)
    out = np.full((1, 3, 3, 4), np.nan, np.float32)
    assert kernels.conv2d(inputs, weights, out=out) is out
    assert_close(out, reference.conv2d(inputs, weights), 18)


X, W = values(1, 5, 5, 2), values(3, 3, 2, 4)
Y, ARGMAX = values(1, 3, 3, 4), np.zeros((1, 2, 2, 2), np.uint8)
MISTAKES = {
    "rank": (lambda: kernels.conv2d(X[0], W), "`inputs` must be a float32 NumPy array of rank 4"),
    "dtype": (lambda: kernels.conv2d(X.astype("d"), W), r"float32 .* Received: float64"),
    "list": (lambda: kernels.conv2d([1.0], W), "Received: list"),
    "channels": (lambda: kernels.conv2d(X[..., :1], W), "`groups` must divide"),
    "groups": (lambda: kernels.conv2d(X, W, groups=3), "`groups` must divide"),
    "zero groups": (lambda: kernels.conv2d(X, W, groups=0), "groups=0"),
    "groups of another type": (lambda: kernels.conv2d(X, W, groups="2"), "groups='2'"),
    "stride": (lambda: kernels.conv2d(X, W, strides=0), "`strides` must be one or two positive"),
    "three": (lambda: kernels.conv2d(X, W, strides=(1, 1, 1)), "`strides` must be"),
    "negative": (lambda: kernels.conv2d(X, W, strides=(1, -1)), "`strides` must be"),
    "fraction": (lambda: kernels.conv2d(X, W, strides=1.5), "positive integers. Received: 1.5"),
    "nothing": (lambda: kernels.max_pool2d(X, pool_size=None), "`pool_size` must be"),
    "padding": (lambda: kernels.conv2d(X, W, padding="full"), '"valid" or "same"'),
    "both": (lambda: kernels.conv2d(X, W, strides=2, dilation_rate=2), "not supported"),
    "bias": (lambda: kernels.conv2d(X, W, values(3)), "`bias` must have 4 values"),
    "activation": (lambda: kernels.conv2d(X, W, activation="tanh"), "`activation`"),
    "window": (lambda: kernels.conv2d(X, W[:0]), "must not be empty"),
    "out shape": (lambda: kernels.conv2d(X, W, out=values(1, 3, 3, 5)), "`out` must be"),
    "overlap": (lambda: kernels.max_pool2d(X, pool_size=1, out=X), "must not overlap"),
    "gradient": (
        lambda: kernels.conv2d_grad_inputs(values(1, 4, 4, 4), W, X.shape),
        r"must have shape \(1, 3, 3, 4\)",
    ),
    "input shape": (
        lambda: kernels.conv2d_grad_inputs(Y, W, (5, 5, 2)),
        r"`input_shape` must be a shape: four integers.*Received: \(5, 5, 2\)",
    ),
    "number for a shape": (lambda: kernels.conv2d_grad_inputs(Y, W, 50), "Received: 50"),
    "negative shape": (lambda: kernels.conv2d_grad_inputs(Y, W, (1, -5, 5, 2)), "0 or more"),
    "weights shape": (
        lambda: kernels.conv2d_grad_weights(X, Y, (3, 3, 2)),
        r"`weights_shape` must be a shape: four integers.*Received: \(3, 3, 2\)",
    ),
    "fractions": (
        lambda: kernels.conv2d_grad_weights(X, Y, (3, 3, 2, 4.0)),
        "`weights_shape` must be a shape",
    ),
    "pool shape": (
        lambda: kernels.average_pool2d_grad(X, (1, 5, 5)),
        "`input_shape` must be a shape",
    ),
    "max pool shape": (
        lambda: kernels.max_pool2d_grad(X, ARGMAX, (1, 5, 5)),
        "`input_shape` must be a shape",
    ),
    "read-only": (lambda: kernels.conv2d(X, W, out=np.broadcast_to(Y, Y.shape)), "writeable"),
    "no cell": (
        lambda: kernels.max_pool2d_grad(values(1, 2, 2, 2), ARGMAX + np.uint8(4), X.shape),
        "`argmax` must be cells of a window of 2 x 2, from 0 to 3.* Received: 4",
    ),
    "negative cell": (
        lambda: kernels.max_pool2d_grad(
            values(1, 1, 1, 2),
            np.full((1, 1, 1, 2), -1, np.int32),
            (1, 17, 17, 2),
            pool_size=17,
        ),
        "from 0 to 288.* Received: -1",
    ),
    "argmax": (
        lambda: kernels.max_pool2d_grad(
            values(1, 2, 2, 2), np.zeros((1, 2, 2, 2), np.int64), X.shape
        ),
        "`argmax` .uint8. must have shape",
    ),
    "pool": (lambda: kernels.average_pool2d(X, pool_size=(2, -1)), "`pool_size`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_error_names_the_argument(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()
