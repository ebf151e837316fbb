"""Global average pooling and its gradient, against the oracle and against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.pooling import global_average as kernels

SHAPES = [
    (2, 7, 7, 64),
    (1, 1, 1, 1),
    (3, 5, 9, 3),
    (2, 40, 33, 24),
    (1, 20, 30, 100),
    (9, 4, 4, 8),
]


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(inputs):
    outputs = np.full((inputs.shape[0], inputs.shape[3]), np.nan, np.float32)
    kernels.global_average_pool2d_forward(inputs, outputs)
    grads, grad_inputs = values(outputs.shape, 1), np.full(inputs.shape, np.nan, np.float32)
    kernels.global_average_pool2d_grad_inputs(inputs, grads, grad_inputs)
    return outputs, grads, grad_inputs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_oracle(shape):
    inputs = values(shape)
    outputs, grads, grad_inputs = run(inputs)
    assert_close(outputs, reference.global_average_pool2d(inputs), shape[1] * shape[2])
    assert_close(grad_inputs, reference.global_average_pool2d_grad(inputs, grads), 1)


def test_every_channel_count_up_to_two_registers():
    for channels in range(1, 34):
        inputs = values((2, 17, 16, channels))
        outputs, grads, grad_inputs = run(inputs)
        assert_close(outputs, reference.global_average_pool2d(inputs), 272)
        assert_close(grad_inputs, reference.global_average_pool2d_grad(inputs, grads), 1)


@pytest.mark.parametrize("shape", [(1, 1000, 1000, 1), (2, 300, 200, 20)], ids=str)
def test_mean_of_a_large_map_is_accurate(shape):
    """A plain float32 sum of these is wrong in the fifth digit."""
    inputs = values(shape) + np.float32(100)
    outputs, *_ = run(inputs)
    assert_close(outputs, reference.global_average_pool2d(inputs), 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_tensorflow(shape):
    inputs = values(shape)
    outputs, grads, grad_inputs = run(inputs)
    tensor = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        result = tf.reduce_mean(tensor, (1, 2))
    expected = tape.gradient(result, tensor, output_gradients=tf.constant(grads))
    # TensorFlow's own sum has an error too.
    assert_close(outputs, result.numpy(), 4 * shape[1] * shape[2])
    assert_close(grad_inputs, expected.numpy(), 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-42])
def test_special_values(value):
    inputs = values((2, 9, 8, 20)) * np.float32(1e-42 if abs(value) < 1 else 1)
    inputs[1, 3, 4, 17] = value
    outputs, *_ = run(inputs)
    expected = tf.reduce_mean(inputs, (1, 2)).numpy()
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-6)


def test_empty_map():
    assert run(values((0, 4, 4, 3)))[0].shape == (0, 3)
    assert np.isnan(run(values((2, 0, 4, 3)))[0]).all()
    assert np.isnan(tf.reduce_mean(values((2, 0, 4, 3)), (1, 2))).all()
