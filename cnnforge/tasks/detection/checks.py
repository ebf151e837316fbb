"""Check that samples have the objects that detection needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge.errors import DataError


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
