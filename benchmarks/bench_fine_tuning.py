"""Time an epoch of fine-tuning with cnnforge and with Keras' `fit`, alternately in one process.

Run ``python benchmarks/bench_fine_tuning.py [MODEL:SIZE ...]``; without a model, all models of
`SIZES` are measured. Both train the same network on the same random images. An epoch is short,
because only the time of a step matters. For EfficientNet-Lite0, the frozen epochs are timed too:
Keras trains the head of the whole network, and cnnforge trains it on features that it has kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

# It sets variables of TensorFlow and OpenMP, which they read when they are loaded.
import bench_training as common
import keras
import numpy as np

from cnnforge.conversion import forge
from cnnforge.data import ArraySamples, Dataset
from cnnforge.data.prefetch import StepsPerCall, chunks
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.tasks.classification import Classification
from cnnforge.training.building import build_model
from cnnforge.training.order import order
from cnnforge.training.phases import FineTuning, Phases, split

SIZES = {"efficientnet_lite0": 96, "keras:MobileNetV2": 224, "keras:ResNet50": 224}
FROZEN = "efficientnet_lite0"
CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one epoch of fine-tuning.")
    parser.add_argument("models", nargs="*", default=list(SIZES), metavar="MODEL")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="steps in an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    plugins = discover()
    for name in options.models:
        if name not in SIZES:
            parser.error(f"{name!r} cannot be measured, expected one of {', '.join(SIZES)}")
    for name in options.models:
        measure(name, options.batch_size, options.steps, options.rounds, plugins)


def measure(name: str, batch_size: int, steps: int, rounds: int, plugins: Plugins) -> None:
    shape = (SIZES[name], SIZES[name], 3)
    dataset = random_images(batch_size * steps, shape)
    task = Classification(dataset.classes)
    build = partial(build_model, name, plugins.models, task, shape)
    about = f"{name} at {SIZES[name]} px, {steps} steps of {batch_size} images"
    runs = {
        "keras fit": fit(build(), dataset, batch_size, frozen=False),
        "cnnforge": loop(build(), dataset, batch_size, plugins, frozen=False),
    }
    common.compare(f"{about}: the whole network", runs, rounds)
    if name == FROZEN:
        runs = {
            "keras fit": fit(build(), dataset, batch_size, frozen=True),
            "cnnforge": loop(build(), dataset, batch_size, plugins, frozen=True),
        }
        common.compare(f"{about}: the head of the frozen network", runs, rounds)


def random_images(count: int, shape: tuple[int, int, int]) -> Dataset:
    random = np.random.default_rng(0)
    samples = ArraySamples(
        random.integers(0, 256, (count, *shape), np.uint8),
        random.integers(0, CLASSES, count),
        [f"random {number}" for number in range(count)],
    )
    return Dataset("random", tuple(map(str, range(CLASSES))), samples, samples, "0" * 64)


def fit(
    model: keras.Model, dataset: Dataset, batch_size: int, *, frozen: bool
) -> Callable[[], Any]:
    if frozen:
        split(model)[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    samples: Any = dataset.train
    images = samples.fetch(np.arange(len(samples)))
    return common.fit(model, images, samples.labels, batch_size)


def loop(
    stock: keras.Model, dataset: Dataset, batch_size: int, plugins: Plugins, *, frozen: bool
) -> Callable[[], None]:
    """Return a function that trains for an epoch with the code of ``cnnforge train``."""
    task = Classification(dataset.classes)
    model = forge(stock, "auto", layers=plugins.layers, batch_size=batch_size)
    phases = Phases(
        model,
        task,
        OptimizerOptions(),
        batch_size=batch_size,
        batches=-(-len(dataset.train) // batch_size),
        epochs=2,
        fine_tuning=FineTuning(freeze_epochs=int(frozen), backbone_rate=0.1),
        folder=None,
    )
    phase = phases.at(0)
    phase.keep_features(dataset, True, lambda: None)
    samples: Any = phase.train or dataset.train
    size = StepsPerCall(dataset.image_shape, batch_size)
    epoch = 0

    def run() -> None:
        nonlocal epoch
        visit = order(0, epoch, len(samples))
        epoch += 1
        sums = {}
        for chunk in chunks(partial(task.read, samples), visit, batch_size, size):
            sums = phase.trainer.train(chunk.images, chunk.targets, sums).sums

    return run


if __name__ == "__main__":
    main()
