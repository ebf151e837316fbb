"""Write a dataset as arrays of pixels: IDX files in the form of MNIST, or one NPZ file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cnnforge.data.writers.items import Item, Items

# Names of splits in files of arrays.
_IDX_NAMES = {"": "train", "train": "train", "validation": "validation", "test": "t10k"}
_NPZ_NAMES = {"train": "train", "validation": "val", "test": "test"}


def write_idx(items: Items, folder: Path) -> None:
    """Write `train-images-idx3-ubyte` with its labels, and `t10k-...` for the test split.

    A label is the number of the class in `classnames.txt`, counted from 0. If all names of classes
    are whole numbers, they are the labels, and there is no such file.

    Args:
        items: The samples; all images have the same size.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    numbers = idx_labels(items.classes)
    if [str(number) for number in numbers] != list(items.classes):
        text = "".join(f"{name}\n" for name in items.classes)
        (folder / "classnames.txt").write_text(text, encoding="utf-8")
    height, width, channels = items.dataset.image_shape
    for split in items.splits:
        chosen, name = items.of(split), _IDX_NAMES[split]
        shape = (len(chosen), height, width, *[channels] * (channels > 1))
        with (folder / f"{name}-images-idx{len(shape)}-ubyte").open("wb") as file:
            _header(file, 8, shape)
            for images in items.pixels(chosen):
                file.write(images.tobytes())
        small = min(numbers) >= 0 and max(numbers) < 256
        with (folder / f"{name}-labels-idx1-ubyte").open("wb") as file:
            _header(file, 8 if small else 12, (len(chosen),))
            labels = [numbers[item.label] for item in chosen]
            file.write(np.array(labels, ">u1" if small else ">i4").tobytes())


def idx_labels(classes: Sequence[str]) -> list[int]:
    """Return the label of each class in an IDX file.

    Args:
        classes: The names of the classes.

    Returns:
        The names as numbers, if all are whole numbers of at most 9 digits; otherwise 0, 1, ...
    """
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in classes):
        numbers = [int(name) for name in classes]
        if [str(number) for number in numbers] == list(classes):
            return numbers
    return list(range(len(classes)))


def _header(file: BinaryIO, kind: int, shape: tuple[int, ...]) -> None:
    file.write(bytes((0, 0, kind, len(shape))) + np.array(shape, ">u4").tobytes())


def write_npz(items: Items, path: Path) -> None:
    """Write `x_train`, `y_train` and so on, or `images` and `labels`, with `class_names`.

    Args:
        items: The samples; all images have the same size.
        path: The file.

    Raises:
        DataError: If an image cannot be read.
        OSError: If the file cannot be written.
    """
    arrays: dict[str, Any] = {"class_names": np.array(items.classes)}
    for split in items.splits:
        chosen = items.of(split)
        name = _NPZ_NAMES.get(split)
        arrays[f"x_{name}" if name else "images"] = _images(items, chosen)
        labels = np.array([item.label for item in chosen], np.int64)
        arrays[f"y_{name}" if name else "labels"] = labels
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _images(items: Items, chosen: list[Item]) -> np.ndarray:
    images = np.empty((len(chosen), *items.dataset.image_shape), np.uint8)
    start = 0
    for part in items.pixels(chosen):
        images[start : start + len(part)] = part
        start += len(part)
    return images[..., 0] if images.shape[3] == 1 else images
