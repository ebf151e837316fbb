"""Where a plugin's layer may stand in a model: for one stock layer, or for two in a row."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import keras

# Keras exports no name for the class of what `keras.Model(inputs, outputs)` returns.
from keras.src.models.functional import Functional

from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry


def references(layers: Registry[LayerSpec]) -> list[tuple[LayerSpec, type]]:
    """The specs that stand for a stock layer, in order of preference, and that layer's class.

    A built-in layer gives way to another plugin's only when the built-in plugin is disabled:
    which kernel runs never depends on what else happens to be installed.

    Args:
        layers: The plugin layers.
    """
    found = []
    for spec in sorted(layers.values(), key=lambda s: (s.plugin != "builtin", s.qualified_name)):
        # No model holds a layer of a library that cannot be imported.
        with contextlib.suppress(PluginError):
            if (stock := spec.load_reference()) is not None:
                found.append((spec, stock))
    return found


def preferred(layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """The spec that stands for each stock class; those that fuse two layers stand for none.

    Args:
        layers: The plugin layers.
    """
    found: dict[type, LayerSpec] = {}
    for spec, stock in references(layers):
        found.setdefault(stock, spec)
    return found


def model_parts(model: keras.Model) -> list[Any]:
    """A model and the models in it, as far as they are Sequential or Functional.

    Args:
        model: Any model.
    """
    return [
        part for part in model._flatten_layers() if isinstance(part, keras.Sequential | Functional)
    ]


def neighbours(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Pairs of layers of which the second alone gets what the first gives, each used once.

    Args:
        model: Any model; one that is neither Sequential nor Functional has none.
    """
    parts = model_parts(model)
    # A layer that stands in several models, or several times in one, cannot give way to a block.
    places = Counter(id(layer) for part in parts for layer in part.layers)
    for part in parts:
        if isinstance(part, keras.Sequential):
            for first, second in pairwise(part.layers):
                if places[id(first)] == places[id(second)] == 1:
                    yield first, second
        elif isinstance(part, Functional):
            nodes = [node for level in part._nodes_by_depth.values() for node in level]
            uses = Counter(node.operation for node in nodes)
            consumers: dict[Any, list[Any]] = {}
            for node in nodes:
                for tensor in node.input_tensors:
                    consumers.setdefault(tensor._keras_history.operation, []).append(node.operation)
            for tensor in part.outputs:
                consumers.setdefault(tensor._keras_history.operation, []).append(None)
            for first, seconds in consumers.items():
                once = len(seconds) == 1 and uses[first] == 1 and uses[seconds[0]] == 1
                if once and places[id(first)] == places[id(seconds[0])] == 1:
                    yield first, seconds[0]


def fusible(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, keras.layers.Layer]]:
    """Pairs of stock layers that some plugin declares to compute as one.

    Args:
        model: Any model.
        layers: The plugin layers.

    Yields:
        The spec and the two layers. Whether the pair fits, the spec's ``fuse`` says; a layer may
        be part of several pairs.
    """
    pairs = list(neighbours(model))
    for spec in layers.values():
        if not spec.fuses:
            continue
        # As for `references`: what cannot be imported is in no model.
        with contextlib.suppress(PluginError):
            kinds = spec.load_fuses()
            for first, second in pairs:
                if (type(first), type(second)) == kinds:
                    yield spec, first, second


def check_convertible(model: keras.Model) -> None:
    """Require that a model and the models in it are nothing but their layers.

    Args:
        model: Any model.

    Raises:
        UsageError: A subclassed model, or one that is not built.
    """
    _check(model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Sequential | Functional):
            _check(layer)


def _check(model: keras.Model) -> None:
    kind = type(model)
    if not isinstance(model, keras.Sequential | Functional):
        raise UsageError(
            f"the model {model.name!r} is a {kind.__name__}, a subclass of keras.Model, and only "
            "Sequential and Functional models can be converted; build it from layers with "
            "keras.Model(inputs, outputs), or use --kernels keras"
        )
    # A clone is built of its layers: what a method of the model adds to them would be lost.
    if kind.call not in (keras.Sequential.call, Functional.call):
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
