"""``ConvBlock2D`` against stock layers, and how ``forge`` makes it and ``lower`` takes it apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import PREVIOUS, forge, implementations, lower
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge.utils.keras_graph import all_layers
from cnnforge_plugins.layers.conv2d import Conv2D, conv2d
from cnnforge_plugins.layers.conv_block2d import (
    BlockPooling2D,
    ConvBlock2D,
    FusedPooling2D,
    StockBlock2D,
    conv_block,
)

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


def forged_and_stock(build=sequential, *more):
    keras.utils.set_random_seed(0)
    model = build(*pair(), *more)
    return forge(model, "numba"), model


def part_of(model, name):
    return keras.Model(model.inputs[0], model.get_layer(name).output)


@pytest.mark.parametrize("build", [sequential, functional])
def test_every_layer_of_a_pair_has_its_own_outputs(build):
    forged, model = forged_and_stock(build, layers.Conv2D(3, 2, activation="relu", name="last"))
    inputs = values(3, 9, 8, 2)
    for name in ("conv", "pool", "last"):
        ours, stock = part_of(forged, name), part_of(model, name)
        assert ours.output_shape == stock.output_shape
        for got in (ours.predict(inputs, verbose=0), ours(inputs)):
            assert_close(got, stock(inputs), 200)
    everything = keras.Model(forged.inputs[0], [it.output for it in forged.layers])
    assert_close(everything.predict(inputs, verbose=0)[-1], model(inputs), 200)


@pytest.mark.parametrize("eager", [False, True])
def test_a_map_changes_if_the_weights_do(eager):
    forged, model = forged_and_stock()
    ours, stock = part_of(forged, "conv"), part_of(model, "conv")
    inputs = values(2, 9, 8, 2)
    for _ in range(2):
        forged.compile("sgd", "mse", run_eagerly=eager)
        forged.fit(inputs, np.ones((2, 3)), verbose=0)
        model.set_weights(forged.get_weights())
        assert_close(ours.predict(inputs, verbose=0), stock.predict(inputs, verbose=0), 200)


def gradients(model, inputs):
    """Gradients with respect to weights and inputs, and to the outputs of the convolution."""
    both = keras.Model(model.inputs[0], [model.get_layer("conv").output, model.outputs[0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs, result = both(inputs)
        loss = tf.reduce_sum(result**2)
    weights = [it.value for it in model.trainable_variables]
    return tape.gradient(loss, [inputs, *weights]), tape.gradient(loss, outputs)


def test_gradients_of_a_pair():
    forged, model = forged_and_stock()
    inputs = tf.constant(values(2, 9, 8, 2))
    expected, of_map = gradients(model, inputs)
    eager, of_our_map = gradients(forged, inputs)
    graph = tf.function(lambda x: gradients(forged, x)[0], autograph=False)(inputs)
    for got in (eager, graph):
        for ours, stock in zip(got, expected, strict=True):
            assert_close(ours, stock, 4000)
    assert_close(of_our_map, of_map, 4000)


def computed(monkeypatch, function, *arguments):
    """The names of the ops whose kernels TensorFlow makes when it runs a graph."""
    graph = tf.function(function, autograph=False).get_concrete_function(*arguments)
    made = []
    for op in (conv2d, conv_block):
        program = type(op).program.__get__(op)
        monkeypatch.setattr(
            op,
            "program",
            lambda step, op=op, program=program: made.append(op.name) or program(step),
        )
    graph(*arguments)
    monkeypatch.undo()
    return set(made)


def test_a_map_that_nothing_reads_is_not_computed(monkeypatch):
    forged, _ = forged_and_stock()
    inputs = tf.constant(values(2, 9, 8, 2))
    assert computed(monkeypatch, forged, inputs) == {"conv_block"}

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(forged(x, training=True) ** 2)
        found = tape.gradient(loss, [it.value for it in forged.trainable_variables])
        return tf.reduce_sum(found[0])

    def repeated(x):
        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda n, _: n < 2, lambda n, total: (n + 1, total + step(x)), start)

    assert computed(monkeypatch, step, inputs) == {"conv_block"}
    assert computed(monkeypatch, repeated, inputs) == {"conv_block"}
    assert computed(monkeypatch, part_of(forged, "conv"), inputs) == {"conv2d"}


def test_a_pool_after_something_else_is_a_pool():
    inputs = keras.Input((9, 8, 2))
    convolved = Conv2D(3, 3, activation="tanh")(inputs)
    models = [
        keras.Model(inputs, BlockPooling2D()(convolved)),
        keras.Model(
            inputs, BlockPooling2D(pool_size=3, strides=2)(Conv2D(3, 3, activation="relu")(inputs))
        ),
        keras.Model(inputs, BlockPooling2D()(layers.Conv2D(3, 3, activation="relu")(inputs))),
        keras.Model(inputs, BlockPooling2D()(Conv2D(3, 3, activation="relu")(inputs) * 2.0)),
    ]
    batch = values(2, 9, 8, 2)
    for model in models:
        assert_close(model.predict(batch, verbose=0), lower(model)(batch), 200)
        assert not any(isinstance(it, BlockPooling2D) for it in lower(model).layers)


@pytest.mark.parametrize(
    "regularizer", ["l1", keras.regularizers.L2(0.1), lambda x: 0.1 * keras.ops.sum(x)]
)
@pytest.mark.parametrize("build", [sequential, functional])
def test_an_activity_regularizer(regularizer, build):
    convolution, pool = pair()
    convolution.activity_regularizer = keras.regularizers.get(regularizer)
    model = build(convolution, pool)
    forged = forge(model, "numba")
    assert not any(isinstance(it, BlockPooling2D) for it in forged.layers)
    batch = values(2, 9, 8, 2), np.ones((2, 3))
    losses = []
    for each in (model, forged, lower(forged)):
        each.compile("sgd", "mse")
        losses.append(each.evaluate(*batch, verbose=0))
        each.fit(*batch, verbose=0)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def nested(*parts):
    inner = keras.Sequential([keras.Input((9, 8, 2)), *parts], name="inner")
    inputs = keras.Input((9, 8, 2))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inner(inputs))))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("build", [sequential, functional, nested])
@pytest.mark.parametrize("forged", [(True, False), (False, True), (True, True)])
def test_files_of_weights(build, forged, tmp_path):
    saved, opened = (
        forge(model, "numba") if ours else model
        for model, ours in zip(
            (
                build(*pair(), layers.BatchNormalization()),
                build(*pair(), layers.BatchNormalization()),
            ),
            forged,
            strict=True,
        )
    )
    inputs = values(4, 9, 8, 2)
    for each in (saved, opened):
        each.compile("adam", "mse")
    saved.fit(inputs, np.ones((4, 3)), verbose=0)
    opened.fit(inputs, np.zeros((4, 3)), verbose=0)
    saved.save_weights(tmp_path / "model.weights.h5")
    opened.load_weights(tmp_path / "model.weights.h5")
    for ours, theirs in zip(opened.weights, saved.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(opened.optimizer.iterations) == 1
    assert_close(opened.predict(inputs, verbose=0), saved.predict(inputs, verbose=0), 4000)


def test_a_forged_model_in_a_file(tmp_path):
    forged, model = forged_and_stock()
    forged.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = values(2, 9, 8, 2)
    np.testing.assert_array_equal(
        again.predict(inputs, verbose=0), forged.predict(inputs, verbose=0)
    )
    np.testing.assert_array_equal(lower(again)(inputs), model(inputs))


@pytest.mark.parametrize("build", [sequential, functional])
def test_a_file_of_an_older_version(build, tmp_path):
    """There the first layer computed both, and the second one returned its inputs."""
    model = build(ConvBlock2D(4, 3, padding="same", name="conv"), FusedPooling2D(name="pool"))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = values(2, 9, 8, 2)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    rows = {row.layer: row for row in implementations(again)}
    assert (rows["conv"].kind, rows["conv"].provider) == ("Conv2D", "builtin/conv_block2d")
    assert (rows["pool"].kind, rows["pool"].provider) == ("MaxPooling2D", PREVIOUS)
    lowered = lower(again)
    kinds = [type(it) for it in lowered.layers if it.name in ("conv", "pool")]
    assert kinds == [layers.Conv2D, layers.MaxPooling2D]
    assert_close(lowered(inputs), model(inputs), 200)
    forged = forge(lowered, "numba")
    assert_close(forged.predict(inputs, verbose=0), model(inputs), 200)


def test_it_trains(installed):
    model = forge(functional(*pair()), "numba", layers=installed)
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(values(4, 9, 8, 2), values(4, 3), verbose=0)
    assert all((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))
