"""Make functions that compute the passes of a plugin layer, or of its reference, at one shape.

The reference is the stock layer that the plugin layer replaces. The forward pass computes the
outputs. The full pass also computes the gradients, as in training. `cnnforge.conversion.autotune`
and `cnnforge.benchmarking` time these functions.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from cnnforge.backends import reference_is_unsafe, repeated_passes
from cnnforge.conversion.copying import live_config
from cnnforge.conversion.matching import kernel_layers
from cnnforge.errors import UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import input_shapes

# Constructor arguments whose names end so do not affect the run time of a layer.
_IRRELEVANT = ("name", "_initializer", "_regularizer", "_constraint")
# Values of constructor arguments, by name, for a layer without test cases (`LayerSpec.cases`).
_USUAL_ARGUMENTS = {
    "filters": 8,
    "units": 8,
    "kernel_size": 3,
    "pool_size": 2,
    "rate": 0.5,
    "activation": "relu",
}
_USUAL_SHAPE = (2, 28, 28, 4)


@dataclass(frozen=True)
class Workload:
    """A plugin layer and the stock layer that it replaces, at one shape of the inputs.

    Attributes:
        spec: Spec of the plugin layer.
        kind: Class of the plugin layer.
        reference: Class of the stock layer.
        config: Configuration of both layers.
        shape: Shape of the inputs, including the batch, such as (N, H, W, C).
        grad_inputs: Whether training needs the gradient of the inputs. It is `False` for the first
            layer of a model.
    """

    spec: LayerSpec
    kind: type
    reference: type
    config: Mapping[str, Any]
    shape: tuple[int, ...]
    grad_inputs: bool = True

    @property
    def key(self) -> str:
        """Text that two workloads share if each of their passes takes the same time."""
        return self._key(_IRRELEVANT, self.grad_inputs)

    @property
    def forward_key(self) -> str:
        """Text that two workloads share if their forward passes take the same time."""
        return self._key((*_IRRELEVANT, "trainable"), None)

    def _key(self, irrelevant: tuple[str, ...], grad_inputs: bool | None) -> str:
        config = {k: v for k, v in self.config.items() if not k.endswith(irrelevant)}
        facts = [self.spec.qualified_name, self.spec.target, self.shape, grad_inputs, config]
        # An object of the user's own has a name that is the same in the next process.
        return json.dumps(facts, sort_keys=True, default=_name_of)

    def build(self, kind: type) -> keras.layers.Layer:
        """Return a new layer with fresh weights.

        Args:
            kind: `self.kind` or `self.reference`.
        """
        layer = kind.from_config(dict(self.config))
        if not layer.built:
            layer.build(self.shape)
        return layer

    @property
    def reference_is_unsafe(self) -> bool:
        """Whether the gradient of the reference may corrupt the memory of this process."""
        return reference_is_unsafe(self.reference, self.config)


@dataclass(frozen=True)
class Case:
    """A workload to measure, with a name.

    Attributes:
        name: Name of the case in the results, the same in every run; `str(case)` returns it.
        workload: The layer and its shape.
        layers: Names of all layers of a model that have this workload; empty if the case is not
            from a model.
        min_ratio: Min ratio ``reference / ours`` of the times of the forward and the full pass, as
            the author of the layer promises; `None`: the author promises nothing.
        arguments: Arguments of the layer's constructor that the case names; empty if the layer is
            from a model.
        origin: Text that says where the shape is from, for instance ``speed_shape``.
    """

    name: str
    workload: Workload = field(repr=False)
    layers: tuple[str, ...] = ()
    min_ratio: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    origin: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.name


class Repeatable:
    """A function without arguments that can repeat its computation inside one graph call.

    A graph call takes 0.1 ms before anything is computed, as much as a small layer. A training loop
    that runs several steps in one graph call spends this time only once. So a measurement that
    repeats a layer should also use one graph call.

    Args:
        repeat: Function of a number `count`. It repeats the computation `count` times, and returns
            when the last computation is done.
    """

    def __init__(self, repeat: Callable[[int], object]) -> None:
        self.repeat = repeat

    def __call__(self) -> object:
        """Compute once."""
        return self.repeat(1)


@dataclass(frozen=True)
class TimedPasses:
    """Functions that compute the passes of a plugin layer or of its reference.

    Attributes:
        layer: The layer that the functions call.
        forward: Function that computes the outputs as in a prediction.
        full: Function that computes the outputs and the gradients of the weights, as in training.
            It also computes the gradient of the inputs if the workload needs it.
        backward: Function that computes the gradients alone, of outputs that it computes once for
            all repetitions. `None`: the layer has no gradients.
        empty: Function that computes ``forward`` of an empty batch, to measure the time of a call
            that computes nothing.
    """

    layer: keras.layers.Layer
    forward: Repeatable
    full: Repeatable
    backward: Repeatable | None
    empty: Repeatable


def timed_passes(workload: Workload, kind: type, seed: int = 0) -> TimedPasses:
    """Make the functions of a plugin layer or of its reference, without calling them.

    Args:
        workload: The layer and its shape.
        kind: ``workload.kind`` or ``workload.reference``.
        seed: Random seed of the inputs.
    """
    layer = workload.build(kind)
    random = np.random.default_rng(seed)
    tensor = keras.ops.convert_to_tensor
    inputs = tensor(random.standard_normal(workload.shape, np.float32), layer.compute_dtype)
    none = inputs[:0]
    shape = layer.compute_output_shape(workload.shape)
    upstream = tensor(random.standard_normal(shape, np.float32), layer.compute_dtype)
    passes = repeated_passes(layer, workload.grad_inputs)

    def repeatable(name: str, *arguments: Any) -> Repeatable:
        return Repeatable(lambda count: passes[name](count, *arguments))

    return TimedPasses(
        layer,
        forward=repeatable("forward", inputs),
        full=repeatable("full", inputs, upstream),
        backward=repeatable("backward", inputs, upstream) if "backward" in passes else None,
        empty=repeatable("forward", none),
    )


def layer_workloads(
    spec: LayerSpec,
    layer: keras.layers.Layer,
    batch_size: int,
    config: Mapping[str, Any] | None = None,
) -> list[Workload]:
    """List the workloads of a layer in a model, one for each shape of its inputs.

    Args:
        spec: Spec of a plugin layer that replaces a stock layer.
        layer: A layer in a built model, either this stock layer or the plugin layer.
        batch_size: Number of images to measure with.
        config: Configuration of the plugin layer; by default that of ``layer``.

    Returns:
        One workload for each shape. The list is empty if the shapes are not known.

    Raises:
        PluginError: The plugin layer cannot be imported.
    """
    kind, reference = spec.load(), spec.load_reference()
    if reference is None:
        return []
    config = live_config(layer) if config is None else config
    return [
        Workload(spec, kind, reference, config, (batch_size, *shape), needed)
        for shape, needed in input_shapes(layer).items()
    ]


def model_workloads(
    model: keras.Model, layers: Registry[LayerSpec], batch_size: int
) -> list[tuple[str, Workload]]:
    """List the workloads of every plugin layer of a model that replaces a stock layer.

    Args:
        model: A built model, for instance one that `cnnforge.conversion.forge` has returned.
        layers: The plugin layers.
        batch_size: Number of images to measure with.

    Returns:
        Pairs of a layer's name and a workload, one for each shape, in the order of the model.
    """
    return [
        (layer.name, workload)
        for spec, layer, config in kernel_layers(model, layers)
        for workload in layer_workloads(spec, layer, batch_size, config)
    ]


def example_workload(spec: LayerSpec) -> Workload:
    """Make the workload of the first test case of a plugin layer.

    A test case gives constructor arguments and an input shape (`cnnforge.testing.LayerCase`).

    Args:
        spec: Spec of a plugin layer that replaces a stock layer.

    Returns:
        The workload. For a layer without test cases, it has default arguments and a default shape.

    Raises:
        PluginError: The layer, its reference or its cases cannot be imported.
        UsageError: The layer names no reference.
        Exception: Any error that the constructor of the layer raises.
    """
    kind, reference, cases = spec.load(), spec.load_reference(), spec.load_cases()
    if reference is None:
        raise UsageError(f"the layer {spec.qualified_name!r} names no reference")
    arguments = dict(cases[0].arguments) if cases else usual_arguments(spec)
    config = kind(**{**arguments, "name": spec.name}).get_config()
    return Workload(spec, kind, reference, config, cases[0].input_shape if cases else _USUAL_SHAPE)


def usual_arguments(spec: LayerSpec) -> dict[str, Any]:
    """Choose arguments for the constructor of a layer, for inputs of any shape.

    Args:
        spec: Spec of a plugin layer.

    Returns:
        The arguments of the layer's first test case, and default values for arguments with common
        names, such as `filters`.

    Raises:
        PluginError: The layer or its cases cannot be imported.
    """
    taken = _argument_names(spec.load())
    arguments = dict(next((case.arguments for case in spec.load_cases()), {}))
    arguments |= {name: value for name, value in _USUAL_ARGUMENTS.items() if name in taken}
    if {"kernel_size", "padding"} <= taken:
        arguments["padding"] = "same"
    return arguments


def _name_of(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _argument_names(kind: type) -> set[str]:
    """List the names of a constructor's arguments, including those in its ``**kwargs``."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base):
            # Do not ask for the signature of the class: some versions of Python 3.11 then return
            # the signature of Keras' `__new__`.
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return names
