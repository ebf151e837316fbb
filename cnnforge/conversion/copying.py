"""Copy a model with everything that it has: weights, random states, and what it is compiled with.

Objects of the user's own (functions, lambdas, losses, metrics) are taken over as they are in
memory. Keras' serialization would need them to be registered, and cannot load a lambda.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras

from cnnforge.conversion.arguments import check_convertible
from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.utils.keras_graph import (
    FunctionalModel,
    all_layers,
    asked_to_compile,
    compile_copy,
    copy_optimizer_state,
    lambda_arguments,
    not_compiled,
    optimizer_config,
    own_variables,
)

Variables = list[tuple[keras.Variable, keras.Variable]]
Exchange = Callable[[keras.layers.Layer], "keras.layers.Layer | None"]


def live_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return the configuration of a layer, with the user's own objects in place of their names.

    Args:
        layer: Any layer.

    Returns:
        Arguments for the constructor of the layer's class, or of a class with the same constructor.
    """
    source = layer
    own = [name for name, value in vars(layer).items() if _is_own(value)]
    if own and type(layer).get_config.__module__.partition(".")[0] == "keras":
        # Keras cannot serialize every function, and warns of lambdas. It need not: the function is
        # taken over. So ask a layer that has another function in its place.
        source = object.__new__(type(layer))
        vars(source).update(vars(layer))
        vars(source).update(dict.fromkeys(own, keras.activations.linear))
    config = source.get_config()
    for key, value in config.items():
        live = getattr(layer, key, None)
        if isinstance(value, str | dict) and _is_own(live):
            config[key] = live
        elif isinstance(value, dict) and isinstance(live, keras.layers.Layer) and _has_own(live):
            config[key] = make(type(live), live)
    return config


def make(kind: type, layer: keras.layers.Layer) -> keras.layers.Layer:
    """Make a layer of a class with the configuration of a layer, without its weights.

    Args:
        kind: Class of the new layer.
        layer: Any layer.
    """
    if not isinstance(layer, keras.layers.Layer):
        # An operation such as a sum of tensors.
        return kind.from_config(layer.get_config())
    if isinstance(layer, keras.Sequential | FunctionalModel):
        return keras.models.clone_model(
            layer, clone_function=lambda it: make(type(it), it), recursive=True
        )
    if isinstance(layer, keras.layers.Lambda):
        return kind(**{**keras.layers.Layer.get_config(layer), **lambda_arguments(layer)})
    config = live_config(layer)
    with keras.saving.custom_object_scope(_classes(all_layers(layer))):
        # `from_config` would try to deserialize an object that is in memory.
        live = any(_is_own(it) or isinstance(it, keras.layers.Layer) for it in config.values())
        return kind(**config) if live else kind.from_config(config)


def rebuilt(model: keras.Model, exchange: Exchange) -> keras.Model:
    """Copy a model, and replace each layer by the layer that a function returns for it.

    Args:
        model: A built model that `check_convertible` accepts; it is not changed.
        exchange: Function that returns a new layer with the same weights as the layer that it gets.
            If it returns `None`, the layer is copied.

    Raises:
        UsageError: A layer, or the optimizer, cannot be copied.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        try:
            return exchange(layer) or make(type(layer), layer)
        except PluginError:
            raise
        except Exception as error:
            raise UsageError(
                f"the layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its "
                f"configuration: {one_line(error)}; give it a get_config() and a from_config() "
                "that rebuild it, or use --kernels keras"
            ) from error

    # `clone_model` would compile the copies, and serialize losses and metrics for this.
    with not_compiled(model):
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if not copy.built:
        copy.build(model.input_shape)
    check_convertible(copy)
    pairs = _layer_pairs(model, copy)
    # Setting `trainable` of a layer also sets it for the layers inside this layer. `all_layers`
    # lists an outer layer before its inner layers, so these get their own values afterwards.
    for old, new in pairs:
        new.trainable = old.trainable
    same = _variable_pairs(model, copy, pairs)
    for old, new in same:
        new.assign(old)
        # Under torch, setting the layer's `trainable` has also changed the `trainable` of kernels
        # that LoRA had frozen, so copy the value of each variable.
        new.trainable = old.trainable
    for layer in all_layers(copy):
        # The layer `Normalization` computes attributes from its variables. These have just been
        # copied, so compute the attributes again.
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    for old, new in pairs:
        if isinstance(old, keras.Model) and old.compiled:
            _compile(old, new, same)
    return copy


def _layer_pairs(
    model: keras.Model, copy: keras.Model
) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    before, after = all_layers(model), all_layers(copy)
    if len(before) != len(after):
        # `exchange` has split a layer, which added layers with new names. So pair only layers that
        # are in both models.
        named = {layer.name: layer for layer in before}
        after = [layer for layer in after if layer.name in named]
        before = [named[layer.name] for layer in after]
    return list(zip(before, after, strict=True))


def _variable_pairs(
    model: keras.Model,
    copy: keras.Model,
    pairs: Iterable[tuple[keras.layers.Layer, keras.layers.Layer]],
) -> Variables:
    """Pair the variables of two models, including the state of seed generators.

    The order of a layer's variables may differ: `quantize` and `enable_lora` add variables to a
    built layer, and the copy makes all of them when it is built. So pair them by name.
    """
    found: Variables = []
    for old_layer, new_layer in pairs:
        waiting = own_variables(new_layer)
        for old in own_variables(old_layer):
            new = next(
                (it for it in waiting if it.name == old.name and it.shape == old.shape), None
            )
            if new is None:
                break
            waiting = [it for it in waiting if it is not new]
            found.append((old, new))
    if len({id(new) for _, new in found}) == len(copy.variables) == len(model.variables):
        return found
    # `exchange` has split a layer, or a layer names its variables differently each time.
    return list(zip(model.variables, copy.variables, strict=True))


def _compile(model: keras.Model, copy: keras.Model, same: Variables) -> None:
    """Compile the copy of a model as the model is compiled, and copy the optimizer's state."""
    asked = asked_to_compile(model)
    if asked is None:
        # The class has a `compile` of its own, and its author decides how to repeat the call.
        copy.compile_from_config(model.get_compile_config())
        return
    # `compile` has wrapped the optimizer already if it had to scale the loss.
    optimizer = None if model.optimizer is None else _copy_optimizer(model.optimizer)
    asked |= {
        "optimizer": optimizer,
        "metrics": keras.tree.map_structure(_copy_metric, asked["metrics"]),
        "weighted_metrics": keras.tree.map_structure(_copy_metric, asked["weighted_metrics"]),
        "run_eagerly": model.run_eagerly,
        "steps_per_execution": model.steps_per_execution,
    }
    compile_copy(copy, asked)
    if optimizer is not None:
        copy_optimizer_state(model.optimizer, optimizer, same)


def _copy_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    try:
        config = optimizer_config(optimizer)
        if "inner_optimizer" in config:
            config["inner_optimizer"] = _copy_optimizer(config["inner_optimizer"])
            return type(optimizer)(**config)
        return type(optimizer).from_config(config)
    except Exception as error:
        raise UsageError(
            f"the optimizer {optimizer.name!r} ({type(optimizer).__name__}) cannot be copied from "
            f"its configuration: {one_line(error)}; give it a get_config() that rebuilds it, or "
            "compile the model after this call"
        ) from error


def _copy_metric(metric: Any) -> Any:
    # Metrics have a state. Keras' own can be made again; those of the user's are taken over.
    if isinstance(metric, keras.metrics.Metric) and not _is_own(metric):
        with contextlib.suppress(Exception):
            return type(metric).from_config(metric.get_config())
    return metric


def _is_own(value: Any) -> bool:
    """Return whether a value is a function or an object that Keras cannot load by its name."""
    if value is None or isinstance(value, str | dict | keras.layers.Layer | keras.DTypePolicy):
        return False
    if not callable(value):
        return False
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.partition(".")[0] != "keras"


def _has_own(layer: keras.layers.Layer) -> bool:
    """Return whether a layer, or a layer inside it, was made with an object of the user's own."""
    return any(
        isinstance(it, keras.layers.Lambda)
        or any(_is_own(getattr(it, key, None)) for key in it.get_config())
        for it in all_layers(layer)
    )


def _classes(layers: Iterable[keras.layers.Layer]) -> dict[str, type]:
    kinds = {type(layer) for layer in layers}
    return {it.__name__: it for it in kinds if it.__module__.partition(".")[0] != "keras"}
