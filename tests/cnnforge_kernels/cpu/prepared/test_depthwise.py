"""Prepared depthwise convolutions, against NumPy in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
from cnnforge_kernels.cpu.runtime.call_list import CallList

NONE = ((0, 0), (0, 0))
# Shapes of images, and (KH, KW, M).
SHAPES = [
    ((2, 7, 9, 3), (3, 3, 1)),
    ((1, 1, 1, 1), (1, 1, 1)),
    ((3, 7, 7, 40), (3, 3, 1)),
    ((1, 6, 5, 4), (2, 3, 3)),
    ((1, 5, 15, 48), (1, 2, 1)),
    ((1, 9, 10, 96), (3, 7, 1)),
    ((1, 30, 31, 33), (5, 5, 1)),
]
OPTIONS = [
    {},
    {"padding": ((1, 1), (1, 1))},
    {"padding": ((0, 1), (0, 1)), "strides": (2, 2)},
    {"padding": ((2, 3), (4, 0)), "strides": (1, 3)},
    {"padding": ((2, 2), (2, 2)), "dilation": (2, 2)},
    {"padding": ((4, 0), (1, 1)), "dilation": (3, 1), "strides": (1, 2)},
]


def values(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def oracle(source, weights, bias, *, strides=(1, 1), padding=NONE, dilation=(1, 1)):
    padded = np.pad(source.astype(np.float64), ((0, 0), *padding, (0, 0)))
    window = weights.shape[:2]
    sizes = [
        (padded.shape[1 + a] - (window[a] - 1) * dilation[a] - 1) // strides[a] + 1 for a in (0, 1)
    ]
    channels, multiplier = weights.shape[2:]
    total = np.zeros((len(source), *sizes, channels, multiplier))
    for i, j in itertools.product(*map(range, window)):
        places = [
            slice(
                tap * dilation[a], tap * dilation[a] + (sizes[a] - 1) * strides[a] + 1, strides[a]
            )
            for a, tap in enumerate((i, j))
        ]
        total += padded[:, places[0]][:, :, places[1], :, None] * weights[i, j].astype(np.float64)
    return total.reshape(*total.shape[:3], -1) + bias


def fits(shape, window, padding=NONE, dilation=(1, 1), **_):
    return all(shape[1 + a] + sum(padding[a]) > (window[a] - 1) * dilation[a] for a in (0, 1))


CASES = [
    (shape, window, options)
    for (shape, window), options in itertools.product(SHAPES, OPTIONS)
    if fits(shape, window, **options)
]


@pytest.mark.parametrize(("shape", "window", "options"), CASES, ids=str)
def test_against_the_oracle(shape, window, options):
    source, weights = values(shape), values((*window[:2], shape[3], window[2]), 2)
    bias = values(shape[3] * window[2], 3)
    for activation, limits in ((None, (-np.inf, np.inf)), ("relu", (0, np.inf)), ("relu6", (0, 6))):
        scaled = 3 * source
        expected = np.clip(oracle(scaled, weights, bias, **options), *limits)
        layer = DepthwiseConvolution(weights, bias, activation=activation, **options)
        results = []
        for cached in (True, False):
            memory = np.full(expected.size + 128, np.nan, np.float32)
            target = memory[64:-64].reshape(expected.shape)
            CallList(layer.bind(scaled, target, cached))()
            np.testing.assert_allclose(target, expected, 1e-5, 1e-4)
            assert np.isnan(memory[:64]).all()
            assert np.isnan(memory[-64:]).all()
            results.append(target)
        # Both kernels add in the same order.
        np.testing.assert_array_equal(*results)


def test_without_bias_and_for_two_batch_sizes():
    weights = values((3, 3, 24, 1))
    layer = DepthwiseConvolution(weights, None, padding=((1, 1), (1, 1)))
    for images in (1, 5):
        source = values((images, 9, 9, 24))
        target = np.full_like(source, np.nan)
        calls = CallList(layer.bind(source, target))
        expected = oracle(source, weights, 0, padding=((1, 1), (1, 1)))
        for _ in range(2):
            calls()
            np.testing.assert_allclose(target, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_nan_and_infinity(activation):
    source, weights = values((1, 8, 8, 20)), values((3, 3, 20, 1), 2)
    source[0, 3, 4, 5], source[0, 0, 0, 1], source[0, 7, 7, 19] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = oracle(source, weights, 0, padding=((1, 1), (1, 1)))
        expected = np.maximum(expected, 0) if activation else expected
        expected = np.minimum(expected, 6) if activation == "relu6" else expected
    layer = DepthwiseConvolution(weights, None, padding=((1, 1), (1, 1)), activation=activation)
    for cached in (True, False):
        target = np.zeros(expected.shape, np.float32)
        CallList(layer.bind(source, target, cached))()
        np.testing.assert_allclose(target, expected, 1e-5, 1e-5)


def test_wrong_arguments_are_refused():
    weights = values((3, 3, 4, 1))
    with pytest.raises(ValueError, match="`activation` must be None, 'relu' or 'relu6'"):
        DepthwiseConvolution(weights, None, activation="tanh")
    layer = DepthwiseConvolution(weights, None)
    with pytest.raises(ValueError, match=r"which must be \(1, 3, 3, 4\)"):
        layer.bind(values((1, 5, 5, 4)), values((1, 5, 5, 4)))
    assert layer.bind(values((0, 5, 5, 4)), values((0, 3, 3, 4))) == []
