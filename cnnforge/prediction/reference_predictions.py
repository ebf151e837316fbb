"""Save outputs of a model with the model, and compare them with its outputs later.

The saved outputs are called reference predictions. If the outputs of the opened model differ by
more than rounding errors, something has changed, for instance the code of a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.errors import RunError
from cnnforge.model_files.arrays import check_arrays
from cnnforge.runs import RunDirectory

FILE_NAME = "reference_predictions.npz"
OLD_FILE_NAME = "golden.npz"
"""Name of the file in runs of cnnforge 0.2 and before."""
COUNT = 8
_NAME = "output_{}"
MAX_DRIFT = 1e-3
"""Max allowed difference of an output, divided by the max output if that is above 1. Machines round
differently, which changes an output by much less. A wrong layer changes it by much more."""

Outputs = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Function that computes the outputs of a model for images, (N, H, W, C) uint8: a list of its
(N, ...) arrays, in the order of `keras.tree.flatten`."""


@dataclass(frozen=True)
class ReferencePredictions:
    """Images, with the outputs of a model for them.

    Attributes:
        images: (N, H, W, C) uint8.
        outputs: (N, ...) array of each output of the model.
    """

    images: np.ndarray
    outputs: Sequence[np.ndarray]

    def drift(self, outputs: Outputs) -> float:
        """Compare the outputs of a model with these.

        Args:
            outputs: Function that computes the outputs of the model.

        Returns:
            The max absolute difference of an output, divided by the max absolute output if that is
            above 1. Values that are NaN in both, or equal infinities, count as equal; a NaN in only
            one of them makes the result NaN.
        """
        return max(
            _difference(np.asarray(new), old)
            for new, old in zip(outputs(self.images), self.outputs, strict=True)
        )


def write_reference_predictions(run: RunDirectory, reference: ReferencePredictions) -> None:
    """Save reference predictions with their model.

    Args:
        run: Run directory in which the model is saved as `model.keras`.
        reference: A few images, and the outputs of this model for them.

    Raises:
        RunError: The file could not be written.
    """
    arrays: dict[str, Any] = {
        "images": reference.images,
        "model": np.array(model_digest(run)),
    }
    for number, array in enumerate(reference.outputs):
        arrays[_NAME.format(number)] = array
    with run.writing(FILE_NAME) as path, path.open("wb") as file:
        np.savez(file, **arrays)
    # A run that began with an old version and was continued with this one.
    with suppress(OSError):
        (run.path / OLD_FILE_NAME).unlink(missing_ok=True)


def read_reference_predictions(run: RunDirectory) -> ReferencePredictions | None:
    """Read the reference predictions of a run.

    Args:
        run: The run.

    Returns:
        The reference predictions; `None` if the run has none for its `model.keras`.

    Raises:
        RunError: The file is damaged.
    """
    path = _file(run)
    if not path.is_file():
        return None
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as archive:
            images, digest = archive["images"], str(archive["model"])
            # cnnforge 0.1 saved a single array, with the name "probabilities".
            first = "probabilities" if "probabilities" in archive else _NAME.format(0)
            others = [name for name in archive if name.startswith(_NAME[:-2]) and name != first]
            kept = [archive[name] for name in [first, *others]]
    except Exception as error:
        raise _incomparable(run, error) from error
    # The digest differs if training was killed after it had written the model and before it wrote
    # this file. The file then belongs to an earlier model, so do not compare.
    return ReferencePredictions(images, kept) if digest == model_digest(run) else None


def reference_drift(run: RunDirectory, outputs: Outputs) -> float | None:
    """Compare the outputs of a model with its reference predictions.

    Args:
        run: The run.
        outputs: Function that computes the outputs of the model that was opened from the run.

    Returns:
        The result of `ReferencePredictions.drift`; `None` if the run has no reference predictions
        for its `model.keras`.

    Raises:
        RunError: The file is damaged, or the model does not accept the images in it.
    """
    reference = read_reference_predictions(run)
    try:
        return None if reference is None else reference.drift(outputs)
    except Exception as error:
        raise _incomparable(run, error) from error


def model_digest(run: RunDirectory) -> str:
    """Return the sha256 of the `model.keras` of a run, as 64 hexadecimal digits.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        return file_digest(run.model)
    except OSError as error:
        raise RunError(f"{run.model} cannot be read: {error.strerror or error}") from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(run: RunDirectory) -> Path:
    path, old = run.path / FILE_NAME, run.path / OLD_FILE_NAME
    return old if old.is_file() and not path.is_file() else path


def _incomparable(run: RunDirectory, error: Exception) -> RunError:
    return RunError(f"{_file(run)} cannot be compared: {' '.join(str(error).split())}")


def _difference(new: np.ndarray, old: np.ndarray) -> float:
    if new.shape != old.shape:
        raise ValueError(f"outputs of shape {new.shape}, expected {old.shape}")
    same = (new == old) | (np.isnan(new) & np.isnan(old))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, np.abs(new - old))
    finite = np.abs(old[np.isfinite(old)])
    return float(apart.max(initial=0)) / max(1.0, float(finite.max(initial=0)))
