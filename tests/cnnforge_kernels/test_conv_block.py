"""Convolution, ReLU and max pooling in one pass, and its gradients, against the oracle."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.conv import conv_block as kernels
from cnnforge_kernels.geometry import output_size


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ties(shape, seed):
    """Small integers: sums are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def run(
    inputs,
    weights,
    bias,
    *,
    pool_size=(2, 2),
    strides=(1, 1),
    same=True,
    dilation_rate=(1, 1),
    groups=1,
    numbers=values,
):
    """All results of the kernels, written over NaN and over argmax that cannot be."""
    sizes = [
        output_size(inputs.shape[1 + a], weights.shape[a], strides[a], dilation_rate[a], same)
        // pool_size[a]
        for a in (0, 1)
    ]
    outputs = np.full((len(inputs), *sizes, weights.shape[3]), np.nan, np.float32)
    argmax = np.full(outputs.shape, 254, np.uint8)
    common = (strides, same, dilation_rate, groups, pool_size)
    kernels.conv_block_forward(inputs, weights, bias, *common, outputs, argmax)
    grads = numbers(outputs.shape, 7)
    gradients = [np.full(array.shape, np.nan, np.float32) for array in (inputs, weights, bias)]
    kernels.conv_block_grad_inputs(inputs, weights, argmax, *common, grads, gradients[0])
    kernels.conv_block_grad_weights(inputs, weights, bias, argmax, *common, grads, *gradients[1:])
    return outputs, argmax, grads, gradients


def check(shape, window, filters, *, numbers=values, bias=True, groups=1, **options):
    inputs, weights = numbers(shape, 1), numbers((*window, shape[3] // groups, filters), 2)
    factors = numbers(filters if bias else 0, 3)
    outputs, argmax, grads, gradients = run(
        inputs, weights, factors, groups=groups, numbers=numbers, **options
    )
    options = {"same": True, "groups": groups} | options
    best, cells = reference.conv_block(inputs, weights, factors if bias else None, **options)
    area, pixels = window[0] * window[1], outputs[..., 0].size
    terms = (area * filters // groups, pixels, pixels)
    np.testing.assert_array_equal(argmax, cells)
    expected = reference.conv_block_gradients(inputs, weights, argmax, grads, **options)
    assert_close(outputs, best, area * shape[3] // groups + 1)
    for got, want, count in zip(gradients, expected, terms, strict=True):
        if got.size:
            there = want != 0
            assert not got[~there].any()
            if numbers is ties:
                np.testing.assert_array_equal(got, want)
            else:
                assert_close(got[there], want[there], count)


POOLS = [(2, 2), (3, 2), (4, 4), (1, 3), (15, 15)]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("pool_size", POOLS)
@pytest.mark.parametrize("numbers", [values, ties])
def test_sizes_that_pools_do_not_divide(pool_size, same, numbers):
    for shape, filters in (((2, 19, 17, 3), 8), ((1, 18, 21, 8), 20)):
        check(shape, (3, 3), filters, numbers=numbers, pool_size=pool_size, same=same)


@pytest.mark.parametrize("window", [(1, 1), (5, 5), (2, 4)])
@pytest.mark.parametrize("numbers", [values, ties])
def test_windows(window, numbers):
    for channels, filters in ((1, 8), (33, 5)):
        check((3, 10, 14, channels), window, filters, numbers=numbers)


@pytest.mark.parametrize(
    ("channels", "window", "pool_size"),
    [
        (8, (3, 3), (2, 2)),
        (16, (3, 3), (2, 2)),
        (24, (3, 3), (2, 2)),
        (32, (5, 5), (2, 2)),
        (48, (2, 2), (3, 2)),
        (16, (3, 3), (3, 3)),
        (8, (7, 7), (2, 2)),
        (8, (1, 4), (2, 3)),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_gradients_of_many_channels(channels, window, pool_size, same):
    for filters in (5, 17):
        check((3, 13, 12, channels), window, filters, pool_size=pool_size, same=same)


@pytest.mark.parametrize("channels", [3, 8, 16])
def test_an_infinite_gradient_reaches_its_window_only(channels):
    inputs, weights = values((2, 10, 10, channels), 1), values((3, 3, channels, 6), 2)

    def infinite(shape, seed):
        grads = values(shape, seed)
        grads[1, 2, 2, 0] = np.inf
        return grads

    _, argmax, grads, gradients = run(inputs, weights, values(6, 3), numbers=infinite)
    expected = reference.conv_block_gradients(inputs, weights, argmax, grads, same=True)[0]
    np.testing.assert_array_equal(np.isfinite(gradients[0]), np.isfinite(expected))
    finite = np.isfinite(expected)
    assert 0.7 < finite.mean() < 1
    assert_close(gradients[0][finite], expected[finite], 54)


@pytest.mark.parametrize("strides", [(2, 2), (3, 1), (1, 2)])
@pytest.mark.parametrize("pool_size", [(2, 2), (3, 2)])
def test_strides(strides, pool_size):
    for same in (True, False):
        check((2, 15, 17, 4), (3, 3), 6, strides=strides, pool_size=pool_size, same=same)


@pytest.mark.parametrize("dilation_rate", [(2, 2), (1, 3)])
def test_dilation(dilation_rate):
    for same in (True, False):
        check((2, 13, 17, 4), (3, 3), 6, dilation_rate=dilation_rate, same=same)


@pytest.mark.parametrize(("channels", "filters", "groups"), [(4, 6, 2), (9, 9, 9), (34, 66, 2)])
def test_groups(channels, filters, groups):
    for bias in (False, True):
        check((2, 11, 9, channels), (3, 3), filters, groups=groups, bias=bias)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    check((batch, 8, 8, 3), (3, 3), 8)


def test_gradients_are_zero_if_windows_do_not_fit():
    for options in ({"pool_size": (9, 9)}, {"same": False, "pool_size": (7, 1)}):
        outputs, _, _, gradients = run(
            values((2, 8, 8, 3), 1), values((3, 3, 3, 4), 2), values(4, 3), **options
        )
        assert outputs.size == 0
        assert not any(gradient.any() for gradient in gradients)


def test_nan_is_the_maximum_and_has_no_gradient():
    inputs, weights = ties((1, 8, 8, 2), 1), np.ones((1, 1, 2, 5), np.float32)
    inputs[0, 3, 4, 0], inputs[0, 0, 0, 1], inputs[0, 6, 6, 0] = np.nan, np.inf, -np.inf
    outputs, argmax, grads, gradients = run(inputs, weights, ties(0, 3))
    best, cells = reference.conv_block(inputs, weights, same=True)
    np.testing.assert_array_equal(outputs, best)
    np.testing.assert_array_equal(argmax, cells)
    assert np.isnan(outputs[0, 1, 2]).all()
    assert (argmax[0, 1, 2] == 255).all()
    assert not gradients[0][0, 2:4, 4:6].any()
    np.testing.assert_array_equal(gradients[0][0, 0, 0], grads[0, 0, 0].sum(dtype=np.float32))


def test_inputs_are_not_written():
    arrays = values((2, 9, 9, 3), 1), values((3, 3, 3, 20), 2), values(20, 3)
    copies = [array.copy() for array in arrays]
    run(*arrays, strides=(2, 1))
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


PROGRAM = textwrap.dedent("""
    import hashlib
    import numpy as np
    import cnnforge_kernels as kernels
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 14, 14, 8)).astype("f")
    w = rng.standard_normal((3, 3, 8, 8)).astype("f")
    y, argmax = kernels.conv_block(x, w, padding="same")
    g = rng.standard_normal(y.shape).astype("f")
    results = [y, argmax]
    results.append(kernels.conv_block_grad_inputs(g, argmax, w, x.shape, padding="same"))
    results += kernels.conv_block_grad_weights(x, g, argmax, w.shape, padding="same")
    v = w[..., :1].copy()
    y = kernels.depthwise_conv2d(x, v, padding="same", activation="relu")
    g = rng.standard_normal(y.shape).astype("f")
    options = {"outputs": y, "padding": "same"}
    results += [y, kernels.depthwise_conv2d_grad_inputs(g, v, x.shape, **options)]
    results += kernels.depthwise_conv2d_grad_weights(x, g, v.shape, **options)
    z = rng.standard_normal((3, 60, 50, 20)).astype("f")
    results += [kernels.global_average_pool2d(z)]
    results += [kernels.global_average_pool2d_grad(results[-1], z.shape)]
    print(hashlib.sha256(b"".join(np.asarray(r).tobytes() for r in results)).hexdigest())
""")


def test_the_number_of_threads_changes_no_bit():
    """Those of the depthwise and global kernels neither."""
    digests = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "NUMBA_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1
