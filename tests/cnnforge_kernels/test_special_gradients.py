"""The gradients of what is special about floats and shapes: the same as TensorFlow's on the CPU.

As in ``test_special_values.py``, for every gradient of every op. Values are small integers, so that
sums are exact, and results must be equal, NaN and infinities in the same places.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import cnnforge_kernels as kernels

SHAPE, DENORMAL = (2, 6, 7, 3), np.float32(1e-42)


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


WEIGHTS, DEPTHWISE, BIAS = integers(3, 3, 3, 5, seed=1), integers(3, 3, 3, 2, seed=1), integers(6)


class Op(NamedTuple):
    """Our gradients of (inputs, grad_outputs), and TensorFlow's op, of inputs and weights."""

    ours: Callable[..., tuple]
    theirs: Callable[..., Any]
    weights: tuple = ()


def conv2d(x, g):
    options: dict[str, Any] = {"padding": "same"}
    options["outputs"] = kernels.conv2d(x, WEIGHTS, BIAS[:5], activation="relu", **options)
    return (
        kernels.conv2d_grad_inputs(g, WEIGHTS, x.shape, **options),
        *kernels.conv2d_grad_weights(x, g, WEIGHTS.shape, **options),
    )


def strided_conv2d(x, g):
    options: dict[str, Any] = {"padding": "same", "strides": 2}
    return (
        kernels.conv2d_grad_inputs(g, WEIGHTS, x.shape, **options),
        *kernels.conv2d_grad_weights(x, g, WEIGHTS.shape, **options),
    )


def depthwise_conv2d(x, g):
    options: dict[str, Any] = {"padding": "same"}
    options["outputs"] = kernels.depthwise_conv2d(x, DEPTHWISE, BIAS, activation="relu", **options)
    return (
        kernels.depthwise_conv2d_grad_inputs(g, DEPTHWISE, x.shape, **options),
        *kernels.depthwise_conv2d_grad_weights(x, g, DEPTHWISE.shape, **options),
    )


def conv_block(x, g):
    options: dict[str, Any] = {"padding": "same", "pool_size": (2, 1)}
    _, argmax = kernels.conv_block(x, WEIGHTS, BIAS[:5], **options)
    return (
        kernels.conv_block_grad_inputs(g, argmax, WEIGHTS, x.shape, **options),
        *kernels.conv_block_grad_weights(x, g, argmax, WEIGHTS.shape, **options),
    )


def max_pool2d(x, g):
    options: dict[str, Any] = {"pool_size": 3, "strides": 2, "padding": "same"}
    _, argmax = kernels.max_pool2d(x, **options)
    return (kernels.max_pool2d_grad(g, argmax, x.shape, **options),)


def relu(x):
    """A ReLU that, off, passes nothing back: see ``test_gradients_at_a_relu_that_is_off``."""
    return tf.where(x > 0, x, tf.zeros_like(x))


def theirs_conv2d(x, w, b):
    return relu(tf.nn.bias_add(tf.nn.conv2d(x, w, 1, "SAME"), b))


OPS = {
    "conv2d": Op(conv2d, theirs_conv2d, (WEIGHTS, BIAS[:5])),
    "conv2d with strides": Op(
        strided_conv2d,
        lambda x, w, b: tf.nn.bias_add(tf.nn.conv2d(x, w, 2, "SAME"), b),
        (WEIGHTS, BIAS[:5]),
    ),
    "depthwise_conv2d": Op(
        depthwise_conv2d,
        lambda x, w, b: relu(tf.nn.bias_add(tf.nn.depthwise_conv2d(x, w, (1,) * 4, "SAME"), b)),
        (DEPTHWISE, BIAS),
    ),
    "conv_block": Op(
        conv_block,
        lambda x, w, b: tf.nn.max_pool2d(theirs_conv2d(x, w, b), (2, 1), (2, 1), "VALID"),
        (WEIGHTS, BIAS[:5]),
    ),
    "max_pool2d": Op(max_pool2d, lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME")),
    # Windows of one, two and four cells: the quotients are exact.
    "average_pool2d": Op(
        lambda x, g: (
            kernels.average_pool2d_grad(g, x.shape, pool_size=2, strides=1, padding="same"),
        ),
        lambda x: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
    ),
    "global_average_pool2d": Op(
        lambda x, g: (kernels.global_average_pool2d_grad(g, x.shape),),
        lambda x: tf.reduce_mean(x, (1, 2)),
    ),
}


def gradients(op, inputs, grads=None, seed=3):
    """The upstream gradient, our gradients, and those of TensorFlow."""
    sources = [tf.constant(value) for value in (inputs, *op.weights)]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = op.theirs(*sources)
    if grads is None:
        grads = integers(*outputs.shape, seed=seed)
    expected = tape.gradient(outputs, sources, output_gradients=tf.constant(grads))
    return op.ours(inputs, grads), [value.numpy() for value in expected]


def assert_equal(name, got, expected):
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        if name == "global_average_pool2d":
            # A quotient of any number of pixels is rounded.
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs)


SHAPES = {
    "ties": SHAPE,
    "no images": (0, 6, 7, 3),
    "one pixel": (2, 1, 1, 3),
    "a window wider than the image": (1, 6, 1, 3),
    "a window higher than the image": (3, 2, 5, 3),
}
# conv_block's pool is VALID; the next test is about windows that do not fit.
TOO_SMALL = {("conv_block", "one pixel")}


@pytest.mark.parametrize("situation", SHAPES)
@pytest.mark.parametrize("name", OPS)
def test_shapes(name, situation):
    if (name, situation) in TOO_SMALL:
        pytest.skip("the pool does not fit: see test_windows_that_do_not_fit")
    got, expected = gradients(OPS[name], integers(*SHAPES[situation]))
    if (name, situation) == ("depthwise_conv2d", "no images"):
        # TensorFlow (2.21) does not write this gradient.
        expected[1] = np.zeros_like(DEPTHWISE)
    assert_equal(name, got, expected)


@pytest.mark.parametrize("name", OPS)
def test_noncontiguous_arrays(name):
    op = OPS[name]
    inputs = integers(2, 7, 12, 3).transpose(0, 2, 1, 3)[:, ::-2]
    grads = integers(*op.theirs(inputs, *op.weights).shape, seed=3)[..., ::-1]
    assert not inputs.flags.c_contiguous
    assert not grads.flags.c_contiguous
    assert_equal(name, *gradients(op, inputs, grads))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_nonfinite_gradients(name, value):
    op, inputs = OPS[name], integers(*SHAPE)
    grads = integers(*op.theirs(inputs, *op.weights).shape, seed=3)
    grads[0, ..., 1] = np.where(grads[0, ..., 1] > 2, value, grads[0, ..., 1])
    grads[1, ..., -1] = value
    got, expected = gradients(op, inputs, grads)
    assert_equal(name, got, expected)
    assert not np.isfinite(got[0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_gradients_at_a_relu_that_is_off(value):
    """TensorFlow multiplies by zero, which gives NaN; we (and torch) let nothing through."""
    inputs = np.float32([1, -1, 0]).reshape(1, 1, 3, 1)
    one, grads = np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 3, 1), value, np.float32)
    tensor = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        outputs = tf.nn.relu(tensor)
    theirs = tape.gradient(outputs, tensor, output_gradients=tf.constant(grads))
    np.testing.assert_array_equal(np.ravel(theirs), [value, np.nan, np.nan])
    ours = kernels.conv2d_grad_inputs(grads, one, inputs.shape, outputs=outputs.numpy())
    np.testing.assert_array_equal(ours.ravel(), [value, 0, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_nonfinite_inputs(name, value):
    # A convolution of infinity, too, has NaN in it: zero times infinity.
    if name == "conv_block" or (name == "max_pool2d" and np.isnan(value)):
        pytest.skip("TensorFlow's max pooling of NaN contradicts itself: see test_max_pool_nan.py")
    inputs = integers(*SHAPE)
    inputs[0, 2, 3, 1] = inputs[1, 5, 6, 2] = value
    assert_equal(name, *gradients(OPS[name], inputs))


@pytest.mark.parametrize("name", OPS)
def test_denormals_are_kept_or_flushed_to_zero(name):
    op, inputs = OPS[name], integers(*SHAPE)
    grads = integers(*op.theirs(inputs, *op.weights).shape, seed=3) * DENORMAL
    assert 0 < np.abs(grads).max() < np.finfo(np.float32).tiny
    for ours, theirs in zip(*gradients(op, inputs, grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-38)


def test_windows_that_do_not_fit():
    """TensorFlow's kernels return nothing; so do ours, and gradients of zero."""
    inputs = integers(2, 2, 5, 3)
    outputs = kernels.conv2d(inputs, WEIGHTS)
    assert outputs.shape == tf.nn.conv2d(inputs, WEIGHTS, 1, "VALID").shape == (2, 0, 3, 5)
    assert not kernels.conv2d_grad_inputs(outputs, WEIGHTS, inputs.shape).any()
    for gradient in kernels.conv2d_grad_weights(inputs, outputs, WEIGHTS.shape):
        assert not gradient.any()
    outputs = kernels.depthwise_conv2d(inputs, DEPTHWISE)
    theirs = tf.nn.depthwise_conv2d(inputs, DEPTHWISE, (1,) * 4, "VALID")
    assert outputs.shape == theirs.shape == (2, 0, 3, 6)
    assert not kernels.depthwise_conv2d_grad_inputs(outputs, DEPTHWISE, inputs.shape).any()
    for gradient in kernels.depthwise_conv2d_grad_weights(inputs, outputs, DEPTHWISE.shape):
        assert not gradient.any()
    outputs, argmax = kernels.max_pool2d(inputs, pool_size=3)
    assert outputs.shape == tf.nn.max_pool2d(inputs, 3, 3, "VALID").shape == (2, 0, 1, 3)
    assert not kernels.max_pool2d_grad(outputs, argmax, inputs.shape, pool_size=3).any()
    outputs = kernels.average_pool2d(inputs, pool_size=3)
    assert outputs.shape == tf.nn.avg_pool2d(inputs, 3, 3, "VALID").shape == (2, 0, 1, 3)
    assert not kernels.average_pool2d_grad(outputs, inputs.shape, pool_size=3).any()
    one_pixel = integers(2, 1, 1, 3)
    outputs, argmax = kernels.conv_block(one_pixel, WEIGHTS, padding="same")
    assert outputs.shape == (2, 0, 0, 5)
    options: dict[str, Any] = {"padding": "same"}
    got = kernels.conv_block_grad_inputs(outputs, argmax, WEIGHTS, one_pixel.shape, **options)
    assert not got.any()
    for gradient in kernels.conv_block_grad_weights(
        one_pixel, outputs, argmax, WEIGHTS.shape, **options
    ):
        assert not gradient.any()
