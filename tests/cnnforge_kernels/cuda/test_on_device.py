"""Tests of the kernels on a real device, through the public functions: ``pytest -m gpu``.

docs/cuda.md explains how to run them under ``compute-sanitizer``.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from cases import CONVOLUTIONS

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import SIMULATED, cuda
from cnnforge_kernels.cuda.runtime import driver

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _device():
    if SIMULATED:
        pytest.skip("the CUDA simulator is on")
    try:
        driver.driver()
    except CudaUnavailableError as error:
        pytest.skip(f"no CUDA device: {error}")


def values(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def put(array):
    return cuda.to_device(np.ascontiguousarray(array))


def get(array):
    return cuda.as_cuda_array(array).copy_to_host()


def poisoned(shape):
    return put(np.full(shape, np.nan, np.float32))


@dataclass(frozen=True)
class Case:
    inputs: tuple
    weights: tuple
    strides: tuple = (1, 1)
    padding: str = "same"
    dilation_rate: tuple = (1, 1)
    groups: int = 1

    @property
    def options(self):
        return {
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
        }

    @property
    def oracle(self):
        return {
            "strides": self.strides,
            "same": self.padding == "same",
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
        }


CASES = [
    *(
        Case(case.with_batch(3).input_shape, case.weights_shape, (case.stride,) * 2)
        for case in CONVOLUTIONS
    ),
    Case((2, 13, 11, 3), (3, 2, 3, 5), padding="valid"),
    Case((1, 1, 1, 7), (3, 3, 7, 9)),
    Case((2, 17, 19, 33), (3, 3, 33, 34), (2, 3)),
    Case((1, 12, 12, 40), (3, 3, 40, 72), (2, 2), padding="valid"),
    Case((2, 14, 19, 12), (3, 4, 4, 24), dilation_rate=(2, 3), groups=3),
    Case((1, 64, 64, 16), (3, 3, 16, 130)),
    Case((2, 13, 13, 32), (3, 3, 1, 32), (2, 2), groups=32),
    Case((2, 13, 13, 6), (5, 3, 1, 12), groups=6),
    Case((2, 3, 3, 4), (5, 5, 4, 4), padding="valid"),
    Case((0, 5, 5, 3), (3, 3, 3, 4)),
]


def named(case):
    """Add "large" to the name of a large problem, which takes too long under compute-sanitizer."""
    products = np.prod(case.inputs[:3]) * np.prod(case.weights)
    return f"{'large ' * bool(products > 1e7)}{case}"


def compare(got, want, terms):
    there = want != 0
    assert not got[~there].any()
    assert_close(got[there], want[there], terms)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_convolution(case):
    x, w = values(case.inputs), values(case.weights)
    b = values(case.weights[3:])
    arrays = [put(array) for array in (x, w, b)]
    outputs = kernels.conv2d(*arrays, activation="relu", **case.options)
    again = kernels.conv2d(*arrays, activation="relu", **case.options, out=poisoned(outputs.shape))
    y = get(outputs)
    np.testing.assert_array_equal(get(again), y)
    terms = int(np.prod(case.weights[:3]))
    assert_close(y, reference.conv2d(x, w, b, relu=True, **case.oracle), terms)
    g = values(y.shape, 1)
    want = reference.conv2d_gradients(x, w, g, outputs=y, **case.oracle)
    results = []
    for _ in range(2):
        options = case.options | {"outputs": outputs}
        grad_inputs = kernels.conv2d_grad_inputs(
            put(g), arrays[1], x.shape, out=poisoned(x.shape), **options
        )
        results.append(
            (grad_inputs, *kernels.conv2d_grad_weights(arrays[0], put(g), w.shape, **options))
        )
    pixels = y.size // max(y.shape[3], 1)
    counts = (terms // case.weights[2] * case.weights[3] // case.groups, pixels, pixels)
    for first, second, expected, count in zip(*results, want, counts, strict=True):
        np.testing.assert_array_equal(get(first), get(second))
        compare(get(first), expected, count)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_tensor_cores(precision):
    x, w = values((2, 14, 14, 32)), values((3, 3, 32, 64))
    got = get(kernels.conv2d(put(x), put(w), padding="same", precision=precision))
    want = reference.conv2d(x, w, same=True)
    unit = 2.0**-11 if precision == "tf32" else 2.0**-8
    bound = (2 * unit + unit**2) * reference.conv2d(abs(x), abs(w), same=True)
    assert (abs(got - want) <= bound + 1e-4).all()
    assert not np.array_equal(got, get(kernels.conv2d(put(x), put(w), padding="same")))


@pytest.mark.parametrize(
    ("shape", "weights", "pool", "strides"),
    [
        ((3, 28, 28, 1), (5, 5, 1, 8), (2, 2), (1, 1)),
        ((3, 14, 14, 8), (3, 3, 8, 16), (2, 2), (1, 1)),
        ((2, 17, 15, 64), (3, 3, 64, 40), (2, 2), (1, 1)),
        ((2, 20, 21, 5), (3, 3, 5, 7), (3, 3), (2, 1)),
        ((1, 20, 21, 4), (3, 3, 4, 8), (7, 5), (1, 1)),
    ],
)
def test_conv_block(shape, weights, pool, strides):
    x, w, b = values(shape), values(weights), values(weights[3:])
    options = {"pool_size": pool, "padding": "same", "strides": strides}
    outputs, argmax = kernels.conv_block(put(x), put(w), put(b), **options)
    y, cells = kernels.conv_block(x, w, b, **options)
    assert_close(get(outputs), y, int(np.prod(weights[:3])))
    # Two sums that differ only by rounding may swap places.
    assert (get(argmax) != cells).mean() < 1e-3
    g = values(y.shape, 1)
    got = kernels.conv_block_grad_inputs(put(g), put(cells), put(w), x.shape, **options)
    want = kernels.conv_block_grad_inputs(g, cells, w, x.shape, **options)
    compare(get(got), want, 4 * weights[0] * weights[1] * weights[3])
    results = kernels.conv_block_grad_weights(put(x), put(g), put(cells), w.shape, **options)
    expected = kernels.conv_block_grad_weights(x, g, cells, w.shape, **options)
    for result, correct in zip(results, expected, strict=True):
        compare(get(result), correct, 4 * y.size // y.shape[3])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("shape", "window", "strides"),
    [
        ((2, 28, 28, 8), (2, 2), (2, 2)),
        ((1, 11, 13, 33), (3, 2), (2, 1)),
        ((1, 20, 21, 4), (17, 17), (1, 2)),
    ],
)
def test_pooling(shape, window, strides, padding):
    x = np.random.default_rng(1).integers(-3, 4, shape).astype(np.float32)
    x[0, 1, 2, 0] = np.nan
    options = {"pool_size": window, "strides": strides, "padding": padding}
    outputs, argmax = kernels.max_pool2d(put(x), **options)
    best, cells = kernels.max_pool2d(x, **options)
    np.testing.assert_array_equal(get(outputs), best)
    np.testing.assert_array_equal(get(argmax), cells)
    g, area = values(best.shape), window[0] * window[1]
    got = kernels.max_pool2d_grad(put(g), argmax, shape, **options)
    assert_close(get(got), kernels.max_pool2d_grad(g, cells, shape, **options), 4 * area)
    clean = np.nan_to_num(x)
    mean = kernels.average_pool2d(put(clean), **options)
    assert_close(get(mean), kernels.average_pool2d(clean, **options), 4 * area)
    got = kernels.average_pool2d_grad(put(g), shape, **options)
    assert_close(get(got), kernels.average_pool2d_grad(g, shape, **options), 4 * area)
    whole = get(kernels.global_average_pool2d(put(clean)))
    assert_close(whole, kernels.global_average_pool2d(clean), 4 * shape[1] * shape[2])
    got = get(kernels.global_average_pool2d_grad(put(whole), shape))
    assert_close(got, kernels.global_average_pool2d_grad(whole, shape), 1)


def test_a_stream_of_the_caller():
    stream = cuda.stream()
    x, w = values((4, 28, 28, 8)), values((3, 3, 8, 16))
    handle = int(stream.handle.value if hasattr(stream.handle, "value") else stream.handle)
    outputs = kernels.conv2d(put(x), put(w), stream=handle)
    stream.synchronize()
    assert_close(get(outputs), reference.conv2d(x, w), 72)


def test_arrays_at_odd_addresses():
    x, w = values((1, 9, 9, 8)), values((3, 3, 8, 8))
    memory = put(np.concatenate([np.zeros(1, np.float32), x.ravel()]))
    outputs = kernels.conv2d(memory[1:].reshape(x.shape), put(w))
    assert_close(get(outputs), reference.conv2d(x, w), 72)
