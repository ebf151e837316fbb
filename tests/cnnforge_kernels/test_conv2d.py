"""Convolution, forward and every gradient, against the oracle and against TensorFlow."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from cases import CONVOLUTIONS

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.conv import conv2d as kernels
from cnnforge_kernels.geometry import output_size


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def run(inputs, weights, bias, relu, grad_outputs=None, **options):
    """All results of the kernels, written over NaN: outputs and three gradients."""
    strides, same = options["strides"], options["same"]
    dilation, groups = options["dilation_rate"], options["groups"]
    sizes = [
        output_size(inputs.shape[1 + a], weights.shape[a], strides[a], dilation[a], same)
        for a in (0, 1)
    ]
    outputs = poisoned((len(inputs), *sizes, weights.shape[3]))
    common = (strides, same, dilation, groups, relu)
    kernels.conv2d_forward(inputs, weights, bias, *common, outputs)
    grads = values(outputs.shape, 7) if grad_outputs is None else grad_outputs
    grad_inputs, grad_weights = poisoned(inputs.shape), poisoned(weights.shape)
    grad_bias = poisoned(bias.shape)
    kernels.conv2d_grad_inputs(inputs, weights, outputs, *common, grads, grad_inputs)
    kernels.conv2d_grad_weights(
        inputs, weights, bias, outputs, *common, grads, grad_weights, grad_bias
    )
    return outputs, grads, (grad_inputs, grad_weights, grad_bias)


def terms(weights, outputs, groups):
    """K of each result: the number of products in one element."""
    kh, kw, channels, filters = weights.shape
    pixels = outputs.shape[0] * outputs.shape[1] * outputs.shape[2]
    return kh * kw * channels, (kh * kw * filters // groups, pixels, pixels)


def check_against_oracle(inputs, weights, bias, relu, **options):
    outputs, grads, gradients = run(inputs, weights, bias, relu, **options)
    forward_terms, gradient_terms = terms(weights, outputs, options["groups"])
    expected = reference.conv2d(inputs, weights, bias if bias.size else None, relu=relu, **options)
    assert_close(outputs, expected, forward_terms)
    oracle = reference.conv2d_gradients(
        inputs, weights, grads, outputs=outputs if relu else None, **options
    )
    for got, want, count in zip(gradients, oracle, gradient_terms, strict=True):
        if not got.size:
            continue  # the gradient of a bias that is not there
        # Taps that only meet padding have a gradient of exactly zero: no part of the rms.
        there = want != 0
        assert not got[~there].any()
        assert_close(got[there], want[there], count)


SIZES = [(1, 1), (2, 3), (5, 7), (13, 11), (17, 29)]
WINDOWS = [(1, 1), (3, 3), (5, 5), (2, 3), (4, 1)]
CHANNELS = [(1, 8), (3, 5), (33, 33), (8, 16)]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("channels", "filters"), CHANNELS)
@pytest.mark.parametrize("window", WINDOWS)
def test_sizes_and_channels(window, channels, filters, same):
    for size, batch in itertools.product(SIZES, (1, 3)):
        inputs = values((batch, *size, channels), 1)
        weights = values((*window, channels, filters), 2)
        check_against_oracle(
            inputs,
            weights,
            values(filters, 3),
            True,
            strides=(1, 1),
            same=same,
            dilation_rate=(1, 1),
            groups=1,
        )


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("strides", [(2, 2), (3, 1), (1, 2), (4, 5)])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (5, 2)])
def test_strides(window, strides, same):
    for channels, filters in ((3, 5), (16, 40)):
        check_against_oracle(
            values((2, 13, 17, channels), 1),
            values((*window, channels, filters), 2),
            values(0, 3),
            False,
            strides=strides,
            same=same,
            dilation_rate=(1, 1),
            groups=1,
        )


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dilation_rate", [(2, 2), (1, 3), (4, 1)])
def test_dilation(dilation_rate, same):
    for channels, filters, groups in ((3, 5, 1), (12, 24, 3)):
        check_against_oracle(
            values((2, 14, 19, channels), 1),
            values((3, 4, channels // groups, filters), 2),
            values(filters, 3),
            True,
            strides=(1, 1),
            same=same,
            dilation_rate=dilation_rate,
            groups=groups,
        )


@pytest.mark.parametrize(
    ("channels", "filters", "groups"), [(4, 6, 2), (9, 9, 9), (6, 12, 6), (34, 66, 2)]
)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_groups(channels, filters, groups, strides):
    check_against_oracle(
        values((2, 11, 9, channels), 1),
        values((3, 3, channels // groups, filters), 2),
        values(filters, 3),
        False,
        strides=strides,
        same=True,
        dilation_rate=(1, 1),
        groups=groups,
    )


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_benchmark_cases(case):
    case = case.with_batch(2)
    check_against_oracle(
        values(case.input_shape, 1),
        values(case.weights_shape, 2),
        values(case.filters, 3),
        True,
        strides=(case.stride, case.stride),
        same=True,
        dilation_rate=(1, 1),
        groups=1,
    )


def _with_holes(weights, dilation):
    kh, kw, channels, filters = weights.shape
    wide = tf.reshape(weights, (kh, 1, kw, 1, channels, filters))
    wide = tf.pad(
        wide, [(0, 0), (0, dilation[0] - 1), (0, 0), (0, dilation[1] - 1), (0, 0), (0, 0)]
    )
    wide = tf.reshape(wide, (kh * dilation[0], kw * dilation[1], channels, filters))
    return wide[: (kh - 1) * dilation[0] + 1, : (kw - 1) * dilation[1] + 1]


TENSORFLOW_CASES = [
    ((2, 13, 11, 3), (3, 3, 3, 5), (1, 1), (1, 1), 1),
    ((1, 17, 19, 1), (5, 5, 1, 8), (1, 1), (1, 1), 1),
    ((2, 12, 15, 33), (3, 2, 33, 33), (2, 2), (1, 1), 1),
    ((2, 14, 14, 8), (3, 3, 8, 16), (1, 1), (2, 2), 1),
    ((3, 9, 10, 8), (3, 3, 4, 6), (1, 1), (1, 1), 2),
    ((1, 7, 7, 16), (1, 1, 16, 40), (3, 3), (1, 1), 1),
]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("shape", "window", "strides", "dilation", "groups"), TENSORFLOW_CASES)
def test_against_tensorflow(shape, window, strides, dilation, groups, same):
    inputs, weights, bias = values(shape, 1), values(window, 2), values(window[3], 3)
    outputs, grads, gradients = run(
        inputs,
        weights,
        bias,
        True,
        strides=strides,
        same=same,
        dilation_rate=dilation,
        groups=groups,
    )
    tensors = [tf.constant(array) for array in (inputs, weights, bias)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        # TensorFlow's CPU kernels have no gradients for groups and for dilation: there, groups are
        # convolutions of their own, and zeros stand between the taps.
        parts = [
            tf.nn.conv2d(part, _with_holes(factors, dilation), strides, "SAME" if same else "VALID")
            for part, factors in zip(
                tf.split(tensors[0], groups, 3), tf.split(tensors[1], groups, 3), strict=True
            )
        ]
        result = tf.nn.relu(tf.concat(parts, 3) + tensors[2])
    expected = tape.gradient(result, tensors, output_gradients=tf.constant(grads))
    forward_terms, gradient_terms = terms(weights, outputs, groups)
    # Two float32 results may differ by the sum of their errors.
    assert_close(outputs, result.numpy(), 4 * forward_terms)
    for got, want, count in zip(gradients, expected, gradient_terms, strict=True):
        assert_close(got, want.numpy(), 4 * count)


def test_nan_and_infinity_reach_their_windows_only():
    inputs = values((1, 6, 6, 1), 1)
    inputs[0, 0, 0, 0], inputs[0, 5, 5, 0] = np.nan, np.inf
    weights = np.ones((3, 3, 1, 4), np.float32)
    for relu in (False, True):
        outputs = poisoned((1, 6, 6, 4))
        kernels.conv2d_forward(
            inputs, weights, values(0, 1), (1, 1), True, (1, 1), 1, relu, outputs
        )
        expected = reference.conv2d(inputs, weights, same=True, relu=relu)
        np.testing.assert_array_equal(np.isnan(outputs), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(outputs), np.isinf(expected))


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(batch):
    options = {"strides": (1, 1), "same": True, "dilation_rate": (1, 1), "groups": 1}
    inputs, weights, bias = values((batch, 5, 5, 3), 1), values((3, 3, 3, 4), 2), values(4, 3)
    outputs, _, gradients = run(inputs, weights, bias, True, **options)
    assert outputs.shape == (batch, 5, 5, 4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if batch == 0:
        assert not gradients[1].any()
        assert not gradients[2].any()


def test_inputs_are_not_written():
    inputs, weights, bias = values((2, 9, 9, 3), 1), values((3, 3, 3, 20), 2), values(20, 3)
    copies = inputs.copy(), weights.copy(), bias.copy()
    run(inputs, weights, bias, True, strides=(2, 1), same=True, dilation_rate=(1, 1), groups=1)
    for array, copy in zip((inputs, weights, bias), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
