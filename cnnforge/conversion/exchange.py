"""Stock Keras layers into plugin layers and back: ``forge`` and ``lower``.

Models stay plain Keras; kernels are swapped in. A plugin's ``LayerSpec`` names the stock layer that
its layer stands for; a layer of exactly that class is replaced by the plugin's, with the same
configuration and the same weights. What is saved is the lowered model, which any Keras opens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras

from cnnforge.conversion.decisions import PREVIOUS as PREVIOUS
from cnnforge.conversion.decisions import Kernels as Kernels
from cnnforge.conversion.decisions import LayerImplementation as LayerImplementation
from cnnforge.conversion.decisions import decide as decide
from cnnforge.conversion.decisions import implementations as implementations
from cnnforge.conversion.decisions import installed, places
from cnnforge.conversion.matching import check_convertible, fusible, neighbours, references
from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry


def _plugin_layers(layers: Registry[LayerSpec]) -> dict[type, tuple[LayerSpec, type]]:
    """Plugin layer class to its spec and its stock class, of the specs that have one."""
    found = {}
    for spec, stock in references(layers):
        with contextlib.suppress(PluginError):
            found[spec.load()] = (spec, stock)
    return found


def _rebuilt(
    model: keras.Model, exchange: Callable[[keras.layers.Layer], keras.layers.Layer | None]
) -> keras.Model:
    """A clone of ``model`` with layers exchanged for what ``exchange`` returns, if anything."""
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
    before, after = list(model._flatten_layers()), list(rebuilt._flatten_layers())
    if len(before) != len(after):
        # A block that stood alone became several layers: those that kept their names.
        named = {layer.name: layer for layer in before}
        after = [layer for layer in after if layer.name in named]
        before = [named[layer.name] for layer in after]
    # Parents first: setting it sets it for everything inside.
    for old, new in zip(before, after, strict=True):
        new.trainable = old.trainable
    # Every variable, not only the weights: seed generators belong to the state of a model.
    _copy(model.variables, rebuilt.variables)
    for old, new in zip(model.variables, rebuilt.variables, strict=True):
        # Under torch, the `trainable` of a layer reaches even the kernel that LoRA has frozen.
        new.trainable = old.trainable
    for layer in rebuilt._flatten_layers():
        # What `Normalization` computes from its variables is no variable.
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
    """A copy of a model whose layers run on plugin kernels wherever these are not slower.

    A layer inside another layer (``TimeDistributed(Conv2D(...))``) and a user's own subclass of a
    stock layer stay as they are. A subclass of a Functional model becomes a plain one, unless its
    constructor takes ``(inputs, outputs)``.

    Args:
        model: A Sequential or Functional model; it is left as it is.
        kernels: What `decide` has returned for such a model; or ``auto``, ``numba`` or ``keras``,
            which ask it. ``numba`` is an error where no layer has a kernel. Where nothing is to be
            exchanged, the model itself is returned.
        layers: The plugin layers; those of the installed plugins by default.
        batch_size: As for `decide`.
        training: As for `decide`.
        cache_file: As for `decide`.

    Returns:
        The forged model: same configuration, weights, seeds, and layer names, except that Keras
        names an unnamed input anew; where the model is compiled, the same optimizer in the same
        state.

    Raises:
        UsageError: A subclassed model, one that is not built, a layer that cannot be copied,
            ``numba`` where no plugin layer fits, or decisions about another model.
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
    """What makes the layer in the place of each layer (by id) that does not stay."""
    # In order and by class: names that Keras has made differ from one build to the next.
    waiting = [(layer, it.kind) for layer, it in places(model, layers)]
    pairs = {
        (spec.qualified_name, id(first)): second for spec, first, second in fusible(model, layers)
    }
    found: dict[int, Callable[[], keras.layers.Layer]] = {}
    for it in decisions:
        number = next((n for n, (_, kind) in enumerate(waiting) if kind == it.kind), None)
        layer = None
        if number is not None:
            layer, waiting = waiting[number][0], waiting[number + 1 :]
        if it.implementation == "keras" or it.provider == PREVIOUS:
            continue
        spec = layers[it.provider]
        if layer is None:
            raise UsageError(_another_model(model, it))
        if type(layer) is spec.load():
            continue
        if not spec.fuses:
            found[id(layer)] = partial(spec.load().from_config, layer.get_config())
            continue
        second = pairs.get((it.provider, id(layer)))
        block = None if second is None else spec.load().fuse(layer, second)
        if block is None:
            raise UsageError(_another_model(model, it))
        found |= {id(layer): partial(_same, block[0]), id(second): partial(_same, block[1])}
    return found


def _same(layer: keras.layers.Layer) -> keras.layers.Layer:
    return layer


def _another_model(model: keras.Model, it: LayerImplementation) -> str:
    return (
        f"{it.provider} was to compute {it.layer!r}, a {it.kind}, for which the model "
        f"{model.name!r} has no place: these are decisions about another model"
    )


def lower(model: keras.Model, *, layers: Registry[LayerSpec] | None = None) -> keras.Model:
    """The reverse of ``forge``: a copy in stock Keras layers, same names, weights and state.

    Every plugin layer that stands for a stock layer is lowered, whichever of them ``forge`` would
    choose.

    Args:
        model: A Sequential or Functional model; it is left as it is.
        layers: The plugin layers; those of the installed plugins by default.

    Returns:
        The lowered model.

    Raises:
        UsageError: A subclassed model, one that is not built, or a layer that cannot be copied.
    """
    known = _plugin_layers(installed() if layers is None else layers)
    split = {
        id(first)
        for first, second in neighbours(model)
        if hasattr(first, "unfuse") and hasattr(second, "unfuse")
    }

    def exchange(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        spec, stock = known.get(type(layer), (None, None))
        if spec is not None and spec.fuses:
            return layer.unfuse(alone=id(layer) not in split)
        if hasattr(layer, "unfuse"):
            return layer.unfuse()
        return None if stock is None else stock.from_config(layer.get_config())

    return _rebuilt(model, exchange)
