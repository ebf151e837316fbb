"""A small model and small data, and training on them."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.data import ArraySamples, Dataset
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.training import TrainingResult, TrainingState, prepare, train


def build() -> keras.Model:
    """Dropout, batch normalization and a regularizer: state of every kind."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(3, 3, kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )


def samples(count: int, seed: int) -> ArraySamples:
    """Images whose class is the third that is bright, with noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    images = generator.integers(0, 120, (count, 6, 6, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    return ArraySamples(images.astype(np.uint8), labels, [f"toy {n}" for n in range(count)])


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset("toy", ("a", "b", "c"), samples(70, 0), samples(20, 1), "0" * 64)


@pytest.fixture(scope="session")
def run(dataset: Dataset) -> Callable[..., tuple[TrainingResult, keras.Model]]:
    """Return `run(**options)`: build the model, train it, return the result and the model."""

    def run(**options: Any) -> tuple[TrainingResult, keras.Model]:
        options = {"epochs": 3, "batch_size": 8, "seed": 1, "learning_rate": 0.01, **options}
        names = [it.name for it in fields(OptimizerOptions) if it.name in options]
        options["optimizer"] = OptimizerOptions(**{name: options.pop(name) for name in names})
        prepare(options["seed"])
        model = build()
        data = options.pop("dataset", dataset)
        task = options.pop("task", None) or Classification(data.classes)
        return train(model, task, data, **options), model

    return run


@pytest.fixture(scope="session")
def uninterrupted(run: Callable[..., tuple[TrainingResult, keras.Model]]) -> TrainingState:
    """The state after a run with the default options."""
    return run()[0].state
