"""Winograd's F(3x3, 2x2): the gradient of the weights compared with the oracle.

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
from cnnforge_kernels.cpu.conv import conv2d, gather
from cnnforge_kernels.cpu.conv.winograd import weights as winograd_gather

# The oracle adds infinities of both signs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")

# The launches of Winograd's algorithm, with sums of each part or with shared sums, and of the
# gather.
launched = partial(
    winograd_checks.launched,
    {
        "winograd": winograd_gather.LAUNCH,
        "shared": winograd_gather.LAUNCH_SHARED,
        "gather": gather._LAUNCH,
    },
)


class Case(NamedTuple):
    """A convolution with a 3x3 window."""

    shape: tuple
    filters: int
    same: bool = True
    groups: int = 1

    @property
    def outputs(self):
        cut = 0 if self.same else 2
        return self.shape[0], self.shape[1] - cut, self.shape[2] - cut, self.filters

    @property
    def weights(self):
        return 3, 3, self.shape[3] // self.groups, self.filters

    def arrays(self, numbers):
        """Inputs, gradients of the outputs, and outputs of which half let nothing through."""
        return numbers(self.shape, 1), numbers(self.outputs, 2), numbers(self.outputs, 3)

    def ours(self, inputs, grads, outputs, **out):
        """The gradients of the weights and the bias, and what was launched."""
        return launched(
            lambda: kernels.conv2d_grad_weights(
                inputs,
                grads,
                self.weights,
                outputs=outputs,
                padding="same" if self.same else "valid",
                groups=self.groups,
                **out,
            )
        )

    def oracle(self, inputs, grads, outputs):
        weights = np.zeros(self.weights, np.float32)
        options = {"same": self.same, "groups": self.groups, "outputs": outputs}
        return reference.conv2d_gradients(inputs, weights, grads, **options)[1:]


CASES = {
    "even": Case((2, 8, 8, 32), 32),
    "even, valid": Case((2, 10, 10, 32), 32, same=False),
    "odd": Case((3, 9, 7, 32), 5 * LANES),
    "odd, valid": Case((3, 11, 9, 32), 5 * LANES, same=False),
    "two rows": Case((2, 2, 33, 16), 32),
    "two columns": Case((1, 33, 2, 16), 32),
    "two rows, valid": Case((1, 4, 34, 16), 32, same=False),
    "two columns, valid": Case((1, 34, 4, 16), 32, same=False),
    "groups": Case((2, 9, 8, 48), 96, groups=2),
    "groups, valid": Case((2, 11, 9, 72), 96, groups=3, same=False),
    "half a vector of channels": Case((3, 9, 8, 8), 16),
    "several pieces an image": Case((1, 27, 40, 16), 16),
    "several pieces an image, valid": Case((2, 25, 42, 16), 32, same=False),
    "several products a part": Case((70, 9, 11, 8), 16),
    "many images": Case((33, 5, 5, 16), 16),
    # Sums of more than 8 MiB, in one round and in two; the last task has 8 channels.
    "shared sums, valid": Case((2, 9, 8, 328), 416, same=False),
    "shared sums of many images": Case((66, 3, 3, 328), 416),
}


def launch(name):
    return ["shared" if name.startswith("shared") else "winograd"]


def check(name, numbers):
    """Both gradients, with a ReLU and without."""
    case = CASES[name]
    inputs, grads, outputs = case.arrays(numbers)
    for mask in (outputs, None):
        got, used = case.ours(inputs, grads, mask)
        assert used == launch(name)
        expected = case.oracle(inputs, grads, mask)
        for one, other in zip(got, expected, strict=True):
            if numbers is ties:
                np.testing.assert_array_equal(one, other)
            else:
                assert_close(one, other, grads[..., 0].size)


@pytest.mark.parametrize("numbers", [values, ties])
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_weights_and_bias(name, numbers):
    check(name, numbers)


def gradients(shape, filters, window=(3, 3), **options):
    options = {"padding": "same"} | options
    channels = shape[3] // options.get("groups", 1)
    weights = ties((*window, channels, filters), 2)
    outputs = kernels.conv2d(ties(shape, 1), weights, **options)
    inputs, grads = ties(shape, 1), ties(outputs.shape, 3)
    return lambda: kernels.conv2d_grad_weights(inputs, grads, weights.shape, **options)


SQUARE = (1, 8, 8, 8)
THRESHOLD = {
    "outputs, channels and filters": (SQUARE, LANES, {}),
    "rows": ((1, 2, 32, 8), LANES, {}),
    "columns": ((1, 32, 2, 8), LANES, {}),
    "outputs of many images": ((16, 2, 2, 8), LANES, {}),
    "channels and filters of a group": ((1, 8, 8, 16), 2 * LANES, {"groups": 2}),
}
OUTSIDE = {
    "7 channels": ((1, 8, 8, 7), LANES, {}),
    "channels that do not fill half a vector": ((1, 8, 8, 18), LANES, {}),
    "filters that do not fill vectors": (SQUARE, LANES + 1, {}),
    "strides": ((1, 18, 18, 8), LANES, {"strides": 2}),
    "a stride of columns": ((1, 18, 18, 8), LANES, {"strides": (1, 2)}),
    "dilation": (SQUARE, LANES, {"dilation_rate": 2}),
    "dilation of rows": (SQUARE, LANES, {"dilation_rate": (2, 1)}),
    "5x5": (SQUARE, LANES, {"window": (5, 5)}),
    "1x9": ((1, 8, 16, 8), LANES, {"window": (1, 9)}),
    "63 outputs": ((1, 7, 9, 8), LANES, {}),
    "one row": ((1, 1, 64, 8), LANES, {}),
    "one column": ((1, 64, 1, 8), LANES, {}),
    "too few channels of a group": ((1, 8, 8, 12), 3 * LANES, {"groups": 3}),
}


@pytest.mark.parametrize("name", THRESHOLD)
def test_smallest_shapes_that_use_winograd(name):
    shape, filters, options = THRESHOLD[name]
    assert launched(gradients(shape, filters, **options))[1] == ["winograd"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_shapes_that_do_not_use_winograd(name):
    shape, filters, options = OUTSIDE[name]
    assert launched(gradients(shape, filters, **options))[1] == ["gather"]


ODD = CASES["odd"]
NOT_FINITE = [np.nan, np.inf, -np.inf]


def assert_as_defined(case, inputs, grads, outputs, launches):
    """The gradients, equal to the oracle's and computed by ``launches``."""
    got, used = case.ours(inputs, grads, outputs)
    assert used == launches
    for one, other in zip(got, case.oracle(inputs, grads, outputs), strict=True):
        np.testing.assert_array_equal(one, other)
    return got


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("place", [(1, 4, 3, 5), (0, 0, 0, 0), (2, 8, 6, 31)], ids=str)
def test_nonfinite_input_reaches_its_taps_only(place, value):
    inputs, grads, outputs = ODD.arrays(ties)
    inputs[place] = value
    for mask in (outputs, None):
        grad_weights, grad_bias = assert_as_defined(
            ODD, inputs, grads, mask, ["winograd", "gather"]
        )
        there = np.arange(32) == place[3]
        assert np.isfinite(grad_weights[:, :, ~there]).all()
        assert np.isfinite(grad_bias).all()
    # A corner of the inputs meets four taps only.
    finite = np.isfinite(grad_weights[:, :, place[3], 0])
    assert finite.sum() == (0 if place == (1, 4, 3, 5) else 5)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_gradient_reaches_its_filter_only(value):
    inputs, grads, outputs = ODD.arrays(ties)
    grads[1, 4, 3, 5], grads[2, 8, 6, 70] = value, value
    outputs[1, 4, 3, 5], outputs[2, 8, 6, 70] = 1, 1
    spoiled = np.isin(np.arange(ODD.filters), (5, 70))
    for mask in (outputs, None):
        grad_weights, grad_bias = assert_as_defined(
            ODD, inputs, grads, mask, ["winograd", "gather"]
        )
        assert np.isfinite(grad_weights[..., ~spoiled]).all()
        np.testing.assert_array_equal(np.isfinite(grad_bias), ~spoiled)
    # Behind a ReLU that is off, the value is not seen at all.
    outputs[1, 4, 3, 5], outputs[2, 8, 6, 70] = 0, np.nan
    assert_as_defined(ODD, inputs, grads, outputs, ["winograd"])


@pytest.mark.parametrize(
    ("large", "exponent", "launches"),
    [
        ("inputs", 126, ["winograd", "gather"]),
        ("grads", 126, ["winograd", "gather"]),
        ("inputs", 110, ["winograd"]),
        ("grads", 110, ["winograd"]),
        ("inputs", -100, ["winograd"]),
        ("grads", -100, ["winograd"]),
    ],
)
def test_sums_that_overflow_only_with_winograd(large, exponent, launches):
    """Integers times a power of two: the direct sum is exact, and 2**128 is infinite."""
    case = Case((1, 8, 8, 16), 16)
    inputs, grads, _ = case.arrays(ties)
    scale = np.float32(2.0**exponent)
    if large == "inputs":
        inputs[:], grads[:] = scale, grads * np.float32(2.0**-20)
    else:
        # Their sum, the gradient of the bias, is zero.
        inputs *= np.float32(2.0**-20)
        grads[:] = 0
        grads[:, 2, 2:4], grads[:, 3, 2:4] = scale, -scale
    assert_as_defined(case, inputs, grads, None, launches)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nonfinite_input_with_shared_sums(value):
    case = CASES["shared sums, valid"]
    inputs, grads, outputs = case.arrays(ties)
    inputs[1, 4, 3, 327] = value
    grad_weights, _ = assert_as_defined(case, inputs, grads, outputs, ["shared", "gather"])
    assert np.isfinite(grad_weights[:, :, :327]).all()


def results(case):
    inputs, grads, outputs = case.arrays(values)
    return [
        array.tobytes() for mask in (outputs, None) for array in case.ours(inputs, grads, mask)[0]
    ]


@pytest.mark.parametrize(
    "name",
    [
        "odd",
        "groups, valid",
        "several pieces an image",
        "many images",
        "shared sums of many images",
    ],
)
def test_threads_and_repetition_change_no_bit(name):
    winograd_checks.assert_same_bits_for_any_threads(lambda: results(CASES[name]))


@pytest.mark.parametrize(
    "name",
    ["odd", "odd, valid", "groups, valid", "several products a part", "shared sums, valid"],
)
def test_nothing_around_the_arrays_is_written_or_read(name):
    """NaN lies around the arrays that are read."""
    case = CASES[name]
    arrays = [inside(array) for array in case.arrays(ties)]
    for buffer, _ in arrays:
        buffer[0], buffer[-1] = np.nan, np.nan
    inputs, grads, outputs = (part for _, part in arrays)
    weights, out = inside(np.full(case.weights, np.nan, np.float32))
    bias, bias_out = inside(np.full(case.filters, np.nan, np.float32))
    options = ((1, 1), case.same, (1, 1), case.groups, True)
    _, used = launched(
        lambda: conv2d.conv2d_grad_weights(
            inputs, out, bias_out, outputs, *options, grads, out, bias_out
        )
    )
    assert used == launch(name)
    expected = case.oracle(inputs, grads, outputs)
    np.testing.assert_array_equal(weights, [7, *expected[0].ravel(), 7])
    np.testing.assert_array_equal(bias, [7, *expected[1].ravel(), 7])
    for array, original in zip((inputs, grads, outputs), case.arrays(ties), strict=True):
        np.testing.assert_array_equal(array, original)


@winograd_checks.narrower_vectors
def test_narrower_vectors(lanes, cpu, features):
    program = """
        for name in ("odd", "groups, valid"):
            for numbers in (tests.values, tests.ties):
                tests.check(name, numbers)
    """
    winograd_checks.run_with_narrower_vectors(__file__, lanes, cpu, features, program)
