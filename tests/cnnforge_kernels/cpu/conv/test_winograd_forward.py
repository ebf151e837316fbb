"""Winograd's F(2x2, 3x3): shapes that use it, and results compared with the oracle.

Sums of small integers are exact in any order, so that results must be equal.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import winograd_checks
from winograd_checks import LANES, inside, ties, values

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.conv import conv_block as block_kernels
from cnnforge_kernels.cpu.conv import sweep
from cnnforge_kernels.cpu.conv.winograd import forward

# The oracle adds infinities of both signs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")

# The launches of Winograd's algorithm and of the sweep.
launched = partial(winograd_checks.launched, {"winograd": forward.LAUNCH, "sweep": sweep.LAUNCH})


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


class Case(NamedTuple):
    """A convolution with a 3x3 window."""

    shape: tuple
    filters: int
    same: bool = True
    groups: int = 1

    def arrays(self, numbers):
        """Inputs, weights and bias."""
        weights = (3, 3, self.shape[3] // self.groups, self.filters)
        return numbers(self.shape, 1), numbers(weights, 2), numbers(self.filters, 3)

    @property
    def ours(self):
        return {"padding": "same" if self.same else "valid", "groups": self.groups}

    @property
    def oracle(self):
        return {"same": self.same, "groups": self.groups}

    @property
    def outputs(self):
        cut = 0 if self.same else 2
        return self.shape[0], self.shape[1] - cut, self.shape[2] - cut, self.filters

    @property
    def pooled(self):
        return self.outputs[0], self.outputs[1] // 2, self.outputs[2] // 2, self.filters


# Where channels fill vectors, the gradient of the inputs takes Winograd as well.
CASES = {
    "even": Case((2, 8, 8, 32), 32),
    "even, valid": Case((2, 10, 10, 32), 32, same=False),
    "odd": Case((3, 9, 7, 32), 5 * LANES),
    "odd, valid": Case((3, 11, 9, 32), 5 * LANES, same=False),
    "two rows": Case((2, 2, 33, 32), 32),
    "two columns": Case((1, 33, 2, 32), 32),
    "two rows, valid": Case((1, 4, 34, 32), 32, same=False),
    "two columns, valid": Case((1, 34, 4, 32), 32, same=False),
    "groups": Case((2, 9, 8, 64), 96, groups=2),
    "groups, valid": Case((2, 11, 9, 96), 96, groups=3, same=False),
    "several tasks an image": Case((1, 13, 20, 128), 128),
    "several tasks an image, valid": Case((2, 15, 22, 128), 128, same=False),
    "many images": Case((20, 5, 5, 32), 32),
    "several images a task": Case((9, 5, 6, 256), 272),
    "one vector": Case((3, 9, 8, 16), 16),
    "half a vector of channels": Case((3, 9, 8, 8), 16),
    "half a vector of a group, valid": Case((2, 11, 9, 48), 32, groups=2, same=False),
    "one vector of a group, valid": Case((2, 11, 9, 32), 32, groups=2, same=False),
}


def compare(got, expected, terms, exact):
    if exact:
        np.testing.assert_array_equal(got, expected)
    else:
        assert_close(got, expected, terms)


def check_convolution(case, numbers):
    """Outputs and the gradient of the inputs, with and without a bias and a ReLU."""
    exact, area = numbers is ties, 9 // case.groups
    inputs, weights, bias = case.arrays(numbers)
    for offsets, relu in ((bias, True), (None, False), (bias, False), (None, True)):
        outputs, used = launched(
            lambda offsets=offsets, relu=relu: kernels.conv2d(
                inputs,
                weights,
                offsets,
                activation="relu" if relu else None,
                out=poisoned(case.outputs),
                **case.ours,
            )
        )
        assert used == ["winograd"]
        expected = reference.conv2d(inputs, weights, offsets, relu=relu, **case.oracle)
        compare(outputs, expected, 9 * weights.shape[2] + 1, exact)
    grads = numbers(case.outputs, 4)
    for mask in (outputs, None):
        got, used = launched(
            lambda mask=mask: kernels.conv2d_grad_inputs(
                grads, weights, case.shape, outputs=mask, out=poisoned(case.shape), **case.ours
            )
        )
        assert used == ["winograd" if weights.shape[2] % LANES == 0 else "sweep"]
        expected = reference.conv2d_gradients(inputs, weights, grads, outputs=mask, **case.oracle)
        compare(got, expected[0], area * case.filters, exact)


def run_block(case, inputs, weights, bias):
    """Outputs and argmax, written over NaN and over argmax that cannot be."""
    outputs, argmax = poisoned(case.pooled), np.full(case.pooled, 254, np.uint8)
    _, used = launched(
        lambda: block_kernels.conv_block_forward(
            *(inputs, weights, bias, (1, 1), case.same, (1, 1), case.groups, (2, 2)),
            outputs,
            argmax,
        )
    )
    return outputs, argmax, used


def check_block(case, numbers):
    """Pooled outputs, argmax and the gradient of the inputs."""
    exact = numbers is ties
    inputs, weights, bias = case.arrays(numbers)
    # Some filters let nothing through.
    bias[::3] = -1000
    outputs, argmax, used = run_block(case, inputs, weights, bias)
    # Windows cover what may be too few outputs.
    enough = outputs[..., 0].size >= 16
    assert used == ["winograd" if enough else "sweep"]
    best, cells = reference.conv_block(inputs, weights, bias, **case.oracle)
    assert (cells[..., ::3] == 255).all()
    assert set(np.unique(cells)) == {0, 1, 2, 3, 255}
    np.testing.assert_array_equal(argmax, cells)
    compare(outputs, best, 9 * weights.shape[2] + 1, exact)
    grads = numbers(case.pooled, 4)
    got, used = launched(
        lambda: kernels.conv_block_grad_inputs(
            grads, argmax, weights, case.shape, out=poisoned(case.shape), **case.ours
        )
    )
    # To one vector of channels the scatter is as fast, which has no groups.
    whole = weights.shape[2] % LANES == 0
    dense = case.groups > 1 or (whole and weights.shape[2] >= 2 * LANES)
    assert used == (["winograd" if whole else "sweep"] if dense else [])
    expected = reference.conv_block_gradients(inputs, weights, argmax, grads, **case.oracle)[0]
    # What no window reads has a gradient of exactly zero: no part of the rms.
    there = expected != 0
    assert not got[~there].any()
    compare(got[there], expected[there], 9 * case.filters // case.groups, exact)


@pytest.mark.parametrize("numbers", [values, ties])
@pytest.mark.parametrize("name", CASES)
def test_convolution_and_gradient_of_inputs(name, numbers):
    check_convolution(CASES[name], numbers)


@pytest.mark.parametrize("numbers", [values, ties])
@pytest.mark.parametrize("name", CASES)
def test_block_and_gradient_of_inputs(name, numbers):
    check_block(CASES[name], numbers)


def convolve(shape, filters, window=(3, 3), **options):
    weights = ties((*window, shape[3], filters), 2)
    options = {"padding": "same"} | options
    return lambda: kernels.conv2d(ties(shape, 1), weights, **options)


def convolve_and_pool(shape, filters, pool_size):
    weights = ties((3, 3, shape[3], filters), 2)
    return lambda: kernels.conv_block(ties(shape, 1), weights, padding="same", pool_size=pool_size)


SQUARE = (1, 8, 8, 8)
THRESHOLD = {
    "outputs, channels and filters": convolve(SQUARE, LANES),
    "rows": convolve((1, 2, 32, 8), LANES),
    "columns": convolve((1, 32, 2, 8), LANES),
    "outputs of many images": convolve((16, 2, 2, 8), LANES),
    "windows of a pool": convolve_and_pool((1, 9, 9, 8), LANES, 2),
}
OUTSIDE = {
    "7 channels": convolve((1, 8, 8, 7), LANES),
    "channels that do not fill half a vector": convolve((1, 8, 8, 18), LANES),
    "filters that do not fill vectors": convolve(SQUARE, LANES + 1),
    "strides": convolve((1, 18, 18, 8), LANES, strides=2),
    "a stride of columns": convolve((1, 18, 18, 8), LANES, strides=(1, 2)),
    "dilation": convolve(SQUARE, LANES, dilation_rate=2),
    "dilation of rows": convolve(SQUARE, LANES, dilation_rate=(2, 1)),
    "5x5": convolve(SQUARE, LANES, (5, 5)),
    "1x9": convolve((1, 8, 16, 8), LANES, (1, 9)),
    "9x1": convolve((1, 16, 8, 8), LANES, (9, 1)),
    "63 outputs": convolve((1, 7, 9, 8), LANES),
    "one row": convolve((1, 1, 64, 8), LANES),
    "one column": convolve((1, 64, 1, 8), LANES),
    "windows of a pool that cover too little": convolve_and_pool((1, 9, 7, 8), LANES, 2),
    "a pool of 3x3": convolve_and_pool((1, 9, 9, 8), LANES, 3),
    "a pool of 2x1": convolve_and_pool(SQUARE, LANES, (2, 1)),
}


@pytest.mark.parametrize("name", THRESHOLD)
def test_smallest_shapes_that_use_winograd(name):
    assert launched(THRESHOLD[name])[1] == ["winograd"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_shapes_that_do_not_use_winograd(name):
    assert launched(OUTSIDE[name])[1] == ["sweep"]


@pytest.mark.parametrize("same", [True, False])
def test_phases_of_a_stride(same):
    """A phase of a gradient has 3x3 taps too; its outputs are not neighbours."""
    shape, filters, strides = (2, 17, 18, 32), 32, (2, 2)
    weights = ties((5, 5, 32, filters), 2)
    inputs = ties(shape, 1)
    outputs = ties(reference.conv2d(inputs, weights, strides=strides, same=same).shape, 3)
    grads = ties(outputs.shape, 4)
    got, used = launched(
        lambda: kernels.conv2d_grad_inputs(
            grads,
            weights,
            shape,
            strides=strides,
            padding="same" if same else "valid",
            outputs=outputs,
            out=poisoned(shape),
        )
    )
    assert used == ["winograd", "sweep"]  # 3x3 taps; 3x2, 2x3 and 2x2
    expected = reference.conv2d_gradients(
        inputs, weights, grads, outputs=outputs, strides=strides, same=same
    )[0]
    np.testing.assert_array_equal(got, expected)


ODD = CASES["odd"]
NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("place", [(1, 4, 3, 5), (0, 0, 0, 0), (2, 8, 6, 31)], ids=str)
def test_nonfinite_input_reaches_its_windows_only(place, value):
    inputs, weights, bias = ODD.arrays(ties)
    inputs[place] = value
    for relu in (False, True):
        outputs, used = launched(
            lambda relu=relu: kernels.conv2d(
                inputs,
                weights,
                bias,
                activation="relu" if relu else None,
                out=poisoned(ODD.outputs),
                **ODD.ours,
            )
        )
        assert used == ["winograd", "sweep"]
        expected = reference.conv2d(inputs, weights, bias, relu=relu, **ODD.oracle)
        np.testing.assert_array_equal(outputs, expected)
        assert 0.8 < np.isfinite(outputs).mean() < 1
    pooled, argmax, used = run_block(ODD, inputs, weights, bias)
    best, cells = reference.conv_block(inputs, weights, bias, **ODD.oracle)
    # The windows do not cover the last row and the last column.
    assert used == ["winograd", "sweep"]
    np.testing.assert_array_equal(pooled, best)
    np.testing.assert_array_equal(argmax, cells)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_weight_reaches_its_filter_only(value):
    for place in ((1, 1, 3, 5), (0, 2, 31, 5 * LANES - 1)):
        inputs, weights, bias = ODD.arrays(ties)
        weights[place] = value
        outputs, used = launched(lambda a=(inputs, weights, bias): kernels.conv2d(*a, **ODD.ours))
        assert used == ["winograd", "sweep"]
        np.testing.assert_array_equal(
            outputs, reference.conv2d(inputs, weights, bias, **ODD.oracle)
        )
        spoiled = np.arange(ODD.filters) == place[3]
        assert np.isfinite(outputs[..., ~spoiled]).all()
        assert not np.isfinite(outputs[..., spoiled]).all()
        pooled, argmax, used = run_block(ODD, inputs, weights, bias)
        best, cells = reference.conv_block(inputs, weights, bias, **ODD.oracle)
        assert used == ["winograd", "sweep"]
        np.testing.assert_array_equal(pooled, best)
        np.testing.assert_array_equal(argmax, cells)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_bias(value):
    inputs, weights, bias = ODD.arrays(ties)
    bias[7] = value
    outputs, used = launched(lambda: kernels.conv2d(inputs, weights, bias, **ODD.ours))
    assert used == ["winograd", "sweep"]
    np.testing.assert_array_equal(outputs, reference.conv2d(inputs, weights, bias, **ODD.oracle))


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_gradient_reaches_its_window_only(value):
    inputs, weights, bias = ODD.arrays(ties)
    outputs = kernels.conv2d(inputs, weights, bias, activation="relu", **ODD.ours)
    grads = ties(ODD.outputs, 4)
    places = np.zeros(ODD.outputs, bool)
    places[1, 4, 3], places[2, 8, 6] = True, True
    grads[places] = value
    # Behind a ReLU that is off, the value is not seen at all.
    for mask, launches in (
        (outputs, ["winograd", "sweep"]),
        (np.where(places, 0, outputs), ["winograd"]),
        (None, ["winograd", "sweep"]),
    ):
        got, used = launched(
            lambda mask=mask: kernels.conv2d_grad_inputs(
                grads, weights, ODD.shape, outputs=mask, out=poisoned(ODD.shape), **ODD.ours
            )
        )
        assert used == launches
        expected = reference.conv2d_gradients(inputs, weights, grads, outputs=mask, **ODD.oracle)
        np.testing.assert_array_equal(got, expected[0])


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_pooled_gradient_reaches_its_window_only(value):
    inputs, weights, bias = ODD.arrays(ties)
    _, argmax = kernels.conv_block(inputs, weights, bias, **ODD.ours)
    grads = ties(ODD.pooled, 4)
    grads[1, 2, 1, 4:9] = value
    assert set(argmax[1, 2, 1, 4:9]) - {255}
    got, used = launched(
        lambda: kernels.conv_block_grad_inputs(
            grads, argmax, weights, ODD.shape, out=poisoned(ODD.shape), **ODD.ours
        )
    )
    assert used == ["winograd", "sweep"]
    expected = reference.conv_block_gradients(inputs, weights, argmax, grads, **ODD.oracle)[0]
    np.testing.assert_array_equal(got, expected)
    assert 0.8 < np.isfinite(got).mean() < 1


@pytest.mark.parametrize(
    ("inputs_exponent", "weights_exponent", "launches"),
    [
        (126, -20, ["winograd", "sweep"]),
        (-20, 126, ["winograd", "sweep"]),
        (100, 15, ["winograd"]),
        (-100, -20, ["winograd"]),
    ],
)
def test_sums_that_overflow_only_with_winograd(inputs_exponent, weights_exponent, launches):
    """Integers times a power of two: the direct sum is exact, and 2**128 is infinite."""
    inputs, weights, _ = ODD.arrays(ties)
    inputs *= np.float32(2.0**inputs_exponent)
    weights *= np.float32(2.0**weights_exponent)
    outputs, used = launched(lambda: kernels.conv2d(inputs, weights, **ODD.ours))
    assert used == launches
    np.testing.assert_array_equal(outputs, reference.conv2d(inputs, weights, **ODD.oracle))
    pooled, argmax, used = run_block(ODD, inputs, weights, np.zeros(0, np.float32))
    best, cells = reference.conv_block(inputs, weights, **ODD.oracle)
    assert used == launches
    np.testing.assert_array_equal(pooled, best)
    np.testing.assert_array_equal(argmax, cells)
    grads = ties(ODD.outputs, 4) * np.float32(2.0**inputs_exponent)
    got, used = launched(lambda: kernels.conv2d_grad_inputs(grads, weights, ODD.shape, **ODD.ours))
    assert used == launches
    expected = reference.conv2d_gradients(inputs, weights, grads, **ODD.oracle)[0]
    np.testing.assert_array_equal(got, expected)


def results(case):
    """Everything that Winograd computes."""
    inputs, weights, bias = case.arrays(values)
    outputs = kernels.conv2d(inputs, weights, bias, activation="relu", **case.ours)
    grads = values(case.outputs, 4)
    grad_inputs = kernels.conv2d_grad_inputs(
        grads, weights, case.shape, outputs=outputs, **case.ours
    )
    pooled, argmax = kernels.conv_block(inputs, weights, bias, **case.ours)
    unpooled = kernels.conv_block_grad_inputs(
        values(case.pooled, 4), argmax, weights, case.shape, **case.ours
    )
    return [array.tobytes() for array in (outputs, grad_inputs, pooled, argmax, unpooled)]


@pytest.mark.parametrize("name", ["odd", "groups, valid", "several tasks an image", "many images"])
def test_threads_and_repetition_change_no_bit(name):
    winograd_checks.assert_same_bits_for_any_threads(lambda: results(CASES[name]))


def test_noncontiguous_arrays():
    inputs, weights, bias = ODD.arrays(ties)
    expected = kernels.conv2d(inputs, weights, bias, **ODD.ours)
    turned = np.ascontiguousarray(inputs.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    factors = np.asfortranarray(weights)
    offsets = np.repeat(bias, 2)[::2]
    assert not any(array.flags.c_contiguous for array in (turned, factors, offsets))
    got, used = launched(lambda: kernels.conv2d(turned, factors, offsets, **ODD.ours))
    assert used == ["winograd"]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["odd", "odd, valid", "groups, valid", "several tasks an image"])
def test_nothing_around_the_results_is_written(name):
    case = CASES[name]
    inputs, weights, bias = (inside(array)[1] for array in case.arrays(ties))
    expected = reference.conv2d(inputs, weights, bias, **case.oracle)
    buffer, out = inside(poisoned(case.outputs))
    kernels.conv2d(inputs, weights, bias, out=out, **case.ours)
    np.testing.assert_array_equal(buffer, [7, *expected.ravel(), 7])
    best, cells = reference.conv_block(inputs, weights, bias, **case.oracle)
    (buffer, out), (codes, argmax) = inside(poisoned(case.pooled)), inside(cells.astype(np.uint8))
    argmax[:] = 254
    block_kernels.conv_block_forward(
        *(inputs, weights, bias, (1, 1), case.same, (1, 1), case.groups, (2, 2)), out, argmax
    )
    np.testing.assert_array_equal(buffer, [7, *best.ravel(), 7])
    np.testing.assert_array_equal(codes, [7, *cells.ravel(), 7])
    for array, original in zip((inputs, weights, bias), case.arrays(ties), strict=True):
        np.testing.assert_array_equal(array, original)


@winograd_checks.narrower_vectors
def test_narrower_vectors(lanes, cpu, features):
    program = """
        for name in ("odd", "groups, valid"):
            for numbers in (tests.values, tests.ties):
                tests.check_convolution(tests.CASES[name], numbers)
                tests.check_block(tests.CASES[name], numbers)
    """
    winograd_checks.run_with_narrower_vectors(__file__, lanes, cpu, features, program)
