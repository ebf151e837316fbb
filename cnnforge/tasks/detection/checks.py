"""Check that samples have the objects that detection needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.data import Dataset
from cnnforge.errors import DataError, UsageError

# Max number of classes that a message names.
_MAX_NAMED = 5


def check_samples(samples: Any, what: str, classes: int) -> int:
    """Check the attributes of samples, and count the objects.

    Args:
        samples: N samples.
        what: Description of the samples, for messages.
        classes: Number of classes of the dataset.

    Returns:
        Number of objects that are not crowds.

    Raises:
        DataError: An attribute is missing or has another shape, a box is not valid, or a label is
            not an index into the classes.
    """
    for name in ("boxes", "labels", "crowd", "sizes"):
        values = getattr(samples, name, None)
        if values is None or len(values) != len(samples):
            found = "no" if values is None else str(len(values))
            raise DataError(
                f"{what} has {len(samples)} samples and {found} {name}: detection needs boxes, "
                "labels, crowd and sizes of each sample"
            )
    shapes = {
        "boxes": lambda k: (k, 4),
        "labels": lambda k: (k,),
        "crowd": lambda k: (k,),
    }
    for number in range(len(samples)):
        count = len(samples.labels[number])
        for name, shape in shapes.items():
            if np.shape(getattr(samples, name)[number]) != shape(count):
                raise DataError(
                    f"{what}: sample {number} has {count} labels, and {name} of the shape "
                    f"{np.shape(getattr(samples, name)[number])}: expected {shape(count)}"
                )
    if not len(samples):
        return 0
    boxes = np.concatenate([np.empty((0, 4)), *samples.boxes])
    labels = np.concatenate([np.empty(0, np.int64), *samples.labels])
    owner = np.repeat(np.arange(len(samples)), [len(each) for each in samples.labels])
    sizes = np.asarray(samples.sizes)
    wrong = (
        ~np.isfinite(boxes).all(axis=1)
        | (boxes[:, :2] < 0).any(axis=1)
        | (boxes[:, 2:] > sizes[owner][:, ::-1]).any(axis=1)
        | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    )
    if wrong.any():
        row = int(wrong.argmax())
        height, width = sizes[owner[row]]
        raise DataError(
            f"{what}: sample {owner[row]} has the box {boxes[row].tolist()}: expected x1 < x2 and "
            f"y1 < y2 in the image of {width} x {height} pixels"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"{what} has labels {labels.min()}..{labels.max()}: expected 0..{classes - 1}"
        )
    crowd = np.concatenate([np.empty(0, bool), *samples.crowd])
    return int(len(crowd) - np.count_nonzero(crowd))


def matched_labels(
    dataset: Dataset, samples: Any, indices: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    """Match the classes of a dataset with those of a model, by name.

    Args:
        dataset: The dataset.
        samples: Samples of it.
        indices: (n,) int64, indices of the samples that are evaluated.
        classes: The classes of the model.

    Returns:
        The label of the model for each class of the dataset, (C,) int32; -1 if it has none.

    Raises:
        DataError: See `check_samples`.
        UsageError: No sample has an object, or one has an object of a class that the model was not
            trained on.
    """
    check_samples(samples, dataset.name, len(dataset.classes))
    every = [samples.labels[index] for index in indices]
    present = np.unique(np.concatenate([np.empty(0, np.int32), *every]))
    known = {name: label for label, name in enumerate(classes)}
    for label in present:
        if dataset.classes[label] not in known:
            more = len(classes) - _MAX_NAMED
            raise UsageError(
                f"{dataset.name} has objects of the class {dataset.classes[label]!r}, which the "
                f"model does not know; it knows {', '.join(classes[:_MAX_NAMED])}"
                f"{f' and {more} more' if more > 0 else ''}; 'cnnforge predict' needs no labels"
            )
    if not len(present):
        raise UsageError(
            f"no image of {dataset.name} has an object, so nothing can be measured: use other "
            "data, or 'cnnforge predict', which needs no labels"
        )
    return np.array([known.get(name, -1) for name in dataset.classes], np.int32)
