"""Prepared steps that work value by value, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnforge_kernels.cpu.prepared.elementwise import Activation, Affine, Combine
from cnnforge_kernels.cpu.runtime.call_list import CallList
from cnnforge_kernels.cpu.simd.activations import ACTIVATIONS

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 1, 1, 17), (3, 4, 4, 16), (2, 67, 33, 5), (4, 3)]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 3.4e38, -3.4e38, 88.8, -104.0]

erf = np.vectorize(math.erf)


def relu6(x):
    return np.minimum(np.maximum(x, 0), 6)


FUNCTIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": relu6,
    "leaky_relu": lambda x: np.where(x < 0, np.float64(np.float32(0.3)) * x, x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: relu6(x + 3) / 6,
    "hard_silu": lambda x: x * relu6(x + 3) / 6,
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x < 0, np.float64(np.float32(0.3)) * np.expm1(x), x),
    "selu": lambda x: 1.0507009873554805 * np.where(x < 0, 1.6732632423543772 * np.expm1(x), x),
    "exponential": np.exp,
    "softsign": lambda x: x / (1 + np.abs(x)),
}
# The factor 1 + erf(x), or 6 - (3 - x), loses digits if it is near 0, in Keras too.
CANCELLING = ("gelu", "gelu_tanh", "hard_sigmoid", "hard_silu")


def values(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def run(calls):
    CallList(calls)()


def assert_same(got, expected, tolerance=1e-6, absolute=1e-36):
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got, expected.astype(np.float32), tolerance, absolute)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_accurate(name):
    source = np.concatenate([np.linspace(-110, 95, 40_001), np.linspace(-2, 2, 10_000)])
    source = source.astype(np.float32)
    target = poisoned(source.shape)
    run(Activation(name, 0.3).bind(source, target))
    absolute = 1e-6 if name in CANCELLING else 1e-36
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](source.astype(np.float64))
    assert_same(target, expected, absolute=absolute)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values_give_the_limit_or_nan(name):
    source = np.array(SPECIAL, np.float32)
    target = poisoned(source.shape)
    run(Activation(name, 0.3).bind(source, target))
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](source.astype(np.float64))
        if name in ("silu", "hard_silu", "gelu", "gelu_tanh"):
            # The formula of Keras is 0 times minus infinity.
            assert np.isnan(target[2])
            target[2] = expected[2]
    assert_same(target, expected, absolute=1e-6 if name in CANCELLING else 1e-36)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_is_written_and_no_other(shape):
    memory = poisoned(int(np.prod(shape)) + 40)
    target = memory[20:-20].reshape(shape)
    source = values(shape)
    run(Activation("relu").bind(source, target))
    np.testing.assert_array_equal(target, np.maximum(source, 0))
    assert np.isnan(memory[:20]).all()
    assert np.isnan(memory[-20:]).all()
    run(Activation("relu6").bind(source, source))
    np.testing.assert_array_equal(source, relu6(target))


def test_keras_defaults_of_alpha():
    source = np.array([-1.0, 2.0], np.float32)
    target = poisoned(2)
    run(Activation("leaky_relu").bind(source, target))
    np.testing.assert_allclose(target, [-0.2, 2.0], 1e-6)
    run(Activation("elu").bind(source, target))
    np.testing.assert_allclose(target, [math.expm1(-1), 2.0], 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_affine(shape, dtype):
    channels = shape[-1]
    source = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    scale, offset = values(channels, 2), values(channels, 3)
    target = poisoned(shape)
    run(Affine(scale, offset).bind(source, target))
    np.testing.assert_allclose(
        target, source * scale.astype(np.float64) + offset, 1e-6, 1e-4 * np.abs(scale).max()
    )
    run(Affine([1 / 127.5], [-1.0], "relu6").bind(source, target))
    expected = relu6(source / np.float64(127.5) - 1)
    np.testing.assert_allclose(target, expected, 1e-6, 1e-6)


def test_affine_of_many_channels_and_in_place():
    for channels in (4097, 1000, 48):
        values_, scale, offset = values((3, 9, channels)), values(channels, 2), values(channels, 3)
        expected = values_ * scale.astype(np.float64) + offset
        run(Affine(scale, offset).bind(values_, values_))
        np.testing.assert_allclose(values_, expected, 1e-5, 1e-5)


COMBINATIONS = {
    "add": lambda arrays: sum(arrays),
    "multiply": lambda arrays: np.prod(np.stack(arrays), 0),
    "maximum": lambda arrays: np.max(np.stack(arrays), 0),
    "minimum": lambda arrays: np.min(np.stack(arrays), 0),
    "average": lambda arrays: np.mean(np.stack(arrays), 0),
}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_combinations(shape, kind, count):
    sources = [values(shape, seed) for seed in range(count)]
    expected = COMBINATIONS[kind]([source.astype(np.float64) for source in sources])
    for activation in (None, "relu6"):
        target = poisoned(shape)
        run(Combine(kind, activation).bind(sources, target))
        wanted = FUNCTIONS[activation](expected)
        np.testing.assert_allclose(target, wanted, 1e-5, 1e-5)


@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_array_has_a_single_pixel(shape, kind):
    images, channels = shape[0], shape[-1]
    full = values(shape)
    for single in ((images, *[1] * (len(shape) - 2), channels), (images, channels)):
        other = values(single, 2)
        spread = other.reshape(images, *[1] * (len(shape) - 2), channels)
        expected = COMBINATIONS[kind]([full, np.broadcast_to(spread, shape)])
        for sources in ([full, other], [other, full]):
            target = poisoned(shape)
            run(Combine(kind).bind(sources, target))
            np.testing.assert_allclose(target, expected, 1e-6, 1e-6)


def test_subtraction():
    first, second = values((2, 3, 3, 5)), values((2, 3, 3, 5), 2)
    target = poisoned(first.shape)
    run(Combine("subtract", "relu").bind([first, second], target))
    np.testing.assert_array_equal(target, np.maximum(first - second, 0))
    run(Combine("subtract").bind([first, second[:, :1, :1].copy()], first))
    assert np.isfinite(first).all()


def test_a_sum_may_be_written_to_its_first_array():
    first, second, third = (values((2, 40, 40, 7), seed) for seed in range(3))
    expected = first + second + third
    run(Combine("add").bind([first, second, third], first))
    np.testing.assert_allclose(first, expected, 1e-6, 1e-6)


def test_nan_and_infinity_pass():
    special = np.array(SPECIAL, np.float32)
    other = np.roll(special, 3)
    for kind, function in (
        ("add", np.add),
        ("multiply", np.multiply),
        ("maximum", np.maximum),
        ("minimum", np.minimum),
    ):
        target = np.zeros_like(special)
        with np.errstate(all="ignore"):
            expected = function(special, other)
        run(Combine(kind).bind([special, other], target))
        np.testing.assert_array_equal(target, expected)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`activation` must be None or one of relu"):
        Activation("mish")
    with pytest.raises(ValueError, match="`kind` must be one of add"):
        Combine("dot")
    one, two = values((2, 3)), values((2, 4))
    with pytest.raises(ValueError, match="the source has 6 values, the target has 8"):
        Activation("relu").bind(one, two)
    with pytest.raises(ValueError, match="does not fit"):
        Combine("add").bind([two, one], two)
    with pytest.raises(ValueError, match="subtract takes two arrays"):
        Combine("subtract").bind([two], two)
    with pytest.raises(ValueError, match="3 values, the target 4 channels"):
        Affine(np.ones(3), [0]).bind(two, two)


def test_empty_arrays_need_no_calls():
    empty = np.zeros((0, 4), np.float32)
    assert Activation("relu").bind(empty, empty) == []
    assert Combine("add").bind([empty, empty], empty) == []
