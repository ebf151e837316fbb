"""A plugin with layers that do not give the same bits again, each in a way of its own."""

import functools
import os
from typing import Any

import keras
import numpy as np

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(name=kind.__name__.lower(), target=f"odd_layers:{kind.__name__}", summary="")
        for kind in (Unseeded, OfTheThreads, OfTheProcess, OfTheText)
    ]


@hookimpl
def cnnforge_models():
    names = ["steady", "unseeded", "of_the_threads", "of_the_process", "of_the_text"]
    return [ModelSpec(name=name, target=f"odd_layers:{name}", summary="") for name in names]


@keras.saving.register_keras_serializable("odd_layers")
class Unseeded(keras.layers.Layer):
    """Multiplies by random numbers of the operating system."""

    def call(self, inputs):
        # Close to 1: the loss of the saved model must be that of the epoch within 1%.
        return inputs * np.random.default_rng().uniform(0.999, 1.001)


@keras.saving.register_keras_serializable("odd_layers")
class OfTheThreads(keras.layers.Layer):
    """Subtracts a small sum of as many features as there are threads."""

    def call(self, inputs):
        threads = int(os.environ.get("TF_NUM_INTRAOP_THREADS", "1"))
        parts = keras.ops.split(inputs, threads, axis=1)
        total: Any = functools.reduce(keras.ops.add, parts)
        return inputs - total[:, :1] / 1000


@keras.saving.register_keras_serializable("odd_layers")
class OfTheProcess(keras.layers.Layer):
    """Multiplies by the number of the process."""

    def call(self, inputs):
        return inputs * (1 + os.getpid() / 1e6)


@keras.saving.register_keras_serializable("odd_layers")
class OfTheText(keras.layers.Layer):
    """Multiplies by the hash of a text."""

    def call(self, inputs):
        return inputs * (1 + hash("text") % 1000 / 1e6)


def _model(input_shape, classes, *layers):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8, name="before"),
            *layers,
            keras.layers.Dropout(0.2),
            keras.layers.Dense(classes, activation="softmax", name="after"),
        ]
    )


def steady(input_shape, classes):
    return _model(input_shape, classes)


def unseeded(input_shape, classes):
    return _model(input_shape, classes, Unseeded(name="odd"))


def of_the_threads(input_shape, classes):
    return _model(input_shape, classes, OfTheThreads(name="odd"))


def of_the_process(input_shape, classes):
    return _model(input_shape, classes, OfTheProcess(name="odd"))


def of_the_text(input_shape, classes):
    return _model(input_shape, classes, OfTheText(name="odd"))
