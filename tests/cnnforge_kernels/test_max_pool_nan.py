"""Max pooling of NaN and of minus infinity: TensorFlow's results on the CPU, and ours.

TensorFlow (2.21) contradicts itself: its forward pass passes over a NaN that its gradient goes to,
and a window of nothing but NaN or minus infinity gives the lowest finite number. There is no
answer of its to follow. Ours is torch's: NaN in, NaN out, so that a broken network shows; the
first NaN of a window has the gradient; a window of minus infinity gives minus infinity. A test that
fails here after an update says that TensorFlow has changed: look at docs/design.md, section 8.
"""

import numpy as np
import pytest
import tensorflow as tf

import cnnforge_kernels as kernels
from cnnforge_kernels import reference

NAN, INF = np.nan, np.inf
LOWEST = np.finfo(np.float32).min
# name -> (window of 2 x 2, TensorFlow's maximum, the cell its gradient goes to, the maximum of its
# max_pool_with_argmax, our maximum, our cell)
WINDOWS = {
    "NaN first": ((NAN, 1, 2, 3), 3, 0, NAN, NAN, 0),
    "NaN in the middle": ((1, NAN, 2, 0), 2, 2, 2, NAN, 1),
    "NaN last": ((3, 2, 1, NAN), 3, 0, 3, NAN, 3),
    "two NaN": ((1, NAN, NAN, 5), 5, 3, 5, NAN, 1),
    "NaN and infinity": ((INF, NAN, 1, 2), INF, 0, INF, NAN, 1),
    "NaN and minus infinity": ((-INF, NAN, -INF, -INF), LOWEST, 0, -INF, NAN, 1),
    "nothing but NaN": ((NAN,) * 4, LOWEST, 0, NAN, NAN, 0),
    "nothing but minus infinity": ((-INF,) * 4, LOWEST, 0, -INF, -INF, 0),
    "minus infinity and a number": ((-INF, -INF, -5, -INF), -5, 2, -5, -5, 2),
    "infinity": ((1, INF, 2, INF), INF, 1, INF, INF, 1),
}


def as_image(window):
    return np.array(window, np.float32).reshape(1, 2, 2, 1)


@pytest.mark.parametrize("name", WINDOWS)
def test_tensorflows_maximum_of_nan(name):
    window, best, cell, best_with_argmax, _, _ = WINDOWS[name]
    inputs = tf.constant(as_image(window))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.nn.max_pool2d(inputs, 2, 2, "VALID")
    gradient = tape.gradient(outputs, inputs).numpy().ravel()
    found = outputs.numpy().item(), tuple(gradient.nonzero()[0])
    np.testing.assert_equal(found, (np.float32(best).item(), (cell,)))
    with_argmax = tf.nn.max_pool_with_argmax(inputs, 2, 2, "VALID")[0].numpy().item()
    np.testing.assert_equal(with_argmax, np.float32(best_with_argmax).item())


@pytest.mark.parametrize("channels", [1, 3, 16, 19])
@pytest.mark.parametrize("name", WINDOWS)
def test_our_maximum_of_nan(name, channels):
    window, _, _, _, best, cell = WINDOWS[name]
    inputs = np.repeat(as_image(window), channels, 3)
    outputs, argmax = kernels.max_pool2d(inputs)
    np.testing.assert_array_equal(outputs, np.full((1, 1, 1, channels), best, np.float32))
    np.testing.assert_array_equal(argmax, np.full((1, 1, 1, channels), cell))
    oracle, cells = reference.max_pool2d(inputs)
    np.testing.assert_array_equal(outputs, oracle.astype(np.float32))
    np.testing.assert_array_equal(argmax, cells)
    gradient = kernels.max_pool2d_grad(np.ones_like(outputs), argmax, inputs.shape)
    expected = np.zeros((4, channels), np.float32)
    expected[cell] = 1
    np.testing.assert_array_equal(gradient.reshape(4, channels), expected)


@pytest.mark.parametrize("name", WINDOWS)
def test_fused_block_with_nan(name):
    """A ReLU stands before its pool: NaN stays NaN; what is not above zero has no gradient.

    So do convolution, ReLU and pooling one after the other, in TensorFlow as well: its ReLU, too,
    passes gradients on only where its outputs are above zero, which NaN is not.
    """
    window, _, _, _, best, cell = WINDOWS[name]
    outputs, argmax = kernels.conv_block(as_image(window), np.ones((1, 1, 1, 1), np.float32))
    np.testing.assert_equal(outputs.item(), np.maximum(np.float32(best), np.float32(0)).item())
    assert argmax.item() == (cell if best > 0 else 255)


def test_tensorflows_relu_and_nan():
    inputs = tf.constant(np.float32([NAN, -1, 2]))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.nn.relu(inputs)
    np.testing.assert_array_equal(outputs, np.float32([NAN, 0, 2]))
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), np.float32([0, 0, 1]))
