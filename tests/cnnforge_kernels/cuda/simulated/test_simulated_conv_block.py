"""Tests of the fused block in the simulator, against the oracles of its parts."""

from dataclasses import replace

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.runtime.simulated_driver import simulate


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def oracle(inputs, weights, bias, c, pool):
    options = {
        "strides": c.strides,
        "same": c.same,
        "dilation_rate": c.dilation_rate,
        "groups": c.groups,
    }
    whole = reference.conv2d(inputs, weights, bias, relu=True, **options)
    best, cells = reference.max_pool2d(whole, pool_size=pool)
    return options, whole, best, np.where(best > 0, cells, 255)


def families(plan):
    """Return the configurations of a plan, one of each kind, the default first."""
    made = {name.split()[0].strip(","): make for name, make in reversed(plan.options.items())}
    others = [make() for make in made.values()]
    return [plan, *(option for option in others if option.launches != plan.launches)]


def check(c, pool, bias=True):
    """Check every kind of configuration. Returns the number of configurations of each pass."""
    filters = c.weights[3]
    inputs, weights = values(c.inputs, 1), values(c.weights, 2)
    offsets = values(filters, 3) if bias else None
    shape = block_plans.pooled(c, pool)
    options, whole, best, cells = oracle(inputs, weights, offsets, c, pool)
    terms = c.weights[0] * c.weights[1] * c.weights[2]
    passes = [
        families(block_plans.forward(c, pool, bias)),
        families(block_plans.grad_inputs(c, pool)),
        families(block_plans.grad_weights(c, pool)),
    ]
    for plan in passes[0]:
        outputs, argmax = poisoned(shape), np.full(shape, 77, np.uint8)
        simulate(
            plan,
            inputs=inputs,
            weights=weights,
            bias=poisoned(0) if offsets is None else offsets,
            outputs=outputs,
            argmax=argmax,
        )
        assert_close(outputs, best, terms)
        np.testing.assert_array_equal(argmax, cells)

    grads = values(shape, 4)
    routed = reference.max_pool2d_grad(whole.astype(np.float32), grads, pool_size=pool)
    expected = reference.conv2d_gradients(inputs, weights, routed, outputs=whole, **options)
    arrays = {"inputs": inputs, "weights": weights, "grad_outputs": grads, "argmax": argmax}
    for plan in passes[1]:
        got = poisoned(c.inputs)
        simulate(plan, **arrays, grad_inputs=got)
        check_gradient(got, expected[0], c.weights[0] * c.weights[1] * filters // c.groups)
    for plan in passes[2]:
        got = poisoned(c.weights), poisoned(filters)
        simulate(plan, **arrays, grad_weights=got[0], grad_bias=got[1])
        for result, want in zip(got, expected[1:], strict=True):
            check_gradient(result, want, outputs.size // filters)
    return [len(plans) for plans in passes]


def check_gradient(got, want, count):
    there = want != 0
    assert not got[~there].any()
    assert_close(got[there], want[there], count)


CASES = {
    "first layer": (Convolution((2, 8, 8, 1), (5, 5, 1, 8), same=True), (2, 2)),
    "vectors": (Convolution((1, 6, 7, 8), (3, 3, 8, 8), same=True), (2, 2)),
    "odd": (Convolution((1, 7, 8, 3), (2, 3, 3, 5)), (2, 3)),
    "3 x 3": (Convolution((1, 7, 8, 4), (3, 3, 4, 6), same=True), (3, 3)),
    "cells in rows": (Convolution((1, 9, 7, 4), (3, 3, 4, 4), same=True), (5, 3)),
    "cells one by one": (Convolution((1, 6, 7, 2), (3, 3, 2, 3), same=True), (3, 7)),
    "strides": (Convolution((1, 11, 9, 4), (3, 3, 4, 8), (2, 2), same=True), (2, 2)),
    "dilation": (Convolution((1, 8, 9, 2), (3, 2, 2, 4), (1, 1), True, (2, 3)), (2, 2)),
    "groups": (Convolution((1, 6, 6, 8), (3, 3, 4, 6), same=True, groups=2), (2, 2)),
    "depthwise": (Convolution((1, 6, 6, 4), (3, 3, 1, 4), same=True, groups=4), (2, 2)),
    "unaligned": (
        Convolution((1, 6, 6, 4), (3, 3, 4, 4), same=True, aligned=False),
        (2, 2),
    ),
    "rows of taps in blocks": (Convolution((1, 10, 10, 1), (7, 7, 1, 4), same=True), (2, 2)),
    "one row": (Convolution((1, 1, 7, 4), (1, 3, 4, 6), same=True), (1, 2)),
    "two rows": (Convolution((1, 3, 6, 4), (3, 3, 4, 8), same=True), (2, 2)),
    "two windows of a thread": (Convolution((1, 7, 11, 1), (5, 5, 1, 12)), (1, 3)),
    "taps of a row in blocks": (Convolution((1, 4, 40, 4), (2, 11, 4, 4), same=True), (4, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    counts = check(*CASES[name])
    if name in ("first layer", "two windows of a thread"):
        assert counts == [2, 2, 2]


def test_two_windows_per_thread_are_the_default_with_many_threads():
    c = Convolution((4096, 28, 28, 1), (5, 5, 1, 8), same=True)
    (launch,) = block_plans.forward(c, (2, 2), True).launches
    assert "windows 2" in launch.kernel.name
    (launch,) = block_plans.forward(replace(c, inputs=(16, 28, 28, 1)), (2, 2), True).launches
    assert "windows" not in launch.kernel.name


@pytest.mark.parametrize("aligned", [False, True])
def test_gradients_in_many_tiles(monkeypatch, aligned):
    """Several tiles down and across an image, several tiles per slice, and tiles past the image."""
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.weights_tiles._MAX_COLUMNS", 8)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.weights_tiles._MAX_THREADS", 48)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.inputs_tiles._MAX_THREADS", 64)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.inputs_tiles._MAX_THREADS_ACROSS", 2)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.inputs_tiles._MAX_SHARED_FLOATS", 900)
    monkeypatch.setattr(
        "cnnforge_kernels.cuda.conv.shared_plans.slices", lambda n, *_: (2, -(-n // 2))
    )
    c = Convolution((1, 11, 23, 4), (3, 3, 4, 12), same=True, aligned=aligned)
    weights = block_plans.grad_weights(c, (2, 2)).launches[0]
    assert weights.arguments[-5:-2] == (3, 3, 9)
    inputs = block_plans.grad_inputs(c, (2, 2)).launches[0]
    assert min(inputs.arguments[-2:]) > 1
    assert "filters 8" in inputs.kernel.name
    check(c, (2, 2))


def test_no_bias():
    check(*CASES["vectors"], bias=False)


def test_weights_in_pieces(monkeypatch):
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.direct.forward._SHARED_FLOATS", 128)
    monkeypatch.setattr("cnnforge_kernels.cuda.conv.scatter._SHARED_FLOATS", 128)
    check(Convolution((1, 5, 5, 12), (3, 3, 12, 12), same=True), (2, 2))


def test_nan_comes_out_and_lets_no_gradient_through():
    c = Convolution((1, 4, 4, 1), (1, 1, 1, 4))
    inputs = values(c.inputs, 1)
    inputs[0, 1, 1, 0] = np.nan
    outputs, argmax = poisoned((1, 2, 2, 4)), np.zeros((1, 2, 2, 4), np.uint8)
    weights = values(c.weights, 2)
    simulate(
        block_plans.forward(c, (2, 2), False),
        inputs=inputs,
        weights=weights,
        outputs=outputs,
        argmax=argmax,
    )
    assert np.isnan(outputs[0, 0, 0]).all()
    assert (argmax[0, 0, 0] == 255).all()
    assert not np.isnan(outputs.reshape(-1)[4:]).any()


def test_a_pool_larger_than_the_map_leaves_zero_gradients():
    c, pool = Convolution((1, 3, 3, 4), (3, 3, 4, 4)), (2, 2)
    shape = block_plans.pooled(c, pool)
    assert 0 in shape
    assert not block_plans.forward(c, pool, True).launches
    empty = {"grad_outputs": poisoned(shape), "argmax": np.zeros(shape, np.uint8)}
    grad_inputs, grad_weights, grad_bias = poisoned(c.inputs), poisoned(c.weights), poisoned(4)
    simulate(
        block_plans.grad_inputs(c, pool),
        **empty,
        weights=values(c.weights, 1),
        grad_inputs=grad_inputs,
    )
    simulate(
        block_plans.grad_weights(c, pool),
        **empty,
        inputs=values(c.inputs, 2),
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    for result in (grad_inputs, grad_weights, grad_bias):
        np.testing.assert_array_equal(result, 0)
