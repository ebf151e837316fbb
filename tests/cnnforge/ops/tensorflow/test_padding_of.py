"""`padding_of` finds a padding with zeros, and only in the graph that is built."""

import numpy as np
import tensorflow as tf

from cnnforge.ops import padding_of

IMAGES = tf.ones((2, 3, 4, 1))
WIDTHS = ((0, 0), (0, 1), (2, 3), (0, 0))


def traced(function):
    """Return what a function of a tensor returns while its graph is built."""
    found = []
    tf.function(lambda x: found.append(function(x)), autograph=False).get_concrete_function(IMAGES)
    return found[0]


def test_the_tensor_and_the_widths():
    x, found = traced(lambda x: (x, padding_of(tf.pad(x, WIDTHS))))
    assert found is not None
    assert found[0] is x
    assert found[1] == WIDTHS


def test_tensors_that_are_no_padding_with_zeros():
    assert padding_of(tf.pad(IMAGES, WIDTHS)) is None
    assert padding_of(np.ones(3)) is None
    assert traced(padding_of) is None
    padded = tf.pad(IMAGES, WIDTHS)
    assert traced(lambda _: padding_of(padded)) is None
    assert traced(lambda x: padding_of(tf.pad(x, WIDTHS, constant_values=1))) is None
    assert traced(lambda x: padding_of(tf.pad(x, WIDTHS, "SYMMETRIC"))) is None
    assert traced(lambda x: padding_of(tf.pad(x, tf.shape(x)[:, None] * [0, 1]))) is None


def test_a_padding_of_another_graph():
    @tf.function(autograph=False)
    def outer(x):
        padded, found = tf.pad(x, WIDTHS), []
        tf.function(lambda: found.append(padding_of(padded)), autograph=False)()
        assert found == [None]
        return padded

    outer(IMAGES)
