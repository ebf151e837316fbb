"""Convert stock Keras layers to plugin layers and back: ``forge`` and ``lower``.

A plugin's ``LayerSpec`` names the stock layer class that the plugin layer replaces. ``forge``
replaces layers of exactly that class by plugin layers with the same configuration and weights. Its
result is a plain Keras model. ``lower`` replaces plugin layers by stock layers. A training run
saves the model that ``lower`` returns, because Keras can load it without cnnforge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeGuard, cast

import keras

from cnnforge.conversion.arguments import check_batch_size, check_convertible, check_model
from cnnforge.conversion.copying import make, rebuilt
from cnnforge.conversion.decisions import (
    PREVIOUS,
    Kernels,
    LayerImplementation,
    decide,
    installed,
    replaceable_layers,
)
from cnnforge.conversion.matching import (
    fusible,
    neighbours,
    plugin_layers,
    stock_classes,
)
from cnnforge.errors import UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry


def forge(
    model: keras.Model,
    kernels: Kernels | Sequence[LayerImplementation] = "auto",
    *,
    layers: Registry[LayerSpec] | None = None,
    batch_size: int = 64,
    training: bool = True,
    cache_file: Path | None = None,
) -> keras.Model:
    """Copy a model, and replace its layers by plugin layers if these are not slower.

    Layers inside another layer (``TimeDistributed(Conv2D(...))``) and a user's own subclasses of
    stock layers are not replaced. The copy of a subclass of a Functional model is a plain
    Functional model, unless the constructor of the subclass has the arguments
    ``(inputs, outputs)``.

    Args:
        model: A Sequential or Functional model; it is not changed.
        kernels: Decisions that `decide` has returned for this architecture, or an argument for
            `decide`: ``auto``, ``numba`` or ``keras``.
        layers: The plugin layers; those of the installed plugins by default.
        batch_size: Number of images; see `decide`.
        training: Whether the backward pass is measured too; see `decide`.
        cache_file: File of measurements; see `decide`.

    Returns:
        The forged model, with the same configuration, weights, seeds and layer names, except that
        Keras gives an unnamed input another name. Each layer has its own outputs, and a
        `.weights.h5` file of either model can be loaded into the other one. If the model is
        compiled, so is the copy: it has a copy of the optimizer with its state, and the same loss
        and metrics, as they are in memory. If no layer is replaced, the model itself is returned.

    Raises:
        UsageError: An argument has the wrong type or value, the model is subclassed or not built,
            a layer or the optimizer cannot be copied, ``kernels`` is ``numba`` and no plugin layer
            fits, or the decisions are for another model.
        PluginError: A plugin layer that a decision names cannot be loaded.
        UnknownNameError: A decision names a plugin layer that is not installed.
    """
    check_model("forge", model)
    layers = installed() if layers is None else layers
    if kernels == "keras":
        check_batch_size(batch_size)
        return model
    check_convertible(model)
    if _are_decisions(kernels):
        decisions = kernels
    else:
        decisions = decide(
            model,
            cast("Kernels", kernels),
            layers=layers,
            batch_size=batch_size,
            training=training,
            cache_file=cache_file,
        )
    exchanged = _exchanged(model, decisions, layers)
    if not exchanged:
        return model
    return rebuilt(model, lambda layer: exchanged[id(layer)]() if id(layer) in exchanged else None)


def _are_decisions(kernels: object) -> TypeGuard[Sequence[LayerImplementation]]:
    return (
        isinstance(kernels, Sequence)
        and not isinstance(kernels, str)
        and all(isinstance(it, LayerImplementation) for it in kernels)
    )


def _exchanged(
    model: keras.Model, decisions: Sequence[LayerImplementation], layers: Registry[LayerSpec]
) -> dict[int, Callable[[], keras.layers.Layer]]:
    """Return a dict of the layers to replace: from the `id` of a layer to a function.

    The function makes the plugin layer that replaces the layer.
    """
    # Find the layer of each decision by order and class. The name of the layer does not work,
    # because Keras chooses other default names each time a model is built.
    waiting = replaceable_layers(model, layers)
    pairs = {
        (spec.qualified_name, id(first)): second for spec, first, second in fusible(model, layers)
    }
    makers: dict[int, Callable[[], keras.layers.Layer]] = {}
    for decision in decisions:
        number = next((n for n, (_, it) in enumerate(waiting) if it.kind == decision.kind), None)
        layer = present = None
        if number is not None:
            (layer, present), waiting = waiting[number], waiting[number + 1 :]
        if decision.implementation == "keras" or decision.provider == PREVIOUS:
            continue
        spec = layers[decision.provider]
        if layer is None or present is None:
            raise UsageError(_another_model(model, decision))
        if present.provider == decision.provider:
            continue
        if not spec.fuses:
            makers[id(layer)] = partial(make, spec.load(), layer)
            continue
        second = pairs.get((decision.provider, id(layer)))
        if second is None or spec.load().fuse(layer, second) is None:
            raise UsageError(_another_model(model, decision))
        for kind, replaced in zip(spec.load_places(), (layer, second), strict=True):
            makers[id(replaced)] = partial(make, kind, replaced)
    return makers


def _another_model(model: keras.Model, decision: LayerImplementation) -> str:
    return (
        f"the decisions are about another model: {decision.provider} was to compute the "
        f"{decision.kind} {decision.layer!r}, and the model {model.name!r} has no such layer left"
    )


def lower(model: keras.Model, *, layers: Registry[LayerSpec] | None = None) -> keras.Model:
    """Reverse ``forge``: copy a model, and replace its plugin layers by stock Keras layers.

    The stock layers get the same names, weights and state. Every plugin layer that can replace a
    stock layer is replaced, even if ``forge`` has not made it.

    Args:
        model: A Sequential or Functional model; it is not changed.
        layers: The plugin layers; those of the installed plugins by default.

    Returns:
        The model of stock layers.

    Raises:
        UsageError: The argument is not a model, the model is subclassed or not built, or a layer
            or the optimizer cannot be copied.
    """
    check_model("lower", model)
    check_convertible(model)
    layers = installed() if layers is None else layers
    known, stock = plugin_layers(model, layers), stock_classes(model, layers)
    split = {id(first) for first, second in neighbours(model) if hasattr(second, "unfuse")}

    def exchange(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        spec = known.get(type(layer))
        if spec is not None and spec.fuses:
            first, second = layer.split()
            # In a file of an older version, a layer with the method `unfuse` holds the second one.
            return (
                first if id(layer) in split else keras.Sequential([first, second], name=layer.name)
            )
        if hasattr(layer, "unfuse"):
            return layer.unfuse()
        return make(stock[type(layer)], layer) if type(layer) in stock else None

    return rebuilt(model, exchange)
