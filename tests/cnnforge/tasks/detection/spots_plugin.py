"""Data and models for tests of detection: bright squares and discs, and networks of two layers."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np

from cnnforge.data import DataOptions, Dataset
from cnnforge.plugin import DatasetSpec, ModelSpec, hookimpl

SIZE = (32, 48)


@hookimpl
def cnnforge_models():
    return [
        ModelSpec(
            name=name,
            target=f"spots_plugin:{name}",
            summary="two convolutions",
            task="detection",
            sizes=(SIZE,),
        )
        for name in ("spotter", "spotter_two")
    ]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="spots", target="spots_plugin:load", summary="", task="detection")]


def spotter(input_shape: tuple[int, int, int], outputs: int) -> Any:
    """One map with stride 4."""
    import keras

    layers = keras.layers
    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(24, 8, 4, padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    return keras.Model(image, _map(x, outputs))


def spotter_two(input_shape: tuple[int, int, int], outputs: int) -> Any:
    """Two maps with the strides 4 and 8."""
    import keras

    layers = keras.layers
    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(24, 8, 4, padding="same", activation="relu")(x)
    coarse = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(image, [_map(x, outputs), _map(coarse, outputs)])


def _map(x: Any, outputs: int) -> Any:
    import keras

    layers = keras.layers
    bias = keras.initializers.Constant(-3.0)
    return layers.Concatenate()(
        [layers.Conv2D(outputs, 1, bias_initializer=bias)(x), layers.Conv2D(4, 1)(x)]
    )


class Spots:
    """Images with 0 to 3 squares and discs; they depend on the seed, the epoch and the number."""

    def __init__(self, seed: int, epoch: int, count: int) -> None:
        self._seed = seed
        self.names = [f"spots {number}" for number in range(count)]
        self.sizes = np.tile(np.array(SIZE), (count, 1))
        self.boxes, self.labels, self.crowd = [], [], []
        for number in range(count):
            random = np.random.Generator(np.random.PCG64([seed, epoch, number]))
            boxes: list[tuple[int, int, int, int]] = []
            for _ in range(random.integers(0, 4)):
                side = int(random.integers(6, 14))
                x, y = (int(random.integers(0, limit - side)) for limit in SIZE[::-1])
                box = (x, y, x + side, y + side)
                if not any(_near(box, other) for other in boxes):
                    boxes.append(box)
            self.boxes.append(np.array(boxes, np.float64).reshape(-1, 4))
            self.labels.append(random.integers(0, 2, len(boxes)).astype(np.int32))
            self.crowd.append(np.zeros(len(boxes), bool))

    def __len__(self) -> int:
        return len(self.names)

    def at_epoch(self, epoch: int) -> Spots:
        return Spots(self._seed, epoch, len(self))

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        time.sleep(float(os.environ.get("SPOTS_DELAY", "0")))
        images = np.full((len(indices), *SIZE, 1), 30, np.uint8)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        for image, index in zip(images, indices, strict=True):
            for (x1, y1, x2, y2), label in zip(self.boxes[index], self.labels[index], strict=True):
                x, y = columns - (x1 + x2) / 2, rows - (y1 + y2) / 2
                reach = np.maximum(abs(x), abs(y)) if label == 0 else np.hypot(x, y)
                image[reach <= (x2 - x1) / 2] = 220 if label == 0 else 150
        return images


def _near(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Return whether less than 3 pixels are between two boxes on both axes."""
    return all(
        max(first[axis], second[axis]) < min(first[axis + 2], second[axis + 2]) + 3
        for axis in (0, 1)
    )


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Return spots; the argument is the number of training images."""
    count = int(argument or 64)
    digest = hashlib.sha256(f"spots {count} {options.seed}".encode()).hexdigest()
    train, validation = Spots(options.seed, 0, count), Spots(options.seed + 1000, 0, 24)
    classes = ("disc <1>", "square") if options.seed == 77 else ("square", "disc <1>")
    return Dataset(f"spots:{count}", classes, train, validation, digest, task="detection")
