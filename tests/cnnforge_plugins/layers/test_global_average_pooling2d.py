"""`GlobalAveragePooling2D` against Keras' own; saving is tested in test_depthwise_conv2d.py."""

import keras
import numpy as np
import pytest
from keras_layers import outputs_and_gradients, values

from cnnforge.testing import assert_close
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.global_average_pooling2d import GlobalAveragePooling2D

KINDS = (GlobalAveragePooling2D, keras.layers.GlobalAveragePooling2D)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", [(3, 11, 9, 5), (1, 1, 1, 1), (2, 40, 30, 24), (0, 4, 4, 3)])
def test_values_and_gradients(shape, keepdims, graph):
    ours = GlobalAveragePooling2D(keepdims=keepdims)
    stock = keras.layers.GlobalAveragePooling2D(keepdims=keepdims, dtype="float64")
    got = outputs_and_gradients(ours, values(*shape), graph=graph)
    expected = outputs_and_gradients(stock, values(*shape), graph=graph)
    assert_close(got[0], expected[0], shape[1] * shape[2])
    assert_close(got[1], expected[1], 1)


def test_an_empty_map_has_the_mean_that_keras_gives():
    for layer in (kind() for kind in KINDS):
        assert np.isnan(layer(values(2, 0, 3, 4))).all()
        outputs = layer(values(2, 3, 3, 0))
        assert outputs.shape == (2, 0)


@pytest.mark.parametrize("keepdims", [False, True])
def test_shapes(keepdims):
    ours, stock = (kind(keepdims=keepdims) for kind in KINDS)
    for shape in [(None, None, None, 5), (None, 12, 13, 5), (2, 11, None, None)]:
        assert ours.compute_output_shape(shape) == stock.compute_output_shape(shape)
        symbolic = [layer(keras.Input(batch_shape=shape)).shape for layer in (ours, stock)]
        assert symbolic[0] == symbolic[1]


def test_unknown_sizes():
    inputs = keras.Input((None, None, None))
    model = keras.Model(inputs, GlobalAveragePooling2D()(inputs))
    for shape in [(1, 5, 17, 2), (4, 12, 3, 3)]:
        x = values(*shape)
        expected = x.mean((1, 2), dtype=np.float64)
        assert_close(model.predict(x, verbose=0), expected, shape[1] * shape[2])


def test_nan_stays_in_its_channel():
    x = values(2, 5, 6, 3)
    x[1, 2, 3, 2] = np.nan
    expected = np.zeros((2, 3), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(np.isnan(GlobalAveragePooling2D()(x)), expected)


@pytest.mark.parametrize("options", [{"data_format": "last"}, {"colour": 1}], ids=str)
def test_wrong_arguments(options):
    errors = []
    for kind in KINDS:
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(**options)
        errors.append((caught.type, str(caught.value).split("Received")[0]))
    assert errors[0] == errors[1]


def test_wrong_inputs():
    for kind in KINDS:
        with pytest.raises(ValueError, match="incompatible with the layer"):
            kind()(values(9, 9, 3))


def test_configuration():
    options = {"keepdims": True, "name": "mine"}
    ours, stock = (kind(**options) for kind in KINDS)
    assert ours.get_config() == stock.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is GlobalAveragePooling2D
    assert copy.get_config() == ours.get_config()


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_step_of_fit(run_eagerly):
    """The gradient reaches the layer before: its weights move as with Keras' own pooling."""
    moved = []
    for kind in KINDS:
        dense = keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(seed=1))
        model = keras.Sequential([keras.Input((8, 7, 5)), dense, kind()])
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = dense.kernel.numpy()
        model.fit(1 + values(3, 8, 7, 5), np.ones((3, 4)), batch_size=3, verbose=0)
        moved.append(dense.kernel.numpy() - before)
    assert np.abs(moved[1]).max() > 1e-3
    np.testing.assert_allclose(moved[0], moved[1], atol=4 * np.finfo(np.float32).eps)


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize(
    "options",
    [{"dtype": "float64"}, {"dtype": "mixed_float16"}, {"data_format": "channels_first"}],
    ids=str,
)
def test_framework_computes_what_no_kernel_fits_with_one_warning(options):
    ours, stock = (kind(**options) for kind in KINDS)
    x = values(3, 11, 9, 5)
    with pytest.warns(_fallback.KernelUnavailableWarning, match="GlobalAveragePooling2D") as said:
        results = [ours(x), ours(x)]
    assert len(said) == 1
    for result in results:
        assert result.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, stock(x))
