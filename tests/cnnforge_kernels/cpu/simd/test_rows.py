"""Loops over rows with SIMD instructions, for authors of layers."""

from __future__ import annotations

import numpy as np
import pytest

from cnnforge_kernels.authoring import cached_njit, dot, product_sum, weighted_sum

SIZES = [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 130]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@cached_njit()
def weighted(target, source, starts, weights):
    weighted_sum(target, source, starts, weights)


@cached_njit()
def product(target, first, starts, second, others):
    product_sum(target, first, starts, second, others)


@cached_njit()
def dotted(first, second):
    return dot(first, second)


def inside(size):
    """Return an array of ``size`` NaN, between two borders that must not change."""
    whole = np.full(size + 2, 7, np.float32)
    whole[1:-1] = np.nan
    return whole, whole[1:-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("terms", [0, 1, 5])
@pytest.mark.parametrize("how", [weighted, weighted.py_func])
def test_a_weighted_sum_has_the_values_of_numpy_and_stays_inside(rng, size, terms, how):
    source = rng.normal(size=size + 20).astype(np.float32)
    starts = rng.integers(0, 20, terms)
    weights = rng.normal(size=terms).astype(np.float32)
    whole, target = inside(size)
    how(target, source, starts, weights)
    expected = np.zeros(size)
    for start, weight in zip(starts, weights, strict=True):
        expected += np.float64(weight) * source[start : start + size]
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    assert whole[[0, -1]].tolist() == [7, 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("terms", [0, 1, 4])
@pytest.mark.parametrize("how", [product, product.py_func])
def test_a_sum_of_products_has_the_values_of_numpy_and_stays_inside(rng, size, terms, how):
    first, second = rng.normal(size=(2, size + 20)).astype(np.float32)
    starts, others = rng.integers(0, 20, (2, terms))
    whole, target = inside(size)
    how(target, first, starts, second, others)
    expected = np.zeros(size)
    for start, other in zip(starts, others, strict=True):
        expected += np.float64(first[start : start + size]) * second[other : other + size]
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    assert whole[[0, -1]].tolist() == [7, 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", [dotted, dotted.py_func])
def test_a_dot_product_has_the_value_of_numpy_and_ignores_what_follows(rng, size, how):
    first, second = rng.normal(size=(2, size + 1)).astype(np.float32)
    first[-1] = np.nan
    found = how(first[:-1], second[:-1])
    np.testing.assert_allclose(found, np.float64(first[:-1]) @ second[:-1], rtol=1e-5, atol=1e-5)


def test_nan_stays_in_its_place(rng):
    source = rng.normal(size=40).astype(np.float32)
    source[23] = np.nan
    target = np.zeros(35, np.float32)
    weighted(target, source, np.array([0, 5]), np.ones(2, np.float32))
    assert np.flatnonzero(np.isnan(target)).tolist() == [18, 23]
