"""Predictions that are kept with a model, to notice when it no longer gives them."""

from __future__ import annotations

import hashlib

import keras
import numpy as np

from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory

GOLDEN = "golden.npz"
COUNT = 8
LARGEST_DRIFT = 1e-3
"""How far a probability may be off. Other machines round otherwise; another layer is far off."""


def write_golden(run: RunDirectory, model: keras.Model, images: np.ndarray) -> None:
    """Keep what a model gives for a few images.

    Args:
        run: Its `model.keras` is this model.
        model: The model.
        images: (N, H, W, C) uint8.

    Raises:
        RunError: The file could not be written.
    """
    probabilities = _predict(model, images)
    digest = _digest(run)
    with run.writing(GOLDEN) as path, path.open("wb") as file:
        np.savez(file, images=images, probabilities=probabilities, model=np.array(digest))


def golden_drift(run: RunDirectory, model: keras.Model) -> float | None:
    """Compare what a model gives with what was kept.

    Args:
        run: The run.
        model: Its saved model, opened.

    Returns:
        The largest difference of a probability; `None` where nothing was kept with this
        `model.keras`.

    Raises:
        RunError: The file is damaged, or the model does not take its images.
    """
    path = run.path / GOLDEN
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, kept, digest = (archive[it] for it in ("images", "probabilities", "model"))
        # A run that was killed between two files has predictions of an earlier model.
        if str(digest) != _digest(run):
            return None
        return float(np.abs(_predict(model, images) - kept).max())
    except Exception as error:
        raise RunError(f"{path} cannot be compared: {' '.join(str(error).split())}") from error


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    outputs = model(keras.ops.convert_to_tensor(images.astype(np.float32)), training=False)
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(outputs)))


def _digest(run: RunDirectory) -> str:
    return hashlib.sha256(run.model.read_bytes()).hexdigest()
