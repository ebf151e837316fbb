"""A plugin in one file: an op, its layer, the facts about the layer, and a model and data.

Nothing in `cnnforge` knows of it. A plugin that is installed would keep its manifest light.
"""

import math

import keras
import numba
import numpy as np

from cnnforge.data import dataset_from_arrays
from cnnforge.ops import ArrayOp
from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec, Work, hookimpl
from cnnforge.testing import LayerCase


@numba.njit(cache=True)
def sloped(inputs, slope, outputs):
    for index in np.ndindex(inputs.shape):
        value = inputs[index]
        outputs[index] = value if value >= 0 else slope * value


@numba.njit(cache=True)
def sloped_backward(inputs, slope, grad_outputs, grad_inputs):
    for index in np.ndindex(inputs.shape):
        grad_inputs[index] = grad_outputs[index] * (1 if inputs[index] > 0 else slope)


sloped_op = ArrayOp(
    "sloped",
    forward=sloped,
    backward=sloped_backward,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=lambda inputs: inputs,
    attributes={"slope": 0.3},
)


@keras.saving.register_keras_serializable("sloped_plugin")
class LeakyReLU(keras.layers.LeakyReLU):
    def __init__(self, negative_slope=0.3, **keywords):
        super().__init__(negative_slope, **keywords)
        self.supports_jit = False

    def call(self, inputs):
        if len(inputs.shape) != 4 or self.compute_dtype != "float32":
            return super().call(inputs)
        return sloped_op(inputs, slope=float(self.negative_slope))


CASES = [
    LayerCase(
        arguments={"negative_slope": 0.25},
        input_shape=(2, 4, 5, 3),
        oracle=lambda layer, inputs: np.maximum(inputs, layer.negative_slope * inputs),
    )
]
BENCHMARKS = [LayerCase(arguments={"negative_slope": 0.25}, input_shape=(3, 6, 5, 4))]


def work(layer, shape, grad_inputs):
    size = math.prod(shape)
    backward = Work(size, 12 * size) if grad_inputs else Work(0, 0)
    return {"forward": Work(2 * size, 8 * size), "backward": backward}


def torch_peer(layer, shape):
    import torch.nn.functional as functional  # pyright: ignore[reportMissingImports]

    return lambda inputs: functional.leaky_relu(inputs, layer.negative_slope), []


def build(input_shape, classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.LeakyReLU(0.1),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def load(argument, options):
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 100, (40, 4, 4, 1))
    images[labels == 1] += 100
    names = [f"sloped {number}" for number in range(40)]
    classes = ["dark", "bright"]
    return dataset_from_arrays(
        "sloped", images.astype(np.uint8), labels, names=names, classes=classes, options=options
    )


@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(
            name="sloped_relu",
            target="sloped_plugin:LeakyReLU",
            summary="ReLU with a slope",
            reference="keras.layers:LeakyReLU",
            cases="sloped_plugin:CASES",
            benchmarks="sloped_plugin:BENCHMARKS",
            work="sloped_plugin:work",
            torch="sloped_plugin:torch_peer",
        )
    ]


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="sloped_net", target="sloped_plugin:build", summary="one activation")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="sloped", target="sloped_plugin:load", summary="dark and bright")]
