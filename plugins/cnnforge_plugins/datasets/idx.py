"""Open a folder of IDX files, in the form of MNIST: `train-images-idx3-ubyte.gz` and others."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from cnnforge.data import DataOptions, Dataset, Role, printable, split_role
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.shared.array_parts import ArrayPart, dataset_of_parts

# `train-images-idx3-ubyte.gz`, `t10k-labels.idx1-ubyte`, `emnist-letters-train-images-idx3-ubyte`.
_NAME = re.compile(
    r"(?P<prefix>.*?)[-_.]?(?P<what>images?|labels?)[-_.]?(?:idx\d[-_.]?)?(?:u?byte)?"
    r"(?:\.idx)?(?:\.gz)?",
    re.IGNORECASE,
)
_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_MAX_BYTES = 2**34
_CHUNK = 2**24
# Max length of an axis of an array without values.
_MAX_EMPTY = 10_000_000
_EXPECTED = (
    "expected files such as train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, and "
    "t10k-... for a test"
)


class _Files(NamedTuple):
    images: str
    labels: str | None
    split: Role
    name: str


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a folder of IDX files.

    The files whose names begin with `train` are for training, and those with `t10k` or `test` are a
    test split. They may be compressed with gzip. The classes are the labels that occur.

    Args:
        argument: The path of the folder, or of one of its files.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"t10k 17"`, counted from 0.

    Raises:
        UsageError: If there is no such folder.
        DataError: If a file is missing, damaged or not an IDX file, or the samples cannot be split.
    """
    if argument is None:
        raise UsageError("idx needs a folder: write idx:FOLDER")
    path = os.path.expanduser(argument)
    if not os.path.exists(path):
        raise UsageError(
            f"the folder {printable(path)} does not exist: give a folder with IDX files, such as "
            "train-images-idx3-ubyte.gz"
        )
    return open_idx(f"idx:{os.path.abspath(path)}", path, options)


def open_idx(
    name: str, folder: str, options: DataOptions, classes: Sequence[str] | None = None
) -> Dataset:
    """Open a folder of IDX files as a dataset.

    Args:
        name: Name of the dataset.
        folder: The folder, or one of its files.
        options: Options of the dataset.
        classes: The names of the classes 0, 1, ...; `None`: the labels that occur.

    Returns:
        The dataset.

    Raises:
        DataError: For the reasons that `load` gives.
    """
    only = None
    if not os.path.isdir(folder):
        folder, only = os.path.split(os.path.abspath(folder))
    found = _find(folder, only)
    parts = []
    for files in found:
        labels = None if files.labels is None else read_idx(files.labels)
        parts.append(ArrayPart(_images(files.images), labels, files.split, files.name))
    return dataset_of_parts(name, printable(folder), parts, options, classes=classes)


def read_idx(path: str) -> np.ndarray:
    """Read an array from an IDX file.

    Args:
        path: The file; it may be compressed with gzip.

    Returns:
        The array, in the byte order of this machine.

    Raises:
        DataError: If the file cannot be read, is not an IDX file, or is truncated.
    """
    shown = printable(path)
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rb") as file:
            head = file.read(4)
            kind, axes = (head[2], head[3]) if len(head) == 4 else (0, 0)
            if head[:2] != b"\0\0" or kind not in _TYPES or not 1 <= axes <= 4:
                raise DataError(f"{shown} is not an IDX file; it begins with {head!r}: {_EXPECTED}")
            sizes = file.read(4 * axes)
            shape = tuple(np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").tolist())
            dtype = np.dtype(_TYPES[kind])
            size = dtype.itemsize * math.prod(shape) if len(shape) == axes else -1
            if not 0 <= size <= _MAX_BYTES or (not size and max(shape) > _MAX_EMPTY):
                raise DataError(f"{shown} is damaged: its header gives the shape {shape}")
            content = _start_of(cast("BinaryIO", file), size + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{shown} cannot be read: {reason}; copy or download it again") from error
    if len(content) != size:
        what = "more" if len(content) > size else f"only {len(content)}"
        raise DataError(
            f"{shown} is damaged: expected {size} bytes for the shape {shape}, got {what}; copy or "
            "download it again"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _find(folder: str, only: str | None) -> list[_Files]:
    """Return the files of each split. If `only` is a file name, return those that belong to it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}") from error
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if (match and "ubyte" in name.lower()) or (match and ".idx" in name.lower()):
            group = images if match["what"].lower().startswith("image") else labels
            group.setdefault(match["prefix"], []).append(os.path.join(folder, name))
    if only is not None and (match := _NAME.fullmatch(only)):
        images = {key: own for key, own in images.items() if key == match["prefix"]}
        labels = {key: own for key, own in labels.items() if key == match["prefix"]}
    shown = printable(folder)
    if not images:
        what = "has only labels" if labels else "has no IDX files"
        raise DataError(f"{shown} {what}: {_EXPECTED}")
    found: dict[Role, _Files] = {}
    for prefix, own in images.items():
        role = _role(prefix)
        if role in found:
            raise DataError(
                f"{shown} has several files of images for one split, "
                f"{printable(os.path.basename(found[role].images))} and "
                f"{printable(os.path.basename(own[0]))}: name one of them, idx:FOLDER/FILE"
            )
        # A file may be there packed and unpacked; the unpacked one is read faster.
        found[role] = _Files(
            min(own, key=len),
            min(labels[prefix], key=len) if prefix in labels else None,
            role,
            prefix or "images",
        )
    return [found[role] for role in ("train", "validation", "test") if role in found]


def _role(prefix: str) -> Role:
    for word in reversed(re.split(r"[-_.]", prefix)):
        if word.lower() == "t10k":
            return "test"
        if role := split_role(word):
            return role
    return "train"


def _start_of(file: BinaryIO, size: int) -> bytes:
    """Return up to `size` bytes. A damaged header may ask for more than there are."""
    parts, left = [], size
    while left > 0 and (part := file.read(min(left, _CHUNK))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _images(path: str) -> np.ndarray:
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{printable(path)} has {images.dtype} of shape {images.shape}: expected images, uint8 "
            "of shape (N, H, W)"
        )
    if images.ndim == 3:
        return images[..., np.newaxis]
    if images.shape[3] not in (1, 3):
        raise DataError(
            f"{printable(path)} has images of shape {images.shape[1:]}: expected (H, W), (H, W, 1) "
            "or (H, W, 3)"
        )
    return images
