"""Find the layers of a model and their connections, through Keras' private API.

Keras has no public functions for this. No other module uses the private API, so only this file
changes if a new version of Keras renames something.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import keras
from keras.src.models.functional import Functional

FunctionalModel = Functional
"""The class of the object that `keras.Model(inputs, outputs)` returns."""

# The size that replaces a dimension of `None`, which the model leaves open.
_OPEN_DIMENSION = 32
PRIVATE = "keras.src."  # The beginning of the names of private modules.


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """List a model and all layers in it, also those inside other models and layers.

    Args:
        model: Any model.

    Returns:
        Each layer once; a model or layer precedes the layers inside it.
    """
    return list(model._flatten_layers())


def model_parts(model: keras.Model) -> list[Any]:
    """List the model and the models inside it, if they are Sequential or Functional.

    Args:
        model: Any model.
    """
    return [part for part in all_layers(model) if isinstance(part, keras.Sequential | Functional)]


class LayerCall(NamedTuple):
    """One call of a layer, an operation or a model, inside a Sequential or Functional model.

    Attributes:
        layer: The layer, operation or model.
        inputs: The tensors among the arguments, in order.
        arguments: The positional arguments.
        keywords: The keyword arguments.
        outputs: The tensors that the call returns.
    """

    layer: Any
    inputs: list[keras.KerasTensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: list[keras.KerasTensor]


def layer_calls(model: keras.Model) -> tuple[list[LayerCall], Any]:
    """List the calls that a model consists of; a model inside it is one call.

    Args:
        model: A built model of the class Sequential or Functional.

    Returns:
        The calls, in an order in which they can run, and the structure of the output tensors.
    """
    graph: Any = model._functional if isinstance(model, keras.Sequential) else model
    calls = [
        LayerCall(
            it.operation, it.input_tensors, it.arguments.args, it.arguments.kwargs, it.outputs
        )
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for it in graph._nodes_by_depth[depth]
        if not it.is_input
    ]
    return calls, graph._outputs_struct


def input_shapes(layer: keras.layers.Layer) -> dict[tuple[int, ...], bool]:
    """Find the input shapes with which a built model calls a layer that has one input.

    Args:
        layer: A layer of a built model. If it is inside another layer, the model does not record
            its calls. The result is then the shape with which the layer was built.

    Returns:
        A dict. Its keys are the shapes, without the batch dimension. A value is `True` if training
        needs the gradient of the inputs, because a layer before this one has weights. A dimension
        that the model leaves open becomes 32. The dict is empty if no shape is known.
    """
    tensors = [
        node.input_tensors[0] for node in layer._inbound_nodes if len(node.input_tensors) == 1
    ]
    found: dict[tuple[int, ...], bool] = {}
    for tensor in tensors:
        shape = _closed(tensor.shape)
        found[shape] = found.get(shape, False) or _has_weights_before(tensor)
    if not tensors:
        built = (layer.get_build_config() or {}).get("input_shape")
        if built is not None:
            found[_closed(built)] = True
    return found


def single_links(part: Any) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Find pairs of layers such that only the second layer reads the outputs of the first.

    Args:
        part: A Sequential or Functional model; models inside it count as single layers.

    Yields:
        Pairs of the first and the second layer; the model calls each of them once.
    """
    if isinstance(part, keras.Sequential):
        yield from pairwise(part.layers)
        return
    nodes = [node for level in part._nodes_by_depth.values() for node in level]
    calls = Counter(node.operation for node in nodes)
    consumers: dict[Any, list[Any]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            consumers.setdefault(tensor._keras_history.operation, []).append(node.operation)
    for tensor in part.outputs:
        consumers.setdefault(tensor._keras_history.operation, []).append(None)
    for first, seconds in consumers.items():
        if len(seconds) == 1 and calls[first] == 1 and calls[seconds[0]] == 1:
            yield first, seconds[0]


def output_values(model: keras.Model) -> int:
    """Count the values that the layers of a model compute for one sample.

    Args:
        model: A built model. The outputs of a layer inside another layer, other than a model, are
            not recorded and not counted. A dimension that the model leaves open counts as 32.

    Returns:
        The sum of the sizes of all outputs, including the inputs of the model.
    """
    parts = model_parts(model)
    graphs = [part._functional if isinstance(part, keras.Sequential) else part for part in parts]
    nodes = [
        node
        for graph in graphs
        if graph is not None
        for level in graph._nodes_by_depth.values()
        for node in level
        if node.operation not in parts
    ]
    return sum(prod(_closed(tensor.shape)) for node in nodes for tensor in node.outputs)


def output_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """List the layers that compute the outputs of a model: the last layers with weights.

    Args:
        model: A model of the class Sequential or Functional; the list is empty for others.

    Returns:
        The layers with weights from which the outputs are reached through layers without weights
        only. Of a model inside the model, its own last layers are listed.
    """
    found: list[keras.layers.Layer] = []
    waiting = list(model.outputs) if model_parts(model)[:1] == [model] else []
    seen = set()
    while waiting:
        history = getattr(waiting.pop(), "_keras_history", None)
        if history is None or history in seen:
            continue
        seen.add(history)
        operation = history.operation
        if not getattr(operation, "weights", ()):
            waiting.extend(operation._inbound_nodes[history.node_index].input_tensors)
        elif operation in model_parts(operation):
            waiting.extend(operation.outputs)
        elif operation not in found:
            found.append(operation)
    return found


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """List the variables of a layer, without those of the layers inside it.

    Args:
        layer: Any layer or model.

    Returns:
        The weights, and the states of seed generators.
    """
    inside = {id(each) for child in all_layers(layer)[1:] for each in child.variables}
    return [variable for variable in layer.variables if id(variable) not in inside]


def lambda_arguments(layer: keras.layers.Lambda) -> dict[str, Any]:
    """Return the arguments with which a Lambda layer was made, as they are in memory.

    Args:
        layer: Any Lambda layer.
    """
    return {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }


@contextmanager
def not_compiled(model: keras.Model) -> Iterator[None]:
    """Let a model and the models inside it count as not compiled during the block.

    Args:
        model: Any model.
    """
    compiled = [it for it in all_layers(model) if isinstance(it, keras.Model) and it.compiled]
    for each in compiled:
        each.compiled = False
    try:
        yield
    finally:
        for each in compiled:
            each.compiled = True


def asked_to_compile(model: keras.Model) -> dict[str, Any] | None:
    """Return the arguments that `compile` of a model got, as they are in memory.

    Args:
        model: A compiled model.

    Returns:
        The arguments without `auto_scale_loss`. It is `None` if the class of the model has a
        `compile` of its own, whose arguments are not known.
    """
    if type(model).compile is not keras.Model.compile:
        return None
    return dict(model._compile_config.config)


def compile_copy(copy: keras.Model, asked: dict[str, Any]) -> None:
    """Compile the copy of a model.

    Args:
        copy: The model to compile.
        asked: Arguments of `compile`, as `asked_to_compile` returns them.
    """
    # XLA can compile neither the layers of a plugin nor a model that runs eagerly. Keras would then
    # warn, and not use XLA.
    possible = not asked["run_eagerly"] and all(layer.supports_jit for layer in all_layers(copy))
    jit_compile = asked["jit_compile"] if possible else False
    # The optimizer scales the loss already if it has to.
    copy.compile(**{**asked, "jit_compile": jit_compile}, auto_scale_loss=False)
    # A copy of the copy that consists of stock layers can use XLA again.
    copy._compile_config.config["jit_compile"] = asked["jit_compile"]


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Return the configuration of an optimizer, with the objects in memory that it consists of.

    Args:
        optimizer: Any optimizer.

    Returns:
        The configuration. Learning rates that are computed, and the inner optimizer of a
        `LossScaleOptimizer`, are the objects themselves.
    """
    # `get_config` would serialize these objects, which may not be possible. So ask a copy of the
    # optimizer that has others in their places.
    shallow = object.__new__(type(optimizer))
    live: dict[str, Any] = {}
    vars(shallow).update(vars(optimizer))
    rate = vars(optimizer).get("_learning_rate")
    if callable(rate) and not isinstance(rate, keras.Variable):
        live["learning_rate"] = rate
        vars(shallow)["_learning_rate"] = 0.0
    inner = vars(optimizer).get("inner_optimizer")
    if inner is not None:
        live["inner_optimizer"] = inner
        vars(shallow)["inner_optimizer"] = keras.optimizers.SGD()
    return {**shallow.get_config(), **live}


def copy_optimizer_state(
    source: Any, target: Any, pairs: Sequence[tuple[keras.Variable, keras.Variable]]
) -> None:
    """Build an optimizer like another one, and copy its state.

    Args:
        source: The optimizer of a model.
        target: A new optimizer with the same configuration, for the copy of the model.
        pairs: Each variable of the model, and that of the copy. If the optimizer was built for
            other variables too, only its settings are copied.
    """
    optimizers: list[tuple[Any, Any]] = [(source, target)]
    if hasattr(source, "inner_optimizer"):
        optimizers.append((source.inner_optimizer, target.inner_optimizer))
    for old, new in optimizers:
        if hasattr(old, "_exclude_from_weight_decay"):
            excluded = old._exclude_from_weight_decay
            new._exclude_from_weight_decay = {
                new._var_key(theirs) for ours, theirs in pairs if old._var_key(ours) in excluded
            }
            new._exclude_from_weight_decay_pattern = old._exclude_from_weight_decay_pattern
    if not source.built:
        return
    # The order of the variables may differ between the two models. The state has the order of the
    # model that the optimizer was built for.
    new_of = {id(ours): theirs for ours, theirs in pairs}
    variables = [new_of.get(id(variable)) for variable in source._trainable_variables]
    if any(variable is None for variable in variables):
        return
    target.build(variables)
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(old)


def split_at_head(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """Divide a model into its backbone and its head, which share its layers and weights.

    The head consists of the output layer and the layers before it that draw random numbers, such as
    dropout. It also contains the layers without weights after these layers.

    Args:
        model: A model of the class Sequential or Functional.

    Returns:
        Two models: the backbone, from the images to features, and the head, from the features to
        the outputs. `None` if the model has several inputs or output layers, if its output layer is
        inside another model, or if nothing before the output layer has weights.
    """
    layers = output_layers(model)
    if len(layers) != 1 or len(model.inputs) != 1:
        return None
    functional = model._functional if isinstance(model, keras.Sequential) else model
    nodes = [node for level in functional._nodes_by_depth.values() for node in level]
    calls = [node for node in nodes if node.operation is layers[0]]
    if len(calls) != 1 or len(calls[0].input_tensors) != 1:
        return None
    features = tensor = calls[0].input_tensors[0]
    while True:
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if getattr(history.operation, "weights", ()) or len(node.input_tensors) != 1:
            break
        tensor = node.input_tensors[0]
        if getattr(history.operation, "variables", ()):
            features = tensor
    backbone = keras.Model(functional.inputs, features)
    if not backbone.weights:
        return None
    return backbone, keras.Model(features, functional.outputs)


def keep_tensorflow_out() -> None:
    """Prevent Keras from importing TensorFlow when it saves a model under another backend.

    Keras checks whether each layer that it saves is a TensorFlow object. For this check it imports
    TensorFlow, which takes three seconds. The import is not needed: a layer can be a TensorFlow
    object only if other code has imported TensorFlow already. In that case Keras still checks.
    """
    try:
        lazy: Any = import_module("keras.src.utils.module_utils").tensorflow
        kind = type(lazy)
        available = kind.available.fget
    except (ImportError, AttributeError):
        # This version of Keras uses other names, so the import cannot be prevented. It costs time,
        # but changes no result.
        return
    lazy.__class__ = type(
        kind.__name__,
        (kind,),
        {"available": property(lambda self: "tensorflow" in sys.modules and available(self))},
    )


def _closed(shape: Any) -> tuple[int, ...]:
    return tuple(size or _OPEN_DIMENSION for size in shape[1:])


def _has_weights_before(tensor: Any) -> bool:
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
