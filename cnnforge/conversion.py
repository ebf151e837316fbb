"""Stock Keras layers into plugin layers and back: ``forge`` and ``lower``.

Models stay plain Keras; kernels are swapped in. A plugin's ``LayerSpec`` names the stock layer that
its layer stands for; a layer of exactly that class is replaced by the plugin's, with the same
configuration and the same weights. What is saved is the lowered model, which any Keras opens.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any, Literal

import keras

from cnnforge.errors import UsageError
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


def _replacements(layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """Stock class to the spec that stands for it; the first by qualified name where several do.

    A built-in layer gives way to another plugin's only when the built-in plugin is disabled:
    which kernel runs never depends on what else happens to be installed.
    """
    chosen: dict[type, LayerSpec] = {}
    for spec in sorted(layers.values(), key=lambda s: (s.plugin != "builtin", s.qualified_name)):
        if spec.reference is not None:
            chosen.setdefault(pkgutil.resolve_name(spec.reference), spec)
    return chosen


def _rebuilt(model: keras.Model, exchange: dict[type, Any]) -> keras.Model:
    """A clone of ``model`` with layers of the classes in ``exchange`` rebuilt as another class."""
    if not isinstance(model, keras.Sequential) and not getattr(model, "_is_graph_network", True):
        raise UsageError(
            f"the model {model.name!r} is a subclass of keras.Model, and only Sequential and "
            "Functional models can be converted; build it from layers, or use --kernels keras"
        )

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        replacement = exchange.get(type(layer))
        if replacement is None:
            return layer.__class__.from_config(layer.get_config())
        return replacement.from_config(layer.get_config())

    rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    # Every variable, not only the weights: seed generators belong to the state of a model.
    for old, new in zip(model.variables, rebuilt.variables, strict=True):
        new.assign(old)
    for old, new in zip(model._flatten_layers(), rebuilt._flatten_layers(), strict=True):
        new.trainable = old.trainable
    if getattr(model, "compiled", False):
        rebuilt.compile_from_config(model.get_compile_config())
    return rebuilt


def forge(
    model: keras.Model, kernels: Kernels = "auto", *, layers: Registry[LayerSpec] | None = None
) -> keras.Model:
    """A copy of a model whose layers run on plugin kernels wherever there are some.

    Args:
        model: A Sequential or Functional model; it is left as it is.
        kernels: ``auto`` and ``numba`` use the plugins' kernels, ``keras`` returns the model
            itself. ``numba`` is an error where no layer can be replaced.
        layers: The plugin layers; those of the installed plugins by default.

    Returns:
        The forged model: same layer names, configuration, weights, and seeds.

    Raises:
        UsageError: A subclassed model, or ``numba`` where no plugin layer fits.
    """
    if kernels == "keras":
        return model
    chosen = _replacements(_installed() if layers is None else layers)
    present = {type(layer) for layer in model._flatten_layers()}
    if kernels == "numba" and not present & set(chosen):
        names = ", ".join(sorted(stock.__name__ for stock in chosen)) or "none"
        raise UsageError(
            f"no layer of the model {model.name!r} has a kernel (there are kernels for: {names}); "
            "use --kernels auto"
        )
    return _rebuilt(model, {stock: spec.load() for stock, spec in chosen.items()})


def lower(model: keras.Model, *, layers: Registry[LayerSpec] | None = None) -> keras.Model:
    """The reverse of ``forge``: a copy in stock Keras layers, same names and weights.

    Args:
        model: A Sequential or Functional model; it is left as it is.
        layers: The plugin layers; those of the installed plugins by default.

    Raises:
        UsageError: A subclassed model.
    """
    chosen = _replacements(_installed() if layers is None else layers)
    return _rebuilt(model, {spec.load(): stock for stock, spec in chosen.items()})


def implementations(
    model: keras.Model, *, layers: Registry[LayerSpec] | None = None
) -> list[LayerImplementation]:
    """What computes each layer of a model that some plugin layer could compute.

    Args:
        model: Any model.
        layers: The plugin layers; those of the installed plugins by default.
    """
    specs = (_installed() if layers is None else layers).values()
    plugin_layers = {spec.load(): spec for spec in specs}
    references = {pkgutil.resolve_name(s.reference) for s in specs if s.reference is not None}
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
