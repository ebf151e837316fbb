"""Drawn shapes and options: CPU kernel, TensorFlow and oracle agree, forward and every gradient.

Half of the cases have small integers as values: every sum is then exact in float32, whatever its
order, ties abound, and results must be equal. The others have values of a normal distribution and
the tolerance of `cnnforge.testing`; there, results of fewer than 8 elements are passed over, since
the few may cancel to nothing, and the tolerance with them.

Heights, batches and paddings are free. Widths, channels and filters come from small sets, because
they choose the register tile, and each tile is a kernel to be compiled on a fresh machine.
"""

import functools

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference

WIDTHS, CHANNELS, FILTERS = (1, 5, 20), (1, 3, 8), (1, 17)


def cases(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def images(draw):
    """(shape, numbers): a shape (N, H, W, C), and a function that makes arrays of values."""
    shape = (
        draw(st.integers(0, 3)),
        draw(st.integers(1, 20)),
        draw(st.sampled_from(WIDTHS)),
        draw(st.sampled_from(CHANNELS)),
    )
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    exact = draw(st.booleans())

    def numbers(*size):
        drawn = random.integers(-3, 4, size) if exact else random.standard_normal(size)
        return drawn.astype(np.float32)

    return shape, numbers, exact


windows_of_convolutions = st.tuples(st.integers(1, 5), st.sampled_from((1, 3)))


@st.composite
def options_of_convolutions(draw, windows=windows_of_convolutions):
    """(window, strides, dilation, same): those of Keras, where one of the two must be 1."""
    one, two = st.just((1, 1)), st.sampled_from([(1, 1), (2, 2), (3, 1), (1, 2), (3, 2)])
    strides, dilation = draw(st.one_of(st.tuples(two, one), st.tuples(one, two)))
    return draw(windows), strides, dilation, draw(st.booleans())


def compare(results, expected, terms, exact, slack=1):
    for got, want, count in zip(results, expected, terms, strict=True):
        want = np.asarray(want)
        assert got.shape == want.shape
        # What only meets padding is exactly zero: no part of the rms.
        there = want != 0
        assert not got[~there].any()
        if exact:
            np.testing.assert_array_equal(got, want)
        elif there.sum() >= 8:
            assert_close(got[there], want[there], slack * count)


def tensorflow(function, tensors, grads):
    """The result of a function of TensorFlow, and the gradients of its arguments."""
    tensors = [tf.constant(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = function(*tensors)
    return result, *tape.gradient(result, tensors, output_gradients=tf.constant(grads))


def name(same):
    return "SAME" if same else "VALID"


@cases(150)
@given(
    images(),
    options_of_convolutions(),
    st.sampled_from(FILTERS),
    st.booleans(),
    st.booleans(),
)
def test_conv2d(image, window, filters, relu, grouped):
    (shape, numbers, exact), (window, strides, dilation, same) = image, window
    groups = shape[3] if grouped else 1
    inputs, filters = numbers(*shape), filters * groups
    weights, bias = numbers(*window, shape[3] // groups, filters), numbers(filters)
    ours = {
        "strides": strides,
        "padding": "same" if same else "valid",
        "dilation_rate": dilation,
        "groups": groups,
    }
    options = {"strides": strides, "same": same, "dilation_rate": dilation, "groups": groups}
    outputs = kernels.conv2d(inputs, weights, bias, activation="relu" if relu else None, **ours)
    grads, mask = numbers(*outputs.shape), outputs if relu else None
    results = (
        outputs,
        kernels.conv2d_grad_inputs(grads, weights, shape, outputs=mask, **ours),
        *kernels.conv2d_grad_weights(inputs, grads, weights.shape, outputs=mask, **ours),
    )
    area, pixels = window[0] * window[1], max(1, int(np.prod(outputs.shape[:3])))
    terms = (area * shape[3] // groups + 1, area * filters // groups, pixels, pixels)
    expected = (
        reference.conv2d(inputs, weights, bias, relu=relu, **options),
        *reference.conv2d_gradients(inputs, weights, grads, outputs=mask, **options),
    )
    compare(results, expected, terms, exact)
    # TensorFlow has no gradients for groups and for dilation on the CPU.
    if outputs.size and groups == 1 and dilation == (1, 1):

        def function(inputs, weights, bias):
            result = tf.nn.conv2d(inputs, weights, strides, name(same)) + bias
            return tf.nn.relu(result) if relu else result

        theirs = tensorflow(function, (inputs, weights, bias), grads)
        compare(results, theirs, terms, exact, slack=4)


@cases(120)
@given(
    images(),
    options_of_convolutions(st.sampled_from([(3, 3), (2, 5)])),
    st.sampled_from((1, 1, 2)),
    st.booleans(),
)
def test_depthwise_conv2d(image, window, multiplier, relu):
    (shape, numbers, exact), (window, strides, dilation, same) = image, window
    inputs, weights = numbers(*shape), numbers(*window, shape[3], multiplier)
    bias = numbers(shape[3] * multiplier)
    ours = {
        "strides": strides,
        "padding": "same" if same else "valid",
        "dilation_rate": dilation,
    }
    options = {"strides": strides, "same": same, "dilation_rate": dilation}
    outputs = kernels.depthwise_conv2d(
        inputs, weights, bias, activation="relu" if relu else None, **ours
    )
    grads, mask = numbers(*outputs.shape), outputs if relu else None
    results = (
        outputs,
        kernels.depthwise_conv2d_grad_inputs(grads, weights, shape, outputs=mask, **ours),
        *kernels.depthwise_conv2d_grad_weights(inputs, grads, weights.shape, outputs=mask, **ours),
    )
    area, pixels = window[0] * window[1], max(1, int(np.prod(outputs.shape[:3])))
    terms = (area + 1, area * multiplier, pixels, pixels)
    expected = (
        reference.depthwise_conv2d(inputs, weights, bias, relu=relu, **options),
        *reference.depthwise_conv2d_gradients(inputs, weights, grads, outputs=mask, **options),
    )
    compare(results, expected, terms, exact)
    # TensorFlow computes no strides that differ, and for dilation changes the batch.
    if outputs.size and strides[0] == strides[1] and dilation == (1, 1):

        def function(inputs, weights, bias):
            result = tf.nn.depthwise_conv2d(inputs, weights, (1, *strides, 1), name(same)) + bias
            return tf.nn.relu(result) if relu else result

        theirs = tensorflow(function, (inputs, weights, bias), grads)
        compare(results, theirs, terms, exact, slack=4)


pools = st.tuples(st.integers(1, 5), st.integers(1, 5))


@cases(110)
@given(images(), pools, st.one_of(st.none(), pools), st.booleans())
def test_max_pool2d(image, pool_size, strides, same):
    shape, numbers, exact = image
    inputs = numbers(*shape)
    ours = {"pool_size": pool_size, "strides": strides, "padding": name(same).lower()}
    options = {"pool_size": pool_size, "strides": strides, "same": same}
    outputs, argmax = kernels.max_pool2d(inputs, **ours)
    grads = numbers(*outputs.shape)
    result = kernels.max_pool2d_grad(grads, argmax, shape, **ours)
    best, cells = reference.max_pool2d(inputs, **options)
    np.testing.assert_array_equal(outputs, best)
    np.testing.assert_array_equal(argmax, cells)
    area = pool_size[0] * pool_size[1]
    expected = reference.max_pool2d_grad(inputs, grads, **options)
    compare([result], [expected], [area], exact)
    if outputs.size:
        pool = functools.partial(
            tf.nn.max_pool2d, ksize=pool_size, strides=strides or pool_size, padding=name(same)
        )
        theirs = tensorflow(pool, (inputs,), grads)
        np.testing.assert_array_equal(outputs, theirs[0])
        compare([result], theirs[1:], [area], exact, slack=4)


@cases(90)
@given(images(), pools, st.one_of(st.none(), pools), st.booleans())
def test_average_pool2d(image, pool_size, strides, same):
    # A quotient is not exact: values of one sign, which cannot cancel, take the place of integers.
    shape, numbers, _ = image
    inputs = 1 + np.abs(numbers(*shape))
    ours = {"pool_size": pool_size, "strides": strides, "padding": name(same).lower()}
    options = {"pool_size": pool_size, "strides": strides, "same": same}
    outputs = kernels.average_pool2d(inputs, **ours)
    grads = 1 + np.abs(numbers(*outputs.shape))
    result = kernels.average_pool2d_grad(grads, shape, **ours)
    area = pool_size[0] * pool_size[1]
    assert_close(outputs, reference.average_pool2d(inputs, **options), area)
    assert_close(result, reference.average_pool2d_grad(inputs, grads, **options), 2 * area)
    # TensorFlow's gradient is wrong where the window is larger than the image: test_pooling.py.
    if outputs.size and pool_size[0] <= shape[1] and pool_size[1] <= shape[2]:
        pool = functools.partial(
            tf.nn.avg_pool2d, ksize=pool_size, strides=strides or pool_size, padding=name(same)
        )
        theirs = tensorflow(pool, (inputs,), grads)
        assert_close(outputs, theirs[0].numpy(), 4 * area)
        assert_close(result, theirs[1].numpy(), 4 * 2 * area)


@cases(110)
@given(
    images(),
    options_of_convolutions(),
    st.sampled_from(FILTERS),
    st.booleans(),
    st.sampled_from([(2, 2), (3, 2), (1, 2), (4, 4)]),
)
def test_conv_block(image, window, filters, grouped, pool_size):
    (shape, numbers, exact), (window, strides, dilation, same) = image, window
    groups = shape[3] if grouped else 1
    inputs, filters = numbers(*shape), filters * groups
    weights, bias = numbers(*window, shape[3] // groups, filters), numbers(filters)
    ours = {
        "strides": strides,
        "padding": "same" if same else "valid",
        "dilation_rate": dilation,
        "groups": groups,
        "pool_size": pool_size,
    }
    options = {"strides": strides, "same": same, "dilation_rate": dilation, "groups": groups}
    outputs, argmax = kernels.conv_block(inputs, weights, bias, **ours)
    grads = numbers(*outputs.shape)
    results = (
        outputs,
        kernels.conv_block_grad_inputs(grads, argmax, weights, shape, **ours),
        *kernels.conv_block_grad_weights(inputs, grads, argmax, weights.shape, **ours),
    )
    best, cells = reference.conv_block(inputs, weights, bias, pool_size=pool_size, **options)
    area, pixels = window[0] * window[1], max(1, int(np.prod(outputs.shape[:3])))
    terms = (area * shape[3] // groups + 1, area * filters // groups, pixels, pixels)
    if exact:
        np.testing.assert_array_equal(argmax, cells)
    expected = reference.conv_block_gradients(
        inputs, weights, argmax, grads, pool_size=pool_size, **options
    )
    compare(results, (best, *expected), terms, exact)
    if outputs.size and groups == 1 and dilation == (1, 1):

        def function(inputs, weights, bias):
            result = tf.nn.relu(tf.nn.conv2d(inputs, weights, strides, name(same)) + bias)
            return tf.nn.max_pool2d(result, pool_size, pool_size, "VALID")

        theirs = tensorflow(function, (inputs, weights, bias), grads)
        compare(results, theirs, terms, exact, slack=4)
