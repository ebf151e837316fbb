"""A prepared convolution, compared with plain NumPy in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from winograd_checks import (
    assert_same_bits_for_any_threads,
    narrower_vectors,
    run_with_narrower_vectors,
)

from cnnforge_kernels.cpu.prepared.convolution import Convolution
from cnnforge_kernels.cpu.runtime.call_list import CallList

# Infinity minus infinity, in the oracle.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


class Case(NamedTuple):
    """A convolution: shape of the inputs, window, filters, and options."""

    shape: tuple
    window: tuple
    filters: int
    strides: tuple = (1, 1)
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)
    groups: int = 1
    pool: tuple | None = None

    def arrays(self, seed=0):
        """Inputs, weights and bias."""
        random = np.random.default_rng(seed)
        weights = (*self.window, self.shape[3] // self.groups, self.filters)
        return tuple(
            random.standard_normal(shape).astype(np.float32)
            for shape in (self.shape, weights, (self.filters,))
        )

    def layer(self, weights, bias, activation=None):
        options = {name: getattr(self, name) for name in ("strides", "padding", "dilation", "pool")}
        return Convolution(weights, bias, groups=self.groups, activation=activation, **options)


def expected(case, inputs, weights, bias, activation, added):
    """The outputs, computed tap by tap in float64."""
    padded = np.pad(inputs.astype(np.float64), ((0, 0), *case.padding, (0, 0)))
    sizes = [
        (padded.shape[1 + a] - (case.window[a] - 1) * case.dilation[a] - 1) // case.strides[a] + 1
        for a in (0, 1)
    ]
    per_group, channels = case.filters // case.groups, weights.shape[2]
    outputs = np.zeros((len(inputs), *sizes, case.filters))
    for i in range(case.window[0]):
        for j in range(case.window[1]):
            rows, columns = (
                slice(
                    at * case.dilation[a],
                    at * case.dilation[a] + (sizes[a] - 1) * case.strides[a] + 1,
                    case.strides[a],
                )
                for a, at in enumerate((i, j))
            )
            for g in range(case.groups):
                read = padded[:, rows, columns, g * channels : (g + 1) * channels]
                part = slice(g * per_group, (g + 1) * per_group)
                outputs[..., part] += read @ weights[i, j, :, part].astype(np.float64)
    if bias is not None:
        outputs += bias
    if added is not None:
        outputs += added
    if activation is not None:
        outputs = np.maximum(outputs, 0)
    if activation == "relu6":
        outputs = np.minimum(outputs, 6)
    if case.pool is not None:
        rows, columns = case.pool
        high, wide = sizes[0] // rows, sizes[1] // columns
        outputs = outputs[:, : high * rows, : wide * columns]
        outputs = outputs.reshape(len(inputs), high, rows, wide, columns, case.filters)
        outputs = outputs.max((2, 4))
    return outputs


def computed(layer, inputs, added=None):
    target = np.full(layer.output_shape(inputs.shape), np.nan, np.float32)
    calls = CallList(layer.bind(inputs, target, added))
    calls()
    first = target.copy()
    target[:] = np.nan
    calls()
    np.testing.assert_array_equal(target, first)
    return target


def assert_equal(outputs, wanted, weights):
    """Outputs agree, compared with the size of the sums before the activation."""
    assert outputs.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(outputs[~finite], wanted[~finite].astype(np.float32))
    largest = 4 * np.sqrt(weights[..., 0].size)
    assert np.abs(outputs[finite] - wanted[finite]).max(initial=0) <= 4e-6 * largest


SAME = ((1, 1), (1, 1))
CASES = {
    "one row": Case((2, 1, 9, 5), (1, 3), 7),
    "one column": Case((1, 9, 1, 3), (3, 1), 4),
    "one pixel": Case((1, 1, 1, 1), (1, 1), 1),
    "one channel": Case((3, 11, 13, 1), (5, 5), 8, padding=((2, 2), (2, 2))),
    "one filter": Case((2, 7, 6, 3), (3, 3), 1, padding=SAME),
    "half a vector of filters": Case((2, 7, 15, 3), (3, 3), 8, padding=SAME),
    "part of a vector": Case((2, 9, 10, 6), (3, 3), 5, padding=SAME),
    "several blocks": Case((1, 5, 7, 9), (3, 3), 77, padding=SAME),
    "strides": Case((2, 9, 11, 3), (3, 3), 32, strides=(2, 2), padding=((0, 1), (1, 0))),
    "different strides": Case((2, 9, 11, 4), (3, 2), 12, strides=(3, 2), padding=SAME),
    "stem": Case((1, 33, 35, 3), (7, 7), 64, strides=(2, 2), padding=((3, 3), (3, 3))),
    "dilation": Case((1, 12, 11, 5), (3, 3), 9, dilation=(2, 3), padding=((2, 2), (3, 3))),
    "padding larger than the window": Case((1, 4, 5, 3), (3, 3), 6, padding=((5, 0), (0, 6))),
    "padding larger than the image": Case((1, 2, 1, 8), (3, 3), 16, padding=((4, 7), (9, 3))),
    "groups": Case((2, 8, 7, 12), (3, 3), 20, padding=SAME, groups=4),
    "groups of one channel": Case((2, 6, 7, 5), (3, 3), 10, padding=SAME, groups=5),
    "grouped, whole vectors": Case((2, 9, 9, 64), (3, 3), 64, padding=SAME, groups=4),
    "1x1": Case((2, 5, 7, 24), (1, 1), 33),
    "1x1, strides": Case((2, 9, 7, 24), (1, 1), 32, strides=(2, 2)),
    "1x1, padding": Case((1, 3, 4, 8), (1, 1), 16, padding=SAME),
    "3x3, whole vectors": Case((2, 16, 16, 16), (3, 3), 16, padding=SAME),
    "3x3, odd": Case((3, 13, 11, 32), (3, 3), 48, padding=SAME),
    "3x3, valid": Case((2, 12, 15, 24), (3, 3), 32),
    "3x3, asymmetric": Case((2, 14, 13, 32), (3, 3), 32, padding=((0, 1), (2, 0))),
    "3x3, small": Case((1, 7, 7, 64), (3, 3), 64, padding=SAME),
    "3x3, small, many images": Case((5, 7, 7, 32), (3, 3), 80, padding=SAME),
    "3x3, one row": Case((2, 1, 40, 32), (3, 3), 32, padding=SAME),
    "3x3, large": Case((1, 40, 37, 32), (3, 3), 32, padding=SAME),
}
POOLED = {
    "2x2": Case((2, 9, 11, 1), (5, 5), 8, padding=((2, 2), (2, 2)), pool=(2, 2)),
    "2x2, part of a vector": Case((2, 8, 6, 3), (3, 3), 5, padding=SAME, pool=(2, 2)),
    "2x2, 3x3": Case((2, 14, 14, 16), (3, 3), 32, padding=SAME, pool=(2, 2)),
    "2x2, 3x3, odd": Case((3, 15, 13, 8), (3, 3), 16, padding=SAME, pool=(2, 2)),
    "2x2, several blocks": Case((1, 6, 10, 5), (3, 3), 70, pool=(2, 2)),
    "3x2": Case((2, 10, 9, 4), (3, 3), 20, padding=SAME, pool=(3, 2)),
    "1x3": Case((2, 5, 9, 4), (3, 3), 3, pool=(1, 3)),
    "larger than the image": Case((1, 4, 4, 3), (3, 3), 4, pool=(5, 5)),
}


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("name", [*CASES, *POOLED])
def test_outputs_are_those_of_the_oracle(name, activation):
    case = (CASES | POOLED)[name]
    inputs, weights, bias = case.arrays()
    outputs = computed(case.layer(weights, bias, activation), inputs)
    assert_equal(outputs, expected(case, inputs, weights, bias, activation, None), weights)


@pytest.mark.parametrize("activation", [None, "relu6"])
@pytest.mark.parametrize("name", CASES)
def test_an_array_is_added_before_the_activation(name, activation):
    case = CASES[name]
    inputs, weights, _ = case.arrays()
    layer = case.layer(weights, None, activation)
    added = np.random.default_rng(3).standard_normal(layer.output_shape(inputs.shape))
    added = (4 * added).astype(np.float32)
    outputs = computed(layer, inputs, added)
    assert_equal(outputs, expected(case, inputs, weights, None, activation, added), weights)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("name", ["3x3, odd", "2x2, 3x3", "3x2", "2x2", "grouped, whole vectors"])
def test_infinity_and_nan_reach_only_their_outputs(name, activation):
    case = (CASES | POOLED)[name]
    inputs, weights, bias = case.arrays()
    inputs[0, 3, 2, 0], inputs[1, 5, 4, -1], inputs[-1, 0, 0, 0] = np.inf, -np.inf, np.nan
    layer = case.layer(weights, bias, activation)
    assert_equal(
        computed(layer, inputs), expected(case, inputs, weights, bias, activation, None), weights
    )
    inputs, *_ = case.arrays(1)
    assert_equal(
        computed(layer, inputs), expected(case, inputs, weights, bias, activation, None), weights
    )


def test_weights_that_are_not_finite():
    case = CASES["3x3, odd"]
    inputs, weights, bias = case.arrays()
    weights[1, 2, 3, 4], weights[0, 0, 7, 20] = np.nan, np.inf
    outputs = computed(case.layer(weights, bias, "relu"), inputs)
    assert_equal(outputs, expected(case, inputs, weights, bias, "relu", None), weights)


@pytest.mark.parametrize("name", ["3x3, odd", "2x2, 3x3", "stem"])
def test_a_layer_is_bound_to_batches_of_several_sizes(name):
    case = (CASES | POOLED)[name]
    _, weights, bias = case.arrays()
    layer = case.layer(weights, bias, "relu")
    for images in (1, 7, 0, 2):
        inputs = case._replace(shape=(images, *case.shape[1:])).arrays(images)[0]
        assert_equal(
            computed(layer, inputs), expected(case, inputs, weights, bias, "relu", None), weights
        )


# One image with enough work for several tasks: divided by rows, by filters, and by both.
DIVIDED = {
    "rows": Case((1, 60, 61, 8), (3, 3), 40, strides=(2, 2), padding=SAME),
    "rows of pool windows": Case((1, 61, 60, 4), (5, 5), 40, pool=(3, 3)),
    "filters": Case((1, 7, 7, 96), (5, 5), 272, padding=((2, 2), (2, 2))),
    "filters of groups": Case((1, 9, 9, 128), (5, 5), 512, padding=SAME, groups=2),
    "many weights": Case((1, 6, 7, 512), (3, 3), 80, padding=SAME),
    "winograd, filters": Case((1, 13, 14, 96), (3, 3), 144, padding=SAME),
    "winograd, tiles": Case((1, 60, 52, 32), (3, 3), 32, padding=SAME),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_results_do_not_depend_on_the_number_of_threads(name):
    case = DIVIDED[name]
    inputs, weights, bias = case.arrays()
    layer = case.layer(weights, bias, "relu")
    target = np.empty(layer.output_shape(inputs.shape), np.float32)
    calls = CallList(layer.bind(inputs, target))

    def bits():
        target[:] = np.nan
        calls()
        return target.tobytes()

    assert_same_bits_for_any_threads(bits)
    assert_equal(target, expected(case, inputs, weights, bias, "relu", None), weights)


def test_what_does_not_fit_is_an_error():
    weights, bias = np.zeros((3, 3, 4, 6), np.float32), np.zeros(6, np.float32)
    with pytest.raises(ValueError, match="activation is 'tanh', expected None, 'relu' or 'relu6'"):
        Convolution(weights, bias, activation="tanh")
    with pytest.raises(ValueError, match="6 filters cannot be divided into 4 groups"):
        Convolution(weights, bias, groups=4)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\), expected \(6,\)"):
        Convolution(weights, bias[:4])
    source, target = np.zeros((1, 5, 5, 4), np.float32), np.zeros((1, 3, 3, 6), np.float32)
    layer = Convolution(weights, bias)
    with pytest.raises(ValueError, match="expected 4 channels"):
        layer.bind(source[..., :3], target)
    with pytest.raises(ValueError, match=r"target has shape .* expected \(1, 3, 3, 6\)"):
        layer.bind(source, target[:, :2])
    with pytest.raises(ValueError, match="added array has shape"):
        layer.bind(source, target, target[:, :2])
    pooled = Convolution(weights, bias, pool=(2, 2))
    small = target[:, :1, :1]
    with pytest.raises(ValueError, match="an addition before a pool is not possible"):
        pooled.bind(source, small, small)


@narrower_vectors
def test_narrower_vectors(lanes, cpu, features):
    run_with_narrower_vectors(
        __file__,
        lanes,
        cpu,
        features,
        """
        for name in ("3x3, odd", "stem", "one channel", "grouped, whole vectors"):
            tests.test_outputs_are_those_of_the_oracle(name, "relu6")
        tests.test_an_array_is_added_before_the_activation("3x3, odd", "relu6")
        tests.test_an_array_is_added_before_the_activation("half a vector of filters", "relu6")
        for name in ("2x2, 3x3, odd", "2x2", "3x2"):
            tests.test_outputs_are_those_of_the_oracle(name, None)
        """,
    )
