"""Pooling, forward and gradient, against the oracle and against TensorFlow."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.pooling import pooling as kernels
from cnnforge_kernels.geometry import output_size

SHAPES = [(2, 7, 9, 3), (1, 11, 13, 33), (3, 5, 5, 16), (1, 1, 1, 1), (2, 8, 8, 1), (2, 6, 10, 8)]
WINDOWS = [
    ((2, 2), (2, 2)),
    ((3, 3), (1, 1)),
    ((3, 2), (2, 1)),
    ((2, 2), (3, 3)),
    ((4, 4), (4, 4)),
    ((1, 3), (1, 3)),
    ((7, 5), (2, 3)),
]


def ties(shape):
    """Values of which many are equal."""
    return np.random.default_rng(1).integers(-3, 4, shape).astype(np.float32)


def run(inputs, pool_size, strides, same):
    sizes = [output_size(inputs.shape[1 + a], pool_size[a], strides[a], 1, same) for a in (0, 1)]
    shape = (len(inputs), *sizes, inputs.shape[3])
    largest, mean = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    small = pool_size[0] * pool_size[1] <= 256
    argmax = np.full(shape, 255 if small else -5, np.uint8 if small else np.int32)
    grads = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    grad_largest, grad_mean = np.full_like(inputs, np.nan), np.full_like(inputs, np.nan)
    window = (pool_size, strides, same)
    kernels.max_pool2d_forward(inputs, *window, largest, argmax)
    kernels.max_pool2d_grad_inputs(inputs, argmax, *window, grads, grad_largest)
    kernels.average_pool2d_forward(inputs, *window, mean)
    kernels.average_pool2d_grad_inputs(inputs, *window, grads, grad_mean)
    return largest, argmax, mean, grads, grad_largest, grad_mean


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("pool_size", "strides"), [*WINDOWS, ((17, 17), (1, 1))])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_oracle(shape, pool_size, strides, same):
    inputs = ties(shape)
    largest, argmax, mean, grads, grad_largest, grad_mean = run(inputs, pool_size, strides, same)
    options = {"pool_size": pool_size, "strides": strides, "same": same}
    best, cells = reference.max_pool2d(inputs, **options)
    np.testing.assert_array_equal(largest, best)
    np.testing.assert_array_equal(argmax, cells)
    area = pool_size[0] * pool_size[1]
    assert_close(grad_largest, reference.max_pool2d_grad(inputs, grads, **options), area)
    assert_close(mean, reference.average_pool2d(inputs, **options), area)
    assert_close(grad_mean, reference.average_pool2d_grad(inputs, grads, **options), area)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("pool_size", "strides"), WINDOWS)
def test_against_tensorflow(pool_size, strides, same):
    for shape in SHAPES:
        if not same and (shape[1] < pool_size[0] or shape[2] < pool_size[1]):
            continue
        inputs = ties(shape)
        largest, _, mean, grads, grad_largest, grad_mean = run(inputs, pool_size, strides, same)
        padding, area = "SAME" if same else "VALID", pool_size[0] * pool_size[1]
        tensor = tf.constant(inputs)
        for pool, got, gradient in (
            (tf.nn.max_pool2d, largest, grad_largest),
            (tf.nn.avg_pool2d, mean, grad_mean),
        ):
            with tf.GradientTape() as tape:
                tape.watch(tensor)
                result = pool(tensor, pool_size, strides, padding)
            expected = tape.gradient(result, tensor, output_gradients=tf.constant(grads))
            if pool is tf.nn.max_pool2d:
                np.testing.assert_array_equal(got, result.numpy())
            else:
                assert_close(got, result.numpy(), 4 * area)
                if pool_size[0] > shape[1] or pool_size[1] > shape[2]:
                    continue  # there its gradient is wrong: see the next test
            assert_close(gradient, expected.numpy(), 4 * area)


def test_average_of_a_window_larger_than_the_image():
    """TensorFlow 2.21's own gradient is not that of its own forward pass here; ours is."""
    inputs = np.random.default_rng(1).standard_normal((1, 3, 3, 1)).astype(np.float32)
    *_, grads, _, gradient = run(inputs, (5, 5), (2, 2), True)
    step = 0.5
    for place in np.ndindex(inputs.shape):
        moved = [inputs.copy(), inputs.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        high, low = (tf.nn.avg_pool2d(x, (5, 5), (2, 2), "SAME").numpy() for x in moved)
        slope = ((high - low) / (2 * step) * grads).sum()
        assert abs(slope - gradient[place]) < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-42])
def test_special_values(value):
    inputs = ties((1, 4, 6, 5))
    inputs[0, 1, 2, 3] = value
    inputs[0, 2, 2, :] = value
    for pool_size, strides in (((2, 2), (2, 2)), ((3, 3), (1, 1))):
        largest, argmax, _, _, _, _ = run(inputs, pool_size, strides, True)
        best, cells = reference.max_pool2d(inputs, pool_size=pool_size, strides=strides, same=True)
        np.testing.assert_array_equal(largest, best.astype(np.float32))
        np.testing.assert_array_equal(argmax, cells)


def test_every_channel_count_up_to_two_registers():
    for channels, window in itertools.product(range(1, 34), ((2, 2), (3, 3))):
        inputs = ties((1, 5, 6, channels))
        largest, argmax, *_ = run(inputs, window, (2, 2), True)
        best, cells = reference.max_pool2d(inputs, pool_size=window, strides=(2, 2), same=True)
        np.testing.assert_array_equal(largest, best)
        np.testing.assert_array_equal(argmax, cells)


def test_empty_batch():
    largest, argmax, *_ = run(ties((0, 4, 4, 3)), (2, 2), (2, 2), False)
    assert largest.shape == argmax.shape == (0, 2, 2, 3)
