"""Stock Keras layers into plugin layers and back: ``forge`` and ``lower``.

Models stay plain Keras; kernels are swapped in. A plugin's ``LayerSpec`` names the stock layer that
its layer stands for; a layer of exactly that class is replaced by the plugin's, with the same
configuration and the same weights. What is saved is the lowered model, which any Keras opens.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import keras

# Keras exports no name for the class of what `keras.Model(inputs, outputs)` returns.
from keras.src.models.functional import Functional

from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.registry import Registry

Kernels = Literal["auto", "numba", "keras"]


@dataclass(frozen=True)
class LayerImplementation:
    """What computes one layer of a model.

    Attributes:
        layer: The layer's name.
        kind: The stock layer's class, or the layer's own where it stands for none.
        implementation: ``numba`` for a plugin's layer, ``keras`` for the framework's own.
        provider: The plugin layer's qualified name; "" for the framework; for a layer that is
            computed together with the one before it, that.
    """

    layer: str
    kind: str
    implementation: Literal["numba", "keras"]
    provider: str


def _references(layers: Registry[LayerSpec]) -> list[tuple[LayerSpec, type]]:
    """The specs that stand for a stock layer, in order of preference, and that layer's class.

    A built-in layer gives way to another plugin's only when the built-in plugin is disabled:
    which kernel runs never depends on what else happens to be installed.
    """
    found = []
    for spec in sorted(layers.values(), key=lambda s: (s.plugin != "builtin", s.qualified_name)):
        # No model holds a layer of a library that cannot be imported.
        with contextlib.suppress(PluginError):
            if (stock := spec.load_reference()) is not None:
                found.append((spec, stock))
    return found


def _plugin_layers(layers: Registry[LayerSpec]) -> dict[type, tuple[LayerSpec, type]]:
    """Plugin layer class to its spec and its stock class, of the specs that have one."""
    found = {}
    for spec, stock in _references(layers):
        with contextlib.suppress(PluginError):
            found[spec.load()] = (spec, stock)
    return found


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


def _neighbours(
    model: keras.Model,
) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Pairs of layers of which the second alone gets what the first gives, each used once."""
    parts = [
        part for part in model._flatten_layers() if isinstance(part, keras.Sequential | Functional)
    ]
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


def _rebuilt(
    model: keras.Model, exchange: Callable[[keras.layers.Layer], keras.layers.Layer | None]
) -> keras.Model:
    """A clone of ``model`` with layers exchanged for what ``exchange`` returns, if anything."""
    _check(model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Sequential | Functional):
            _check(layer)

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
    model: keras.Model, kernels: Kernels = "auto", *, layers: Registry[LayerSpec] | None = None
) -> keras.Model:
    """A copy of a model whose layers run on plugin kernels wherever there are some.

    A layer inside another layer (``TimeDistributed(Conv2D(...))``) and a user's own subclass of a
    stock layer stay as they are. A subclass of a Functional model becomes a plain one, unless its
    constructor takes ``(inputs, outputs)``.

    Args:
        model: A Sequential or Functional model; it is left as it is.
        kernels: ``auto`` and ``numba`` use the plugins' kernels, ``keras`` returns the model
            itself. ``numba`` is an error where no layer has a kernel.
        layers: The plugin layers; those of the installed plugins by default.

    Returns:
        The forged model: same configuration, weights, seeds, and layer names, except that Keras
        names an unnamed input anew; where the model is compiled, the same optimizer in the same
        state.

    Raises:
        UsageError: A subclassed model, one that is not built, a layer that cannot be copied, or
            ``numba`` where no plugin layer fits.
        PluginError: A plugin layer that the model needs cannot be loaded.
    """
    if kernels == "keras":
        return model
    layers = _installed() if layers is None else layers
    chosen: dict[type, LayerSpec] = {}
    for spec, stock in _references(layers):
        chosen.setdefault(stock, spec)
    fused = _fuse(model, layers)

    def exchange(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if id(layer) in fused:
            return fused[id(layer)]
        spec = chosen.get(type(layer))
        return None if spec is None else spec.load().from_config(layer.get_config())

    forged = _rebuilt(model, exchange)
    if kernels == "numba" and not any(it.provider for it in implementations(forged, layers=layers)):
        names = ", ".join(sorted(stock.__name__ for stock in chosen)) or "none"
        raise UsageError(
            f"no layer of the model {model.name!r} has a kernel (there are kernels for: {names}); "
            "use --kernels auto"
        )
    return forged


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
    known = _plugin_layers(_installed() if layers is None else layers)
    split = {
        id(first)
        for first, second in _neighbours(model)
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


def _fuse(model: keras.Model, layers: Registry[LayerSpec]) -> dict[int, keras.layers.Layer]:
    """What stands in the place of each layer (by id) that is computed together with another."""
    fused: dict[int, keras.layers.Layer] = {}
    pairs = list(_neighbours(model)) if isinstance(model, keras.Sequential | Functional) else []
    for spec in layers.values():
        if not spec.fuses:
            continue
        kinds = spec.load_fuses()
        for first, second in pairs:
            if (type(first), type(second)) != kinds or {id(first), id(second)} & set(fused):
                continue
            block = spec.load().fuse(first, second)
            if block is not None:
                fused[id(first)], fused[id(second)] = block
    return fused


def implementations(
    model: keras.Model, *, layers: Registry[LayerSpec] | None = None
) -> list[LayerImplementation]:
    """What computes each layer of a model that some plugin layer could compute.

    Args:
        model: Any model.
        layers: The plugin layers; those of the installed plugins by default.
    """
    layers = _installed() if layers is None else layers
    references = {stock for _, stock in _references(layers)}
    plugin_layers: dict[type, LayerSpec] = {}
    for spec in layers.values():
        with contextlib.suppress(PluginError):
            plugin_layers[spec.load()] = spec
    found = []
    for layer in model._flatten_layers():
        spec = plugin_layers.get(type(layer))
        if spec is not None:
            kind = (spec.reference or spec.target).rpartition(":")[2]
            if hasattr(layer, "unfuse"):
                kind = type(layer.unfuse()).__name__
            found.append(LayerImplementation(layer.name, kind, "numba", spec.qualified_name))
        elif hasattr(layer, "unfuse"):
            kind = type(layer.unfuse()).__name__
            found.append(
                LayerImplementation(layer.name, kind, "numba", "computed by the layer before")
            )
        elif type(layer) in references:
            found.append(LayerImplementation(layer.name, type(layer).__name__, "keras", ""))
    return found


def _installed() -> Registry[LayerSpec]:
    from cnnforge.discovery import discover

    return discover().layers
