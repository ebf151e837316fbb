"""Read the feature detectors that a network has learned, without Keras."""

from __future__ import annotations

import difflib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnforge.errors import RunError, UsageError
from cnnforge.filtering.detectors import SIZES, Detector
from cnnforge.model_files.arrays import DAMAGED
from cnnforge.model_files.content import WEIGHTS, check_keras_file
from cnnforge.runs import RunDirectory
from cnnforge.utils.structured_text import MALFORMED

if TYPE_CHECKING:
    import h5py

# Colors of a picture: gray or RGB.
_CHANNELS = (1, 3)


def learned_detector(path: Path, layer: str | None, number: int) -> Detector:
    """Read a detector of a convolution that gets the picture itself.

    The maps of later convolutions depend on more than one detector, so they are refused.

    Args:
        path: The run directory.
        layer: Name of the convolution; `None`: the first one that is possible.
        number: Number of its feature map, from 1.

    Returns:
        The detector, without the bias of the layer.

    Raises:
        UsageError: The run has no such layer or map, or the detector cannot be used on a picture.
        RunError: The saved model cannot be read.
    """
    run = RunDirectory.open(path)
    kernels = dict(_convolutions(run))
    usable = {name: array for name, array in kernels.items() if _usable(array)}
    if layer is None and not usable:
        raise UsageError(
            f"the model of {path} has no convolution of 3x3, 5x5 or 7x7 that gets the picture "
            "itself: use a detector by name, such as --detector edge"
        )
    chosen = next(iter(usable)) if layer is None else layer
    if chosen not in kernels:
        close = difflib.get_close_matches(chosen, kernels, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(kernels)}"
        raise UsageError(f"the model of {path} has no convolution named {chosen!r}; {hint}")
    array = kernels[chosen]
    if chosen not in usable:
        rows, columns, channels, _ = array.shape
        raise UsageError(
            f"the detectors of {chosen} have {rows}x{columns}x{channels} numbers, expected those "
            f"of a layer that gets the picture itself: {', '.join(usable) or 'none here'}"
        )
    if not 1 <= number <= array.shape[3]:
        raise UsageError(
            f"{chosen} has {array.shape[3]} feature maps, got --map {number}: give a number from 1 "
            f"to {array.shape[3]}"
        )
    matrix = array[..., number - 1].astype(np.float64)
    if matrix.shape[2] == 1:
        matrix = matrix[..., 0]
    return Detector(
        f"{chosen}-{number}", matrix, about=f"Learned by {path.name}, map {number} of {chosen}."
    )


def _usable(array: np.ndarray) -> bool:
    rows, columns, channels, _ = array.shape
    return rows == columns and rows in SIZES and channels in _CHANNELS


def _convolutions(run: RunDirectory) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the weights of each layer with weights (KH, KW, C, F)."""
    import h5py

    config = check_keras_file(run.model, "restore the file, or choose another run")
    try:
        order = _layer_order(config)
        with zipfile.ZipFile(run.model) as archive:
            content = io.BytesIO(archive.read(WEIGHTS))
        with h5py.File(content, "r") as file:
            found: list[tuple[str, np.ndarray]] = []

            def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                first = item.get("0") if isinstance(item, h5py.Group) else None
                if name.endswith("/vars") and isinstance(first, h5py.Dataset):
                    array = np.asarray(first)
                    if array.ndim == 4:
                        found.append((str(item.attrs["name"]), array))

            file.visititems(visit)
    except (OSError, RuntimeError, *MALFORMED, *DAMAGED) as error:
        raise RunError(f"the weights in {run.model} cannot be read: {error}") from error
    # The groups of a file are in the order of their names, "conv2d_10" before "conv2d_2".
    yield from sorted(found, key=lambda each: order.get(each[0], len(order)))


def _layer_order(config: dict[str, Any]) -> dict[str, int]:
    layers = config.get("config", {}).get("layers", [])
    return {layer["config"].get("name", ""): place for place, layer in enumerate(layers)}
