"""What computes each layer of a model: a plugin's kernel or the framework, and why.

`decide` says so of a model as its author wrote it; `cnnforge.conversion.forge` builds the model
that was decided on. A run keeps its decisions: a resumed one computes as the interrupted one did.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras

from cnnforge.conversion.autotune import Choice, Chooser, random_state_kept
from cnnforge.conversion.matching import check_convertible, fusible, model_parts, preferred
from cnnforge.conversion.workloads import layer_workloads
from cnnforge.errors import PluginError, UsageError
from cnnforge.ops import ahead
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry

Kernels = Literal["auto", "numba", "keras"]
PREVIOUS = "computed by the layer before"
_OWN = "the layer is the plugin's own"
_INSIDE = Choice("keras", None, "the layer is part of another layer")
_KERAS = Choice("keras", None, "--kernels keras")
_APART = Choice("keras", None, "the plugin's kernel computes it only together with a neighbour")
# From the spec, the stock layer, and the configuration of the spec's layer where that is another.
_Choose = Callable[[LayerSpec, keras.layers.Layer, "dict[str, Any] | None"], Choice]


@dataclass(frozen=True)
class LayerImplementation:
    """What computes one layer of a model.

    Attributes:
        layer: The layer's name.
        kind: The stock layer's class, or the layer's own where it stands for none.
        implementation: ``numba`` for a plugin's layer, ``keras`` for the framework's own.
        provider: The plugin layer's qualified name; "" for the framework; for a layer that is
            computed together with the one before it, that.
        ratio: How many times as fast as the framework the plugin's layer was measured to be;
            ``None`` where nothing was measured.
        reason: Why this implementation; "" where nobody asked.
    """

    layer: str
    kind: str
    implementation: Literal["numba", "keras"]
    provider: str
    ratio: float | None = None
    reason: str = ""


def decide(
    model: keras.Model,
    kernels: Kernels = "auto",
    *,
    layers: Registry[LayerSpec] | None = None,
    batch_size: int = 64,
    training: bool = True,
    cache_file: Path | None = None,
) -> list[LayerImplementation]:
    """Decide what shall compute each layer of a model that some plugin layer could compute.

    Args:
        model: A built model; it is not touched.
        kernels: ``numba`` takes the plugins' kernels wherever there are some, ``keras`` none.
            ``auto`` takes, of each layer at its shapes, the plugin's kernel unless the framework
            was measured to be faster by more than noise, or the kernel fails. Two layers that a
            plugin computes as one come apart where the framework is faster at both together; then
            each is decided on its own.
        layers: The plugin layers; those of the installed plugins by default.
        batch_size: The batch that ``auto`` measures with.
        training: Whether ``auto`` measures forward and backward, or forward alone.
        cache_file: See `cnnforge.conversion.autotune.Chooser`.

    Returns:
        One for each such layer, in the order of the model.

    Raises:
        UsageError: A subclassed model, one that is not built, or ``numba`` where no plugin layer
            fits.
    """
    layers = installed() if layers is None else layers
    if kernels == "keras":
        return [it for _, it in _decide(model, layers, None)]
    check_convertible(model)
    _compile_ahead(model, layers, batch_size, training)
    if kernels == "numba":
        asked = Choice("numba", None, "--kernels numba")
        found = [it for _, it in _decide(model, layers, lambda *_: asked)]
        if not any(it.provider for it in found):
            names = ", ".join(sorted(stock.__name__ for stock in preferred(layers))) or "none"
            raise UsageError(
                f"no layer of the model {model.name!r} has a kernel (there are kernels for: "
                f"{names}); use --kernels auto"
            )
        return found
    with Chooser(training=training, cache_file=cache_file) as chooser:

        def measured(
            spec: LayerSpec, layer: keras.layers.Layer, config: dict[str, Any] | None
        ) -> Choice:
            try:
                return chooser.choose(layer_workloads(spec, layer, batch_size, config))
            except PluginError as error:
                return Choice("keras", None, str(error))

        return [it for _, it in _decide(model, layers, measured)]


def _compile_ahead(
    model: keras.Model, layers: Registry[LayerSpec], batch_size: int, training: bool
) -> None:
    """Compile the kernels of all plugin layers that a model may get, in several processes."""
    if not ahead.available():
        return
    built: set[str] = set()

    def build(spec: LayerSpec, layer: keras.layers.Layer, config: dict[str, Any] | None) -> Choice:
        # A layer that fails here fails again when it is measured or forged, with a message.
        with contextlib.suppress(Exception):
            for workload in layer_workloads(spec, layer, batch_size, config):
                if workload.key not in built:
                    built.add(workload.key)
                    _trace(workload.build(workload.kind), workload.shape, training)
        return Choice("numba", None)

    with random_state_kept(), ahead.collecting() as uses:
        _decide(model, layers, build)
    ahead.compile_ahead(uses, gradients=training)


def _trace(layer: keras.layers.Layer, shape: tuple[int, ...], training: bool) -> None:
    """Call a layer on a symbolic tensor of a shape."""
    options: dict[str, Any] = {}
    if "training" in inspect.signature(layer.call).parameters:
        options["training"] = training
    # A layer that computes its output shape itself is not called by `layer(tensor)`.
    keras.Operation.compute_output_spec(layer, keras.KerasTensor(shape), **options)


def implementations(
    model: keras.Model, *, layers: Registry[LayerSpec] | None = None
) -> list[LayerImplementation]:
    """What computes each layer of a model that some plugin layer could compute.

    Args:
        model: Any model.
        layers: The plugin layers; those of the installed plugins by default.
    """
    return [it for _, it in places(model, installed() if layers is None else layers)]


def places(
    model: keras.Model, layers: Registry[LayerSpec]
) -> list[tuple[keras.layers.Layer, LayerImplementation]]:
    """The layers of a model that some plugin layer could compute, and what computes them.

    Args:
        model: Any model.
        layers: The plugin layers.
    """
    return [(layer, replace(it, reason="")) for layer, it in _decide(model, layers, None)]


def installed() -> Registry[LayerSpec]:
    """The layers of the installed plugins."""
    from cnnforge.plugin_host.discovery import discover

    return discover().layers


def _decide(
    model: keras.Model, layers: Registry[LayerSpec], choose: _Choose | None
) -> list[tuple[keras.layers.Layer, LayerImplementation]]:
    flat = list(model._flatten_layers())
    own, stock = _own(flat, layers), preferred(layers)
    replaceable = {id(layer) for part in model_parts(model) for layer in part.layers}
    together = {} if choose is None else _together(model, layers, choose)
    paired = {id(layer) for _, *pair in fusible(model, layers) for layer in pair}
    found = []
    for layer in flat:
        kind = type(layer).__name__
        if hasattr(layer, "unfuse"):
            kind = type(layer.unfuse()).__name__
        if type(layer) in own:
            spec = own[type(layer)]
            if not hasattr(layer, "unfuse"):
                kind = (spec.reference or spec.target).rpartition(":")[2]
            it = LayerImplementation(layer.name, kind, "numba", spec.qualified_name, None, _OWN)
        elif hasattr(layer, "unfuse"):
            it = LayerImplementation(layer.name, kind, "numba", PREVIOUS, None, _OWN)
        elif id(layer) in together:
            it = _record(layer, *together[id(layer)])
        elif type(layer) in stock:
            spec = stock[type(layer)]
            if id(layer) not in replaceable:
                choice = _INSIDE
            else:
                choice = _KERAS if choose is None else choose(spec, layer, None)
            it = _record(layer, spec.qualified_name, choice)
        elif id(layer) in paired:
            it = _record(layer, "", _KERAS if choose is None else _APART)
        else:
            continue
        found.append((layer, it))
    return found


def _record(layer: keras.layers.Layer, provider: str, choice: Choice) -> LayerImplementation:
    ours = choice.implementation == "numba"
    return LayerImplementation(
        layer.name,
        type(layer).__name__,
        choice.implementation,
        provider if ours else "",
        choice.ratio,
        choice.reason,
    )


def _own(flat: list[keras.layers.Layer], layers: Registry[LayerSpec]) -> dict[type, LayerSpec]:
    """The plugin layers among some layers; nothing is imported where all are Keras' own."""
    found: dict[type, LayerSpec] = {}
    if all(type(layer).__module__.partition(".")[0] == "keras" for layer in flat):
        return found
    for spec in layers.values():
        with contextlib.suppress(PluginError):
            found[spec.load()] = spec
    return found


def _together(
    model: keras.Model, layers: Registry[LayerSpec], choose: _Choose
) -> dict[int, tuple[str, Choice]]:
    """The layers (by id) that one layer computes in pairs: its name, and why."""
    found: dict[int, tuple[str, Choice]] = {}
    for spec, first, second in fusible(model, layers):
        if {id(first), id(second)} & set(found):
            continue
        try:
            block = spec.load().fuse(first, second)
        except PluginError:
            continue  # Each on its own: with `numba` another plugin's layers may still do.
        if block is None:
            continue
        choice = choose(spec, first, block[0].get_config())
        if choice.implementation == "numba":
            found[id(first)] = spec.qualified_name, choice
            found[id(second)] = PREVIOUS, choice
    return found
