"""An inference engine whose every step a test can change, and a model that it can express."""

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.plugin import EngineSpec, hookimpl
from cnnforge.runs import RunDirectory

SHAPE = (6, 5, 1)
CLASSES = ("dark", "bright")


class ToyEngine:
    """Writes plans of models that are one dense layer after a flat input.

    Attributes:
        version: Version of the plugin that declares the engine.
        builds: Number of plans that were asked for.
        error: Error that `build` raises; `None` for none.
        opening: Error that `open` raises; `None` for none.
        offset: Number that is added to the outputs of a plan.
        seconds: Processor time that a prediction takes.
    """

    def __init__(self) -> None:
        self.version, self.builds, self.offset, self.seconds = "1.0", 0, 0.0, 0.0
        self.error: Exception | None = None
        self.opening: Exception | None = None

    def build(self, model: keras.Model, path: Path) -> None:
        self.builds += 1
        if self.error is not None:
            raise self.error
        weights, bias = model.layers[-1].get_weights()
        with Path(path).open("wb") as file:
            np.savez(file, weights=weights, bias=bias)

    def open(self, path: Path) -> Any:
        if self.opening is not None:
            raise self.opening
        with np.load(path) as archive:
            return _ToyPlan(archive["weights"], archive["bias"], self)


class _ToyPlan:
    image_shape = SHAPE

    def __init__(self, weights: np.ndarray, bias: np.ndarray, engine: ToyEngine) -> None:
        self._weights, self._bias, self._engine = weights, bias, engine

    def predict(self, images: np.ndarray) -> np.ndarray:
        end = time.process_time() + self._engine.seconds
        while time.process_time() < end:
            pass
        flat = images.reshape(len(images), 30).astype(np.float32) / 255
        logits = flat @ self._weights + self._bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True) + np.float32(self._engine.offset)


CURRENT = ToyEngine()


def build(model: keras.Model, path: Path) -> None:
    CURRENT.build(model, path)


def open_plan(path: Path) -> Any:
    return CURRENT.open(path)


class Hooks:
    """A plugin that declares the engine."""

    @hookimpl
    def cnnforge_engines(self) -> list[EngineSpec]:
        functions = {"target": f"{__name__}:open_plan", "build": f"{__name__}:build"}
        return [EngineSpec(name="toy", summary="", **functions)]


def save_model(path: Path, level: float = 0.5) -> keras.Model:
    """Save a model that calls images bright whose mean is above `level`."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    model = keras.Sequential(
        [keras.Input(SHAPE), *layers, keras.layers.Dense(2, activation="softmax")]
    )
    share = np.float32([[-1, 1]] * 30) / 3
    model.layers[-1].set_weights([share, np.float32([level, -level]) * 10])
    model.save(path)
    return model


def record_of(run: RunDirectory) -> dict[str, Any]:
    """Read the facts about the plan of a run."""
    return json.loads((run.path / "plan.json").read_text())
