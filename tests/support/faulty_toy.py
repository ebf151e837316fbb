"""A plugin with small models and small data, and faults at a batch that the environment names.

`TOY_SIGNAL`: number of a signal, and of the reading of a batch at which the process sends it to
itself, such as `9 4`. `TOY_MEMORY`: number of the reading at which there is no memory left.
`TOY_SEED`: seed of the images. `TOY_WAIT`: seconds that each reading of training images takes.
`ONE_BATCH` is Python code that makes the loop read and save after every batch, and leaves out what
comes after the training.
"""

import os
import time
from dataclasses import replace

from cnnforge.plugin import DatasetSpec, ModelSpec, hookimpl

ONE_BATCH = """
from cnnforge.data import prefetch
from cnnforge.training import loop
prefetch.MAX_BYTES = 1
loop._SAVE_SECONDS = -1.0
"""
QUICK = """
from cnnforge.tasks import confusion
from cnnforge.training import session
def nothing(path, **_):
    path.write_bytes(b"")
    return []
session.training_curves = confusion.confusion_matrix = nothing
session.Session._prepare_predictions = lambda *_: None
session.write_report = lambda *_: None
"""


@hookimpl
def cnnforge_models():
    return [
        ModelSpec(name="plain", target="faulty_toy:plain", summary="a dense layer"),
        ModelSpec(name="small", target="faulty_toy:small", summary="state of every kind"),
        ModelSpec(name="poisoned", target="faulty_toy:poisoned", summary="NaN for white corners"),
        ModelSpec(name="wide", target="faulty_toy:wide", summary="a state of 2 MB"),
        ModelSpec(name="hungry", target="faulty_toy:hungry", summary="large activations"),
    ]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="toy", target="faulty_toy:load", summary="stripes")]


def _model(input_shape, classes, *layers):
    import keras

    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            *layers,
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def plain(input_shape, classes):
    return _model(input_shape, classes)


def small(input_shape, classes):
    from keras import layers

    kept = layers.Conv2D(3, 3, activation="relu", kernel_regularizer="l2")
    return _model(input_shape, classes, kept, layers.BatchNormalization(), layers.Dropout(0.2))


def poisoned(input_shape, classes):
    import keras

    class Poisoned(keras.layers.Layer):
        """Gives NaN for an image whose first pixel is white."""

        def call(self, inputs):
            return keras.ops.where(inputs[:, :1, :1] >= 1.0, float("nan"), inputs)

    return _model(input_shape, classes, Poisoned(name="poisoned"))


def wide(input_shape, classes):
    from keras import layers

    return _model(input_shape, classes, layers.Flatten(), layers.Dense(5000))


def hungry(input_shape, classes):
    """Take about 100 MB for each image."""
    from keras import layers

    grown = layers.UpSampling2D(2000 // input_shape[0])
    return _model(input_shape, classes, grown, layers.Conv2D(3, 3), layers.GlobalMaxPooling2D())


def load(argument, options):
    import numpy as np

    from cnnforge.data import ArraySamples, dataset_from_arrays

    number, at = map(int, os.environ.get("TOY_SIGNAL", "0 -1").split())
    wait = float(os.environ.get("TOY_WAIT", "0"))
    lacking = int(os.environ.get("TOY_MEMORY", "-1"))
    read = iter(range(1_000_000))

    class Faulty(ArraySamples):
        def fetch(self, indices):
            now = next(read)
            time.sleep(wait)
            if now == at:
                os.kill(os.getpid(), number)
            if now == lacking:
                raise MemoryError
            return super().fetch(indices)

    generator = np.random.default_rng(int(os.environ.get("TOY_SEED", "0")))
    labels = np.arange(60) % 3
    images = generator.integers(0, 120, (60, 6, 6, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    if argument == "white":
        images[53, 0, 0] = 255
    dataset = dataset_from_arrays(
        f"toy:{argument}" if argument else "toy",
        images.astype(np.uint8),
        labels,
        names=[f"toy {number}" for number in range(60)],
        classes=["top", "middle", "bottom"],
        options=options,
    )
    part = dataset.train
    train = Faulty(part.fetch(np.arange(len(part))), part.labels, part.names)
    return replace(dataset, train=train)
