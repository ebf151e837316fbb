"""Save outputs of a model with the model, and compare them with its outputs later.

The saved outputs are called reference predictions. If the outputs of the opened model differ by
more than rounding errors, something has changed, for instance the code of a layer.
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
    """Save a few images with the outputs of a model for them.

    Args:
        run: Run directory in which this model is saved as `model.keras`.
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
        The max absolute difference of an output, divided by the max absolute output if that is
        above 1; `None` if the run has no reference predictions for its `model.keras`.

    Raises:
        RunError: The file is damaged, or the model does not accept the images in it.
    """
    path = run.path / FILE_NAME
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, digest = archive["images"], archive["model"]
            # cnnforge 0.1 saved a single array, with the name "probabilities".
            first = "probabilities" if "probabilities" in archive else _NAME.format(0)
            others = [name for name in archive if name.startswith(_NAME[:-2]) and name != first]
            names = [first, *others]
            kept = [archive[name] for name in names]
        # The digest differs if training was killed after it had written the model and before it
        # wrote this file. The file then belongs to an earlier model, so do not compare.
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
