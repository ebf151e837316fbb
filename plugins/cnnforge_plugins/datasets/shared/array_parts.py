"""Make a dataset from arrays in files: images and labels for training, validation and testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    DataOptions,
    Dataset,
    Role,
    dataset_from_arrays,
    unlabelled_from_arrays,
)
from cnnforge.errors import DataError
from cnnforge_plugins.datasets._columns import class_labels
from cnnforge_plugins.datasets.shared.labels import check_label_array, note_of_test_part


class ArrayPart(NamedTuple):
    """The arrays of one split.

    Attributes:
        images: (N, H, W, C) uint8; C is 1 or 3.
        labels: (N,) labels, numbers or texts; `None` if they are missing.
        split: The role of the split.
        name: Name of the split in the names of the samples, such as `"t10k"`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    split: Role
    name: str


def dataset_of_parts(
    name: str,
    where: str,
    parts: Sequence[ArrayPart],
    options: DataOptions,
    *,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Make a dataset from the arrays of its splits.

    Args:
        name: Name of the dataset.
        where: The file or folder, for messages.
        parts: The splits, at least one.
        options: Options of the dataset.
        classes: The names of the classes 0, 1, ...; `None`: the labels that occur.

    Returns:
        The dataset. Its samples have names such as `"t10k 17"`, counted from 0.

    Raises:
        DataError: If the sizes of the splits differ, or labels are needed and missing, or a label
            is not a class, or the samples cannot be split.
    """
    if options.purpose == "prediction" and any(part.split == "train" for part in parts):
        # As with a folder that has splits: a prediction is about the other images.
        kept = [part for part in parts if part.split != "test"]
        if left := sum(len(part.images) for part in parts) - sum(len(part.images) for part in kept):
            dataset = dataset_of_parts(name, where, kept, options, classes=classes)
            return replace(dataset, notes=(*dataset.notes, note_of_test_part(left)))
    shapes = {part.images.shape[1:] for part in parts}
    if len(shapes) > 1:
        shown = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise DataError(
            f"{where} has images of {shown}: expected one size and one number of channels"
        )
    images = parts[0].images
    if len(parts) > 1:
        images = np.concatenate([part.images for part in parts])
    names = [f"{part.name} {row}" for part in parts for row in range(len(part.images))]
    missing = [part.name for part in parts if part.labels is None]
    if missing and options.need_labels:
        raise DataError(
            f"{where} has no labels for {', '.join(missing)}: add them; 'cnnforge predict' needs "
            "no labels"
        )
    if missing:
        return unlabelled_from_arrays(name, images, names=names, options=options)
    own = [_labels(where, part) for part in parts]
    labels = np.concatenate(own)
    if classes is None:
        classes, labels = class_labels([str(label) for label in labels.tolist()])
    else:
        _check_range(where, parts, own, len(classes))
    return dataset_from_arrays(
        name,
        images,
        labels,
        names=names,
        classes=classes,
        options=options,
        splits=[part.split for part in parts for _ in range(len(part.images))],
    )


def _labels(where: str, part: ArrayPart) -> np.ndarray:
    assert part.labels is not None
    labels = check_label_array(f"{where}: {part.name}", part.labels)
    if len(labels) != len(part.images):
        raise DataError(
            f"{where} has {len(part.images)} images and {len(labels)} labels for {part.name}: "
            "expected as many labels as images"
        )
    if labels.dtype.kind == "f":
        whole = np.asarray(labels, np.float64)
        wrong = np.flatnonzero(whole != np.round(whole))
        if len(wrong):
            raise DataError(
                f"{where} has the label {whole[wrong[0]]} for {part.name} {wrong[0]}: a "
                "classification needs classes, not measured values"
            )
        labels = whole.astype(np.int64)
    return labels


def _check_range(
    where: str, parts: Sequence[ArrayPart], labels: Sequence[np.ndarray], count: int
) -> None:
    for part, own in zip(parts, labels, strict=True):
        wrong = np.flatnonzero((own < 0) | (own >= count))
        if len(wrong):
            raise DataError(
                f"{where} has the label {own[wrong[0]]} for {part.name} {wrong[0]}: expected "
                f"labels from 0 to {count - 1}"
            )
