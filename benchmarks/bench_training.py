"""Time an epoch of training and a prediction with cnnforge, Keras and PyTorch.

Run ``python benchmarks/bench_training.py [lenet] [resnet20] [resnet50] [mobilenetv2]``. All
implementations train the same network on the same images, alternately and in one process. Then all
of them classify these images. Compare the ratios of the times, because the times themselves vary
between runs. `lenet` learns the digits of the data set `mnist5k`. The others get random colour
images, because only the time matters: `resnet20` of 32x32 pixels, `resnet50` and `mobilenetv2` of
224x224. If PyTorch is installed, a plain training loop is timed in both of its memory layouts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads of OpenMP that wait must not use the CPU. The command ``cnnforge`` sets the same values.
# OpenMP reads them when it is loaded, so set them before the imports below.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import keras
import numba
import numpy as np

from cnnforge.benchmarking import interleave, ratio, torch_missing
from cnnforge.conversion import Kernels, forge
from cnnforge.data import ArraySamples, DataOptions, Dataset
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.tasks.classification import Classification

OURS: dict[str, Kernels] = {
    "our loop, stock layers": "keras",
    "our loop and kernels": "numba",
    "our loop, auto": "auto",
}
BATCH_SIZES = {"lenet": [64, 250], "resnet20": [64], "resnet50": [16], "mobilenetv2": [16]}
# The number and the shape of random images.
RANDOM = {
    "resnet20": (512, (32, 32, 3)),
    "resnet50": (16, (224, 224, 3)),
    "mobilenetv2": (16, (224, 224, 3)),
}
APPLICATIONS = {"resnet50": "ResNet50", "mobilenetv2": "MobileNetV2"}
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one epoch of training.")
    parser.add_argument("models", nargs="*", default=["lenet"], metavar="|".join(BATCH_SIZES))
    parser.add_argument("--batch-size", type=int, nargs="+", help="default: 64 (lenet: and 250)")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, help="number of random images")
    options = parser.parse_args()
    plugins = discover()
    for name in options.models:
        if name not in BATCH_SIZES:
            parser.error(f"no benchmark of {name!r}: choose from {', '.join(BATCH_SIZES)}")
    for name in options.models:
        dataset = digits(plugins) if name == "lenet" else random_images(name, options.images)
        for batch_size in options.batch_size or BATCH_SIZES[name]:
            measure(name, dataset, batch_size, options.rounds, plugins)


def measure(name: str, dataset: Dataset, batch_size: int, rounds: int, plugins: Plugins) -> None:
    def build() -> keras.Model:
        spec, given = plugins.models[name if name not in APPLICATIONS else "keras"], {}
        if name in APPLICATIONS:
            given = {"argument": APPLICATIONS[name]}
        return spec.load()(dataset.image_shape, len(dataset.classes), **given)

    images = dataset.train.fetch(np.arange(len(dataset.train)))
    labels = np.asarray(dataset.train.labels)
    stock = build()
    stock.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    training = {"keras fit": fit(stock, images, labels, batch_size)}
    predicting = {"keras predict": predict(stock, images, batch_size)}
    for title, kernels in OURS.items():
        model = forge(build(), kernels, layers=plugins.layers, batch_size=batch_size)
        training[title] = loop(model, dataset, batch_size)
        options: Any = {"layers": plugins.layers, "batch_size": batch_size, "training": False}
        predicting[title] = classify(forge(build(), kernels, **options), dataset, batch_size)
    if missing := torch_missing():
        print(f"no PyTorch: {missing}")
    else:
        for layout, both in torch_loops(name, images, labels, batch_size).items():
            training[f"PyTorch, {layout}"], predicting[f"PyTorch, {layout}"] = both
    about = f"{len(images)} images, batch {batch_size}"
    compare(f"{name}, one epoch of {about}", training, rounds)
    compare(f"{name}, one prediction of {about}", predicting, rounds)


def compare(title: str, runs: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Time the functions in ``runs`` alternately, and print their times and ratios.

    The ratios are to the first run, which is Keras, and to the faster PyTorch loop.
    """
    timings, times = interleave(runs, rounds=rounds, warm_up=2)
    in_torch = [name for name in runs if name.startswith("PyTorch")]
    peers = [next(iter(runs)), *sorted(in_torch, key=lambda name: timings[name].median)[:1]]
    print(title)
    for name, timing in timings.items():
        line = f"  {name:24} {timing.median:.3f} s ({timing.p20:.3f} to {timing.p80:.3f})"
        for peer in peers:
            median, low, high = ratio(times[peer], times[name])
            line += f"   {median:.2f} times as fast as {peer} ({low:.2f} to {high:.2f})"
        print(line, flush=True)


def torch_loops(
    name: str, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return, for each memory layout by name, two functions: train for an epoch, and predict."""
    # Imported here, after the variables of OpenMP were set, so that PyTorch's OpenMP reads them.
    import torch
    import torch_training

    torch.set_num_threads(numba.get_num_threads())
    return {
        layout: torch_training.loops(name, images, labels, batch_size, layout)
        for layout in torch_training.LAYOUTS
    }


def digits(plugins: Plugins) -> Dataset:
    return plugins.datasets["mnist5k"].load()(None, DataOptions())


def random_images(name: str, given: int | None) -> Dataset:
    random, (count, shape) = np.random.default_rng(0), RANDOM[name]
    count = given or count
    samples = ArraySamples(
        random.integers(0, 256, (count, *shape), np.uint8),
        random.integers(0, CLASSES, count),
        [f"random {number}" for number in range(count)],
    )
    return Dataset("random", tuple(map(str, range(CLASSES))), samples, samples, "0" * 64)


def fit(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Callable[[], Any]:
    return lambda: model.fit(images, labels, batch_size=batch_size, epochs=1, verbose=0)


def predict(model: keras.Model, images: np.ndarray, batch_size: int) -> Callable[[], Any]:
    return lambda: model.predict(images, batch_size=batch_size, verbose=0)


def classify(model: keras.Model, dataset: Dataset, batch_size: int) -> Callable[[], Any]:
    """Return a function that classifies all images with the code of ``cnnforge predict``."""
    from cnnforge.prediction.keras_model import keras_predictor

    predictor = keras_predictor(model, Classification(dataset.classes), batch_size)
    return lambda: predictor.outputs(dataset.train)


def loop(model: keras.Model, dataset: Dataset, batch_size: int) -> Callable[[], None]:
    """Return a function that trains for an epoch with the code of ``cnnforge train``.

    The validation after the epoch is left out.
    """
    from cnnforge.backends import Trainer
    from cnnforge.data.prefetch import StepsPerCall, chunks
    from cnnforge.optimizer_options import OptimizerOptions
    from cnnforge.training.optimizers import build as build_optimizer
    from cnnforge.training.order import order

    task = Classification(dataset.classes)
    optimizer, _ = build_optimizer(OptimizerOptions(), batches=1, epochs=1)
    trainer = Trainer(model, task, optimizer, batch_size)
    size = StepsPerCall(dataset.image_shape, batch_size)
    epoch = 0

    def run() -> None:
        nonlocal epoch
        visit = order(0, epoch, len(dataset.train))
        epoch += 1
        sums = {}
        for chunk in chunks(partial(task.read, dataset.train), visit, batch_size, size):
            sums = trainer.train(chunk.images, chunk.targets, sums).sums

    return run


if __name__ == "__main__":
    main()
