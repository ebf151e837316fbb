"""Large results that kernels write past the caches: the same bits as those written as usual.

A result is written past the caches only if it begins at a cache line. So each kernel runs twice,
and the second result begins one float later.
"""

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.conv import conv2d
from cnnforge_kernels.cpu.depthwise import depthwise
from cnnforge_kernels.cpu.norm import inference, training
from cnnforge_kernels.cpu.runtime.compiled import vector_lanes
from cnnforge_kernels.cpu.simd.streams import STREAM_BYTES, streams

ONE = (1, 1)


def values(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32) - np.float32(0.5)


def result(shape, offset):
    """An array full of NaN whose address is a multiple of 64 bytes plus ``offset`` floats."""
    size = int(np.prod(shape))
    held = np.full(size + 32, np.nan, np.float32)
    first = -held.ctypes.data // 4 % 16 + offset
    return held[first : first + size].reshape(shape)


def both(run, shape):
    """The result of ``run``, a function that writes an array, after both runs were compared."""
    found = [result(shape, offset) for offset in (0, 1)]
    for array, past in zip(found, (vector_lanes() == 16, False), strict=True):
        assert streams(array.ctypes.data, 4 * shape[-1], array.nbytes) == past
        run(array)
    np.testing.assert_array_equal(*found)
    return found[0]


def test_small_or_ragged_arrays_are_written_as_usual():
    assert not streams(64, 64, STREAM_BYTES - 64)
    assert not streams(64, 68, STREAM_BYTES)
    assert not streams(68, 64, STREAM_BYTES)


@pytest.mark.parametrize("channels", [16, 96])
def test_batch_norm(channels):
    shape = STREAM_BYTES // 4 // channels + 3, channels
    inputs, grads = values(*shape), values(*shape, seed=1)
    gamma, beta = 1 + values(channels, seed=2), values(channels, seed=3)
    moments = np.zeros(channels), np.full(channels, 1 / 12)
    known = inputs, gamma, beta, *moments, 1e-3, training.RELU6
    small = [np.empty(channels, np.float32) for _ in range(2)]
    outputs = both(lambda array: training.batch_norm_forward(*known, array), shape)
    normalized = inputs / np.sqrt(1 / 12 + 1e-3) * gamma.astype("d") + beta
    assert_close(outputs, np.clip(normalized, 0, 6), 4)
    found = both(lambda array: training.batch_norm_grads(*known, grads, array, *small), shape)
    assert np.isfinite(found).all()
    given = [each.astype(np.float32) for each in moments]
    known = inputs, gamma, beta, *given, 1e-3
    outputs = both(lambda array: inference.batch_norm_inference_forward(*known, array), shape)
    assert_close(outputs, normalized, 4)


@pytest.mark.parametrize("filters", [48, 112])
def test_product(filters):
    shape = 3, STREAM_BYTES // 12 // filters // 7 + 1, 7, filters
    inputs, weights = values(*shape[:3], 2), values(1, 1, 2, filters, seed=1)
    bias, options = values(filters, seed=2), (ONE, True, ONE, 1, False)

    def run(array):
        conv2d.conv2d_forward(inputs, weights, bias, *options, array)

    assert_close(both(run, shape), inputs.astype("d") @ weights[0, 0] + bias, 3)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_depthwise(strides):
    channels, width = 48, 9
    shape = 2, STREAM_BYTES // 8 // channels // width + 2, width, channels
    weights, none = values(3, 3, channels, 1, seed=1), np.zeros(0, np.float32)
    options = strides, True, ONE, False
    if strides == ONE:
        inputs = values(*shape)

        def forward(array):
            depthwise.depthwise_conv2d_forward(inputs, weights, none, *options, array)

        outputs = both(forward, shape)
        wanted = reference.depthwise_conv2d(inputs[:, :20], weights, same=True)
        assert_close(outputs[:, :19], wanted[:, :19], 9)
    size = [-(-n // stride) for n, stride in zip(shape[1:3], strides, strict=True)]
    grads = values(2, *size, channels, seed=2)
    inputs, outputs = np.empty(shape, np.float32), np.empty_like(grads)

    def backward(array):
        depthwise.depthwise_conv2d_grad_inputs(inputs, weights, outputs, *options, grads, array)

    found = both(backward, shape)
    assert np.isfinite(found).all()
    if strides == ONE:
        flipped = weights[::-1, ::-1]
        wanted = reference.depthwise_conv2d(grads[:, :20], flipped, same=True)
        assert_close(found[:, :19], wanted[:, :19], 9)
