"""A tiny model and data without random numbers: what the stored run of cnnforge 0.1 was made of."""

import os
import time

from cnnforge.plugin import DatasetSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="tiny", target="run_0_1_plugin:build", summary="one convolution")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="stripes", target="run_0_1_plugin:load", summary="stripes")]


def build(input_shape, classes):
    """One convolution, with state of every kind."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape, name="image"),
            layers.Rescaling(1 / 255, name="rescaling"),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(classes, activation="softmax", name="probabilities"),
        ],
        name="tiny",
    )


def load(argument, options):
    """Images whose class is the third that is bright; the rest is arithmetic, not chance."""
    from dataclasses import replace

    import numpy as np

    from cnnforge.data import ArraySamples, dataset_from_arrays

    class Slow(ArraySamples):
        def fetch(self, indices):
            time.sleep(float(os.environ.get("STRIPES_DELAY", "0")))
            return super().fetch(indices)

    number, row, column = np.ogrid[:60, :8, :8]
    labels = np.arange(60) % 3
    bright = (row * 3 // 8 == labels[:, None, None]) * 60
    noise = (number * 7919 + row * 104729 + column * 1299709) // 13 % 151
    images = (bright + noise).astype(np.uint8)[..., np.newaxis]
    dataset = dataset_from_arrays(
        "stripes",
        images,
        labels,
        names=[f"stripes {number}" for number in range(60)],
        classes=["top", "middle", "bottom"],
        options=options,
    )
    part = dataset.train
    return replace(dataset, train=Slow(part.fetch(np.arange(len(part))), part.labels, part.names))
