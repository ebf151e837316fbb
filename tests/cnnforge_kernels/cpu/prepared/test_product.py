"""The product of a trained network's 1x1 convolutions and dense layers, against NumPy."""

import numba
import numpy as np
import pytest
import winograd_checks

from cnnforge.testing import assert_close
from cnnforge_kernels.cpu.prepared.arrays import aligned_zeros
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.runtime.call_list import CallList


def values(shape, seed):
    array = aligned_zeros(shape)
    array[:] = np.random.default_rng(seed).standard_normal(shape)
    return array


def poisoned(shape):
    array = aligned_zeros(shape)
    array[:] = np.nan
    return array


def activate(sums, activation):
    if activation is not None:
        sums = np.maximum(sums, 0)
    return np.minimum(sums, 6) if activation == "relu6" else sums


def run(layer, source, filters, added=None):
    """Return the outputs of the layer, written over NaN."""
    target = poisoned((len(source), filters))
    CallList(layer.bind(source, target, added))()
    return target


SIZES = [
    (1, 1, 1),
    (1, 5, 17),
    (3, 1, 4),
    (2, 7, 10),
    (49, 33, 96),
    (57, 16, 24),
    (64, 1024, 120),
    (64, 84, 10),
    (100, 3, 64),
    (131, 20, 130),
    (400, 32, 8),
    (1000, 2, 3),
]
# Layers of lenet, mobilenetv2 and resnet50, at one image or a few.
LAYERS = [
    (64, 400, 120),
    (1, 400, 120),
    (12544, 32, 16),
    (3136, 24, 144),
    (196, 576, 96),
    (49, 320, 1280),
    (1, 1280, 1000),
    (98, 2048, 512),
    (784, 512, 128),
    (3136, 64, 256),
]


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize(("pixels", "channels", "filters"), SIZES)
def test_sizes(pixels, channels, filters, activation):
    source, weights = values((pixels, channels), 1), values((channels, filters), 2)
    bias, added = values((filters,), 3), values((pixels, filters), 4)
    sums = source.astype(np.float64) @ weights.astype(np.float64)
    got = run(Product(weights, None, activation), source, filters)
    assert_close(got, activate(sums, activation), channels)
    got = run(Product(weights, bias, activation), source, filters, added)
    assert_close(got, activate(sums + bias + added, activation), channels)


@pytest.mark.parametrize(("pixels", "channels", "filters"), LAYERS)
def test_layers_of_networks(pixels, channels, filters):
    source, weights = values((pixels, channels), 1), values((channels, filters), 2)
    bias = values((filters,), 3)
    sums = source.astype(np.float64) @ weights.astype(np.float64) + bias
    got = run(Product(weights, bias, "relu"), source, filters)
    assert_close(got, activate(sums, "relu"), channels)


@pytest.mark.parametrize(("pixels", "channels", "filters"), [*SIZES, (784, 8, 64), (50, 40, 500)])
def test_the_target_may_be_what_is_added(pixels, channels, filters):
    source, weights = values((pixels, channels), 1), values((channels, filters), 2)
    target = values((pixels, filters), 4)
    expected = source.astype(np.float64) @ weights.astype(np.float64) + target
    CallList(Product(weights, None, None).bind(source, target, target))()
    assert_close(target, expected, channels)


def test_one_layer_is_bound_to_several_numbers_of_pixels():
    weights = values((30, 70), 2)
    layer = Product(weights, None, None)
    for pixels in (1, 2, 3, 5, 8, 13, 200):
        source = values((pixels, 30), pixels)
        expected = source.astype(np.float64) @ weights.astype(np.float64)
        assert_close(run(layer, source, 70), expected, 30)


@pytest.mark.parametrize(("pixels", "channels", "filters"), [(0, 3, 4), (4, 3, 0)])
def test_no_pixels_or_no_filters(pixels, channels, filters):
    layer = Product(values((channels, filters), 1), None, "relu")
    assert run(layer, values((pixels, channels), 2), filters).shape == (pixels, filters)


def test_no_channels():
    layer = Product(values((0, 20), 1), np.arange(20, dtype=np.float32), None)
    np.testing.assert_array_equal(
        run(layer, values((9, 0), 2), 20), np.tile(np.arange(20, dtype=np.float32), (9, 1))
    )


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_nan_and_infinity(activation):
    source, weights = values((21, 5), 1), values((5, 40), 2)
    source[3, 2], source[11, 0], source[20, 4] = np.nan, np.inf, -np.inf
    got = run(Product(weights, None, activation), source, 40)
    with np.errstate(invalid="ignore"):
        expected = activate(source @ weights, activation)
    assert np.isnan(got[3]).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_neither_threads_nor_neighbours_change_a_result():
    source, weights = values((333, 100), 1), values((100, 200), 2)
    layer = Product(weights, None, None)
    all_pixels = run(layer, source, 200)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(run(layer, source, 200), all_pixels)
    finally:
        numba.set_num_threads(threads)
    one = aligned_zeros((1, 100))
    one[:] = source[77]
    np.testing.assert_array_equal(run(layer, one, 200)[0], all_pixels[77])


def test_shapes_must_match():
    layer = Product(values((3, 4), 1), None, None)
    with pytest.raises(ValueError, match=r"3 channels and 4 filters got a source \(2, 5\)"):
        layer.bind(values((2, 5), 1), values((2, 4), 1))
    with pytest.raises(ValueError, match=r"the added array is \(2, 5\)"):
        layer.bind(values((2, 3), 1), values((2, 4), 1), values((2, 5), 1))


@winograd_checks.narrower_vectors
def test_narrower_vectors(lanes, cpu, features):
    program = """
        for size in tests.SIZES:
            tests.test_sizes(*size, "relu6")
            tests.test_the_target_may_be_what_is_added(*size)
        tests.test_nan_and_infinity("relu6")
    """
    winograd_checks.run_with_narrower_vectors(__file__, lanes, cpu, features, program)
