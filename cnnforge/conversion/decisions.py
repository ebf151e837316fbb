"""Decide whether a plugin's kernel or the framework computes each layer of a model.

`decide` returns the decisions for a model of stock layers. `cnnforge.conversion.forge` then builds
a model in which plugin layers replace stock layers according to the decisions. A training run saves
its decisions, so that a resumed run uses the same implementations.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras

from cnnforge.conversion.arguments import (
    check_batch_size,
    check_convertible,
    check_kernels,
    check_model,
)
from cnnforge.conversion.autotune import Autotuner, Choice, random_state_kept
from cnnforge.conversion.matching import fused, fusible, plugin_layers, preferred
from cnnforge.conversion.workloads import layer_workloads
from cnnforge.errors import PluginError, UsageError
from cnnforge.ops import ahead
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import all_layers, model_parts

Kernels = Literal["auto", "numba", "keras"]
PREVIOUS = "computed by the layer before"
_OWN = "the layer is the plugin's own"
_INSIDE = Choice("keras", None, "the layer is part of another layer")
_KERAS = Choice("keras", None, "--kernels keras")
_ALONE = Choice("keras", None, "the plugin's kernel computes it only together with a neighbour")
# Type of a function that chooses the implementation of a layer. Its arguments are the spec of the
# plugin layer, the stock layer, and the configuration of the plugin layer. This configuration is
# `None` if it equals that of the stock layer.
_Choose = Callable[[LayerSpec, keras.layers.Layer, "dict[str, Any] | None"], Choice]


@dataclass(frozen=True)
class LayerImplementation:
    """One layer of a model and its implementation.

    Attributes:
        layer: The layer's name.
        kind: Class name of the stock layer, or of the plugin layer if it replaces no stock layer.
        implementation: ``numba`` for a plugin's layer, ``keras`` for the framework's own.
        provider: The qualified name of the plugin layer; "" for the framework. It is `PREVIOUS` if
            the provider of the layer before this one computes both layers.
        ratio: Measured time of the framework divided by that of the plugin's layer; ``None`` if
            nothing was measured.
        reason: The reason for this implementation; "" if the model was only listed.
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
    """Choose the implementation of each layer that a plugin layer could compute.

    Args:
        model: A built model; it is not changed.
        kernels: ``numba`` chooses the plugin's kernel for every layer that has one, ``keras``
            always chooses the framework. ``auto`` measures each layer at its shapes, and chooses
            the plugin's kernel unless the kernel fails or the framework is faster by more than
            noise. A plugin may compute two layers as one. If the framework computes this pair
            faster, ``auto`` chooses an implementation for each of the two layers separately. Under
            torch no pair is computed as one.
        layers: The plugin layers; those of the installed plugins by default.
        batch_size: Number of images that ``auto`` measures with.
        training: `True` if ``auto`` measures forward and backward pass, `False` if it measures only
            the forward pass.
        cache_file: See `cnnforge.conversion.autotune.Autotuner`.

    Returns:
        One decision for each layer that a plugin layer could compute, in the order of the model.

    Raises:
        UsageError: An argument has the wrong type or value, the model is subclassed or not built,
            or ``kernels`` is ``numba`` and no plugin layer fits.
    """
    check_model("decide", model)
    check_kernels(kernels)
    batch_size = check_batch_size(batch_size)
    cache_file = None if cache_file is None else Path(cache_file)
    layers = installed() if layers is None else layers
    if kernels == "keras":
        return [found for _, found in _decide(model, layers, None)]
    check_convertible(model)
    _compile_ahead(model, layers, batch_size, training)
    if kernels == "numba":
        asked = Choice("numba", None, "--kernels numba")
        found = [decision for _, decision in _decide(model, layers, lambda *_: asked)]
        if not any(decision.provider for decision in found):
            names = ", ".join(sorted(stock.__name__ for stock in preferred(layers))) or "none"
            raise UsageError(
                f"no layer of the model {model.name!r} has a kernel (there are kernels for: "
                f"{names}); use --kernels auto"
            )
        return found
    with Autotuner(training=training, cache_file=cache_file) as tuner:

        def measured(
            spec: LayerSpec, layer: keras.layers.Layer, config: dict[str, Any] | None
        ) -> Choice:
            try:
                return tuner.choose(layer_workloads(spec, layer, batch_size, config))
            except PluginError as error:
                return Choice("keras", None, str(error))

        return [found for _, found in _decide(model, layers, measured)]


def _compile_ahead(
    model: keras.Model, layers: Registry[LayerSpec], batch_size: int, training: bool
) -> None:
    """Compile the kernels of all plugin layers that a model may use, in several processes."""
    if not ahead.available():
        return
    built: set[str] = set()

    def build(spec: LayerSpec, layer: keras.layers.Layer, config: dict[str, Any] | None) -> Choice:
        # Ignore errors here: the same error occurs again when the layer is measured or replaced,
        # and is reported then.
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
    """Call a layer on a symbolic tensor, which shows the ops that the layer uses."""
    options: dict[str, Any] = {}
    if "training" in inspect.signature(layer.call).parameters:
        options["training"] = training
    # Do not use `layer(tensor)`: it would not run the `call` of a layer that has a
    # `compute_output_shape`.
    keras.Operation.compute_output_spec(layer, keras.KerasTensor(shape), **options)


def implementations(
    model: keras.Model, *, layers: Registry[LayerSpec] | None = None
) -> list[LayerImplementation]:
    """List the layers of a model that a plugin layer could compute, and their implementations.

    Nothing is measured or changed.

    Args:
        model: Any model.
        layers: The plugin layers; those of the installed plugins by default.
    """
    check_model("implementations", model)
    layers = installed() if layers is None else layers
    return [found for _, found in replaceable_layers(model, layers)]


def replaceable_layers(
    model: keras.Model, layers: Registry[LayerSpec]
) -> list[tuple[keras.layers.Layer, LayerImplementation]]:
    """List pairs: a layer of a model that a plugin layer could compute, and its implementation.

    Args:
        model: Any model.
        layers: The plugin layers.
    """
    return [(layer, replace(found, reason="")) for layer, found in _decide(model, layers, None)]


def installed() -> Registry[LayerSpec]:
    """Return the registry of the plugin layers of all installed plugins."""
    from cnnforge.plugin_host.discovery import discover

    return discover().layers


def _decide(
    model: keras.Model, layers: Registry[LayerSpec], choose: _Choose | None
) -> list[tuple[keras.layers.Layer, LayerImplementation]]:
    own, stock = plugin_layers(model, layers), preferred(layers)
    replaceable = {id(layer) for part in model_parts(model) for layer in part.layers}
    together = {} if choose is None else _together(model, layers, choose)
    paired = {id(layer) for _, *pair in fusible(model, layers) for layer in pair}
    already: dict[int, tuple[str, str]] = {}
    for spec, first, second in fused(model, layers):
        for place, path, provider in zip(
            (first, second), spec.fuses or (), (spec.qualified_name, PREVIOUS), strict=True
        ):
            already[id(place)] = path, provider
    found = []
    for layer in all_layers(model):
        if id(layer) in already:
            decision = _own(layer, *already[id(layer)])
        elif type(layer) in own:
            spec = own[type(layer)]
            stock_path = spec.fuses[0] if spec.fuses else spec.reference or spec.target
            decision = _own(layer, stock_path, spec.qualified_name)
        elif hasattr(layer, "unfuse"):
            # The second layer of a pair in a file of an older version.
            decision = _own(layer, f":{type(layer.unfuse()).__name__}", PREVIOUS)
        elif id(layer) in together:
            decision = _decision(layer, *together[id(layer)])
        elif type(layer) in stock:
            spec = stock[type(layer)]
            if id(layer) not in replaceable:
                choice = _INSIDE
            else:
                choice = _KERAS if choose is None else choose(spec, layer, None)
            decision = _decision(layer, spec.qualified_name, choice)
        elif id(layer) in paired:
            decision = _decision(layer, "", _KERAS if choose is None else _ALONE)
        else:
            continue
        found.append((layer, decision))
    return found


def _own(layer: keras.layers.Layer, stock_path: str, provider: str) -> LayerImplementation:
    kind = stock_path.rpartition(":")[2]
    return LayerImplementation(layer.name, kind, "numba", provider, None, _OWN)


def _decision(layer: keras.layers.Layer, provider: str, choice: Choice) -> LayerImplementation:
    ours = choice.implementation == "numba"
    return LayerImplementation(
        layer.name,
        type(layer).__name__,
        choice.implementation,
        provider if ours else "",
        choice.ratio,
        choice.reason,
    )


def _together(
    model: keras.Model, layers: Registry[LayerSpec], choose: _Choose
) -> dict[int, tuple[str, Choice]]:
    """Choose the pairs of layers that a plugin layer computes as one layer.

    Returns a dict from the `id` of each layer in such a pair to two values. The first value is the
    qualified name of the plugin layer, or `PREVIOUS` for the second layer of the pair. The second
    value is the choice.
    """
    found: dict[int, tuple[str, Choice]] = {}
    if keras.backend.backend() == "torch":
        # torch computes the first layer before it reaches the second one, so that there is nothing
        # left to save.
        return found
    for spec, first, second in fusible(model, layers):
        if {id(first), id(second)} & set(found):
            continue
        try:
            block = spec.load().fuse(first, second)
        except PluginError:
            # Try the next plugin. If no plugin can compute the pair, `_decide` chooses an
            # implementation for each of the two layers.
            continue
        if block is None:
            continue
        choice = choose(spec, first, block.get_config())
        if choice.implementation == "numba":
            found[id(first)] = spec.qualified_name, choice
            found[id(second)] = PREVIOUS, choice
    return found
