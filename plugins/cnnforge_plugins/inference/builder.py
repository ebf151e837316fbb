"""Write the inference plan of a Keras model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from cnnforge.utils.keras_graph import FunctionalModel, LayerCall, layer_calls
from cnnforge_kernels.plan import PlanError, Program, Step, optimize, write
from cnnforge_plugins.inference._foreign import foreign
from cnnforge_plugins.inference._layers import LAYERS
from cnnforge_plugins.inference._operations import OPERATIONS
from cnnforge_plugins.inference._writer import NotPossible, Writer


def build(model: keras.Model, path: str | Path) -> None:
    """Write the inference plan of a model to a file.

    Args:
        model: A built model, Sequential or Functional, for images (H, W, C). It consists of stock
            layers, and of layers of plugins that compute one op (see `cnnforge.ops.single_call`).
        path: The file; an earlier file is replaced.

    Raises:
        ValueError: The model cannot be expressed. The message names the layer and the reason.
        OSError: The file cannot be written.
    """
    write(path, optimize(express(model)))


def express(model: keras.Model) -> Program:
    """Express a model as a program, one or more steps for each layer.

    Args:
        model: A model that `build` accepts.

    Returns:
        The program; its weights are copies.

    Raises:
        ValueError: The model cannot be expressed. The message names the layer and the reason.
    """
    _check_graph(model, "the model")
    if len(model.inputs) != 1:
        raise NotPossible(f"the model has {len(model.inputs)} inputs: a plan has one")
    (image,) = model.inputs
    shape = tuple(image.shape[1:])
    if len(shape) != 3 or None in shape:
        raise NotPossible(f"the inputs of the model are not images of a fixed size: {shape}")
    if image.dtype != "float32":
        raise NotPossible(f"the inputs of the model are {image.dtype}: a plan computes in float32")
    writer = Writer()
    writer.steps.append(Step("input", (), "image", {"shape": list(shape)}))
    outputs = _write(model, ["image"], writer, "")
    if isinstance(outputs, list) and len(outputs) == 1:
        # Keras returns the only output of a list without the list.
        outputs = outputs[0]
    try:
        program = Program(tuple(writer.steps), outputs)
    except PlanError as error:
        raise NotPossible(writer.with_layer(str(error))) from error
    for name, expected in writer.shapes.items():
        if program.shapes[name] != expected:
            raise NotPossible(writer.with_layer(f"step {name!r} has the shape {expected} in Keras"))
    return program


def _check_graph(model: Any, what: str) -> None:
    if not isinstance(model, keras.Sequential | FunctionalModel) or type(model).call not in (
        keras.Sequential.call,
        FunctionalModel.call,
    ):
        raise NotPossible(f"{what} is neither Sequential nor Functional: its code is not known")
    if isinstance(model, keras.Sequential) and not model.built:
        raise NotPossible(f"{what} is not built: its input shape is not known")


def _write(model: Any, given: list[str], writer: Writer, inside: str) -> Any:
    """Write the steps of a model, and return its outputs: names in the structure of the model."""
    calls, outputs = layer_calls(model)
    names = {id(tensor): name for tensor, name in zip(model.inputs, given, strict=True)}
    for call in calls:
        layer = call.layer
        writer.layer, writer.path = layer, f"{inside}{layer.name}"
        missing = [tensor for tensor in call.inputs if id(tensor) not in names]
        if missing:
            writer.refuse("it reads a tensor that does not depend on the inputs of the model")
        inputs = [names[id(tensor)] for tensor in call.inputs]
        if isinstance(layer, keras.Model):
            _check_graph(layer, f"the model {writer.path!r} inside the model")
            _check_arguments(call, writer)
            results = keras.tree.flatten(_write(layer, inputs, writer, f"{inside}{layer.name}/"))
        else:
            results = [_written(call, inputs, writer)]
        names |= {id(tensor): name for tensor, name in zip(call.outputs, results, strict=True)}
    return _as_json(outputs, names)


def _written(call: LayerCall, inputs: list[str], writer: Writer) -> str:
    """Write the steps of one call of a layer or an operation, and return the name of its result."""
    layer = call.layer
    if len(call.outputs) != 1:
        writer.refuse("it has several outputs")
    if isinstance(layer, keras.layers.Layer):
        stock = type(layer).__module__.partition(".")[0] == "keras"
        if stock and type(layer) not in LAYERS:
            writer.refuse("there is no kernel for layers of this class")
        _check_arguments(call, writer)
        _check_layer(layer, writer)
        name = LAYERS.get(type(layer), foreign)(layer, call, inputs, writer)
    else:
        kind = type(layer).__name__
        if type(layer).__module__.partition(".")[0] != "keras" or kind not in OPERATIONS:
            writer.refuse("there is no kernel for this operation")
        name = OPERATIONS[kind](layer, call, inputs, writer)
    if call.outputs[0].dtype != "float32":
        writer.refuse(f"it computes in {call.outputs[0].dtype}: a plan computes in float32")
    writer.shapes[name] = tuple(call.outputs[0].shape[1:])
    return name


def _check_arguments(call: LayerCall, writer: Writer) -> None:
    """Check that a layer is called with tensors only."""
    for name, value in call.keywords.items():
        # `predict` runs all layers with training=False, whatever they are called with.
        if value is not None and name not in ("inputs", "training"):
            writer.refuse(f"it is called with {name}={value!r}")
    if len(call.arguments) > 1 and any(value is not None for value in call.arguments[1:]):
        writer.refuse("it is called with more than one argument")


def _check_layer(layer: keras.layers.Layer, writer: Writer) -> None:
    policy: Any = layer.dtype_policy
    if layer.compute_dtype != "float32":
        writer.refuse(f"it computes in {layer.compute_dtype}: a plan computes in float32")
    if getattr(policy, "quantization_mode", None):
        writer.refuse("its weights are quantized")
    # A padding with the channels first is a padding of other axes, which is possible.
    if getattr(layer, "data_format", None) == "channels_first" and not isinstance(
        layer, keras.layers.ZeroPadding2D
    ):
        writer.refuse("its images have the channels first")


def _as_json(structure: Any, names: dict[int, str]) -> Any:
    if isinstance(structure, dict):
        return {str(key): _as_json(part, names) for key, part in structure.items()}
    if isinstance(structure, list | tuple):
        return [_as_json(part, names) for part in structure]
    return names[id(structure)]
