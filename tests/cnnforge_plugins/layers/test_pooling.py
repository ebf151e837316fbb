"""`MaxPooling2D` and `AveragePooling2D` against Keras' own layers.

Inputs have ties, as behind a ReLU: which of several equal maxima gets the gradient is part of what
is compared. Saving, other dtypes and channels_first are in test_conv2d.py, for all three layers.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_layers import outputs_and_gradients

from cnnforge.testing import assert_close
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D

KINDS = [MaxPooling2D, AveragePooling2D]
SHAPE = (3, 11, 9, 5)
CASES = {
    "2": {"pool_size": 2},
    "2, same": {"pool_size": 2, "padding": "same"},
    "(3, 2)": {"pool_size": (3, 2)},
    "overlap": {"pool_size": 3, "strides": (2, 1)},
    "overlap, same": {"pool_size": 3, "strides": 2, "padding": "same"},
    "gaps": {"pool_size": 2, "strides": (3, 4)},
    "1": {"pool_size": 1, "strides": 2},
    "whole": {"pool_size": (11, 9)},
}


def stock_of(kind):
    return getattr(keras.layers, kind.__name__)


def ties(*shape):
    """Few different values: several maxima in most windows."""
    return np.random.default_rng(1).integers(-2, 3, shape or SHAPE).astype(np.float32)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, options, graph):
    ours, stock = kind(**options), stock_of(kind)(**options, dtype="float64")
    got = outputs_and_gradients(ours, ties(), graph=graph)
    expected = outputs_and_gradients(stock, ties(), graph=graph)
    area = int(np.prod(ours.pool_size))
    if kind is MaxPooling2D:
        np.testing.assert_array_equal(got[0], expected[0])
    else:
        assert_close(got[0], expected[0], area)
    # K of the gradient is how many windows overlap, at most as many as a window has cells.
    assert_close(got[1], expected[1], area)
    np.testing.assert_array_equal(got[1] == 0, expected[1] == 0)


def test_windows_of_more_than_256_cells():
    # No ties: the first of several maxima would be among the first cells.
    x = np.random.default_rng(3).standard_normal((2, 40, 20, 3)).astype(np.float32)
    ours, stock = (kind((20, 19), strides=(7, 1)) for kind in (MaxPooling2D, stock_of(KINDS[0])))
    got, expected = (outputs_and_gradients(layer, x, graph=True) for layer in (ours, stock))
    np.testing.assert_array_equal(got[0], expected[0])
    assert_close(got[1], expected[1], 20 * 19)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, options):
    ours, stock = kind(**options), stock_of(kind)(**options)
    for shape in [(None, None, None, 5), (None, 12, 13, 5), (2, 11, None, None)]:
        assert ours.compute_output_shape(shape) == stock.compute_output_shape(shape)
        symbolic = [layer(keras.Input(batch_shape=shape)).shape for layer in (ours, stock)]
        assert symbolic[0] == symbolic[1]
    assert ours(ties()).shape == stock(ties()).shape


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_sizes(kind):
    inputs = keras.Input((None, None, None))
    model = keras.Model(inputs, kind(3, strides=2, padding="same")(inputs))
    stock = stock_of(kind)(3, strides=2, padding="same")
    for shape in [(1, 5, 17, 2), (4, 12, 3, 3)]:
        x = ties(*shape)
        assert_close(model.predict(x, verbose=0), np.asarray(stock(x)), 4 * 9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 6, 6, 3), (1, 6, 6, 3), (2, 0, 6, 3)])
def test_small_and_empty(kind, shape):
    ours, stock = kind(2, padding="same"), stock_of(kind)(2, padding="same")
    got, expected = (
        outputs_and_gradients(layer, ties(*shape), graph=True) for layer in (ours, stock)
    )
    for result, want in zip(got, expected, strict=True):
        assert result.shape == want.shape
        assert_close(result, want, 4 * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_nan_out(kind):
    x = ties(1, 4, 6, 2)
    clean = np.array(kind(2)(x))
    x[0, 2, 3, 1] = np.nan
    got = np.asarray(kind(2)(x))
    assert np.isnan(got[0, 1, 1, 1])
    clean[0, 1, 1, 1] = np.nan
    np.testing.assert_array_equal(got, clean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 0},
        {"pool_size": (2, 2, 2)},
        {"pool_size": 2, "strides": -1},
        {"pool_size": 2, "data_format": "last"},
        {"pool_size": 2, "colour": 1},
        # Keras notices these two when the layer is called.
        {"pool_size": 2, "padding": "valdi"},
        {"pool_size": 2, "strides": 0},
    ],
    ids=str,
)
def test_wrong_arguments(kind, options):
    errors = []
    for pooling in (kind, stock_of(kind)):
        with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)) as caught:
            pooling(**options)(ties())
        errors.append((caught.type, str(caught.value).split("Received")[0]))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_upper_case_padding_is_what_it_is_in_keras(kind):
    ours, stock = kind(2, padding="SAME"), stock_of(kind)(2, padding="SAME")
    np.testing.assert_array_equal(ours(ties()), stock(ties()))


@pytest.mark.parametrize("kind", KINDS)
def test_configuration(kind):
    options = {"pool_size": (3, 2), "strides": (1, 2), "padding": "same", "name": "mine"}
    ours = kind(**options)
    assert ours.get_config() == stock_of(kind)(**options).get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is kind
    assert copy.get_config() == ours.get_config()
    assert kind(2).strides == (2, 2)
    assert not kind(2).weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_step_of_fit(kind, run_eagerly):
    """The gradient reaches the layer before: its weights move as with Keras' own pooling."""
    moved = []
    for pooling in (kind, stock_of(kind)):
        dense = keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(seed=1))
        model = keras.Sequential([keras.Input(SHAPE[1:]), dense, pooling(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = dense.kernel.numpy()
        model.fit(ties(), np.ones(model.compute_output_shape(SHAPE)), batch_size=3, verbose=0)
        moved.append(dense.kernel.numpy() - before)
    assert np.abs(moved[1]).max() > 1e-3
    np.testing.assert_allclose(moved[0], moved[1], atol=4 * np.finfo(np.float32).eps)
