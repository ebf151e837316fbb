"""`forge` and `lower`: which layers are exchanged, and that nothing else changes."""

import keras
import numpy as np
import pytest

from cnnforge.conversion import forge, implementations, lower
from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.testing import assert_close
from cnnforge.utils.keras_graph import all_layers
from cnnforge_plugins.layers.batch_normalization import BatchNormalization
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.dense import Dense
from cnnforge_plugins.layers.dropout import Dropout
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D

layers = keras.layers
SHAPE = (8, 8, 2)
OURS = {
    layers.Conv2D: Conv2D,
    layers.MaxPooling2D: MaxPooling2D,
    layers.AveragePooling2D: AveragePooling2D,
    layers.Dropout: Dropout,
    layers.BatchNormalization: BatchNormalization,
    layers.Dense: Dense,
}


def forge_all(model, layers=None):
    """Every layer that has a kernel, whichever is faster: what `auto` takes differs by machine."""
    return forge(model, "numba", layers=layers)


def images(count=4, shape=SHAPE):
    return np.random.default_rng(0).uniform(0, 1, (count, *shape)).astype(np.float32)


def body():
    """One of each layer that is exchanged, and layers with state of other kinds."""
    return [
        layers.Conv2D(4, 3, activation="relu", name="convolution"),
        layers.BatchNormalization(name="normalization"),
        layers.MaxPooling2D(2, strides=1, name="largest"),
        layers.Dropout(0.5, name="dropout"),
        layers.AveragePooling2D(2, padding="same", name="mean"),
        layers.Flatten(name="flat"),
        layers.Dense(3, name="dense"),
    ]


def sequential():
    return keras.Sequential([keras.Input(SHAPE), *body()], name="stack")


def functional():
    inputs = outputs = keras.Input(SHAPE, name="image")
    for layer in body():
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="graph")


def shared():
    """A layer that is used twice, a branch, and an operation that is not a layer."""
    inputs = keras.Input(SHAPE)
    convolution = layers.Conv2D(2, 3, padding="same", name="shared")
    once = convolution(inputs)
    twice = convolution(once)
    return keras.Model(inputs, layers.Add(name="sum")([once, twice]) * 2.0)


def nested():
    base = keras.Sequential([keras.Input(SHAPE), *body()[:4]], name="base")
    inner = keras.Input((5, 5, 4))
    head = keras.Model(inner, layers.Conv2D(2, 2, name="deep")(inner), name="head")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, head(base(inputs, training=False)), name="whole")


MODELS = [sequential, functional, shared, nested]


def settled(build):
    """A model whose every variable differs from what a new one would have."""
    keras.utils.set_random_seed(1)
    model = build()
    for index, variable in enumerate(model.variables):
        if "seed" not in variable.path:
            noise = np.random.default_rng(index).uniform(0.1, 0.3, variable.shape)
            variable.assign(variable.numpy() + noise)
    model(images(), training=True)  # moves the seed generators on, and the statistics
    return model


def state(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables]


def assert_same_state(first, second):
    for a, b in zip(state(first), state(second), strict=True):
        np.testing.assert_array_equal(a, b)


def names(model):
    """Names and whether trainable; Keras itself renames an input that nobody has named."""
    flat = all_layers(model)
    return [(it.name, it.trainable) for it in flat if not isinstance(it, layers.InputLayer)]


def kinds(model):
    return [type(layer) for layer in all_layers(model)]


@pytest.mark.parametrize("build", MODELS)
def test_forge(build):
    model = settled(build)
    before = state(model)
    forged = forge_all(model)
    assert kinds(forged) == [OURS.get(kind, kind) for kind in kinds(model)]
    assert kinds(forged) != kinds(model)
    assert names(forged) == names(model)
    assert forged.name == model.name
    assert_same_state(forged, model)
    assert_close(forged(images()), model(images()), 4 * 9 * 4)
    # The same dropout, from the same seed; the model itself is left as it was.
    assert_close(forged(images(), training=True), model(images(), training=True), 4 * 9 * 4)
    model = settled(build)
    forge_all(model)(images(), training=True)
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("build", MODELS)
def test_lower_is_the_reverse(build):
    model = settled(build)
    lowered = lower(forge_all(model))
    assert kinds(lowered) == kinds(model)
    assert names(lowered) == names(model)
    assert_same_state(lowered, model)
    np.testing.assert_array_equal(lowered(images()), model(images()))
    assert lowered.get_config().keys() == model.get_config().keys()


def test_shared_layers_stay_shared():
    forged = forge_all(settled(shared))
    assert len(forged.weights) == 2
    assert len(forged.get_layer("shared")._inbound_nodes) == 2


def test_several_inputs_and_outputs():
    left, right = keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")
    outputs = {"a": layers.Conv2D(2, 3)(left), "b": layers.MaxPooling2D()(right)}
    model = keras.Model({"left": left, "right": right}, outputs)
    data = {"left": images(), "right": images()}
    got, expected = forge_all(model)(data), model(data)
    assert_close(got["a"], expected["a"], 4 * 9 * 2)
    np.testing.assert_array_equal(got["b"], expected["b"])


@pytest.mark.parametrize("how", ["build", "call"])
def test_a_sequential_model_without_an_input_layer(how):
    model = keras.Sequential([layers.Conv2D(2, 3)])
    _ = model.build((None, *SHAPE)) if how == "build" else model(images())
    assert kinds(forge_all(model))[-1] is Conv2D
    assert_same_state(forge_all(model), model)


def test_trainable_flags():
    model = settled(nested)
    model.get_layer("base").trainable = False
    model.get_layer("head").trainable = False
    model.get_layer("head").get_layer("deep").trainable = True
    forged = forge_all(model)
    assert names(forged) == names(model)
    trainable = [[v.trainable for v in it.variables] for it in (model, forged, lower(forged))]
    assert trainable[0] == trainable[1] == trainable[2]
    assert len(forged.trainable_variables) == 2


def test_lora():
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 2)))
    forged = forge_all(model)
    assert_same_state(forged, model)
    assert [v.trainable for v in forged.variables] == [v.trainable for v in model.variables]
    assert_close(forged(images()), model(images()), 4 * 9 * 2)


def test_an_adapted_normalization_keeps_what_it_learnt():
    normalization = layers.Normalization()
    normalization.adapt(images() * 5 + 1)
    model = keras.Sequential([keras.Input(SHAPE), normalization, layers.Conv2D(2, 3)])
    assert_close(forge_all(model)(images()), model(images()), 4 * 9 * 2)


def test_compile_state():
    model = settled(sequential)
    model.compile(
        keras.optimizers.Adam(0.01, clipnorm=1.0), "mse", metrics=["mae"], run_eagerly=True
    )
    model.fit(images(), np.ones((4, 3)), verbose=0)
    forged = forge_all(model)
    assert forged.get_compile_config() == model.get_compile_config()
    assert int(forged.optimizer.iterations) == int(model.optimizer.iterations) == 1
    for ours, stock in zip(forged.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, stock)
    forged.fit(images(), np.ones((4, 3)), verbose=0)
    assert int(forged.optimizer.iterations) == 2
    assert not forge_all(sequential()).compiled


def test_kernels_keras_is_the_model_itself():
    model = sequential()
    assert forge(model, "keras") is model


def test_kernels_numba_needs_a_layer_with_a_kernel():
    flat = keras.Sequential([keras.Input((3,)), layers.Flatten()], name="flat")
    with pytest.raises(UsageError, match=r"no layer of the model 'flat' has a kernel.*Conv2D"):
        forge(flat, "numba")
    assert kinds(forge(flat)) == kinds(flat)
    forged = forge(sequential(), "numba")
    assert Conv2D in kinds(forged)
    # What is forged already has its kernels.
    assert kinds(forge(forged, "numba")) == kinds(forged)


def test_a_layer_inside_a_layer_has_no_kernel():
    inputs = keras.Input((3, *SHAPE))
    model = keras.Model(inputs, layers.TimeDistributed(layers.Conv2D(2, 3))(inputs))
    assert kinds(forge(model)) == kinds(model)
    with pytest.raises(UsageError, match="has a kernel"):
        forge(model, "numba")


class MyConvolution(layers.Conv2D):
    """A user's layer: what it adds is not in ours."""

    def call(self, inputs):
        return super().call(inputs) * 2


def test_a_users_subclass_is_left_alone():
    model = keras.Sequential([keras.Input(SHAPE), MyConvolution(2, 3), layers.MaxPooling2D()])
    assert kinds(forge_all(model))[2:] == [MyConvolution, MaxPooling2D]
    np.testing.assert_array_equal(forge_all(model)(images()), model(images()))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.convolution = layers.Conv2D(2, 3)

    def call(self, inputs):
        return self.convolution(inputs)


class WithCall(keras.Model):
    """A Functional model by its constructor that computes something else than its layers."""

    def __init__(self):
        inputs = keras.Input(SHAPE)
        super().__init__(inputs, layers.Conv2D(2, 3)(inputs), name="other")

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs) * 3


def inside():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, WithCall()(inputs))


@pytest.mark.parametrize("change", [forge_all, lower])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "'mine' is a Subclassed, a subclass of keras.Model"),
        (WithCall, "'other' is a WithCall with a call"),
        (inside, "'other' is a WithCall with a call"),
        (lambda: keras.Sequential(body(), name="raw"), "'raw' has no weights yet"),
        (lambda: keras.Sequential(name="empty"), "'empty' has no weights yet"),
    ],
)
def test_models_that_cannot_be_converted(change, build, message):
    model = build()
    with pytest.raises(UsageError, match=message):
        change(model)


def registry(*specs, plugin="acme"):
    found = Registry(LayerSpec)
    found.add("builtin", discover().layers.values())
    found.add(plugin, specs)
    return found


class Other(layers.Conv2D):
    """Another plugin's convolution."""


def spec(name="other", target=f"{__name__}:Other", reference="keras.layers:Conv2D"):
    return LayerSpec(name=name, target=target, summary="", reference=reference)


@pytest.fixture
def other(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "acme_layers", sys.modules[__name__])
    return spec(target="acme_layers:Other")


def test_the_builtin_layer_comes_first(other):
    assert Conv2D in kinds(forge_all(sequential(), layers=registry(other)))
    alone = Registry(LayerSpec)
    alone.add("acme", [other])
    forged = forge_all(sequential(), layers=alone)
    assert Other in kinds(forged)
    assert MaxPooling2D not in kinds(forged)
    # `lower` knows both, whichever of them `forge` prefers.
    assert kinds(lower(forged, layers=registry(other))) == kinds(sequential())


def test_a_broken_plugin_harms_only_models_that_need_it():
    missing = spec(target="acme_missing:Layer", reference="acme_missing:Stock")
    broken = spec("broken", target="acme_missing:Layer", reference="keras.layers:Conv3D")
    both = registry(missing, broken)
    forged = forge_all(sequential(), layers=both)
    assert Conv2D in kinds(forged)
    assert kinds(lower(forged, layers=both)) == kinds(sequential())
    assert implementations(forged, layers=both)[0].provider == "builtin/conv2d"
    inputs = keras.Input((4, 4, 4, 1))
    needs = keras.Model(inputs, layers.Conv3D(1, 2)(inputs))
    with pytest.raises(PluginError, match="acme_missing"):
        forge_all(needs, layers=both)


def test_implementations():
    model = keras.Sequential([keras.Input(SHAPE), *body(), layers.Reshape((1, 1, 3))])
    table = [(it.layer, it.kind, it.implementation, it.provider) for it in implementations(model)]
    assert table == [
        ("convolution", "Conv2D", "keras", ""),
        ("normalization", "BatchNormalization", "keras", ""),
        ("largest", "MaxPooling2D", "keras", ""),
        ("dropout", "Dropout", "keras", ""),
        ("mean", "AveragePooling2D", "keras", ""),
        ("dense", "Dense", "keras", ""),
    ]
    table = [(it.kind, it.implementation, it.provider) for it in implementations(forge_all(model))]
    assert table == [
        ("Conv2D", "numba", "builtin/conv2d"),
        ("BatchNormalization", "numba", "builtin/batch_normalization"),
        ("MaxPooling2D", "numba", "builtin/max_pooling2d"),
        ("Dropout", "numba", "builtin/dropout"),
        ("AveragePooling2D", "numba", "builtin/average_pooling2d"),
        ("Dense", "numba", "builtin/dense"),
    ]


def test_a_model_of_keras_applications():
    """MobileNetV2: 35 convolutions of 1x1 and 3x3, some strided, between normalizations.

    Rounding grows on the way through 50 layers, and no formula in K says how much. The measure is
    the model in float64: the forged model may be off by twice what the stock model is off.
    Measured: as much as the stock model, to three digits.
    """
    keras.utils.set_random_seed(0)
    build = keras.applications.MobileNetV2
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 10}
    model = build(**options, classifier_activation=None)
    x = images(16, (32, 32, 3)) * 2 - 1
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics of x, so that no activation dies out on the way
    model(x, training=True)
    forged = forge_all(model)
    exchanged = sum(kind is Conv2D for kind in kinds(forged))
    assert exchanged == sum(kind is layers.Conv2D for kind in kinds(model)) == 35

    keras.config.set_dtype_policy("float64")
    try:
        exact = build(**options, classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    exact.set_weights(model.get_weights())
    expected, stock = np.asarray(exact(x.astype(np.float64))), np.asarray(model(x))
    assert expected.std() > 0.1
    off = [np.sqrt(np.mean((it - expected) ** 2)) for it in (np.asarray(forged(x)), stock)]
    assert off[0] < 2 * off[1] < 1e-3

    lowered = lower(forged)
    assert kinds(lowered) == kinds(model)
    assert_same_state(lowered, model)
    np.testing.assert_array_equal(lowered(x), stock)
