"""Open a .npz file of images and labels, in the form of `keras.datasets`: `x_train`, `y_train`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from cnnforge.data import DataOptions, Dataset, Role, normal_name, printable
from cnnforge.errors import DataError, UsageError, message_of
from cnnforge.model_files.arrays import DAMAGED
from cnnforge.model_files.sizes import check_lengths
from cnnforge.utils.available_memory import available_memory, in_words
from cnnforge.utils.structured_text import MALFORMED
from cnnforge_plugins.datasets.shared.array_parts import ArrayPart, dataset_of_parts

_SPLITS: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_IMAGES = ("x", "images", "image", "data", "imgs", "pixels", "features", "inputs")
_LABELS = ("y", "labels", "label", "target", "targets", "class")
_CLASSES = ("classes", "class_names", "label_names", "names", "categories")
# Max length of an axis of an array without values. Such an array can have any other length.
_MAX_EMPTY = 10_000_000
_MAX_CODE = 0x10FFFF
_EXPECTED = (
    "expected x_train and y_train (x_test, y_test), or images and labels, or arr_0 and arr_1"
)


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a .npz file of images and labels.

    The images are `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with 1 or 3 channels, uint8 or
    floats from 0 to 1 or from 0 to 255. The labels are numbers, texts, or one-hot. An array
    `class_names` gives the names of the classes. Arrays of Python objects are refused, because
    reading them runs code.

    Args:
        argument: The path of the file.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"x_test 17"`, counted from 0.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is damaged, or its arrays are not images and labels, or the samples
            cannot be split.
    """
    if argument is None:
        raise UsageError("npz needs a file: write npz:FILE, for instance npz:mnist.npz")
    path = os.path.expanduser(argument)
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UsageError(f"the file {printable(path)} {what}: give an existing .npz file")
    return open_npz(f"npz:{os.path.abspath(path)}", path, options)


def open_npz(
    name: str, path: str, options: DataOptions, classes: Sequence[str] | None = None
) -> Dataset:
    """Open a .npz file as a dataset.

    Args:
        name: Name of the dataset.
        path: The file.
        options: Options of the dataset.
        classes: The names of the classes 0, 1, ...; `None`: those that the file gives, or the
            labels that occur.

    Returns:
        The dataset.

    Raises:
        DataError: For the reasons that `load` gives.
    """
    shown = printable(path)
    arrays = _read(path)
    pairs = _pairs(shown, arrays)
    notes: list[str] = []
    parts = [
        ArrayPart(
            _images(f"{shown}: {images}", arrays[images], notes),
            None if labels is None else _plain(f"{shown}: {labels}", arrays[labels]),
            split,
            images,
        )
        for split, images, labels in pairs
    ]
    if classes is None:
        classes = _class_names(shown, arrays, parts)
    dataset = dataset_of_parts(name, shown, parts, options, classes=classes)
    return replace(dataset, notes=(*dict.fromkeys(notes), *dataset.notes))


def _read(path: str) -> dict[str, np.ndarray]:
    shown = printable(path)
    with open(path, "rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        raise DataError(
            f"{shown} is one array (.npy): save images and labels in one file with "
            "numpy.savez(FILE, images=..., labels=...)"
        )
    if start[:2] != b"PK":
        raise DataError(f"{shown} is not a .npz file; it begins with {start!r}: {_EXPECTED}")
    try:
        with open(path, "rb") as file:
            _check_memory(shown, file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {key: _member(shown, stored, key) for key in stored.files}
    except DataError:
        raise
    # The sizes fit into the memory, so an array that does not is not as large as it says.
    except (MemoryError, OSError, *MALFORMED, *DAMAGED) as error:
        raise DataError(
            f"{shown} is damaged ({message_of(error)}): copy or download it again"
        ) from error


def _check_memory(shown: str, file: BinaryIO) -> None:
    with zipfile.ZipFile(file) as archive:
        check_lengths(archive)
        size = sum(member.file_size for member in archive.infolist())
    left = available_memory()
    if left is not None and size > left:
        raise DataError(
            f"{shown} has {in_words(size)} of arrays, and {in_words(left)} of memory are free: "
            "make several files of it, or save the images as files"
        )


def _member(shown: str, stored: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        array = stored[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{shown}: {normal_name(key)} is an array of Python objects, and reading it would run "
            "code from the file: save it with a plain dtype, for instance "
            "numpy.array(list(a)) of images of one size"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{shown} is a zip archive with other files than arrays: {_EXPECTED}")
    if not array.size and max(array.shape) > _MAX_EMPTY:
        raise DataError(
            f"{shown}: {normal_name(key)} has the shape {array.shape} and no values: save it again"
        )
    if array.dtype.kind == "U" and (np.ascontiguousarray(array).view("u4") > _MAX_CODE).any():
        raise DataError(
            f"{shown}: {normal_name(key)} has characters that do not exist: save it again"
        )
    return array


def _pairs(shown: str, arrays: Mapping[str, np.ndarray]) -> list[tuple[Role, str, str | None]]:
    """Return the role of each split and the names of its images and its labels."""
    keys = {key.lower().replace("-", "_"): key for key in arrays}
    found: list[tuple[Role, str, str | None]] = []
    for role, words in _SPLITS.items():
        images = _key(keys, _IMAGES, words)
        if images is not None:
            found.append((role, images, _key(keys, _LABELS, words)))
    if found:
        return found
    images = next((keys[key] for key in _IMAGES if key in keys), None)
    labels = next((keys[key] for key in _LABELS if key in keys), None)
    if images is None and "arr_0" in keys:
        ordered = [keys[f"arr_{n}"] for n in range(len(keys)) if f"arr_{n}" in keys]
        # numpy.savez without names. Four arrays are x_train, y_train, x_test and y_test.
        if len(ordered) == 4:
            return [("train", ordered[0], ordered[1]), ("test", ordered[2], ordered[3])]
        images, labels = ordered[0], ordered[1] if len(ordered) > 1 else None
        if labels and arrays[images].ndim < arrays[labels].ndim:
            images, labels = labels, images
    if images is None:
        names = ", ".join(map(normal_name, arrays)) or "no arrays"
        raise DataError(f"{shown} has {names}: {_EXPECTED}")
    return [("train", images, labels)]


def _key(keys: Mapping[str, str], names: Sequence[str], words: Sequence[str]) -> str | None:
    for name in names:
        for word in words:
            for key in (f"{name}_{word}", f"{word}_{name}", f"{name}{word}", f"{word}{name}"):
                if key in keys:
                    return keys[key]
    return None


def _plain(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biufUS":
        raise DataError(f"{where} has the dtype {array.dtype}: expected numbers or texts")
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array


def _class_names(
    shown: str, arrays: Mapping[str, np.ndarray], parts: Sequence[ArrayPart]
) -> tuple[str, ...] | None:
    """Return the names of the classes that the file gives, if the labels are their numbers."""
    labels = [part.labels for part in parts if part.labels is not None]
    if not all(own.dtype.kind in "biuf" for own in labels):
        return None
    for key, array in arrays.items():
        if key.lower() in _CLASSES and array.ndim == 1 and array.dtype.kind in "US":
            return tuple(normal_name(str(name)) for name in _plain(shown, array))
    return None


def _images(where: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return images as (N, H, W, C) uint8."""
    if array.ndim == 2:
        side = round((array.shape[1]) ** 0.5)
        fix = ""
        if side * side == array.shape[1]:
            fix = f", for instance with .reshape(-1, {side}, {side})"
        raise DataError(
            f"{where} has shape {array.shape}, one row of values for each image: save it with the "
            f"shape (N, H, W){fix}"
        )
    if array.ndim not in (3, 4):
        raise DataError(
            f"{where} has shape {array.shape}: expected images of shape (N, H, W) or (N, H, W, C)"
        )
    if array.ndim == 3:
        array = array[..., np.newaxis]
    last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
    if not last and first:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        notes.append(f"{where} is read as (N, C, H, W)")
    elif not last:
        kind = "4 channels (RGBA): leave out the last one, images[..., :3]"
        channels = min(array.shape[1], array.shape[3])
        raise DataError(
            f"{where} has shape {array.shape}: "
            + (kind if array.shape[3] == 4 else f"{channels} channels; expected 1 or 3")
        )
    return _bytes(where, array, notes)


def _bytes(where: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} has the dtype {array.dtype}: expected uint8")
    if array.dtype == np.uint8 or not array.size:
        if array.size and array.max() <= 1:
            notes.append(
                f"{where} has only the pixels 0 and 1, so the images are almost black: multiply "
                "them by 255"
            )
        return array.astype(np.uint8, copy=False)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{where} has values that are not finite: expected pixels from 0 to 255")
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        notes.append(f"{where} has floats from 0 to 1: they are multiplied by 255 and rounded")
        return np.rint(array * 255).astype(np.uint8)
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if low >= 0 and high <= 255:
        whole = np.rint(array)
        if (whole == array).all():
            return whole.astype(np.uint8)
        fix = "round them and save them as uint8"
    elif low < 0:
        fix = (
            "add 1, multiply by 127.5 and round them"
            if low >= -1 and high <= 1
            else "undo the normalization, so that black is 0 and white is 255"
        )
    else:
        fix = "divide 16-bit values by 257" if high <= 65535 else "scale them to 0..255"
    raise DataError(
        f"{where} has {array.dtype} values from {low:g} to {high:g}: expected uint8, whole numbers "
        f"from 0 to 255, or floats from 0 to 1; {fix}"
    )
