"""Check labels that several readers have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cnnforge.data import printable
from cnnforge.errors import DataError

ONE_CLASS = "each image needs one class, and several classes an image (multi-label) are not read"
_STRONG = ("|", ";", ",")


def check_single_labels(where: str, labels: Iterable[str]) -> None:
    """Refuse labels that name several classes for one image.

    Args:
        where: The file, and the column if there are several, for the message.
        labels: The labels, such as `"cat"`, `"cat|dog"`, or `"['cat', 'dog']"`.

    Raises:
        DataError: If the labels are lists of classes.
    """
    distinct = {label.strip() for label in labels}
    found = _listed(distinct)
    if found:
        raise DataError(
            f"{where} has several classes for one image, such as '{printable(found)}': "
            f"{ONE_CLASS}; write one class for each image, or leave such images out"
        )


def check_repeats(where: str, labels: Sequence[str]) -> None:
    """Refuse labels that nearly all differ, such as captions.

    Args:
        where: The file, for the message.
        labels: N labels.

    Raises:
        DataError: If more than 8 labels, and more than 6 in 10, differ.
    """
    distinct = len(set(labels))
    if distinct > 8 and distinct > 0.6 * len(labels):
        raise DataError(
            f"{where} has {distinct} different labels for {len(labels)} images, the first is "
            f"'{printable(labels[0][:60])}': these are ids or captions, and a classification needs "
            "several images of each class"
        )


def check_label_array(where: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as a one-dimensional array; labels that are one-hot become numbers.

    Args:
        where: The file and the array, for messages.
        labels: (N,) or (N, 1) labels, or (N, K) numbers of which one in each row is 1 and all
            others are 0.

    Returns:
        (N,) array.

    Raises:
        DataError: If the array has another shape, or a row has no 1 or several.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        return labels
    flags = labels.ndim == 2 and labels.shape[1] and labels.dtype.kind in "biuf"
    flags = flags and np.isin(labels, (0, 1)).all()
    if not flags:
        raise DataError(
            f"{where} has labels of shape {labels.shape} ({labels.dtype}): expected one label for "
            "each image, (N,)"
        )
    count = labels.astype(np.int64).sum(axis=1)
    if (count == 1).all():
        return labels.argmax(axis=1)
    row = int(np.flatnonzero(count != 1)[0])
    raise DataError(f"{where} has {int(count[row])} classes for image {row + 1}: {ONE_CLASS}")


def _listed(labels: set[str]) -> str:
    """Return a label that is a list of classes; an empty text if each label is one class."""
    for label in sorted(labels):
        if len(label) > 1 and (label[0], label[-1]) in (("[", "]"), ("{", "}"), ("(", ")")):
            return label
    for separator in _STRONG:
        several = sorted(label for label in labels if separator in label)
        parts = [[part.strip() for part in label.split(separator)] for label in several]
        single = labels - {*several}
        # A separator may also be a part of a name, such as "salt, coarse". If it separates classes,
        # these are labels themselves, or occur in several combinations.
        if several and (
            any(single.issuperset(each) for each in parts) or _combined(parts, len(several))
        ):
            return several[0]
    words = [label.split() for label in sorted(labels) if label]
    lengths = {len(each) for each in words}
    if len(lengths) > 1 and (
        all(part.isdigit() for each in words for part in each)
        or 2 * len({part for each in words for part in each}) < len(words)
    ):
        return " ".join(next(each for each in words if len(each) > 1))
    return ""


def _combined(parts: Sequence[Sequence[str]], count: int) -> bool:
    return count > 2 and len({part for each in parts for part in each}) < count


def note_of_test_part(count: int) -> str:
    """Return a note about images of a test part that are not predicted."""
    return f"images of the test part that are left out: {count:,}"
