"""Write a Keras model as an ONNX file.

Keras' own export converts TensorFlow's graph of the model, which takes minutes for a large model,
and leaves operators of TensorFlow's layout behind. Here each layer becomes the ONNX operator of the
same name, with channels first. That is the form that the engines optimize best. The images keep
Keras' layout and are uint8: the file transposes and converts them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
INPUT, OUTPUT = "images", "outputs"
BATCH = "batch"


def write_onnx(model: keras.Model, path: Path) -> None:
    """Write a functional model whose one input is a batch of images, and which has one output.

    Raises:
        ValueError: A layer of the model has no operator here.
    """
    graph = _Graph()
    names: dict[int, str] = {id(model.input): graph.images()}

    def visit(layer: Any, inputs: Any, **_: Any) -> Any:
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        names[id(layer.output)] = graph.layer(layer, [names[id(each)] for each in several])
        return layer.output

    # Keras calls `visit` for each layer, those first that others read.
    keras.models.clone_model(
        model, input_tensors=model.input, clone_function=lambda layer: layer, call_function=visit
    )
    graph.add("Identity", [names[id(model.output)]], output=OUTPUT)
    images = helper.make_tensor_value_info(
        INPUT, TensorProto.UINT8, [BATCH, *model.input_shape[1:]]
    )
    outputs = helper.make_tensor_value_info(
        OUTPUT, TensorProto.FLOAT, [BATCH, *model.output_shape[1:]]
    )
    made = helper.make_model(
        helper.make_graph(graph.nodes, "model", [images], [outputs], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(made)
    onnx.save(made, path)


class _Graph:
    """The operators and weights of an ONNX file."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def images(self) -> str:
        return self.add("Cast", [self.add("Transpose", [INPUT], perm=[0, 3, 1, 2])], to=1)

    def layer(self, layer: Any, inputs: list[str]) -> str:
        for kind, write in _LAYERS.items():
            if type(layer) is kind:
                return write(self, layer, inputs)
        raise ValueError(f"no ONNX operator for {layer.name}, a {type(layer).__name__}")

    def activation(self, activation: Any, values: str) -> str:
        if activation is keras.activations.linear:
            return values
        kinds = {keras.activations.relu: "Relu", keras.activations.softmax: "Softmax"}
        if activation not in kinds:
            raise ValueError(f"no ONNX operator for the activation {activation}")
        return self.add(kinds[activation], [values])


def _window(layer: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return the attributes of a window that moves over an image: strides, padding, dilation."""
    strides, dilation = layer.strides, getattr(layer, "dilation_rate", (1, 1))
    before, after = [0, 0], [0, 0]
    if layer.padding == "same":
        for axis in range(2):
            length = layer.input.shape[1 + axis]
            reach = (size[axis] - 1) * dilation[axis] + 1
            whole = max(0, (-(-length // strides[axis]) - 1) * strides[axis] + reach - length)
            before[axis], after[axis] = whole // 2, whole - whole // 2
    window = {"kernel_shape": size, "strides": strides, "pads": [*before, *after]}
    return window if dilation == (1, 1) else {**window, "dilations": dilation}


def _convolution(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    kernel, groups = np.asarray(layer.get_weights()[0]), getattr(layer, "groups", 1)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        groups = kernel.shape[2]
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    weights = [graph.weight(kernel.transpose(3, 2, 0, 1))]
    if layer.use_bias:
        weights.append(graph.weight(layer.get_weights()[1]))
    window = _window(layer, kernel.shape[:2])
    made = graph.add("Conv", [*inputs, *weights], group=groups, **window)
    return graph.activation(layer.activation, made)


def _normalization(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    weights = [graph.weight(each) for each in layer.get_weights()]
    return graph.add("BatchNormalization", [*inputs, *weights], epsilon=layer.epsilon)


def _dense(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    weights = [graph.weight(each) for each in layer.get_weights()]
    return graph.activation(layer.activation, graph.add("Gemm", [*inputs, *weights]))


def _relu(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise ValueError(f"no ONNX operator for {layer.name}: a ReLU with a slope or a threshold")
    if layer.max_value is None:
        return graph.add("Relu", inputs)
    limits = [graph.weight(np.float32(limit)) for limit in (0, layer.max_value)]
    return graph.add("Clip", [*inputs, *limits])


def _pad(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    pads = [0, 0, top, left, 0, 0, bottom, right]
    if layer.data_format == "channels_first":
        # Of Keras' axes N, H, W, C the layer pads the last two.
        pads = [0, left, 0, top, 0, right, 0, bottom]
    return graph.add("Pad", [*inputs, graph.weight(np.array(pads, np.int64))])


def _rescaling(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    scaled = graph.add("Mul", [*inputs, graph.weight(np.float32(layer.scale))])
    if not layer.offset:
        return scaled
    return graph.add("Add", [scaled, graph.weight(np.float32(layer.offset))])


def _flatten(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    last = graph.add("Transpose", inputs, perm=[0, 2, 3, 1])
    return graph.add("Flatten", [last])


def _average(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    return graph.add("Flatten", [graph.add("GlobalAveragePool", inputs)])


_LAYERS: dict[type, Callable[[_Graph, Any, list[str]], str]] = {
    keras.layers.Activation: lambda graph, layer, inputs: graph.activation(
        layer.activation, inputs[0]
    ),
    keras.layers.Add: lambda graph, layer, inputs: graph.add("Add", inputs),
    keras.layers.BatchNormalization: _normalization,
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv2D: _convolution,
    keras.layers.Dropout: lambda graph, layer, inputs: inputs[0],
    keras.layers.Flatten: _flatten,
    keras.layers.GlobalAveragePooling2D: _average,
    keras.layers.MaxPooling2D: lambda graph, layer, inputs: graph.add(
        "MaxPool", inputs, **_window(layer, layer.pool_size)
    ),
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _rescaling,
    keras.layers.ZeroPadding2D: _pad,
}
