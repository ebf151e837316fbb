"""Dropout and its gradient: the oracle's mask and TensorFlow's, bit for bit."""

import numba
import numpy as np
import pytest
import tensorflow as tf

import cnnforge_kernels as kernels
from cnnforge_kernels import reference
from cnnforge_kernels.cpu import dropout as cpu

RATES = [0.25, 0.5, 0.1, 0.999, 1e-9, 1 - 2**-40, 0.0]
# Around a block, a vector and a task; the last ones have several tasks.
SIZES = [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 100, 16383, 16384, 16385, 50001, 98304]
# The 128-bit counter carries within a vector, at its end, between tasks, and at its very end.
COUNTERS = [
    (0, 0),
    (2**32 - 3, 5),
    (2**64 - 1, 0),
    (2**64 - 4, 2**32 - 1),
    (2**64 - 4096, 7),
    (2**64 - 5000, 2**32 - 1),
    (2**64 - 9, 2**64 - 1),
]
KEY = np.array([0x243F6A8885A308D3], np.uint64)
COUNTER = np.array([5, 7], np.uint64)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def key_and_counter(seed):
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return key.numpy(), counter.numpy()


def test_words_of_the_published_generator():
    """The known answers of Random123, the authors' own implementation."""
    ones = 2**64 - 1
    answers = {
        (0, 0, 0): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (ones, ones, ones): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        # The digits of pi.
        (0x299F31D0A4093822, 0x85A308D3243F6A88, 0x0370734413198A2E): (
            0xD16CFE09,
            0x94FDCCEB,
            0x5001E420,
            0x24126EA1,
        ),
    }
    for (key, low, high), expected in answers.items():
        words = reference.philox(4, np.array([key], "u8"), np.array([low, high], "u8"))
        assert tuple(words) == expected


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("counter", COUNTERS, ids=str)
def test_mask_of_the_oracle(counter, rate):
    counter = np.array(counter, np.uint64)
    inputs = values(50001)
    outputs, mask = kernels.dropout(inputs, KEY, counter, rate)
    expected, kept = reference.dropout(inputs, KEY, counter, rate)
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(outputs, expected, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("counter", COUNTERS, ids=str)
def test_mask_of_tensorflow(counter):
    counter = np.array(counter, np.uint64)
    philox = {"key": KEY, "counter": counter, "alg": 1}
    for size in SIZES:
        uniform = tf.raw_ops.StatelessRandomUniformV2(shape=[size], **philox).numpy()
        for rate in RATES:
            _, mask = kernels.dropout(values(size), KEY, counter, rate)
            np.testing.assert_array_equal(mask, uniform >= np.float32(rate))


@pytest.mark.parametrize("seed", range(20))
def test_same_bits_as_tensorflow(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 40, random.integers(1, 5)))
    rate = float(random.uniform(0.01, 0.99))
    key, counter = key_and_counter(words := random.integers(0, 2**31 - 2, 2))
    inputs, grads = values(*shape, seed=seed), values(*shape, seed=seed + 1)
    tensor = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        expected = tf.nn.experimental.stateless_dropout(tensor, rate, words)
    gradient = tape.gradient(expected, tensor, output_gradients=tf.constant(grads))
    outputs, mask = kernels.dropout(inputs, key, counter, rate)
    assert outputs.tobytes() == expected.numpy().tobytes()
    grad_inputs = kernels.dropout_grad(grads, mask, rate)
    # TensorFlow's gradient multiplies the zeros of what was dropped, which may leave a minus.
    np.testing.assert_array_equal(grad_inputs, gradient)
    expected = reference.dropout_grad(mask, grads, rate)
    np.testing.assert_allclose(grad_inputs, expected, rtol=2 * np.finfo(np.float32).eps)


def test_threads_change_no_bit():
    inputs = values(7 * 16384 + 5)
    threads = numba.get_num_threads()
    many = kernels.dropout(inputs, KEY, COUNTER, 0.3)
    grads = kernels.dropout_grad(inputs, many[1], 0.3)
    try:
        numba.set_num_threads(1)
        one = kernels.dropout(inputs, KEY, COUNTER, 0.3)
        alone = kernels.dropout_grad(inputs, one[1], 0.3)
    finally:
        numba.set_num_threads(threads)
    for first, second in zip((*many, grads), (*one, alone), strict=True):
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0])
def test_dropped_elements_are_zero_even_if_not_finite(value):
    inputs = np.full(1003, value, np.float32)
    outputs, mask = kernels.dropout(inputs, KEY, COUNTER, 0.5)
    grads = kernels.dropout_grad(inputs, mask, 0.5)
    assert 400 < mask.sum() < 600
    for result in (outputs, grads):
        kept = mask == 1
        np.testing.assert_array_equal(result[kept], inputs[kept] * 2)
        assert result[~kept].tobytes() == bytes(4 * int((~kept).sum()))


def test_nothing_around_the_results_is_written():
    for size in (*range(70), 16385):
        source, target = values(size + 2), np.full(size + 2, 7, np.float32)
        mask = np.full(size + 2, 7, np.uint8)
        inner = slice(1, -1)  # Not aligned to anything but an element.
        expected, kept = kernels.dropout(source[inner].copy(), KEY, COUNTER, 0.5)
        cpu.dropout_forward(source[inner], KEY, COUNTER, 0.5, target[inner], mask[inner])
        np.testing.assert_array_equal(target, [7, *expected, 7])
        np.testing.assert_array_equal(mask, [7, *kept, 7])
        target[:] = 7
        cpu.dropout_grad_inputs(mask[inner], 0.5, source[inner], target[inner])
        np.testing.assert_array_equal(target, [7, *expected, 7])


def test_any_shape_and_a_given_output():
    for shape in [(), (0, 3), (2, 3, 4, 5), (3, 1)]:
        inputs, out = values(*shape), np.full(shape, np.nan, np.float32)
        outputs, mask = kernels.dropout(inputs, KEY, COUNTER, 0.5, out=out)
        assert outputs is out
        assert outputs.shape == mask.shape == shape
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(outputs, np.where(mask, 2 * inputs, 0))
    turned = values(4, 5).T
    outputs, mask = kernels.dropout(turned, KEY, COUNTER, 0.5)
    np.testing.assert_array_equal(outputs, np.where(mask, 2 * turned, 0))
    np.testing.assert_array_equal(kernels.dropout_grad(turned, mask, 0.5), outputs)


class OnDevice:
    """An array in the memory of a graphics card, as a library describes it."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (3,),
        "typestr": "<f4",
        "data": (256, False),
        "version": 3,
    }


X, MASK = values(3), np.ones(3, np.uint8)
MISTAKES = {
    "dtype": (lambda: kernels.dropout(X.astype("d"), KEY, COUNTER, 0.5), "`inputs` .* float64"),
    "list": (lambda: kernels.dropout([1.0], KEY, COUNTER, 0.5), "`inputs` .* list"),
    "device": (
        lambda: kernels.dropout(OnDevice(), KEY, COUNTER, 0.5),
        "`inputs` must be a NumPy array: dropout has no kernel for CUDA devices",
    ),
    "device out": (
        lambda: kernels.dropout(X, KEY, COUNTER, 0.5, out=OnDevice()),
        "`out` must be a NumPy array",
    ),
    "key": (
        lambda: kernels.dropout(X, COUNTER, COUNTER, 0.5),
        r"`key` must be a uint64 NumPy array of shape \(1,\). Received: uint64 \(2,\)",
    ),
    "counter": (
        lambda: kernels.dropout(X, KEY, COUNTER.view("i8"), 0.5),
        r"`counter` must be a uint64 NumPy array of shape \(2,\). Received: int64",
    ),
    "rate": (
        lambda: kernels.dropout(X, KEY, COUNTER, 1),
        "`rate` must be a number from 0 to below 1. Received: 1",
    ),
    "negative": (lambda: kernels.dropout(X, KEY, COUNTER, -0.1), "Received: -0.1"),
    "nan": (lambda: kernels.dropout_grad(X, MASK, np.nan), "Received: nan"),
    "text": (lambda: kernels.dropout_grad(X, MASK, "0.5"), "Received: '0.5'"),
    "out shape": (
        lambda: kernels.dropout(X, KEY, COUNTER, 0.5, out=values(4)),
        r"`out` must be a writeable C-contiguous float32 array of shape \(3,\)",
    ),
    "overlap": (lambda: kernels.dropout(X, KEY, COUNTER, 0.5, out=X), "must not overlap"),
    "mask shape": (
        lambda: kernels.dropout_grad(X, MASK[:2], 0.5),
        r"`mask` must be a uint8 NumPy array of shape \(3,\). Received: uint8 \(2,\)",
    ),
    "mask dtype": (lambda: kernels.dropout_grad(X, MASK.astype("?"), 0.5), "Received: bool"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_error_names_the_argument(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()
