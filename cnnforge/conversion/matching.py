"""Find the layers of a model that plugin layers compute or could compute."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import keras

from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import FunctionalModel, all_layers, model_parts, single_links


def in_preference(layers: Registry[LayerSpec]) -> list[LayerSpec]:
    """Sort specs so that the built-in ones come first.

    A built-in layer gives way to another plugin's layer only if the built-in plugin is disabled.
    So other installed plugins never change which kernel runs.

    Args:
        layers: The plugin layers.
    """
    return sorted(layers.values(), key=lambda spec: (spec.plugin != "builtin", spec.qualified_name))


def layer_classes(specs: Iterable[LayerSpec]) -> list[tuple[LayerSpec, type]]:
    """Import plugin layers, and leave out those that cannot be imported.

    Args:
        specs: Specs of plugin layers.

    Returns:
        Each spec with its class.
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
        The class of each plugin layer in the model, with its spec; the first spec in order of
        preference if several name the class. No plugin layer is imported if all layers of the model
        are Keras' own.
    """
    kinds = {type(layer) for layer in all_layers(model)}
    if all(kind.__module__.partition(".")[0] == "keras" for kind in kinds):
        return {}
    found: dict[type, LayerSpec] = {}
    for spec, kind in layer_classes(in_preference(layers)):
        if kind in kinds:
            found.setdefault(kind, spec)
    return found


def stock_class(spec: LayerSpec) -> type | None:
    """Import the stock class that a plugin layer stands for.

    Args:
        spec: Spec of the plugin layer.

    Returns:
        The class; `None` if the spec names none, or if it cannot be imported: then no model has a
        layer of that class.
    """
    with contextlib.suppress(PluginError):
        return spec.load_reference()
    return None


def preferred(layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """Map each stock class to the spec that computes it.

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
    """Find pairs of layers in which only the second gets what the first returns.

    Args:
        model: Any model; one that is neither Sequential nor Functional has no pairs.

    Yields:
        The first and the second layer; the model uses each once.
    """
    parts = model_parts(model)
    # A layer that occurs several times cannot be replaced by half a block.
    uses = Counter(id(layer) for part in parts for layer in part.layers)
    for part in parts:
        for first, second in single_links(part):
            if uses[id(first)] == uses[id(second)] == 1:
                yield first, second


def fusible(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, keras.layers.Layer]]:
    """Find pairs of stock layers that a plugin declares to compute as one.

    Args:
        model: Any model.
        layers: The plugin layers.

    Yields:
        The spec and the two layers. The spec's `fuse` decides whether the pair fits. A layer may
        be part of several pairs.
    """
    pairs = list(neighbours(model))
    for spec in layers.values():
        if not spec.fuses:
            continue
        # No model has a layer of a class that cannot be imported.
        with contextlib.suppress(PluginError):
            kinds = spec.load_fuses()
            for first, second in pairs:
                if (type(first), type(second)) == kinds:
                    yield spec, first, second


def check_convertible(model: keras.Model) -> None:
    """Require that a model and the models in it consist of layers only.

    Args:
        model: Any model.

    Raises:
        UsageError: A subclassed model, or one that is not built.
    """
    _check(model)
    for part in model_parts(model):
        _check(part)


def _check(model: keras.Model) -> None:
    kind = type(model)
    if not isinstance(model, keras.Sequential | FunctionalModel):
        raise UsageError(
            f"the model {model.name!r} is a {kind.__name__}, a subclass of keras.Model, and only "
            "Sequential and Functional models can be converted; build it from layers with "
            "keras.Model(inputs, outputs), or use --kernels keras"
        )
    # A clone is built from layers: it would lose what the model's own method adds to them.
    if kind.call not in (keras.Sequential.call, FunctionalModel.call):
        raise UsageError(
            f"the model {model.name!r} is a {kind.__name__} with a call() of its own, and only "
            "models that are nothing but their layers can be converted; put what it computes "
            "into a layer, or use --kernels keras"
        )
    if not model.built:
        raise UsageError(
            f"the model {model.name!r} has no weights yet, because the shape of its inputs is not "
            "known; begin it with keras.Input((height, width, channels)), or call "
            "model.build((None, height, width, channels))"
        )
