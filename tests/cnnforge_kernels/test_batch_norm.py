"""Batch normalization and its gradients: the oracle, TensorFlow, and numbers that are hard."""

import numba
import numpy as np
import pytest
import tensorflow as tf

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close, error_bounds
from cnnforge_kernels import reference
from cnnforge_kernels.cpu.norm import training as cpu

# Lanes, pairs and more of them, folds of 1 to 16 rows, and rows wider than a strip.
CHANNELS = [1, 2, 3, 5, 8, 16, 17, 24, 64, 130, 300]
# Around chains, vectors, folds, blocks and grains; several tasks.
ROWS = [1, 2, 3, 7, 16, 31, 33, 64, 255, 1000, 4096, 16411]
EPSILON = 1e-3
# K of what is computed row by row: a few roundings, however many rows the moments are of. Some
# channels vary less than others, and their results are larger than the rms of all.
A_FEW = 16


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def factors(channels):
    """gamma and beta."""
    return 1 + values(channels, seed=1) / 2, values(channels, seed=2)


ACTIVATIONS = cpu.BATCH_NORM_ACTIVATIONS
LIMITS = {None: np.inf, "relu": np.inf, "relu6": 6}


def forward(inputs, gamma, beta, *, epsilon=EPSILON, activation=None):
    """Run the forward kernel on results full of NaN."""
    outputs = np.full(inputs.shape, np.nan, np.float32)
    mean, variance = np.full((2, inputs.shape[1]), np.nan)
    cpu.batch_moments(inputs, mean, variance)
    options = epsilon, ACTIVATIONS.index(activation)
    cpu.batch_norm_forward(inputs, gamma, beta, mean, variance, *options, outputs)
    return outputs, mean, variance


def gradients(
    inputs, gamma, beta, mean, variance, grads, *upstream, epsilon=EPSILON, activation=None
):
    """Run a gradient kernel, with gradients of both moments if given, on results full of NaN."""
    found = [np.full(shape, np.nan, np.float32) for shape in (inputs.shape, *[gamma.shape] * 2)]
    known = inputs, gamma, beta, mean, variance, epsilon, ACTIVATIONS.index(activation), grads
    if upstream:
        cpu.batch_norm_and_moments_grads(*known, *upstream, *found)
    else:
        cpu.batch_norm_grads(*known, *found)
    return found


def near(got, expected, terms, summands):
    """The tolerance's formula, where it is the summands that say how large an error may be."""
    root, bound = error_bounds(summands, terms)
    error = np.abs(got - expected)
    assert error.max(initial=0) <= bound
    assert np.sqrt(np.mean(error**2)) <= root


def check(inputs, *, epsilon=EPSILON, activation=None):
    """Everything of one case, against the oracle."""
    rows, channels = inputs.shape
    gamma, beta = factors(channels)
    if activation == "relu6":
        # Otherwise no output would reach 6.
        gamma, beta = 4 * gamma, 4 * beta
    grads = values(rows, channels, seed=3)
    options = {"epsilon": epsilon, "activation": activation}
    outputs, mean, variance = forward(inputs, gamma, beta, **options)
    expected = reference.batch_norm(inputs, gamma, beta, **options)
    # The mean adds numbers in float64 that were added in float32 first, and so are its summands.
    near(mean, expected[1], 1, inputs)
    assert_close(variance, expected[2], rows)
    scaled = (inputs - expected[1]) / np.sqrt(expected[2] + epsilon) * gamma
    near(outputs, expected[0], A_FEW, np.concatenate([scaled.ravel(), beta]))

    found = gradients(inputs, gamma, beta, mean, variance, grads, **options)
    gated = {"outputs": outputs if activation else None, "limit": LIMITS[activation]}
    wanted = reference.batch_norm_gradients(inputs, gamma, grads, epsilon=epsilon, **gated)
    # Of few rows the gradient of the inputs is what little is left of this, of one row nothing.
    near(found[0], wanted[0], A_FEW, grads * gamma / np.sqrt(expected[2] + epsilon))
    near(found[1], wanted[1], rows, np.abs(grads * scaled / gamma).sum(0) / rows**0.5)
    near(found[2], wanted[2], rows, np.abs(grads).sum(0) / rows**0.5)


@pytest.mark.parametrize("channels", CHANNELS)
def test_against_the_oracle(channels):
    for rows in ROWS:
        if rows * channels <= 300_000:
            check(values(rows, channels))


@pytest.mark.parametrize("rows", [4096, 4097])
def test_every_channel_count_up_to_two_registers(rows):
    for channels in range(1, 34):
        check(values(rows, channels))


@pytest.mark.parametrize("channels", [3, 16, 130])
@pytest.mark.parametrize("rows", [5, 33, 2000])
@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_relu(rows, channels, activation):
    check(values(rows, channels), activation=activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_output_at_a_limit_has_no_gradient(activation):
    """As in TensorFlow, at exactly 0 and 6. Without a limit, infinity has one."""
    inputs, beta = values(40, 4), np.float32([0, 6, 3, np.inf])
    gamma, grads = np.zeros(4, np.float32), np.ones((40, 4), np.float32)
    outputs, mean, variance = forward(inputs, gamma, beta, activation=activation)
    limit = 6 if activation == "relu6" else np.inf
    np.testing.assert_array_equal(outputs, np.broadcast_to(np.minimum(beta, limit), (40, 4)))
    found = gradients(inputs, gamma, beta, mean, variance, grads, activation=activation)
    passed = {None: [40, 40, 40, 40], "relu": [0, 40, 40, 40], "relu6": [0, 0, 40, 0]}
    np.testing.assert_array_equal(found[2], passed[activation])


@pytest.mark.parametrize("mean", [1000, -1000, 1e6])
@pytest.mark.parametrize("shape", [(7, 3), (4096, 16), (16384, 64), (1001, 5)], ids=str)
def test_mean_far_from_zero_costs_no_digits(shape, mean):
    """TensorFlow loses three of them, and at a mean of a million all."""
    check(values(*shape) + np.float32(mean))
    check(values(*shape) + np.float32(mean), activation="relu")


def test_channels_of_different_magnitudes():
    """Each has its own mean and scale, and is as exact as if it were alone."""
    sizes = np.float32([1e-15, 1e-4, 1, 1e4, 1e15])
    inputs = (values(3000, 5) + np.float32([0, 9, -70, 3000, 5])) * sizes
    gamma, beta = factors(5)
    grads = values(3000, 5, seed=3)
    for epsilon in (0.0, 1e-3):
        outputs, mean, variance = forward(inputs, gamma, beta, epsilon=epsilon)
        found = gradients(inputs, gamma, beta, mean, variance, grads, epsilon=epsilon)
        expected = reference.batch_norm(inputs, gamma, beta, epsilon=epsilon)
        wanted = reference.batch_norm_gradients(inputs, gamma, grads, epsilon=epsilon)
        for c in range(5):
            assert_close(outputs[:, c], expected[0][:, c], A_FEW)
            assert_close(variance[c], expected[2][c], A_FEW)
            assert_close(found[0][:, c], wanted[0][:, c], A_FEW)
            for got, exact in zip(found[1:], wanted[1:], strict=True):
                near(got[c], exact[c], 3000, np.sqrt(3000))


@pytest.mark.parametrize("value", [0, 0.1, -7.3, 12345.678, 3e20])
@pytest.mark.parametrize("shape", [(1, 3), (100, 16), (5000, 3), (333, 20)], ids=str)
def test_constant_channel(shape, value):
    inputs = np.full(shape, value, np.float32)
    gamma, beta = factors(shape[1])
    outputs, mean, variance = forward(inputs, gamma, beta)
    np.testing.assert_allclose(mean, inputs[0].astype(np.float64), rtol=1e-13)
    assert (variance >= 0).all()
    assert (variance <= (1e-13 * value) ** 2).all()
    np.testing.assert_allclose(
        outputs, np.broadcast_to(beta, shape), atol=1e-12 * abs(value) + 1e-6
    )
    found = gradients(inputs, gamma, beta, mean, variance, values(*shape, seed=3))
    assert all(np.isfinite(array).all() for array in found)


def test_constant_channel_without_epsilon_is_nan():
    inputs = values(64, 3)
    inputs[:, 1] = 2
    outputs, _, variance = forward(inputs, *factors(3), epsilon=0.0)
    assert variance[1] == 0
    np.testing.assert_array_equal(np.isnan(outputs), np.arange(3) == np.full((64, 1), 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(48, 3), (47, 3), (2000, 16), (100, 130)], ids=str)
def test_nonfinite_inputs_stay_in_their_channel(shape, value):
    inputs, channel = values(*shape), shape[1] - 2
    expected = forward(inputs, *factors(shape[1]))
    inputs[shape[0] // 2, channel] = value
    found = forward(inputs, *factors(shape[1]))
    for got, other in zip(found, expected, strict=True):
        assert np.isnan(got[..., channel]).all()
        others = np.arange(shape[1]) != channel
        np.testing.assert_array_equal(got[..., others], other[..., others])
    grads = values(*shape, seed=3)
    for activation in ACTIVATIONS:
        results = gradients(inputs, *factors(shape[1]), *found[1:], grads, activation=activation)
        for got in results:
            assert np.isfinite(got[..., others]).all()
        assert np.isnan(results[0][:, channel]).all()


def test_nonfinite_gradients_stay_in_their_channel():
    inputs, grads = values(100, 5), values(100, 5, seed=3)
    gamma, beta = factors(5)
    outputs, mean, variance = forward(inputs, gamma, beta, activation="relu")
    # A ReLU that was off passes nothing, whatever arrives.
    grads[outputs[:, 2].argmin(), 2] = np.nan
    clean = gradients(inputs, gamma, beta, mean, variance, grads, activation="relu")
    assert all(np.isfinite(array).all() for array in clean)
    grads[outputs[:, 2].argmax(), 2] = np.nan
    spoilt = gradients(inputs, gamma, beta, mean, variance, grads, activation="relu")
    for got, other in zip(spoilt, clean, strict=True):
        assert np.isnan(got[..., 2]).all()
        others = np.arange(5) != 2
        np.testing.assert_array_equal(got[..., others], other[..., others])


@pytest.mark.parametrize("shape", [(9, 3), (300, 16), (1001, 130)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_the_moments(shape, activation):
    inputs, grads = values(*shape) + np.float32(3), values(*shape, seed=3)
    gamma, beta = factors(shape[1])
    upstream = [values(shape[1], seed=seed).astype(np.float64) * shape[0] for seed in (4, 5)]
    outputs, mean, variance = forward(inputs, gamma, beta, activation=activation)
    found = gradients(inputs, gamma, beta, mean, variance, grads, *upstream, activation=activation)
    wanted = reference.batch_norm_gradients(
        inputs,
        gamma,
        grads,
        epsilon=EPSILON,
        outputs=outputs if activation else None,
        limit=LIMITS[activation],
        grad_mean=upstream[0],
        grad_variance=upstream[1],
    )
    assert_close(found[0], wanted[0], A_FEW)
    # Those of gamma and beta do not depend on them.
    alone = gradients(inputs, gamma, beta, mean, variance, grads, activation=activation)
    for got, other in zip(found[1:], alone[1:], strict=True):
        assert got.tobytes() == other.tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_the_oracle(activation):
    """Its gradients are its finite differences."""
    inputs, gamma, beta = (values(*shape).astype(np.float64) for shape in ((6, 3), (3,), (3,)))
    upstream = [values(*shape, seed=7).astype(np.float64) for shape in ((6, 3), (3,), (3,))]

    def total(*arrays):
        results = reference.batch_norm(*arrays, epsilon=EPSILON, activation=activation)
        return sum(
            (result * factor).sum() for result, factor in zip(results, upstream, strict=True)
        )

    outputs = reference.batch_norm(inputs, gamma, beta, epsilon=EPSILON, activation=activation)[0]
    found = reference.batch_norm_gradients(
        inputs,
        gamma,
        upstream[0],
        epsilon=EPSILON,
        outputs=outputs if activation else None,
        limit=LIMITS[activation],
        grad_mean=upstream[1],
        grad_variance=upstream[2],
    )
    sources = [inputs, gamma, beta]
    for place, gradient in enumerate(found):
        for index in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [array.copy() for array in sources]
                moved[place][index] += step
                ends.append(total(*moved))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize(
    "shape", [(4, 5, 6, 16), (64, 8, 8, 64), (33, 7), (2, 3, 5, 7, 3)], ids=str
)
def test_against_tensorflow(shape):
    inputs, grads = values(*shape), values(*shape, seed=3)
    gamma, beta = factors(shape[-1])
    upstream = [values(shape[-1], seed=seed) for seed in (4, 5)]
    tensors = [tf.constant(array) for array in (inputs, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        moments = tf.nn.moments(tensors[0], range(len(shape) - 1))
        results = [tf.nn.batch_normalization(tensors[0], *moments, *tensors[:0:-1], EPSILON)]
        results += moments
    theirs = tape.gradient(
        results, tensors, output_gradients=[tf.constant(array) for array in (grads, *upstream)]
    )
    ours = kernels.batch_normalization(inputs, gamma, beta, epsilon=EPSILON)
    rows = inputs.size // shape[-1]
    for got, expected in zip(ours, results, strict=True):
        near(got, expected.numpy(), 4 * rows, 1.0)
    found = kernels.batch_normalization_grads(
        *(inputs, gamma, beta, *ours[1:], grads),
        epsilon=EPSILON,
        grad_mean=upstream[0].astype(np.float64),
        grad_variance=upstream[1].astype(np.float64),
    )
    for got, expected in zip(found, theirs, strict=True):
        assert_close(got, expected.numpy(), 4 * rows)


@pytest.mark.parametrize("shape", [(50_000, 3), (50_001, 3), (9000, 64), (700, 1030)], ids=str)
def test_threads_and_repetition_change_no_bit(shape):
    inputs, grads = values(*shape) + np.float32(2), values(*shape, seed=3)
    gamma, beta = factors(shape[1])

    def everything():
        outputs, mean, variance = forward(inputs, gamma, beta, activation="relu")
        found = gradients(inputs, gamma, beta, mean, variance, grads, activation="relu")
        return [array.tobytes() for array in (outputs, mean, variance, *found)]

    threads = numba.get_num_threads()
    many, again = everything(), everything()
    try:
        numba.set_num_threads(1)
        one = everything()
    finally:
        numba.set_num_threads(threads)
    assert many == again == one


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 1.0])
def test_moving_averages_are_rounded_as_in_keras(momentum):
    inputs = values(100, 7) + np.float32(3)
    averages = values(7, seed=1), values(7, seed=2) ** 2
    results = [*np.full((2, 7), np.nan), *np.full((2, 7), np.nan, np.float32)]
    cpu.batch_moments_and_averages(inputs, *averages, momentum, *results)
    _, *moments = forward(inputs, *factors(7))
    for average, now, moment, wanted in zip(averages, results[2:], results, moments, strict=False):
        np.testing.assert_array_equal(moment, wanted)
        added = np.float32(wanted) * np.float32(1 - momentum)
        np.testing.assert_array_equal(now, average * np.float32(momentum) + added)


def test_nothing_around_the_results_is_written():
    """Arrays aligned to an element and no better, with another number before and behind."""
    for rows, channels in [(1, 1), (3, 2), (5, 3), (16, 3), (33, 7), (40, 17), (70, 130)]:
        size = rows * channels
        held = [values(size + 2, seed=seed) for seed in (0, 3)]
        inputs, grads = (array[1:-1].reshape(rows, channels) for array in held)
        gamma, beta = factors(channels)
        expected = forward(inputs.copy(), gamma, beta)
        wide = [np.full(size + 2, 7, np.float32), *np.full((2, channels + 2), 7.0)]
        outputs, mean, variance = (array[1:-1] for array in wide)
        outputs = outputs.reshape(rows, channels)
        cpu.batch_moments(inputs, mean, variance)
        known = inputs, gamma, beta, mean, variance, EPSILON, cpu.NO_ACTIVATION
        cpu.batch_norm_forward(*known, outputs)
        for array, result in zip(wide, expected, strict=True):
            np.testing.assert_array_equal(array, [7, *result.ravel(), 7])
        wanted = gradients(inputs.copy(), gamma, beta, mean, variance, grads.copy())
        wide = [np.full(array.size + 2, 7, np.float32) for array in wanted]
        found = [array[1:-1] for array in wide]
        found[0] = found[0].reshape(rows, channels)
        cpu.batch_norm_grads(*known, grads, *found)
        for array, result in zip(wide, wanted, strict=True):
            np.testing.assert_array_equal(array, [7, *result.ravel(), 7])


@pytest.mark.parametrize("shape", [(5,), (0, 3), (4, 0), (2, 3, 4, 5), (2, 0, 3)], ids=str)
def test_any_rank_and_a_given_output(shape):
    inputs, grads = values(*shape), values(*shape, seed=3)
    rows = inputs.reshape(-1, shape[-1]) if inputs.size else np.zeros((0, shape[-1]), np.float32)
    gamma, beta = factors(shape[-1])
    out = np.full(shape, np.nan, np.float32)
    results = kernels.batch_normalization(inputs, gamma, beta, epsilon=EPSILON, out=out)
    assert results[0] is out
    for got, expected in zip(results, forward(rows, gamma, beta), strict=True):
        np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    known = inputs, gamma, beta, *results[1:], grads
    out = np.full(shape, np.nan, np.float32)
    found = kernels.batch_normalization_grads(*known, epsilon=EPSILON, out=out)
    assert found[0] is out
    wanted = gradients(rows, gamma, beta, *results[1:], grads.reshape(rows.shape))
    for got, expected in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got.reshape(expected.shape), expected)


def test_moments_without_rows_are_nan():
    gamma, beta = factors(3)
    _, *moments = forward(values(0, 3), gamma, beta)
    assert np.isnan(moments).all()
    found = gradients(values(0, 3), gamma, beta, *moments, values(0, 3))
    assert not found[1].any()
    assert not found[2].any()


def test_noncontiguous_arrays():
    inputs, grads = values(5, 40).T, values(40, 5, seed=3)
    gamma, beta = (np.repeat(array, 2)[::2] for array in factors(5))
    options = {"epsilon": EPSILON, "activation": "relu"}
    results = kernels.batch_normalization(inputs, gamma, beta, **options)
    expected = forward(np.ascontiguousarray(inputs), *factors(5), activation="relu")
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    found = kernels.batch_normalization_grads(
        *(inputs, gamma, beta, *results[1:], np.asfortranarray(grads)), **options
    )
    wanted = gradients(inputs.copy(), *factors(5), *results[1:], grads, activation="relu")
    for got, exact in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, exact)


class OnDevice:
    """An array in the memory of a graphics card, as a library describes it."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (4, 3),
        "typestr": "<f4",
        "data": (256, False),
        "version": 3,
    }


X, C3, M3 = values(4, 3), values(3), np.ones(3)


def run(inputs=X, gamma=C3, beta=C3, **options):
    return kernels.batch_normalization(inputs, gamma, beta, **{"epsilon": EPSILON, **options})


def run_grads(mean=M3, variance=M3, grad_outputs=X, **options):
    known = X, C3, C3, mean, variance, grad_outputs
    return kernels.batch_normalization_grads(*known, **{"epsilon": EPSILON, **options})


MISTAKES = {
    "dtype": (lambda: run(X.astype("d")), "`inputs` must be a float32 NumPy array. .* float64"),
    "list": (lambda: run([[1.0]]), "`inputs` .* list"),
    "rank": (lambda: run(np.ones((), "f")), "`inputs` must be of rank 1 or more"),
    "device": (
        lambda: run(OnDevice()),
        "`inputs` must be a NumPy array: batch_norm has no kernel for CUDA devices",
    ),
    "device out": (lambda: run(out=OnDevice()), "`out` must be a NumPy array: batch_norm"),
    "gamma": (
        lambda: run(gamma=values(4)),
        r"`gamma` must be a float32 NumPy array of shape \(3,\). Received: float32 \(4,\)",
    ),
    "beta": (lambda: run(beta=None), "`beta` must be a float32 NumPy array .* NoneType"),
    "epsilon": (lambda: run(epsilon=-1e-3), "`epsilon` must be a number, not negative. .* -0.001"),
    "nan": (lambda: run(epsilon=np.nan), "`epsilon` .* nan"),
    "infinity": (lambda: run(epsilon=np.inf), "`epsilon` .* inf"),
    "text": (lambda: run(epsilon="0.1"), "`epsilon` .* '0.1'"),
    "activation": (lambda: run(activation="tanh"), "`activation` must be .* 'tanh'"),
    "out": (
        lambda: run(out=values(4, 4)),
        r"`out` must be a writeable C-contiguous float32 array of shape \(4, 3\)",
    ),
    "overlap": (lambda: run(out=X), "must not overlap"),
    "mean": (
        lambda: run_grads(mean=C3),
        r"`mean` must be a float64 NumPy array of shape \(3,\). Received: float32",
    ),
    "variance": (lambda: run_grads(variance=np.ones(2)), r"`variance` .* Received: float64 \(2,\)"),
    "missing": (lambda: run_grads(mean=None), "`mean` must be .* NoneType"),
    "gradient": (lambda: run_grads(grad_outputs=X[:3]), r"`grad_outputs` .* \(4, 3\)"),
    "of the mean": (lambda: run_grads(grad_mean=C3), "`grad_mean` .* float32"),
    "of the variance": (lambda: run_grads(grad_variance=[0.0] * 3), "`grad_variance` .* list"),
    "device gradient": (lambda: run_grads(grad_outputs=OnDevice()), "`grad_outputs` must be a Num"),
    "gradient overlap": (lambda: run_grads(out=X), "must not overlap"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_error_names_the_argument(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()
