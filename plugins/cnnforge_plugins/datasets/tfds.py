"""Open a dataset of TensorFlow Datasets, which is optional: `tfds:beans`.

The samples are read one by one through `tfds.data_source`, which does not need TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from cnnforge.data import (
    DataOptions,
    Dataset,
    PictureFile,
    Role,
    StoredImage,
    normal_name,
    quoted,
    split_role,
)
from cnnforge.errors import CnnforgeError, DataError, UsageError, one_line
from cnnforge_plugins.datasets.shared.labels import ONE_CLASS
from cnnforge_plugins.datasets.shared.shards import dataset_of_pictures

_FIX = "expected a dataset with the features image and label"


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a dataset of TensorFlow Datasets. It is downloaded by that package when it is missing.

    Args:
        argument: Name of the dataset, such as `"beans"` or `"cifar10_corrupted/fog_1"`.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"beans/train 17"`, counted from 0.

    Raises:
        CnnforgeError: If tensorflow-datasets is not installed.
        UsageError: If there is no argument.
        DataError: If the dataset cannot be prepared, or has no images with labels, or the samples
            cannot be split.
    """
    if argument is None:
        raise UsageError("tfds needs the name of a dataset: write tfds:NAME, such as tfds:beans")
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CnnforgeError(
            f"tfds:{argument} needs tensorflow-datasets, which is not installed; type: pip install "
            "'cnnforge[tfds]'"
        ) from error
    try:
        builder = tfds.builder(argument)
        builder.download_and_prepare(file_format="array_record")
        # The images are decoded as those of all other datasets are.
        skip = {"image": tfds.decode.SkipDecoding()}
        sources = dict(builder.as_data_source(decoders=skip))
    # The package raises exceptions of many types, also for a missing network.
    except Exception as error:
        raise DataError(
            f"TensorFlow Datasets cannot open {argument!r}: {one_line(error)}; "
            "https://www.tensorflow.org/datasets/catalog lists the names"
        ) from error
    classes = _classes(argument, builder.info.features)
    files: list[PictureFile] = []
    unused: list[str] = []
    for split, source in sources.items():
        role = split_role(split)
        if role is None:
            unused.append(split)
        else:
            files += _files(f"{argument}/{split}", role, source, classes)
    notes = (f"splits that are not used: {quoted(unused)}",) if unused else ()
    return dataset_of_pictures(
        f"tfds:{argument}",
        os.curdir,
        files,
        options,
        where=f"tfds:{argument}",
        fix=_FIX,
        notes=notes,
        order=lambda names: [name for name in classes if name in set(names)],
    )


def _classes(argument: str, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes."""
    if "image" not in features or "label" not in features:
        raise DataError(f"tfds:{argument} has the features {', '.join(features)}: {_FIX}")
    label = features["label"]
    if hasattr(label, "feature"):
        raise DataError(f"tfds:{argument} has several labels for one image: {ONE_CLASS}")
    if not getattr(label, "names", None):
        raise DataError(
            f"tfds:{argument} has labels of the type {type(label).__name__}: expected a ClassLabel"
        )
    return tuple(normal_name(name) for name in label.names)


def _files(
    name: str, role: Role, source: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[PictureFile]:
    def read(row: int, size: int) -> bytes:
        return _encoded(source[row]["image"])

    files = []
    for row in range(len(source)):
        label = int(source[row]["label"])
        # Data without labels have -1.
        class_name = classes[label] if 0 <= label < len(classes) else None
        path = f"{name} {row}"
        files.append(PictureFile(path, class_name, role, stored=StoredImage(path, read, row, 1)))
    return files


def _encoded(image: Any) -> bytes:
    """Return an image as the bytes of a file."""
    if isinstance(image, bytes):
        return image
    array = np.asarray(image)
    if array.dtype.kind in "SO":
        return bytes(array.item())
    file = BytesIO()
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
