"""Build the networks of bench_inference.py, and write them for each engine.

All engines get the same network, weights and images. The normalizations get the statistics of some
images, as in training. Without them, all images would have nearly the same outputs, and a wrong
output would not be noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from inference_cases import CASES
from inference_onnx import write_onnx

from cnnforge.plugin_host.discovery import discover
from cnnforge_plugins.inference.builder import build as write_plan

CLASSES = 10


APPLICATIONS: dict[str, Callable[..., keras.Model]] = {
    "mobilenetv2": keras.applications.MobileNetV2,
    "resnet50": keras.applications.ResNet50,
}


def prepare(name: str, folder: Path) -> None:
    """Write the images of a case, what Keras computes of them, and the network for each engine.

    Args:
        name: Name of the case, a key of `CASES`.
        folder: Folder of the files, whose names begin with `name`.
    """
    case, model = CASES[name], build(name)
    np.save(folder / f"{name}.images.npy", images(name))
    outputs = model.predict(images(name), batch_size=case.batch_size, verbose=0)
    np.save(folder / f"{name}.keras.npy", outputs)
    write_plan(model, folder / f"{name}.plan.npz")
    write_onnx(model, folder / f"{name}.onnx")


def build(name: str) -> keras.Model:
    """Build the network of a case: pixel values 0 to 255 become probabilities."""
    keras.utils.set_random_seed(0)
    shape = CASES[name].shape
    if name in APPLICATIONS:
        inputs = keras.Input(shape)
        scaled = keras.layers.Rescaling(1 / 255)(inputs)
        make = APPLICATIONS[name]
        network = make(weights=None, input_tensor=scaled, input_shape=shape, classes=CLASSES)
        # The network of keras.applications begins at `inputs`, with the rescaling inside.
        model = keras.Model(inputs, network.output)
    else:
        model = discover().models[name].load()(shape, CLASSES)
    train_normalizations(model, images(name)[: CASES[name].batch_size])
    return model


def train_normalizations(model: keras.Model, images: np.ndarray) -> None:
    """Give the normalizations of a new model the statistics of images, and random factors."""
    random = np.random.default_rng(1)
    found = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in found]
    for layer in found:
        layer.gamma.assign(random.uniform(0.8, 1.2, layer.gamma.shape))
        layer.beta.assign(random.normal(0, 0.1, layer.beta.shape))
        layer.momentum = 0.0
    if found:
        model(images.astype(np.float32), training=True)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum


def images(name: str) -> np.ndarray:
    """Return the images of a case, (N, H, W, C) uint8: coloured squares with noise."""
    case, random = CASES[name], np.random.default_rng(0)
    height, width, channels = case.shape
    squares = random.integers(0, 200, (case.count, 4, 4, channels), np.uint8)
    large = squares.repeat(height // 4, 1).repeat(width // 4, 2)
    return large + random.integers(0, 56, large.shape, np.uint8)
