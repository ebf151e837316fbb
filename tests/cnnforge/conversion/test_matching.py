"""The plugin layers of a model are found."""

import keras
import pytest

from cnnforge.conversion.matching import plugin_layers, preferred, stock_class
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge_plugins.layers.pooling import MaxPooling2D


def registry(**targets):
    found = Registry(LayerSpec)
    for plugin, target in targets.items():
        reference = "keras.layers:MaxPooling2D"
        spec = LayerSpec(name="pool", target=target, summary="", reference=reference)
        found.add(plugin, [spec])
    return found


def model(layer):
    return keras.Sequential([keras.Input((4, 4, 1)), layer])


POOL = "cnnforge_plugins.layers.pooling:MaxPooling2D"


def test_the_built_in_spec_comes_first():
    layers = registry(acme=POOL, builtin=POOL, zoo=POOL)
    (spec,) = plugin_layers(model(MaxPooling2D()), layers).values()
    assert spec.plugin == "builtin"
    assert preferred(layers)[keras.layers.MaxPooling2D].plugin == "builtin"


def test_a_layer_that_cannot_be_imported_is_left_out():
    layers = registry(acme="no_such_module:Pool", zoo=POOL)
    assert [spec.plugin for spec in plugin_layers(model(MaxPooling2D()), layers).values()] == [
        "zoo"
    ]
    spec = LayerSpec(name="x", target=POOL, summary="", reference="no_such_module:Layer")
    assert stock_class(spec) is None


def test_nothing_is_imported_for_a_stock_model(monkeypatch):
    def load(self):
        pytest.fail("a plugin layer was imported")

    monkeypatch.setattr(LayerSpec, "load", load)
    assert plugin_layers(model(keras.layers.MaxPooling2D()), registry(acme=POOL)) == {}
