"""The built-in models have the layout of the data, whatever `keras.json` says."""

import keras
import numpy as np
import pytest

from cnnforge.plugin_host.discovery import discover


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "name",
    ["lenet", "resnet20", "vgg11", "mobilenet_small", "efficientnet_lite0", "detector"],
)
def test_a_model_says_its_layout(name, channels_first):
    build = discover().models[name].load()
    keras.utils.set_random_seed(0)
    first = build((32, 36, 3), 5)
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(0)
    last = build((32, 36, 3), 5)
    assert [layer.get_config() for layer in first.layers] == [
        layer.get_config() for layer in last.layers
    ]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 36, 3)).astype("float32")
    np.testing.assert_array_equal(first.predict(images), last.predict(images))
