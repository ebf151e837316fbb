"""Reference predictions: outputs of a model that are saved with it.

They are compared with the outputs of the model when it is opened later. A difference beyond
rounding means that the model has changed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np

from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory

FILE_NAME = "golden.npz"
COUNT = 8
_NAME = "output_{}"
MAX_DRIFT = 1e-3
"""Max allowed difference of an output, divided by the max output if that is above 1. Machines round
differently, which changes an output by much less. A wrong layer changes it by much more."""


def write_reference_predictions(run: RunDirectory, model: keras.Model, images: np.ndarray) -> None:
    """Save the outputs of a model for a few images.

    Args:
        run: Run with this model as its `model.keras`.
        model: The model.
        images: (N, H, W, C) uint8.

    Raises:
        RunError: The file could not be written.
    """
    arrays: dict[str, Any] = {"images": images, "model": np.array(_digest(run))}
    for number, outputs in enumerate(_predict(model, images)):
        arrays[_NAME.format(number)] = outputs
    with run.writing(FILE_NAME) as path, path.open("wb") as file:
        np.savez(file, **arrays)


def reference_drift(run: RunDirectory, model: keras.Model) -> float | None:
    """Compare the outputs of a model with its reference predictions.

    Args:
        run: The run.
        model: Model that was opened from the run.

    Returns:
        The max difference of an output, divided by the max output if that is above 1; `None` if
        there are no reference predictions of this `model.keras`.

    Raises:
        RunError: The file is damaged, or the model does not accept the images in it.
    """
    path = run.path / FILE_NAME
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, digest = archive["images"], archive["model"]
            # cnnforge 0.1 saved one array, under another name.
            first = "probabilities" if "probabilities" in archive else _NAME.format(0)
            others = [name for name in archive if name.startswith(_NAME[:-2]) and name != first]
            names = [first, *others]
            kept = [archive[name] for name in names]
        # If a run was killed after it had written the model and before it wrote this file, the file
        # belongs to an earlier model.
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
        np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(output)))
        for output in keras.tree.flatten(outputs)
    ]


def _digest(run: RunDirectory) -> str:
    return hashlib.sha256(run.model.read_bytes()).hexdigest()
