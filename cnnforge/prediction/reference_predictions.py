"""Predictions that are kept with a model, to notice when it no longer gives them."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np

from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory

GOLDEN = "golden.npz"
COUNT = 8
_NAME = "output_{}"
LARGEST_DRIFT = 1e-3
"""How far an output may be off, compared with the largest one if that is above 1. Other machines
round otherwise; another layer is far off."""


def write_golden(run: RunDirectory, model: keras.Model, images: np.ndarray) -> None:
    """Keep what a model gives for a few images.

    Args:
        run: Its `model.keras` is this model.
        model: The model.
        images: (N, H, W, C) uint8.

    Raises:
        RunError: The file could not be written.
    """
    arrays: dict[str, Any] = {"images": images, "model": np.array(_digest(run))}
    for number, outputs in enumerate(_predict(model, images)):
        arrays[_NAME.format(number)] = outputs
    with run.writing(GOLDEN) as path, path.open("wb") as file:
        np.savez(file, **arrays)


def golden_drift(run: RunDirectory, model: keras.Model) -> float | None:
    """Compare what a model gives with what was kept.

    Args:
        run: The run.
        model: Its saved model, opened.

    Returns:
        The largest difference of an output, divided by the largest output if that is above 1;
        `None` if nothing was kept with this `model.keras`.

    Raises:
        RunError: The file is damaged, or the model does not take its images.
    """
    path = run.path / GOLDEN
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, digest = archive["images"], archive["model"]
            # cnnforge 0.1 kept one array under another name.
            first = "probabilities" if "probabilities" in archive else _NAME.format(0)
            names = [first, *(it for it in archive if it.startswith(_NAME[:-2]) and it != first)]
            kept = [archive[name] for name in names]
        # A run that was killed between two files has predictions of an earlier model.
        if str(digest) != _digest(run):
            return None
        return max(
            float(np.abs(new - old).max()) / max(1.0, float(np.abs(old).max()))
            for new, old in zip(_predict(model, images), kept, strict=True)
        )
    except Exception as error:
        raise RunError(f"{path} cannot be compared: {' '.join(str(error).split())}") from error


def _predict(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    outputs = model(keras.ops.convert_to_tensor(images.astype(np.float32)), training=False)
    return [
        np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(it)))
        for it in keras.tree.flatten(outputs)
    ]


def _digest(run: RunDirectory) -> str:
    return hashlib.sha256(run.model.read_bytes()).hexdigest()
