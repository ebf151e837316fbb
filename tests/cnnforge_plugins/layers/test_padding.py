"""A convolution after a `ZeroPadding2D`: it pads by itself if the padding is that of SAME."""

import keras
import pytest
import tensorflow as tf
from keras_layers import outputs_and_gradients, values

from cnnforge.testing import assert_close
from cnnforge_plugins.layers.conv2d import Conv2D, conv2d
from cnnforge_plugins.layers.depthwise_conv2d import DepthwiseConv2D, depthwise_conv2d

OURS = {"Conv2D": (Conv2D, conv2d), "DepthwiseConv2D": (DepthwiseConv2D, depthwise_conv2d)}
STRIDES = {"kernel_size": 3, "strides": 2}
# The layer, the size of the images, the padding, the window, and whether SAME pads in this way.
CASES = [
    ("DepthwiseConv2D", (8, 6), ((0, 1), (0, 1)), STRIDES, True),
    ("DepthwiseConv2D", (7, 6), ((1, 1), (0, 1)), STRIDES, True),
    ("DepthwiseConv2D", (8, 6), ((1, 1), (1, 1)), STRIDES, False),
    ("DepthwiseConv2D", (8, 6), ((1, 0), (1, 0)), STRIDES, False),
    ("Conv2D", (8, 6), ((0, 1), (0, 1)), STRIDES, True),
    ("Conv2D", (8, 6), ((2, 2), (2, 2)), {"kernel_size": 3, "dilation_rate": 2}, True),
]


def options(name, window):
    return {"filters": 3, **window} if name == "Conv2D" else window


def model(layer, padding, shape):
    """A padding and a layer, as one model."""
    before = keras.layers.ZeroPadding2D(padding, dtype=layer.dtype)
    return keras.Sequential([keras.Input(shape), before, layer])


@pytest.mark.parametrize(("name", "size", "padding", "window", "same"), CASES)
def test_values_and_gradients(name, size, padding, window, same):
    layer, op = OURS[name]
    shape, batch = (*size, 5), values(2, *size, 5)
    ours = model(layer(**options(name, window)), padding, shape)
    stock = getattr(keras.layers, name)(dtype="float64", **options(name, window))
    theirs = model(stock, padding, shape)
    ours.set_weights([values(*w.shape, seed=i) for i, w in enumerate(ours.weights)])
    theirs.set_weights(ours.get_weights())
    got = outputs_and_gradients(ours, batch, graph=True)
    expected = outputs_and_gradients(theirs, batch, graph=True)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, 5 * 49)

    def trace(inputs):
        inputs, attributes = op.call_of(ours(inputs)) or ([], {})
        found.append((inputs[0].shape[1:3], attributes["same"]))

    found = []
    tf.function(trace, autograph=False).get_concrete_function(tf.constant(batch))
    padded = tuple(n + before + after for n, (before, after) in zip(size, padding, strict=True))
    assert found == [(size, True)] if same else [(padded, False)]


@pytest.mark.parametrize("size", [(None, 6), (8, None)])
def test_sizes_that_are_not_known(size):
    layer = DepthwiseConv2D(3, strides=2)
    ours = model(layer, ((0, 1), (0, 1)), (*size, 5))
    batch = values(2, 8, 6, 5)
    run = tf.function(ours, autograph=False, input_signature=[tf.TensorSpec((None, *size, 5))])
    same = DepthwiseConv2D(3, strides=2, padding="same")
    same.build(batch.shape)
    same.set_weights(layer.get_weights())
    assert_close(run(tf.constant(batch)), same(batch), 9)
