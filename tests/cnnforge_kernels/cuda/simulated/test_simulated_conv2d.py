"""Tests of convolution in the simulator, forward and all gradients, against the oracle."""

from dataclasses import replace

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.conv import plans
from cnnforge_kernels.cuda.conv.gemm.forward import Gemm, Tile
from cnnforge_kernels.cuda.conv.gemm.weights import WeightsTile
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.conv.reduce import reduce_slices, shares_of
from cnnforge_kernels.cuda.runtime.plans import Launch, Plan
from cnnforge_kernels.cuda.runtime.simulated_driver import simulate


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def families(plan):
    """Return configurations of a plan, one of each kind (direct, product), the default first."""
    made = {name.split()[0].strip(","): make for name, make in reversed(plan.options.items())}
    others = [make() for make in made.values()]
    return [plan, *(option for option in others if option.launches != plan.launches)]


def check(c, bias=True, relu=True):
    """Check all results, written over NaN, against the oracle, for every kind of configuration.

    Returns:
        The names of the kernels, the default configuration first.
    """
    kh, kw, channels, filters = c.weights
    inputs, weights = values(c.inputs, 1), values(c.weights, 2)
    offsets = values(filters, 3) if bias else None
    options = {
        "strides": c.strides,
        "same": c.same,
        "dilation_rate": c.dilation_rate,
        "groups": c.groups,
    }
    names = []

    def run(plan, **arrays):
        simulate(plan, **arrays)
        names.append([launch.kernel.name for launch in plan.launches])

    expected = reference.conv2d(inputs, weights, offsets, relu=relu, **options)
    for plan in families(plans.forward(c, bias, relu)):
        outputs = poisoned(c.outputs)
        run(
            plan,
            inputs=inputs,
            weights=weights,
            outputs=outputs,
            bias=poisoned(0) if offsets is None else offsets,
        )
        assert_close(outputs, expected, kh * kw * channels)
    grads = values(c.outputs, 4)
    arrays = {"inputs": inputs, "weights": weights, "outputs": outputs, "grad_outputs": grads}
    expected = reference.conv2d_gradients(
        inputs, weights, grads, outputs=outputs if relu else None, **options
    )
    for plan in families(plans.grad_inputs(c, relu)):
        got = poisoned(c.inputs)
        run(plan, **arrays, grad_inputs=got)
        check_gradient(got, expected[0], kh * kw * filters // c.groups)
    for plan in families(plans.grad_weights(c, relu)):
        got = poisoned(c.weights), poisoned(filters)
        run(plan, **arrays, grad_weights=got[0], grad_bias=got[1])
        for result, want in zip(got, expected[1:], strict=True):
            check_gradient(result, want, outputs.size // filters)
    return names


def check_gradient(got, want, count):
    # Taps that only meet padding have a gradient of exactly zero and do not count in the rms.
    there = want != 0
    assert not got[~there].any()
    assert_close(got[there], want[there], count)


DIRECT, GEMM = "conv2d_direct", "conv2d_gemm"
CASES = {
    "first layer": (DIRECT, Convolution((2, 6, 7, 1), (5, 5, 1, 8), same=True)),
    "valid, odd": (DIRECT, Convolution((1, 5, 6, 3), (2, 3, 3, 5))),
    "vectors": (DIRECT, Convolution((1, 4, 5, 8), (3, 3, 8, 12), same=True)),
    "strides": (DIRECT, Convolution((1, 7, 6, 2), (3, 3, 2, 6), (2, 3), same=True)),
    "dilation": (
        DIRECT,
        Convolution((1, 6, 9, 4), (2, 3, 4, 4), same=True, dilation_rate=(2, 4)),
    ),
    "groups": (DIRECT, Convolution((1, 4, 4, 8), (3, 3, 4, 8), same=True, groups=2)),
    "unaligned": (DIRECT, Convolution((1, 4, 4, 4), (3, 3, 4, 8), same=True, aligned=False)),
    "point": (DIRECT, Convolution((1, 3, 3, 4), (1, 1, 4, 4))),
    "strided point": (DIRECT, Convolution((1, 5, 5, 5), (1, 1, 5, 6), (2, 2))),
    "many channels": (DIRECT, Convolution((1, 5, 5, 12), (3, 3, 12, 8), same=True)),
    "many odd channels": (DIRECT, Convolution((1, 4, 5, 9), (3, 3, 9, 7))),
    "many channels, strides": (
        DIRECT,
        Convolution((1, 5, 6, 12), (3, 2, 12, 8), (2, 3), same=True),
    ),
    "many channels, dilation": (
        DIRECT,
        Convolution((1, 5, 6, 12), (3, 2, 12, 4), dilation_rate=(2, 3), same=True),
    ),
    "many filters in groups": (
        DIRECT,
        Convolution((1, 3, 3, 20), (3, 3, 10, 14), same=True, groups=2),
    ),
    "many channels, unaligned": (
        DIRECT,
        Convolution((1, 3, 4, 12), (2, 2, 12, 8), same=True, aligned=False),
    ),
    "too many channels": (GEMM, Convolution((1, 3, 4, 40), (2, 2, 40, 13))),
    "more filters than threads": (GEMM, Convolution((1, 2, 3, 4), (1, 2, 4, 130))),
    "depthwise": (
        "depthwise_conv2d",
        Convolution((2, 6, 5, 8), (3, 3, 1, 8), same=True, groups=8),
    ),
    "depthwise, strides": (
        "depthwise_conv2d",
        Convolution((1, 7, 7, 4), (3, 4, 1, 4), (2, 2), same=True, groups=4),
    ),
    "depthwise, multiplier": (
        "depthwise_conv2d",
        Convolution((1, 6, 6, 3), (3, 3, 1, 6), groups=3, dilation_rate=(2, 1)),
    ),
    "depthwise, unaligned": (
        "depthwise_conv2d",
        Convolution((1, 4, 4, 4), (7, 7, 1, 4), same=True, groups=4, aligned=False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    kernel, convolution = CASES[name]
    kernels = check(convolution)
    assert kernels[0][0].split()[0] == kernel
    # Each pass also has an implicit product. With few channels it is direct by default.
    products = [any("tile" in name for name in plan) for plan in kernels]
    if convolution.is_depthwise:
        assert not any(products)
    elif kernel == DIRECT:
        assert products == [False, True] * 3
    elif name == "too many channels":
        assert products == [True, True, False, True]


@pytest.mark.parametrize("name", ["vectors", "many channels", "depthwise", "depthwise, multiplier"])
def test_no_bias_and_no_relu(name):
    check(CASES[name][1], bias=False, relu=False)


def test_weights_that_do_not_fit_into_shared_memory_at_once(monkeypatch):
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.forward._SHARED_FLOATS", 128)
    check(Convolution((1, 3, 4, 8), (3, 3, 8, 7), same=True))
    # Vectors of channels in chunks of eight. The last chunk must not reach into the next pixel.
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.forward._SHARED_FLOATS", 400)
    c = Convolution((1, 4, 4, 12), (3, 3, 12, 4), same=True)
    assert plans.Direct(**c.constants, **c.group).chunk == 8
    check(c)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.forward._SHARED_FLOATS", 128)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.forward._MAX_SHARED_FLOATS", 90)
    c = Convolution((1, 4, 4, 3), (4, 3, 3, 5), same=True)
    assert plans.Direct(**c.constants, **c.group, bias=True, relu=True).tap_rows == 1
    check(c)


def test_no_filters_have_zero_gradients():
    c = Convolution((1, 4, 4, 4), (3, 3, 4, 0), same=True)
    for plan in families(plans.grad_inputs(c, False)):
        made = poisoned(c.inputs)
        arrays = {"grad_outputs": values(c.outputs, 1), "weights": values(c.weights, 2)}
        simulate(plan, **arrays, grad_inputs=made)
        assert not made.any()


def test_a_window_larger_than_the_image_has_no_outputs_and_zero_gradients():
    for channels, groups in ((3, 1), (4, 4)):
        c = Convolution((1, 3, 3, channels), (5, 5, channels // groups, 4), groups=groups)
        outputs, weights = np.zeros(c.outputs, np.float32), values(c.weights, 1)
        assert not plans.forward(c, True, True).launches
        grad_inputs, grad_weights = poisoned(c.inputs), poisoned(c.weights)
        grad_bias = poisoned(4)
        arrays = {"outputs": outputs, "grad_outputs": outputs, "weights": weights}
        simulate(plans.grad_inputs(c, True), **arrays, grad_inputs=grad_inputs)
        simulate(
            plans.grad_weights(c, True),
            **arrays,
            inputs=values(c.inputs, 2),
            grad_weights=grad_weights,
            grad_bias=grad_bias,
        )
        for result in (grad_inputs, grad_weights, grad_bias):
            np.testing.assert_array_equal(result, 0)


def test_an_empty_batch_runs_nothing_but_the_weights():
    c = Convolution((0, 5, 5, 3), (3, 3, 3, 4), same=True)
    assert not plans.forward(c, True, True).launches
    assert not plans.grad_inputs(c, True).launches
    empty = np.zeros(0, np.float32)
    grad_weights, grad_bias = poisoned(c.weights), poisoned(4)
    simulate(
        plans.grad_weights(c, False),
        inputs=empty,
        grad_outputs=empty,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    assert not grad_weights.any()
    assert not grad_bias.any()


@pytest.mark.parametrize("tile", [plans.TILES[0], plans.TILES[1], plans.TILES[5]], ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_large_tiles(tile, backward):
    """A tile with some rows and columns beyond the product."""
    assert isinstance(tile, Tile)
    shape = (1, 7, 20, 5) if backward else (1, 7, 20, 4)
    c = Convolution(shape, (1, 2, shape[3], 68 if not backward else 4), same=True)
    if backward:
        c = replace(c, inputs=(1, 7, 20, 66), weights=(1, 2, 66, 4))
    specialization = Gemm(**c.constants, **c.group, tile=tile, relu=backward, backward=backward)
    inputs, weights, outputs = values(c.inputs, 1), values(c.weights, 2), values(c.outputs, 3)
    result = poisoned(c.inputs if backward else c.outputs)
    names = ("grad_outputs", "outputs", "grad_inputs") if backward else ("inputs",) * 2 + ("out",)
    simulate(
        plans._gemm(specialization, c, names),
        inputs=inputs,
        weights=weights,
        grad_outputs=outputs,
        outputs=outputs,
        **{names[2]: result},
    )
    if backward:
        expected = reference.conv2d_gradients(inputs, weights, outputs, outputs=outputs, same=True)
        assert_close(result, expected[0], 8)
    else:
        assert_close(result, reference.conv2d(inputs, weights, same=True), 8)


@pytest.mark.parametrize("tile", plans.WEIGHTS_TILES, ids=str)
def test_tiles_of_the_gradient_of_the_weights(tile, monkeypatch):
    assert isinstance(tile, WeightsTile)
    monkeypatch.setattr(plans, "_weights_tile", lambda rows, filters: tile)
    # Several slices, of which the last is shorter.
    monkeypatch.setattr(plans, "slices", lambda *_: (3, 9))
    c = Convolution((1, 5, 5, 12), (2, 3, 12, 12), same=True)
    inputs, grads = values(c.inputs, 1), values(c.outputs, 2)
    grad_weights, grad_bias = poisoned(c.weights), poisoned(12)
    simulate(
        plans.grad_weights.__wrapped__(c, False),
        inputs=inputs,
        grad_outputs=grads,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    expected = reference.conv2d_gradients(inputs, values(c.weights, 3), grads, same=True)
    assert_close(grad_weights, expected[1], 25)
    assert_close(grad_bias, expected[2], 25)


@pytest.mark.parametrize("slices", [1, 7, 16, 70, 300])
def test_many_slices(slices):
    """The maximum number of threads per sum, some with one slice less than others."""
    shares = shares_of(slices)
    assert (slices >= 8) == (shares > 1)
    assert 4 * shares <= max(slices, 4)
    kernel = reduce_slices(shares)
    scratch = values((slices, 21), 1)
    grad_weights, grad_bias = poisoned(18), poisoned(3)
    grid = (-(-21 // (kernel.threads // shares)), 1, 1)
    arrays = "scratch", "grad_weights", "grad_bias"
    run = Plan((Launch(kernel, grid, (*arrays, 18, 21, slices)),))
    simulate(run, scratch=scratch, grad_weights=grad_weights, grad_bias=grad_bias)
    expected = scratch.astype(np.float64).sum(0)
    assert_close(np.concatenate([grad_weights, grad_bias]), expected, slices)


def test_nan_and_infinity_stay_where_they_are():
    inputs = values((1, 6, 6, 1), 1)
    inputs[0, 0, 0, 0], inputs[0, 5, 5, 0] = np.nan, np.inf
    weights = np.ones((3, 3, 1, 4), np.float32)
    c = Convolution(inputs.shape, weights.shape, same=True)
    for relu in (False, True):
        outputs = poisoned(c.outputs)
        simulate(plans.forward(c, False, relu), inputs=inputs, weights=weights, outputs=outputs)
        expected = reference.conv2d(inputs, weights, same=True, relu=relu)
        np.testing.assert_array_equal(np.isnan(outputs), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(outputs), np.isinf(expected))
