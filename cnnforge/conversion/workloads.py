"""A plugin layer and its reference at one shape, as functions that can be timed.

`cnnforge.conversion.autotune` and `cnnforge.benchmarking` measure these; neither knows which
backend runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import keras
import numpy as np

from cnnforge.errors import PluginError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry

# For a dimension that the model leaves open.
_STAND_IN = 32
# What a layer is called and begins with says nothing about how long it takes.
_IRRELEVANT = ("name", "_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True)
class Workload:
    """One layer at one shape.

    Attributes:
        spec: The plugin layer's.
        kind: Its class.
        reference: The class of the stock layer.
        config: The configuration of both.
        shape: The shape of the inputs, the batch included.
        grad_inputs: Whether training needs the gradient of the inputs; a first layer does not.
    """

    spec: LayerSpec
    kind: type
    reference: type
    config: Mapping[str, Any]
    shape: tuple[int, ...]
    grad_inputs: bool = True

    @property
    def key(self) -> str:
        """The same for two workloads that take the same time."""
        return self._key((*_IRRELEVANT,), self.grad_inputs)

    @property
    def forward_key(self) -> str:
        """The same for two workloads whose forward passes take the same time."""
        return self._key((*_IRRELEVANT, "trainable"), None)

    def _key(self, irrelevant: tuple[str, ...], grad_inputs: bool | None) -> str:
        config = {k: v for k, v in self.config.items() if not k.endswith(irrelevant)}
        facts = [self.spec.qualified_name, self.spec.target, self.shape, grad_inputs, config]
        return json.dumps(facts, sort_keys=True, default=str)

    def build(self, kind: type) -> keras.layers.Layer:
        """A new layer of class ``kind``, which is one of the two, with fresh weights."""
        layer = kind.from_config(dict(self.config))
        if not layer.built:
            layer.build(self.shape)
        return layer

    @property
    def crashes(self) -> bool:
        """Whether the reference may take the process with it.

        TensorFlow 2.21's gradient of a strided convolution with a 1x1 window corrupts memory
        (oneDNN on the CPU, at some numbers of channels).
        """
        return (
            keras.backend.backend() == "tensorflow"
            and issubclass(self.reference, keras.layers.Conv2D)
            and math.prod(_pair(self.config.get("kernel_size", 0))) == 1
            and math.prod(_pair(self.config.get("strides", 1))) > 1
        )


@dataclass(frozen=True)
class Case:
    """One layer at one shape, with a name.

    Attributes:
        name: Its name in results, the same in every run; `str(case)` is this name.
        workload: What is measured.
        layers: The names of a model's layers that it stands for; empty without a model.
    """

    name: str
    workload: Workload = field(repr=False)
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


class Repeatable:
    """A function of no arguments that can repeat itself inside of one graph call.

    A graph call costs 0.1 ms before anything is computed, as much as a small layer; a training
    loop that runs several steps in one call pays it once.

    Args:
        repeat: Computes so many times, and is done when it returns.
    """

    def __init__(self, repeat: Callable[[int], object]) -> None:
        self.repeat = repeat

    def __call__(self) -> object:
        """Compute once."""
        return self.repeat(1)


@dataclass(frozen=True)
class Functions:
    """What is timed of one implementation.

    Attributes:
        layer: What computes.
        forward: The outputs.
        full: The outputs and the gradients of the weights, and of the inputs where needed; as in
            training, where the layer makes a difference.
        empty: ``forward`` of no images: what it costs before anything is computed.
    """

    layer: keras.layers.Layer
    forward: Repeatable
    full: Repeatable
    empty: Repeatable


def functions(workload: Workload, kind: type, seed: int = 0) -> Functions:
    """Make what is timed of one implementation; nothing is computed or compiled yet.

    Args:
        workload: The layer and its shape.
        kind: ``workload.kind`` or ``workload.reference``.
        seed: Of the inputs.
    """
    layer = workload.build(kind)
    random = np.random.default_rng(seed)
    tensor = keras.ops.convert_to_tensor
    inputs = tensor(random.standard_normal(workload.shape, np.float32), layer.compute_dtype)
    none = inputs[:0]
    shape = layer.compute_output_shape(workload.shape)
    upstream = tensor(random.standard_normal(shape, np.float32), layer.compute_dtype)
    torch = keras.backend.backend() == "torch"
    forward, full = (_torch if torch else _tensorflow)(layer, workload.grad_inputs)
    return Functions(
        layer,
        Repeatable(lambda count: forward(count, inputs)),
        Repeatable(lambda count: full(count, inputs, upstream)),
        Repeatable(lambda count: forward(count, none)),
    )


def layer_workloads(
    spec: LayerSpec,
    layer: keras.layers.Layer,
    batch_size: int,
    config: Mapping[str, Any] | None = None,
) -> list[Workload]:
    """A plugin layer at each shape at which a model uses a layer.

    Args:
        spec: The plugin layer's; it stands for a stock layer.
        layer: That stock layer, or the plugin's, in a built model.
        batch_size: The batch to measure with.
        config: The plugin layer's configuration; the layer's own by default.

    Returns:
        One for each shape; none where the model does not tell.

    Raises:
        PluginError: The plugin layer cannot be imported.
    """
    kind, reference = spec.load(), spec.load_reference()
    if reference is None:
        return []
    config = layer.get_config() if config is None else config
    return [
        Workload(spec, kind, reference, config, shape, needed)
        for shape, needed in _shapes(layer, batch_size)
    ]


def model_workloads(
    model: keras.Model, layers: Registry[LayerSpec], batch_size: int
) -> list[tuple[str, Workload]]:
    """Every plugin layer of a model that stands for a stock layer, at each of its shapes.

    Args:
        model: A built model, as `cnnforge.conversion.forge` returns it.
        layers: The plugin layers.
        batch_size: The batch to measure with.

    Returns:
        The layer's name and its workload, in the order of the model.
    """
    known = {}
    for spec in layers.values():
        try:
            if spec.load_reference() is not None:
                known[spec.load()] = spec
        except PluginError:
            continue  # No layer of the model is of a class that cannot be imported.
    return [
        (layer.name, workload)
        for layer in model._flatten_layers()
        if type(layer) in known
        for workload in layer_workloads(known[type(layer)], layer, batch_size)
    ]


def _shapes(layer: keras.layers.Layer, batch_size: int) -> Iterator[tuple[tuple[int, ...], bool]]:
    found: dict[tuple[int, ...], bool] = {}
    for node in layer._inbound_nodes:
        if len(node.input_tensors) == 1:
            tensor = node.input_tensors[0]
            shape = (batch_size, *(size or _STAND_IN for size in tensor.shape[1:]))
            found[shape] = found.get(shape, False) or _learns(tensor)
    yield from found.items()


def _learns(tensor: Any) -> bool:
    """Whether something that a tensor is computed from is trained."""
    waiting, seen = [tensor], set()
    while waiting:
        history = getattr(waiting.pop(), "_keras_history", None)
        if history is None or id(history.operation) in seen:
            continue
        seen.add(id(history.operation))
        if getattr(history.operation, "trainable_variables", ()):
            return True
        waiting.extend(history.operation._inbound_nodes[history.node_index].input_tensors)
    return False


def _tensorflow(
    layer: keras.layers.Layer, grad_inputs: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    tf = import_module("tensorflow")
    on_gpu = bool(tf.config.list_physical_devices("GPU"))

    def forward(inputs: Any) -> list[Any]:
        return [layer(inputs)]

    def full(inputs: Any, upstream: Any) -> list[Any]:
        weights = [variable.value for variable in layer.trainable_variables]
        sources = [inputs, *weights] if grad_inputs else weights
        if not sources:
            return [layer(inputs, training=True)]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = layer(inputs, training=True)
        gradients = tape.gradient(outputs, sources, output_gradients=upstream)
        return [outputs, *(it for it in gradients if it is not None)]

    def repeated(function: Callable[..., list[Any]]) -> Callable[..., Any]:
        # Without autograph: it would rewrite, slowly, code of Keras that needs no rewriting.
        @tf.function(autograph=False)
        def run(count: Any, *arguments: Any) -> Any:
            def step(number: Any, seen: Any) -> tuple[Any, Any]:
                # One element of each result is used: what nobody uses is not computed. The slice
                # may be of nothing, where there are no images.
                results = [tf.reshape(it, [-1])[:1] for it in function(*arguments)]
                used = [tf.reduce_sum(tf.cast(it, tf.float32)) for it in results]
                return number + 1, seen + tf.add_n(used)

            start = (tf.constant(0), tf.constant(0.0))
            return tf.while_loop(lambda number, _: number < count, step, start, None, 1)[1]

        # One for each shape. By hand, because TensorFlow takes the many small functions of a
        # benchmark for one that is traced again and again, and warns.
        traced: dict[Any, Any] = {}

        def call(count: int, *arguments: Any) -> Any:
            number = tf.constant(count)  # A tensor: for each number another graph would be made.
            shapes = tuple(tuple(it.shape) for it in arguments)
            if shapes not in traced:
                traced[shapes] = run.get_concrete_function(number, *arguments)
            result = traced[shapes](number, *arguments)
            if on_gpu:
                tf.test.experimental.sync_devices()
            return result

        return call

    return repeated(forward), repeated(full)


def _torch(
    layer: keras.layers.Layer, grad_inputs: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torch = import_module("torch")
    on_gpu = torch.cuda.is_available()

    def forward(inputs: Any) -> None:
        with torch.no_grad():
            layer(inputs)

    def full(inputs: Any, upstream: Any) -> None:
        sources = [variable.value for variable in layer.trainable_variables]
        if grad_inputs:
            inputs = inputs.detach().requires_grad_()
            sources.insert(0, inputs)
        outputs = layer(inputs, training=True)
        if sources:
            torch.autograd.grad(outputs, sources, upstream, allow_unused=True)

    def repeated(function: Callable[..., None]) -> Callable[..., Any]:
        def call(count: int, *arguments: Any) -> None:
            for _ in range(count):
                function(*arguments)
            if on_gpu:
                torch.cuda.synchronize()

        return call

    return repeated(forward), repeated(full)


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
