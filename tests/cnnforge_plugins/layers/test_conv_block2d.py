"""``ConvBlock2D`` against stock layers, and how ``forge`` makes it and ``lower`` takes it apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import forge, implementations, lower
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge.utils.keras_graph import all_layers
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.conv_block2d import BlockPooling2D, ConvBlock2D, StockBlock2D

layers = keras.layers


@pytest.fixture(scope="module")
def installed():
    return discover().layers


def values(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def results(layer, inputs, grads):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    found = tape.gradient(
        outputs, [inputs, *[v.value for v in layer.trainable_variables]], output_gradients=grads
    )
    return [outputs, *found]


@pytest.mark.parametrize(
    "config",
    [
        {"filters": 8, "kernel_size": 5, "padding": "same"},
        {"filters": 5, "kernel_size": 3, "use_bias": False},
        {"filters": 6, "kernel_size": (3, 2), "strides": (2, 1), "pool_size": (2, 3)},
        {"filters": 40, "kernel_size": 3, "padding": "same", "pool_size": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("graph", [False, True])
def test_values_and_gradients(config, graph):
    inputs = tf.constant(values(2, 17, 15, 3))
    ours, stock = ConvBlock2D(**config), StockBlock2D(**config)
    for layer in (ours, stock):
        layer.build(inputs.shape)
    stock.set_weights(ours.get_weights())
    grads = tf.constant(values(*ours.compute_output_shape(inputs.shape)))
    run = tf.function(results, autograph=False) if graph else results
    got, expected = run(ours, inputs, grads), results(stock, inputs, grads)
    pixels = int(np.prod(grads.shape[:3]))
    window = int(np.prod(ours.kernel.shape))
    counts = [window // ours.filters, window, pixels, pixels]
    for result, want, terms in zip(got, expected, counts, strict=False):
        # Two float32 results, each off by as much.
        assert_close(result.numpy(), want.numpy(), 4 * terms)


def test_configuration_and_errors():
    layer = ConvBlock2D(4, 3, pool_size=3, padding="same", name="block")
    again = ConvBlock2D.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.pool_size == (3, 3)
    assert layer.compute_output_shape((None, 10, 11, 2)) == (None, 3, 3, 4)
    with pytest.raises(ValueError, match="has a ReLU built in"):
        ConvBlock2D(4, 3, activation="tanh")
    with pytest.raises(ValueError, match="at most 255 cells"):
        ConvBlock2D(4, 3, pool_size=16)
    with pytest.raises(ValueError, match="pool_size"):
        ConvBlock2D(4, 3, pool_size=0)


def test_save_and_load(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 2)), ConvBlock2D(4, 3), layers.Flatten()])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = values(3, 8, 8, 2)
    np.testing.assert_array_equal(model(inputs), again(inputs))


def pair(**pool):
    return [
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
        layers.MaxPooling2D(**pool, name="pool"),
    ]


def sequential(*parts):
    return keras.Sequential([keras.Input((9, 8, 2)), *parts, layers.Flatten(), layers.Dense(3)])


def functional(*parts):
    inputs = outputs = keras.Input((9, 8, 2))
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(outputs)))


@pytest.mark.parametrize("build", [sequential, functional])
def test_forge_fuses_and_lower_splits(build, installed):
    model = build(*pair())
    forged = forge(model, "numba", layers=installed)
    kinds = {layer.name: type(layer) for layer in forged.layers}
    assert kinds["conv"] is Conv2D
    assert kinds["pool"] is BlockPooling2D
    # Keras gives an unnamed input a new name.
    names = [
        [layer.name for layer in model.layers if layer.weights or "pool" in layer.name]
        for model in (model, forged)
    ]
    assert names[0] == names[1]
    inputs = values(3, 9, 8, 2)
    assert_close(forged(inputs), model(inputs), 200)
    lowered = lower(forged, layers=installed)
    assert [type(layer) for layer in lowered.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(lowered(inputs), model(inputs))
    rows = {row.layer: row for row in implementations(forged, layers=installed)}
    assert (rows["conv"].kind, rows["conv"].provider) == ("Conv2D", "builtin/conv_block2d")
    assert (rows["pool"].kind, rows["pool"].implementation) == ("MaxPooling2D", "numba")


def test_a_nested_model_is_fused(installed):
    inner = sequential(*pair())
    model = keras.Sequential([keras.Input((9, 8, 2)), inner])
    forged = forge(model, "numba", layers=installed)
    assert any(type(layer) is BlockPooling2D for layer in all_layers(forged))
    inputs = values(2, 9, 8, 2)
    np.testing.assert_array_equal(lower(forged, layers=installed)(inputs), model(inputs))


def unfusable():
    yield "no relu", functional(layers.Conv2D(4, 3), layers.MaxPooling2D())
    yield "padded pool", functional(*pair(padding="same"))
    yield "overlapping pool", functional(*pair(pool_size=3, strides=2))
    yield (
        "large pool",
        keras.Sequential(
            [
                keras.Input((20, 20, 1)),
                layers.Conv2D(2, 3, activation="relu"),
                layers.MaxPooling2D(16),
                layers.Flatten(),
            ]
        ),
    )
    inputs = keras.Input((9, 8, 2))
    convolved = layers.Conv2D(4, 3, activation="relu")(inputs)
    pooled = layers.MaxPooling2D()(convolved)
    yield "two users", keras.Model(inputs, [convolved, pooled])
    common = layers.Conv2D(2, 3, padding="same", activation="relu")
    pooled = keras.Sequential([keras.Input((9, 8, 2)), common, layers.MaxPooling2D()])
    plain = keras.Sequential([keras.Input((9, 8, 2)), common])
    yield "two models", keras.Model(inputs, [pooled(inputs), plain(inputs)])
    shared = layers.Conv2D(2, 3, padding="same", activation="relu")
    yield "used twice", keras.Model(inputs, layers.MaxPooling2D()(shared(shared(inputs))))


@pytest.mark.parametrize(
    ("why", "model"), list(unfusable()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_other_pairs_are_left_alone(why, model, installed):
    forged = forge(model, "numba", layers=installed)
    assert not any(type(layer) is BlockPooling2D for layer in all_layers(forged))
    inputs = values(2, *model.input_shape[1:])
    got, expected = forged(inputs), model(inputs)
    for result, want in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        assert_close(result, want, 200)


def test_a_block_that_stands_alone_is_lowered_to_two_layers(installed):
    model = sequential(ConvBlock2D(4, 3, name="block"))
    lowered = lower(model, layers=installed)
    assert not any(isinstance(layer, ConvBlock2D) for layer in all_layers(lowered))
    inputs = values(2, 9, 8, 2)
    assert_close(lowered(inputs), model(inputs), 200)


def test_it_trains(installed):
    model = forge(functional(*pair()), "numba", layers=installed)
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(values(4, 9, 8, 2), values(4, 3), verbose=0)
    assert all((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))
