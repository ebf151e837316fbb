"""The JavaScript of a page computes what Keras computes."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import needs_chromium, run_in_page

from cnnforge.data import DataOptions, open_dataset
from cnnforge.explaining.network import Network, describe
from cnnforge.explaining.network_data import plain_operations
from cnnforge.explaining.steps import all_values, divide
from cnnforge.pages import packed, page
from cnnforge.plugin_host.discovery import discover
from cnnforge_plugins.models.lenet import build

RANDOM = np.random.default_rng(4)
layers = keras.layers


def randomize(model: keras.Model) -> keras.Model:
    """Give every weight of a model a value that matters."""
    for layer in model.layers:
        weights = layer.get_weights()
        made = [
            np.abs(RANDOM.normal(1, 0.2, each.shape)) if each.ndim < 2 else each + 0.01
            for each in weights
        ]
        layer.set_weights(made)
    return model


def in_javascript(folder: Path, network: Network, images: np.ndarray) -> list[np.ndarray]:
    """Compute the values of the last operation in Chromium, one array for each image."""
    data = {"operations": plain_operations(network), "images": packed(images)}
    text = page("test", "<p>test</p>", scripts=["page.js", "network.js"], data=data)
    file = folder / "network.html"
    file.write_text(text.replace("<body>", '<body data-ready="yes">'), encoding="utf-8")
    script = """
    const operations = unpackNetwork(DATA.operations), { data, shape } = unpack(DATA.images);
    const size = data.length / shape[0];
    const last = (at) => forward(operations, data.subarray(at * size, at * size + size)).at(-1);
    return [...Array(shape[0]).keys()].map((at) => Array.from(last(at)));
    """
    return [np.array(each, np.float32) for each in run_in_page(file, script)]


@needs_chromium
def test_lenet_on_100_digits(tmp_path: Path) -> None:
    plugins = discover()
    dataset = open_dataset("mnist5k", plugins.datasets, DataOptions(), plugins.tasks)
    images = dataset.train.fetch(np.arange(100))
    keras.utils.set_random_seed(0)
    model = randomize(build((28, 28, 1), 10))
    want = np.asarray(model(images.astype(np.float32), training=False))
    assert want.std() > 0.01
    found = in_javascript(tmp_path, describe(divide(model)), images)
    assert np.abs(np.stack(found) - want).max() < 1e-5


def with_every_layer() -> keras.Model:
    inputs = keras.Input((21, 18, 3))
    x = layers.Normalization(mean=[90.0, 100, 110], variance=[50.0**2, 60**2, 70**2])(inputs)
    x = layers.ZeroPadding2D(((1, 2), (3, 0)))(x)
    x = layers.Conv2D(8, (3, 2), strides=2, padding="same", activation="silu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(12, 3, groups=4, padding="same", activation="gelu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6")(x)
    x = layers.SeparableConv2D(10, 3, padding="same", activation="elu")(x)
    y = layers.Conv2D(10, 3, dilation_rate=2, padding="same")(x)
    y = layers.LeakyReLU(negative_slope=0.2)(y)
    x = layers.Add()([x, y])
    pools = (
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D(3, strides=2, padding="same"),
    )
    x = layers.Concatenate()([each(x) for each in pools])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(20, 1, activation="hard_sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.UpSampling2D((2, 3))(x)
    x = layers.Cropping2D(((1, 0), (2, 3)))(x)
    x = layers.Activation("hard_swish")(x)
    x = layers.ReLU()(layers.Dropout(0.2)(x))
    flat = layers.Dense(6, activation="tanh")(layers.Flatten()(x))
    mean = layers.GlobalMaxPooling2D()(x)
    x = layers.Concatenate()([flat, mean])
    x = layers.Dense(5, activation="sigmoid")(x)
    return keras.Model(inputs, layers.Softmax()(layers.Dense(7)(x)))


@needs_chromium
def test_every_kind_of_layer(tmp_path: Path) -> None:
    model = randomize(with_every_layer())
    images = RANDOM.integers(0, 256, (4, 21, 18, 3)).astype(np.uint8)
    want = np.asarray(model(images.astype(np.float32), training=False))
    network = describe(divide(model))
    assert network.unknown == []
    found = in_javascript(tmp_path, network, images)
    assert np.abs(np.stack(found) - want).max() < 1e-5


def one_layer(layer: Any) -> Network:
    inputs = keras.Input((8, 8, 4))
    return describe(divide(keras.Model(inputs, layer(inputs))))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2DTranspose(2, 3),
        layers.LayerNormalization(),
        layers.ReLU(max_value=3),
        layers.ReLU(threshold=1),
        layers.Softmax(axis=1),
        layers.Activation("selu"),
        layers.Conv2D(2, 3, activation="mish"),
        layers.BatchNormalization(axis=1),
        layers.Concatenate(axis=1),
        layers.UpSampling2D(interpolation="bilinear"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers_are_named(layer: Any) -> None:
    if isinstance(layer, layers.Concatenate):
        inputs = keras.Input((8, 8, 4))
        network = describe(divide(keras.Model(inputs, layer([inputs, inputs]))))
    else:
        network = one_layer(layer)
    assert len(network.unknown) == 1
    assert network.operations[-1].kind == "unknown"


def test_layers_without_effect_are_left_out() -> None:
    network = one_layer(layers.Dropout(0.5))
    assert [it.kind for it in network.operations] == ["picture"]
    network = one_layer(layers.ZeroPadding2D(((0, 0), (2, 1)), data_format="channels_first"))
    assert network.operations[-1].settings == {"before": [0, 0, 2]}
    assert network.operations[-1].shape == (8, 8, 7)


def test_sizes_are_counted() -> None:
    model = build((28, 28, 1), 10)
    weights = model.count_params()
    network = describe(divide(model))
    # `Rescaling` is a scale and an offset here.
    assert network.size == weights + 2
    multiplications = 784 * 25 * 8 + 196 * 9 * 8 * 16 + 784 * 256 + 256 * 10
    assert multiplications < network.multiplications < 1.2 * multiplications


def test_values_are_those_of_the_steps() -> None:
    keras.utils.set_random_seed(0)
    model = randomize(build((28, 28, 1), 10))
    steps = divide(model)
    values = all_values(steps, RANDOM.integers(0, 256, (28, 28, 1)).astype(np.float32))
    for operation in describe(steps).operations:
        assert values[operation.step].shape == operation.shape
