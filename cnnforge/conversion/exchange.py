"""Convert stock Keras layers to plugin layers and back: ``forge`` and ``lower``.

Models stay plain Keras models. A plugin's ``LayerSpec`` names the stock layer that its layer stands
for. A layer of exactly that class is replaced by the plugin's, with the same configuration and the
same weights. A run saves the lowered model, which any Keras opens.
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
    """Clone a model; each layer for which ``exchange`` returns a layer is replaced by it."""
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
        # A block without a neighbour became several layers; only those with old names count.
        named = {layer.name: layer for layer in before}
        after = [layer for layer in after if layer.name in named]
        before = [named[layer.name] for layer in after]
    # Parents first, because Keras passes the attribute on to everything inside.
    for old, new in zip(before, after, strict=True):
        new.trainable = old.trainable
    # All variables, not only the weights: seed generators are part of a model's state.
    _copy(model.variables, rebuilt.variables)
    for old, new in zip(model.variables, rebuilt.variables, strict=True):
        # Under torch, the `trainable` of a layer reaches even the kernel that LoRA has frozen.
        new.trainable = old.trainable
    for layer in all_layers(rebuilt):
        # `Normalization` computes attributes from its variables.
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
    """Copy a model so that its layers run on plugin kernels, if these are not slower.

    A layer inside another layer (``TimeDistributed(Conv2D(...))``) and a user's own subclass of a
    stock layer stay as they are. A subclass of a Functional model becomes a plain one, unless its
    constructor takes ``(inputs, outputs)``.

    Args:
        model: A Sequential or Functional model; it stays as it is.
        kernels: Decisions that `decide` has returned for such a model, or an argument for `decide`:
            ``auto``, ``numba`` or ``keras``.
        layers: The plugin layers; those of the installed plugins by default.
        batch_size: Number of images; see `decide`.
        training: Whether training is measured; see `decide`.
        cache_file: File of measurements; see `decide`.

    Returns:
        The forged model: same configuration, weights, seeds and layer names, except that Keras
        gives an unnamed input another name. A compiled model keeps its optimizer and its state. If
        no layer is replaced, the model itself.

    Raises:
        UsageError: A subclassed model, one that is not built, a layer that cannot be copied,
            ``numba`` if no plugin layer fits, or decisions about another model.
        PluginError: A plugin layer that was asked for cannot be loaded.
        UnknownNameError: A plugin that was decided on is not there.
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
    """Map layers (by id) to functions that make the layers that replace them."""
    # By order and class: names that Keras makes up differ from one build to the next.
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
    """Reverse ``forge``: copy a model into stock Keras layers, with its names, weights and state.

    Every plugin layer that stands for a stock layer is lowered, also one that ``forge`` would not
    choose.

    Args:
        model: A Sequential or Functional model; it stays as it is.
        layers: The plugin layers; those of the installed plugins by default.

    Returns:
        The lowered model.

    Raises:
        UsageError: A subclassed model, one that is not built, or a layer that cannot be copied.
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
