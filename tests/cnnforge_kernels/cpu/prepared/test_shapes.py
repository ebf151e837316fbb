"""Prepared steps that move values, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from cnnforge_kernels.cpu.prepared.shapes import (
    Concatenation,
    Cropping,
    Padding,
    Subsampling,
    Upsampling,
)
from cnnforge_kernels.cpu.runtime.call_list import CallList

SHAPES = [(2, 7, 9, 3), (1, 11, 13, 33), (3, 5, 5, 16), (1, 1, 1, 1), (2, 1, 6, 40)]


def values(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def check(calls, target, expected):
    CallList(calls)()
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("padding", [((0, 1), (2, 3)), ((1, 0), (0, 0)), ((3, 3), (3, 3))])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding(shape, padding):
    source = values(shape)
    for value in (0.0, 1.5):
        expected = np.pad(source, ((0, 0), *padding, (0, 0)), constant_values=value)
        target = poisoned(expected.shape)
        check(Padding(padding, value).bind(source, target), target, expected)


@pytest.mark.parametrize("cropping", [((0, 1), (2, 3)), ((1, 0), (0, 0)), ((2, 2), (1, 1))])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_cropping(shape, cropping):
    source = values(shape)
    (top, bottom), (left, right) = cropping
    expected = source[:, top : shape[1] - bottom, left : shape[2] - right]
    target = poisoned(expected.shape)
    check(Cropping(cropping).bind(source, target), target, expected)


@pytest.mark.parametrize("strides", [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_subsampling(shape, strides):
    source = values(shape)
    expected = source[:, :: strides[0], :: strides[1]]
    target = poisoned(expected.shape)
    check(Subsampling(strides).bind(source, target), target, expected)


@pytest.mark.parametrize("widths", [(1,), (3, 17), (16, 32, 1, 5)])
@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 1), (9,), (2, 64, 64)], ids=str)
def test_concatenation(shape, widths):
    sources = [values((*shape, width), width) for width in widths]
    expected = np.concatenate(sources, -1)
    target = poisoned(expected.shape)
    check(Concatenation().bind(sources, target), target, expected)


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nearest_upsampling(shape, size):
    source = values(shape)
    expected = source.repeat(size[0], 1).repeat(size[1], 2)
    target = poisoned(expected.shape)
    check(Upsampling(size).bind(source, target), target, expected)


def interpolated(source, size):
    for axis, factor in enumerate(size, 1):
        length = source.shape[axis]
        places = (np.arange(length * factor) + 0.5) / factor - 0.5
        first = np.floor(places).astype(int)
        shares = (places - first).reshape([-1 if a == axis else 1 for a in range(4)])
        lower = source.take(np.clip(first, 0, length - 1), axis)
        upper = source.take(np.clip(first + 1, 0, length - 1), axis)
        source = lower + (upper - lower) * shares
    return source


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 1), (4, 5)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bilinear_upsampling(shape, size):
    source = values(shape)
    expected = interpolated(source.astype(np.float64), size)
    target = poisoned(expected.shape)
    CallList(Upsampling(size, "bilinear").bind(source, target))()
    np.testing.assert_allclose(target, expected, 1e-5, 5e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_upsampling_as_keras(interpolation):
    import keras

    source = values((2, 5, 6, 3))
    source[0, 2, 3, 1], source[1, 0, 0, 0] = np.inf, np.nan
    layer = keras.layers.UpSampling2D((2, 3), interpolation=interpolation)
    expected = np.asarray(layer(source))
    target = poisoned(expected.shape)
    CallList(Upsampling((2, 3), interpolation).bind(source, target))()
    np.testing.assert_allclose(target, expected, 1e-5, 5e-6)


def test_wrong_shapes_are_refused():
    source, target = values((2, 4, 4, 3)), poisoned((2, 4, 5, 3))
    for calls in (
        lambda: Padding(((0, 0), (0, 2))).bind(source, target),
        lambda: Cropping(((0, 0), (0, 1))).bind(source, target),
        lambda: Subsampling((2, 2)).bind(source, target),
        lambda: Concatenation().bind([source, source], target),
        lambda: Upsampling((2, 2)).bind(source, target),
    ):
        with pytest.raises(ValueError, match="the target has shape"):
            calls()
    with pytest.raises(ValueError, match="`interpolation` must be"):
        Upsampling((2, 2), "bicubic")
    empty = values((0, 4, 4, 3))
    assert Upsampling((1, 1)).bind(empty, empty) == []
    assert Upsampling((1, 1), "bilinear").bind(empty, empty) == []
