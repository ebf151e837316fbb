"""`Dense` against Keras' own."""

import keras
import numpy as np
import pytest
from keras_layers import outputs_and_gradients, values

from cnnforge.conversion import decide, forge, lower
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.dense import Dense

KINDS = (Dense, keras.layers.Dense)


def same_weights(shape, *args, **options):
    """Our layer, and that of Keras in float64, with the same weights."""
    ours, stock = Dense(*args, **options), keras.layers.Dense(*args, **options, dtype="float64")
    for layer in (ours, stock):
        layer.build(shape)
    stock.set_weights([weight.astype(np.float64) for weight in ours.get_weights()])
    return ours, stock


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh", "softmax"])
@pytest.mark.parametrize("shape", [(9, 13), (2, 3, 5), (0, 4)], ids=str)
def test_values_and_gradients(shape, activation, graph):
    ours, stock = same_weights(shape, 6, activation=activation, bias_initializer="ones")
    inputs = values(*shape)
    got = outputs_and_gradients(ours, inputs, graph=graph)
    expected = outputs_and_gradients(stock, inputs, graph=graph)
    for one, other in zip(got, expected, strict=True):
        assert np.shape(one) == np.shape(other)
        if np.size(one):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_shapes():
    for shape in [(None, 5), (None, None, 5), (2, 3, 4, 5)]:
        ours, stock = (kind(7) for kind in KINDS)
        assert ours.compute_output_shape(shape) == stock.compute_output_shape(shape)
        symbolic = [layer(keras.Input(batch_shape=shape)).shape for layer in (ours, stock)]
        assert symbolic[0] == symbolic[1]


def test_unknown_sizes():
    inputs = keras.Input((None, None, 3))
    layer = Dense(4)
    model = keras.Model(inputs, layer(inputs))
    for shape in [(1, 5, 7, 3), (4, 2, 3, 3)]:
        x = values(*shape)
        expected = x.astype(np.float64) @ layer.kernel.numpy()
        assert_close(model.predict(x, verbose=0), expected, 3)


def test_configuration():
    options = {"activation": "relu", "use_bias": False, "name": "mine", "kernel_regularizer": "l2"}
    ours, stock = (kind(5, **options) for kind in KINDS)
    assert ours.get_config() == stock.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is Dense
    assert copy.get_config() == ours.get_config()


@pytest.mark.parametrize("options", [{"units": 0}, {"units": -3}, {"units": 2, "colour": 1}])
def test_wrong_arguments(options):
    errors = []
    for kind in KINDS:
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(**options)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_wrong_inputs():
    for kind in KINDS:
        layer = kind(3)
        layer.build((None, 5))
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(values(2, 6))


@pytest.mark.parametrize("lora", [None, 2])
def test_some_steps_of_fit(lora):
    found = []
    for kind in KINDS:
        keras.utils.set_random_seed(1)
        layers = [kind(8, activation="relu", kernel_regularizer="l2"), kind(3)]
        model = keras.Sequential([keras.Input((5,)), *layers])
        if lora:
            layers[0].enable_lora(lora)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(values(6, 5), values(6, 3, seed=2), batch_size=3, verbose=0, epochs=2)
        found.append(model.get_weights())
    for ours, stock in zip(*found, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=1e-6)


def test_forge_and_lower():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu")])
    layers = discover().layers
    forged = forge(model, "numba", layers=layers)
    assert type(forged.layers[0]) is Dense
    x = values(3, 5)
    assert_close(forged.predict(x, verbose=0), model.predict(x, verbose=0), 5)
    assert type(lower(forged).layers[0]) is keras.layers.Dense


def test_auto_measures_it(tmp_path):
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(20, activation="relu")])
    options = {"layers": discover().layers, "batch_size": 4, "cache_file": tmp_path / "choices"}
    (found,) = decide(model, "auto", **options)
    assert found.reason == "measured"
    assert found.ratio is not None


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("dtype", ["float64", "mixed_float16"])
def test_framework_computes_what_no_kernel_fits_with_one_warning(dtype):
    keras.utils.set_random_seed(1)
    ours = Dense(4, dtype=dtype)
    x = values(3, 5)
    with pytest.warns(_fallback.KernelUnavailableWarning, match="Dense: no kernel") as said:
        results = [ours(x), ours(x)]
    assert len(said) == 1
    stock = keras.layers.Dense(4, dtype=dtype)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())
    for result in results:
        assert result.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, stock(x))
