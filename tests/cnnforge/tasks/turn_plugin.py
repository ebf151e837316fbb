"""A task of a plugin: by which angle is a digit turned? The task, its model and its data."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnforge.data import DataOptions, Dataset
from cnnforge.plugin import DatasetSpec, ModelSpec, TaskSpec, hookimpl
from cnnforge.tasks import LOSS, Metric, Source, Task, ValueRow


@hookimpl
def cnnforge_tasks():
    return [TaskSpec(name="turn", target="turn_plugin:Turn", summary="an angle")]


@hookimpl
def cnnforge_models():
    return [
        ModelSpec(
            name="compass",
            target="turn_plugin:build",
            summary="one convolution, sine and cosine",
            task="turn",
            sizes=((12, 12),),
        )
    ]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="turned", target="turn_plugin:load", summary="strokes", task="turn")]


def build(input_shape: tuple[int, int, int], outputs: int, argument: str | None = None) -> Any:
    """A small network; the argument is its number of filters."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(int(argument or 4), 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(outputs),
        ]
    )


class Strokes:
    """Strokes, each turned by an angle that depends on the seed, the epoch and its number."""

    def __init__(self, seed: int, epoch: int, count: int) -> None:
        random = np.random.Generator(np.random.PCG64([seed, epoch]))
        self.names = [f"stroke {number}" for number in range(count)]
        self.angles = random.uniform(-np.pi, np.pi, count)
        self._seed = seed

    def __len__(self) -> int:
        return len(self.angles)

    def at_epoch(self, epoch: int) -> Strokes:
        return Strokes(self._seed, epoch, len(self))

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        time.sleep(float(os.environ.get("TURN_DELAY", "0")))
        y, x = np.mgrid[-5.5:6, -5.5:6]
        angles = self.angles[indices, None, None]
        along = x * np.cos(angles) + y * np.sin(angles)
        across = y * np.cos(angles) - x * np.sin(angles)
        bright = 255 * ((np.abs(across) < 1.2) & (along > -1) & (along < 5))
        return bright[..., None].astype(np.uint8)


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Return strokes; the argument is how many there are for training."""
    count = int(argument or 48)
    digest = hashlib.sha256(f"strokes {count} {options.seed}".encode()).hexdigest()
    train, validation = Strokes(options.seed, 0, count), Strokes(options.seed + 1, 0, 20)
    return Dataset(f"turned:{count}", (), train, validation, digest, task="turn")


class Turn(Task):
    """Tells the angle, as cosine and sine."""

    metrics = (LOSS, Metric("error", "mean error in degrees", "err", "min"))
    monitor = "error"
    columns = ("angle",)

    @property
    def output_size(self) -> int:
        return 2

    def check_model(self, model: Any) -> None:
        if model.output_shape != (None, 2):
            raise ValueError(f"outputs of shape {model.output_shape}, expected (None, 2)")

    def targets(self, samples: Any, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        angles = samples.angles[indices]
        return {"vector": np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)}

    def losses(self, targets: Mapping[str, Any], outputs: Any) -> Any:
        from keras import ops

        return ops.mean(ops.square(outputs - targets["vector"]), axis=-1)

    def measure(self, targets: Mapping[str, np.ndarray], outputs: Any) -> Mapping[str, np.ndarray]:
        vectors, outputs = (it.astype(np.float64) for it in (targets["vector"], outputs))
        error = np.abs(_degrees(outputs) - _degrees(vectors))
        loss = np.square(outputs - vectors).mean(axis=1)
        return {"loss": loss, "error": np.minimum(error, 360 - error)}

    def truth(self, dataset: Dataset, samples: Any, indices: np.ndarray) -> Sequence[float]:
        return np.degrees(samples.angles[indices]).tolist()

    def rows(
        self,
        outputs: Any,
        sources: Sequence[Source],
        truth: Sequence[Any] | None,
        options: Mapping[str, Any],
    ) -> list[ValueRow]:
        values = [{"angle": angle} for angle in _degrees(outputs).tolist()]
        for row, angle in zip(values, truth or (), strict=bool(truth)):
            row["true_angle"] = angle
        return [ValueRow(each.name, row) for each, row in zip(sources, values, strict=True)]


def _degrees(vectors: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0]))
