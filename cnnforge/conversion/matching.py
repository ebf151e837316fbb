"""Find the layers of a model that plugin layers compute or could compute."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from cnnforge.conversion.copying import live_config
from cnnforge.errors import PluginError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import all_layers, model_parts, single_links


def in_preference(layers: Registry[LayerSpec]) -> list[LayerSpec]:
    """Sort the specs of plugin layers so that those of the built-in plugin come first.

    If several plugins can compute a stock layer, the first spec is used. So installing a plugin
    does not change which kernel computes a layer that the built-in plugin can compute.

    Args:
        layers: The plugin layers.
    """
    return sorted(layers.values(), key=lambda spec: (spec.plugin != "builtin", spec.qualified_name))


def layer_classes(specs: Iterable[LayerSpec]) -> list[tuple[LayerSpec, type]]:
    """Import plugin layers, and leave out those that cannot be imported.

    Args:
        specs: Specs of plugin layers.

    Returns:
        Pairs of a spec and the class of the plugin layer.
    """
    found = []
    for spec in specs:
        with contextlib.suppress(PluginError):
            found.append((spec, spec.load()))
    return found


def plugin_layers(model: keras.Model, layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """Find out which layers of a model are plugin layers.

    Args:
        model: Any model.
        layers: The plugin layers.

    Returns:
        A dict from the class of each plugin layer in the model to its spec. If several specs name
        the class, the first spec in the order of `in_preference` is used. If all layers of the
        model are Keras' own, no plugin is imported and the result is empty.
    """
    if _only_stock(model):
        return {}
    kinds = {type(layer) for layer in all_layers(model)}
    found: dict[type, LayerSpec] = {}
    for spec, kind in layer_classes(in_preference(layers)):
        if kind in kinds:
            found.setdefault(kind, spec)
    return found


def stock_class(spec: LayerSpec) -> type | None:
    """Import the stock class that a plugin layer replaces.

    Args:
        spec: Spec of the plugin layer.

    Returns:
        The class. It is `None` if the spec names no class, or if the class cannot be imported. In
        the second case no model can contain a layer of that class.
    """
    with contextlib.suppress(PluginError):
        return spec.load_reference()
    return None


def preferred(layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """Map each stock class to the spec of the plugin layer that replaces it.

    Args:
        layers: The plugin layers.
    """
    found: dict[type, LayerSpec] = {}
    for spec in in_preference(layers):
        stock = stock_class(spec)
        if stock is not None:
            found.setdefault(stock, spec)
    return found


def neighbours(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Find pairs of layers such that only the second layer reads the output of the first.

    Args:
        model: Any model. A model that is neither Sequential nor Functional has no pairs.

    Yields:
        The first and the second layer. The model uses each of them once.
    """
    parts = model_parts(model)
    # A layer that the model uses several times is not part of a pair. Otherwise it would have to be
    # fused with another layer at one place of the model, and be a single layer at another place.
    uses = Counter(id(layer) for part in parts for layer in part.layers)
    for part in parts:
        for first, second in single_links(part):
            if uses[id(first)] == uses[id(second)] == 1:
                yield first, second


def fusible(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, keras.layers.Layer]]:
    """Find pairs of stock layers that a plugin may be able to compute as one layer.

    Args:
        model: Any model.
        layers: The plugin layers.

    Yields:
        The spec and the two layers. Only the classes of the layers have been checked. So the caller
        must call `fuse` of the plugin layer, which decides whether it can compute this pair. A
        layer may be part of several pairs.
    """
    pairs = list(neighbours(model))
    for spec in layers.values():
        if not spec.fuses:
            continue
        # If a class cannot be imported, the model cannot contain a layer of that class.
        with contextlib.suppress(PluginError):
            kinds = spec.load_fuses()
            for first, second in pairs:
                # A regularizer reads the outputs of the first layer, so they must be computed.
                if (type(first), type(second)) == kinds and first.activity_regularizer is None:
                    yield spec, first, second


def fused(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, keras.layers.Layer]]:
    """Find pairs of layers that a plugin layer computes as one.

    Args:
        model: Any model, for instance one that `cnnforge.conversion.forge` has returned.
        layers: The plugin layers.

    Yields:
        The spec of the plugin layer, and the two layers at its `places`.
    """
    if _only_stock(model):
        return
    pairs = list(neighbours(model))
    for spec in in_preference(layers):
        if not spec.places:
            continue
        with contextlib.suppress(PluginError):
            kinds = spec.load_places()
            for first, second in pairs:
                if (type(first), type(second)) == kinds and spec.load().fuse(first, second):
                    yield spec, first, second


def kernel_layers(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, dict[str, Any]]]:
    """Find the layers of a model that plugin layers with a reference compute.

    Args:
        model: Any model.
        layers: The plugin layers.

    Yields:
        The spec of the plugin layer, the layer that has the weights, and the configuration of the
        plugin layer. Two layers that are computed as one are yielded once, as the first of them.
    """
    known = plugin_layers(model, layers)
    pairs = {id(first): (spec, second) for spec, first, second in fused(model, layers)}
    seconds = {id(second) for _, second in pairs.values()}
    for layer in all_layers(model):
        if id(layer) in pairs:
            spec, second = pairs[id(layer)]
            yield spec, layer, spec.load().fuse(layer, second).get_config()
        elif id(layer) not in seconds and type(layer) in known:
            spec = known[type(layer)]
            if stock_class(spec) is not None:
                yield spec, layer, live_config(layer)


def stock_classes(model: keras.Model, layers: Registry[LayerSpec]) -> dict[type, type]:
    """Map the class of each plugin layer that replaces one stock layer to the stock class.

    Args:
        model: Any model.
        layers: The plugin layers.

    Returns:
        The classes; empty if all layers of the model are Keras' own.
    """
    found: dict[type, type] = {}
    if _only_stock(model):
        return found
    for spec in in_preference(layers):
        with contextlib.suppress(PluginError):
            ours = spec.load_places() if spec.places else (spec.load(),)
            stock = spec.load_fuses() if spec.fuses else (spec.load_reference(),)
            for kind, other in zip(ours, stock, strict=True):
                if other is not None:
                    found.setdefault(kind, other)
    return found


def _only_stock(model: keras.Model) -> bool:
    kinds = {type(layer) for layer in all_layers(model)}
    return all(kind.__module__.partition(".")[0] == "keras" for kind in kinds)
