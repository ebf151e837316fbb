"""Special floats and shapes: the same answer as TensorFlow on the CPU.

Ties, NaN, infinities, denormals, no images at all, images of one pixel, windows larger than the
image, arrays that are not contiguous. Values are small integers, so that sums are exact, and
results must be equal, NaN and infinities in the same places.
"""

import numpy as np
import pytest
import tensorflow as tf

import cnnforge_kernels as kernels

SHAPE, DENORMAL = (2, 6, 7, 3), np.float32(1e-42)


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def with_value(value, *shape):
    inputs = integers(*(shape or SHAPE))
    inputs[0, 2, 3, 1] = value
    inputs[1, 5, 6, :] = value
    inputs[1, 0, 0, 2] = -value
    return inputs


def max_pool2d(inputs, *options):
    """TensorFlow's, which on the CPU ignores a NaN (2.21); the kernels say NaN in, NaN out."""
    missing = tf.cast(tf.math.is_nan(inputs), tf.float32)
    missing = tf.nn.max_pool2d(missing, *options) > 0
    return tf.where(missing, np.float32(np.nan), tf.nn.max_pool2d(inputs, *options))


WEIGHTS, DEPTHWISE = integers(3, 3, 3, 5, seed=1), integers(3, 3, 3, 2, seed=1)
# name -> (ours, TensorFlow's): functions of the inputs.
OPS = {
    "conv2d": (
        lambda x: kernels.conv2d(x, WEIGHTS, padding="same"),
        lambda x: tf.nn.conv2d(x, WEIGHTS, 1, "SAME"),
    ),
    "conv2d, relu": (
        lambda x: kernels.conv2d(x, WEIGHTS, padding="same", strides=2, activation="relu"),
        lambda x: tf.nn.relu(tf.nn.conv2d(x, WEIGHTS, 2, "SAME")),
    ),
    "conv_block": (
        lambda x: kernels.conv_block(x, WEIGHTS, padding="same")[0],
        lambda x: max_pool2d(tf.nn.relu(tf.nn.conv2d(x, WEIGHTS, 1, "SAME")), 2, 2, "VALID"),
    ),
    "depthwise_conv2d": (
        lambda x: kernels.depthwise_conv2d(x, DEPTHWISE, padding="same", activation="relu"),
        lambda x: tf.nn.relu(tf.nn.depthwise_conv2d(x, DEPTHWISE, (1, 1, 1, 1), "SAME")),
    ),
    "max_pool2d": (
        lambda x: kernels.max_pool2d(x, pool_size=3, strides=2, padding="same")[0],
        lambda x: max_pool2d(x, 3, 2, "SAME"),
    ),
    # Windows of 4 and 8 cells: the quotients are exact.
    "average_pool2d": (
        lambda x: kernels.average_pool2d(x, pool_size=(2, 4), strides=(2, 1)),
        lambda x: tf.nn.avg_pool2d(x, (2, 4), (2, 1), "VALID"),
    ),
    "global_average_pool2d": (
        lambda x: kernels.global_average_pool2d(x[:, :4, :4]),
        lambda x: tf.reduce_mean(x[:, :4, :4], (1, 2)),
    ),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_nan_and_infinity(name, value):
    ours, theirs = OPS[name]
    inputs = with_value(value)
    expected = theirs(inputs).numpy()
    np.testing.assert_array_equal(ours(inputs), expected)
    assert not np.isfinite(expected).all()


@pytest.mark.parametrize("name", OPS)
def test_denormals_are_kept_or_flushed_to_zero(name):
    """Kernels keep them; TensorFlow flushes them to zero. Both are next to nothing."""
    ours, theirs = OPS[name]
    inputs = integers(*SHAPE) * DENORMAL
    assert np.abs(inputs[inputs != 0]).min() < np.finfo(np.float32).tiny
    np.testing.assert_allclose(ours(inputs), theirs(inputs).numpy(), rtol=0, atol=1e-39)
    mixed = with_value(DENORMAL)
    np.testing.assert_allclose(ours(mixed), theirs(mixed).numpy(), rtol=0, atol=1e-39)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(0, 6, 7, 3), (2, 6, 7, 3), (1, 20, 4, 3)], ids=str)
def test_ties_and_no_images(name, shape):
    ours, theirs = OPS[name]
    inputs = integers(*shape)
    expected = theirs(inputs).numpy()
    assert ours(inputs).shape == expected.shape
    np.testing.assert_array_equal(ours(inputs), expected)


# As above, but for windows that do not fit without padding.
PADDED = OPS | {
    "conv_block": (
        lambda x: kernels.conv_block(x, WEIGHTS, padding="same", pool_size=1)[0],
        lambda x: max_pool2d(tf.nn.relu(tf.nn.conv2d(x, WEIGHTS, 1, "SAME")), 1, 1, "VALID"),
    ),
    "average_pool2d": (
        lambda x: kernels.average_pool2d(x, pool_size=2, strides=1, padding="same"),
        lambda x: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
    ),
}


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 2, 1, 3), (3, 1, 4, 3)], ids=str)
def test_one_pixel_and_windows_larger_than_the_image(name, shape):
    ours, theirs = PADDED[name]
    inputs = integers(*shape)
    np.testing.assert_array_equal(ours(inputs), theirs(inputs).numpy())


@pytest.mark.parametrize("name", OPS)
def test_noncontiguous_arrays(name):
    ours, theirs = OPS[name]
    for inputs in (
        integers(2, 7, 6, 3).transpose(0, 2, 1, 3),
        integers(2, 12, 7, 6)[:, ::2, :, ::-2],
        np.broadcast_to(integers(1, 6, 1, 3), SHAPE),
    ):
        assert not inputs.flags.c_contiguous
        np.testing.assert_array_equal(ours(inputs), theirs(np.ascontiguousarray(inputs)).numpy())
