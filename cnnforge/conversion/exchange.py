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

import keras

from cnnforge.conversion.decisions import (
    PREVIOUS,
    Kernels,
    LayerImplementation,
    decide,
    installed,
    replaceable_layers,
)
from cnnforge.conversion.matching import (
    check_convertible,
    fusible,
    neighbours,
    plugin_layers,
    stock_class,
)
from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import all_layers


def _rebuilt(
    model: keras.Model, exchange: Callable[[keras.layers.Layer], keras.layers.Layer | None]
) -> keras.Model:
    """Copy a model, and replace each layer by the layer that ``exchange`` returns for it.

    If ``exchange`` returns `None` for a layer, the layer is copied.
    """
    check_convertible(model)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        try:
            return exchange(layer) or type(layer).from_config(layer.get_config())
        except PluginError:
            raise
        except Exception as error:
            raise UsageError(
                f"the layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its "
                f"configuration: {one_line(error)}; give it a get_config() and a from_config() "
                "that rebuild it, or use --kernels keras"
            ) from error

    rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if not rebuilt.built:
        rebuilt.build(model.input_shape)
    before, after = all_layers(model), all_layers(rebuilt)
    if len(before) != len(after):
        # `exchange` has split a fused layer, which added layers with new names. So below, copy
        # attributes only between layers that are in both models.
        named = {layer.name: layer for layer in before}
        after = [layer for layer in after if layer.name in named]
        before = [named[layer.name] for layer in after]
    # Setting `trainable` of a layer also sets it for the layers inside this layer. `all_layers`
    # lists an outer layer before its inner layers, so these get their own values afterwards.
    for old, new in zip(before, after, strict=True):
        new.trainable = old.trainable
    # Not only the weights, but all variables are copied: they include the state of seed generators.
    _copy(model.variables, rebuilt.variables)
    for old, new in zip(model.variables, rebuilt.variables, strict=True):
        # Under torch, setting the layer's `trainable` has also changed the `trainable` of kernels
        # that LoRA had frozen, so copy the value of each variable.
        new.trainable = old.trainable
    for layer in all_layers(rebuilt):
        # The layer `Normalization` computes attributes from its variables. These have just been
        # copied, so compute the attributes again.
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    if model.compiled:
        rebuilt.compile_from_config(model.get_compile_config())
        if model.optimizer is not None and model.optimizer.built:
            _copy(model.optimizer.variables, rebuilt.optimizer.variables)
    return rebuilt


def _copy(source: Sequence[keras.Variable], target: Sequence[keras.Variable]) -> None:
    for old, new in zip(source, target, strict=True):
        new.assign(old)


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
        Keras gives an unnamed input another name. If the model is compiled, its optimizer and the
        optimizer's state are copied. If no layer is replaced, the model itself is returned.

    Raises:
        UsageError: The model is subclassed or not built, a layer cannot be copied, ``kernels`` is
            ``numba`` and no plugin layer fits, or the decisions are for another model.
        PluginError: A plugin layer that a decision names cannot be loaded.
        UnknownNameError: A decision names a plugin layer that is not installed.
    """
    if kernels == "keras":
        return model
    layers = installed() if layers is None else layers
    check_convertible(model)
    if isinstance(kernels, str):
        decisions = decide(
            model,
            kernels,
            layers=layers,
            batch_size=batch_size,
            training=training,
            cache_file=cache_file,
        )
    else:
        decisions = kernels
    exchanged = _exchanged(model, decisions, layers)
    if not exchanged:
        return model
    return _rebuilt(model, lambda layer: exchanged[id(layer)]() if id(layer) in exchanged else None)


def _exchanged(
    model: keras.Model, decisions: Sequence[LayerImplementation], layers: Registry[LayerSpec]
) -> dict[int, Callable[[], keras.layers.Layer]]:
    """Return a dict of the layers to replace: from the `id` of a layer to a function.

    The function makes the plugin layer that replaces the layer.
    """
    # Find the layer of each decision by order and class. The name of the layer does not work,
    # because Keras chooses other default names each time a model is built.
    waiting = [(layer, found.kind) for layer, found in replaceable_layers(model, layers)]
    pairs = {
        (spec.qualified_name, id(first)): second for spec, first, second in fusible(model, layers)
    }
    makers: dict[int, Callable[[], keras.layers.Layer]] = {}
    for decision in decisions:
        number = next((n for n, (_, kind) in enumerate(waiting) if kind == decision.kind), None)
        layer = None
        if number is not None:
            layer, waiting = waiting[number][0], waiting[number + 1 :]
        if decision.implementation == "keras" or decision.provider == PREVIOUS:
            continue
        spec = layers[decision.provider]
        if layer is None:
            raise UsageError(_another_model(model, decision))
        if type(layer) is spec.load():
            continue
        if not spec.fuses:
            makers[id(layer)] = partial(spec.load().from_config, layer.get_config())
            continue
        second = pairs.get((decision.provider, id(layer)))
        block = None if second is None else spec.load().fuse(layer, second)
        if block is None:
            raise UsageError(_another_model(model, decision))
        makers |= {id(layer): partial(_same, block[0]), id(second): partial(_same, block[1])}
    return makers


def _same(layer: keras.layers.Layer) -> keras.layers.Layer:
    return layer


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
        UsageError: The model is subclassed or not built, or a layer cannot be copied.
    """
    known = plugin_layers(model, installed() if layers is None else layers)
    split = {
        id(first)
        for first, second in neighbours(model)
        if hasattr(first, "unfuse") and hasattr(second, "unfuse")
    }

    def exchange(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        spec = known.get(type(layer))
        if spec is not None and spec.fuses:
            return layer.unfuse(alone=id(layer) not in split)
        if hasattr(layer, "unfuse"):
            return layer.unfuse()
        stock = None if spec is None else stock_class(spec)
        return None if stock is None else stock.from_config(layer.get_config())

    return _rebuilt(model, exchange)
