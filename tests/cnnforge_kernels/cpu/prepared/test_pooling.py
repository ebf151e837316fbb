"""Prepared pooling and softmax, against NumPy in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cnnforge_kernels.cpu.prepared.pooling import (
    AveragePooling,
    GlobalAveragePooling,
    GlobalMaxPooling,
    MaxPooling,
)
from cnnforge_kernels.cpu.prepared.softmax import Softmax
from cnnforge_kernels.cpu.runtime.call_list import CallList

SHAPES = [(2, 7, 9, 3), (1, 11, 13, 33), (3, 5, 5, 16), (1, 4, 4, 1), (2, 8, 8, 64)]
NONE = ((0, 0), (0, 0))
CASES = [
    ((2, 2), (2, 2), NONE),
    ((3, 3), (2, 2), ((0, 1), (0, 1))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 2), (2, 1), ((2, 0), (0, 1))),
    ((1, 1), (2, 2), NONE),
    ((4, 3), (3, 4), ((1, 2), (2, 1))),
]


def values(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def windows(source, window, strides, padding):
    """All windows with their row and column: the cells that are not padding."""
    sizes = [(source.shape[1 + a] + sum(padding[a]) - window[a]) // strides[a] + 1 for a in (0, 1)]
    for row, column in itertools.product(*map(range, sizes)):
        top, left = row * strides[0] - padding[0][0], column * strides[1] - padding[1][0]
        rows = slice(max(top, 0), top + window[0])
        columns = slice(max(left, 0), left + window[1])
        yield row, column, source[:, rows, columns]


def oracle(function, source, *options):
    results = {
        (row, column): function(cells, axis=(1, 2))
        for row, column, cells in windows(source, *options)
    }
    rows, columns = (max(place[a] for place in results) + 1 for a in (0, 1))
    stacked = [[results[row, column] for column in range(columns)] for row in range(rows)]
    return np.moveaxis(np.array(stacked), 2, 0)


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows(shape, options):
    source = values(shape)
    for layer, function in ((MaxPooling, np.max), (AveragePooling, np.mean)):
        expected = oracle(function, source.astype(np.float64), *options)
        target = poisoned(expected.shape)
        CallList(layer(*options).bind(source, target))()
        np.testing.assert_allclose(target, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(value):
    source = values((2, 6, 7, 5))
    source[0, 2, 3, 1] = source[1, 0, 0, 4] = source[1, 5, 6, 0] = value
    options = ((3, 3), (2, 2), ((1, 1), (0, 1)))
    for layer, function in ((MaxPooling, np.max), (AveragePooling, np.mean)):
        expected = oracle(function, source.astype(np.float64), *options)
        target = np.zeros(expected.shape, np.float32)
        CallList(layer(*options).bind(source, target))()
        np.testing.assert_allclose(target, expected, 1e-6, 1e-6)
    for layer, function in ((GlobalMaxPooling, np.max), (GlobalAveragePooling, np.mean)):
        target = np.zeros((2, 5), np.float32)
        CallList(layer().bind(source, target))()
        expected = function(source.astype(np.float64), axis=(1, 2))
        np.testing.assert_allclose(target, expected, 1e-6, 1e-6)


@pytest.mark.parametrize(
    "shape", [*SHAPES, (1, 1, 1, 1), (3, 40, 31, 5), (2, 17, 16, 130)], ids=str
)
def test_whole_images(shape):
    source = values(shape) + 5
    for layer, function in ((GlobalMaxPooling, np.max), (GlobalAveragePooling, np.mean)):
        expected = function(source.astype(np.float64), axis=(1, 2))
        for target in (poisoned(expected.shape), poisoned((shape[0], 1, 1, shape[3]))):
            calls = CallList(layer().bind(source, target))
            for _ in range(2):
                calls()
                np.testing.assert_allclose(target.reshape(expected.shape), expected, 1e-6)


def test_wrong_shapes_are_refused():
    source = values((2, 7, 9, 3))
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 4, 4\), but needs \(2, 3, 4, 3\)"):
        MaxPooling((2, 2), (2, 2)).bind(source, poisoned((2, 3, 4, 4)))
    for layer in (GlobalMaxPooling(), GlobalAveragePooling()):
        with pytest.raises(ValueError, match="cannot be pooled to"):
            layer.bind(source, poisoned((2, 4)))
        with pytest.raises(ValueError, match="cannot be pooled to"):
            layer.bind(source[:, :0].copy(), poisoned((2, 3)))
    assert MaxPooling((2, 2), (2, 2)).bind(source[:0], poisoned((0, 3, 4, 3))) == []


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 10), (400, 10), (2, 16), (5, 17), (2, 1000), (1, 2, 3, 4)]
)
def test_softmax(shape):
    source = values(shape) * 20
    exponentials = np.exp(source.astype(np.float64))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    memory = poisoned(source.size + 32)
    target = memory[16:-16].reshape(shape)
    CallList(Softmax().bind(source, target))()
    np.testing.assert_allclose(target, expected, 1e-5, 1e-36)
    assert np.isnan(memory[:16]).all()
    assert np.isnan(memory[-16:]).all()
    CallList(Softmax().bind(source, source))()
    np.testing.assert_array_equal(source, target)


def test_softmax_of_special_values():
    rows = np.array(
        [[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 0, 0], [-np.inf] * 3, [3e38, -3e38, 3e38]],
        np.float32,
    )
    target = np.zeros_like(rows)
    CallList(Softmax().bind(rows, target))()
    expected = [[np.nan] * 3, [np.nan, 0, 0], [0, 0.5, 0.5], [np.nan] * 3, [0.5, 0, 0.5]]
    # TensorFlow and NumPy: infinity minus infinity is NaN, and so are the sum and all shares.
    expected[1] = [np.nan] * 3
    np.testing.assert_array_equal(target, np.array(expected, np.float32))
    with pytest.raises(ValueError, match="has shape"):
        Softmax().bind(rows, target[:1])
    assert Softmax().bind(rows[:0], target[:0]) == []
