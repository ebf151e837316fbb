"""Depthwise convolution, forward and every gradient, against the oracle and against TensorFlow."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.depthwise import depthwise as kernels
from cnnforge_kernels.geometry import output_size


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def run(inputs, weights, bias, relu, *, strides=(1, 1), same=True, dilation_rate=(1, 1)):
    """All results of the kernels, written over NaN: outputs and three gradients."""
    sizes = [
        output_size(inputs.shape[1 + a], weights.shape[a], strides[a], dilation_rate[a], same)
        for a in (0, 1)
    ]
    outputs = poisoned((len(inputs), *sizes, weights.shape[2] * weights.shape[3]))
    common = (strides, same, dilation_rate, relu)
    kernels.depthwise_conv2d_forward(inputs, weights, bias, *common, outputs)
    grads = values(outputs.shape, 7)
    grad_inputs, grad_weights = poisoned(inputs.shape), poisoned(weights.shape)
    grad_bias = poisoned(bias.shape)
    kernels.depthwise_conv2d_grad_inputs(inputs, weights, outputs, *common, grads, grad_inputs)
    kernels.depthwise_conv2d_grad_weights(
        inputs, weights, bias, outputs, *common, grads, grad_weights, grad_bias
    )
    return outputs, grads, (grad_inputs, grad_weights, grad_bias)


def terms(weights, outputs):
    """K of the outputs, and of the gradients."""
    kh, kw, _, multiplier = weights.shape
    pixels = outputs.shape[0] * outputs.shape[1] * outputs.shape[2]
    return kh * kw, (kh * kw * multiplier, pixels, pixels)


def check(shape, window, *, relu=True, bias=True, **options):
    """Compare with the oracle; ``window`` is (KH, KW, M)."""
    inputs, weights = values(shape, 1), values((*window[:2], shape[3], window[2]), 2)
    factors = values(shape[3] * window[2] if bias else 0, 3)
    outputs, grads, gradients = run(inputs, weights, factors, relu, **options)
    options = {"same": True} | options
    oracle = reference.depthwise_conv2d(
        inputs, weights, factors if bias else None, relu=relu, **options
    )
    forward_terms, gradient_terms = terms(weights, outputs)
    assert_close(outputs, oracle, forward_terms)
    expected = reference.depthwise_conv2d_gradients(
        inputs, weights, grads, outputs=outputs if relu else None, **options
    )
    for got, want, count in zip(gradients, expected, gradient_terms, strict=True):
        if got.size:
            # What only meets padding has a gradient of exactly zero: no part of the rms.
            there = want != 0
            assert not got[~there].any()
            assert_close(got[there], want[there], count)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (5, 5), (2, 3), (4, 1)])
def test_sizes(window, same):
    for size in [(1, 1), (2, 3), (5, 7), (13, 11), (17, 29)]:
        for batch in (1, 3):
            check((batch, *size, 16), (*window, 1), same=same)


def test_every_channel_count_up_to_two_registers():
    for channels in range(1, 34):
        check((2, 6, 5, channels), (3, 3, 1))


@pytest.mark.parametrize("channels", [48, 80, 100])
def test_blocks_of_channels_overlap(channels):
    check((2, 9, 12, channels), (3, 3, 1))


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("strides", [(2, 2), (3, 1), (1, 2), (4, 5)])
def test_strides(strides, same):
    for window in ((1, 1, 1), (3, 3, 1), (5, 2, 2)):
        check((2, 13, 17, 8), window, strides=strides, same=same)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dilation_rate", [(2, 2), (1, 3), (4, 1)])
def test_dilation(dilation_rate, same, strides):
    for window in ((3, 4, 1), (3, 2, 3)):
        check((2, 14, 19, 4), window, dilation_rate=dilation_rate, same=same, strides=strides)


@pytest.mark.parametrize("multiplier", [2, 3, 8])
@pytest.mark.parametrize("relu", [False, True])
def test_multipliers(multiplier, relu):
    for channels, same in itertools.product((1, 3, 16), (True, False)):
        check((3, 7, 9, channels), (3, 3, multiplier), relu=relu, bias=relu, same=same)


@pytest.mark.parametrize("window", [(7, 7), (9, 2), (2, 17), (11, 11)])
def test_windows_of_more_taps_than_registers(window):
    check((2, 12, 13, 8), (*window, 1))


@pytest.mark.parametrize("shape", [(1, 40, 50, 16), (20, 3, 3, 16)])
def test_many_rows_and_many_images(shape):
    for relu in (False, True):
        check(shape, (3, 3, 1), relu=relu)


TENSORFLOW_CASES = [
    ((2, 13, 11, 16), (3, 3, 1), (1, 1), (1, 1)),
    ((1, 17, 19, 3), (5, 5, 2), (1, 1), (1, 1)),
    ((2, 12, 15, 33), (3, 2, 1), (2, 2), (1, 1)),
    ((2, 14, 14, 8), (3, 3, 1), (1, 1), (2, 2)),
]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("shape", "window", "strides", "dilation"), TENSORFLOW_CASES)
def test_against_tensorflow(shape, window, strides, dilation, same):
    inputs, weights = values(shape, 1), values((*window[:2], shape[3], window[2]), 2)
    bias = values(shape[3] * window[2], 3)
    outputs, grads, gradients = run(
        inputs, weights, bias, True, strides=strides, same=same, dilation_rate=dilation
    )
    tensors = [tf.constant(array) for array in (inputs, weights, bias)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = tf.nn.depthwise_conv2d(
            tensors[0],
            tensors[1],
            (1, *strides, 1),
            "SAME" if same else "VALID",
            dilations=dilation if max(dilation) > 1 else None,
        )
        result = tf.nn.relu(result + tensors[2])
    expected = tape.gradient(result, tensors, output_gradients=tf.constant(grads))
    forward_terms, gradient_terms = terms(weights, outputs)
    # Two float32 results may differ by the sum of their errors.
    assert_close(outputs, result.numpy(), 4 * forward_terms)
    for got, want, count in zip(gradients, expected, gradient_terms, strict=True):
        assert_close(got, want.numpy(), 4 * count)


def test_nan_and_infinity_reach_their_windows_only():
    for channels, relu in itertools.product((1, 20), (False, True)):
        inputs = values((1, 6, 6, channels), 1)
        inputs[0, 0, 0, 0], inputs[0, 5, 5, 0] = np.nan, np.inf
        weights = np.ones((3, 3, channels, 2), np.float32)
        outputs, *_ = run(inputs, weights, values(0, 1), relu)
        expected = reference.depthwise_conv2d(inputs, weights, same=True, relu=relu)
        np.testing.assert_array_equal(np.isnan(outputs), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(outputs), np.isinf(expected))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_empty_batch(multiplier):
    inputs, weights = values((0, 5, 5, 4), 1), values((3, 3, 4, multiplier), 2)
    outputs, _, gradients = run(inputs, weights, values(4 * multiplier, 3), True)
    assert outputs.shape == (0, 5, 5, 4 * multiplier)
    assert not gradients[1].any()
    assert not gradients[2].any()


def test_gradients_are_zero_if_the_window_does_not_fit():
    inputs, weights = values((2, 3, 3, 4), 1), values((5, 5, 4, 1), 2)
    outputs, _, gradients = run(inputs, weights, values(4, 3), False, same=False)
    assert outputs.size == 0
    assert not any(gradient.any() for gradient in gradients)


def test_inputs_are_not_written():
    inputs, weights, bias = values((2, 9, 9, 3), 1), values((3, 3, 3, 2), 2), values(6, 3)
    copies = inputs.copy(), weights.copy(), bias.copy()
    run(inputs, weights, bias, True, strides=(2, 1))
    for array, copy in zip((inputs, weights, bias), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
