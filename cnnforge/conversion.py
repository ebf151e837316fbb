"""Stock Keras layers into plugin layers and back: ``forge`` and ``lower``.

Models stay plain Keras; kernels are swapped in. A plugin's ``LayerSpec`` names the stock layer that
its layer stands for; a layer of exactly that class is replaced by the plugin's, with the same
configuration and the same weights. What is saved is the lowered model, which any Keras opens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        provider: The plugin layer's qualified name, or "".
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


def _rebuilt(model: keras.Model, exchange: Mapping[type, Callable[[], Any]]) -> keras.Model:
    """A clone of ``model`` with layers of the classes in ``exchange`` rebuilt as another class."""
    _check(model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Sequential | Functional):
            _check(layer)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = exchange[type(layer)]() if type(layer) in exchange else type(layer)
        try:
            return kind.from_config(layer.get_config())
        except Exception as error:
            raise UsageError(
                f"the layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its "
                f"configuration: {one_line(error)}; give it a get_config() and a from_config() "
                "that rebuild it, or use --kernels keras"
            ) from error

    rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if not rebuilt.built:
        rebuilt.build(model.input_shape)
    # Parents first: setting it sets it for everything inside.
    for old, new in zip(model._flatten_layers(), rebuilt._flatten_layers(), strict=True):
        new.trainable = old.trainable
    # Every variable, not only the weights: seed generators belong to the state of a model.
    _copy(model.variables, rebuilt.variables)
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
    forged = _rebuilt(model, {stock: spec.load for stock, spec in chosen.items()})
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
    return _rebuilt(model, {kind: lambda stock=stock: stock for kind, (_, stock) in known.items()})


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
            found.append(LayerImplementation(layer.name, kind, "numba", spec.qualified_name))
        elif type(layer) in references:
            found.append(LayerImplementation(layer.name, type(layer).__name__, "keras", ""))
    return found


def _installed() -> Registry[LayerSpec]:
    from cnnforge.discovery import discover

    return discover().layers
