"""Find exact copies of images by their digests, and leave them out of a dataset for training."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from cnnforge.data.dataset import Dataset, Samples
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.errors import DataError, UsageError
from cnnforge.utils.names import printable

KeyT = TypeVar("KeyT", bound=Hashable)


class SomeSamples:
    """Some of the samples of a dataset.

    Args:
        samples: The samples.
        indices: (N,) indices of the chosen ones, in their new order.
    """

    def __init__(self, samples: Samples, indices: np.ndarray) -> None:
        self._samples, self._indices = samples, np.asarray(indices, np.intp)
        self.names: Sequence[str] = [samples.names[int(index)] for index in self._indices]

    def __len__(self) -> int:
        """Return the number of chosen samples."""
        return len(self._indices)

    def __getattr__(self, name: str) -> Any:
        # The names of the attributes with targets depend on the task. An attribute with one entry
        # for each sample is one of them.
        if name.startswith("_"):
            raise AttributeError(name)
        values = getattr(self._samples, name)
        if not isinstance(values, np.ndarray | list) or len(values) != len(self._samples):
            raise AttributeError(name)
        if isinstance(values, list):
            chosen: Any = [values[int(index)] for index in self._indices]
        else:
            chosen = values[self._indices]
        self.__dict__[name] = chosen
        return chosen

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices` of the chosen samples: (B, H, W, C) uint8."""
        return self._samples.fetch(self._indices[np.asarray(indices, np.intp)])


def equal_items(keys: Sequence[KeyT]) -> list[list[int]]:
    """Group the items whose keys are equal.

    Args:
        keys: A key for each item, such as a digest.

    Returns:
        The indices of the items in each group of two or more, in ascending order. The groups are in
        the order of their first item.
    """
    groups: dict[KeyT, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def drop_duplicates(dataset: Dataset) -> Dataset:
    """Leave exact copies of images out of a dataset for training.

    Images are copies of each other if their digests are equal. All copies with different labels are
    left out. Of the others, the training part keeps one copy of each image, and none that the
    validation part or the test split has, too. Nothing is left out of the test split. An exception
    is a class that would have no training image left: its copies stay in the training part, and the
    validation part loses them.

    Args:
        dataset: A dataset that was opened for training.

    Returns:
        The dataset without these copies. Its attribute `dropped` has them, and its notes give their
        number. The dataset is the same if there is no copy.

    Raises:
        UsageError: If the digests of the images are not known.
        DataError: If no training image, no validation image or one class only is left.
    """
    if dataset.splits is None:
        raise UsageError(
            f"the digests of the images in {printable(dataset.name)} are not known, so copies "
            "cannot be found: leave out --drop-duplicates"
        )
    train, validation = dataset.splits
    digests = [*train.digests, *validation.digests]
    labels = np.concatenate([train.labels, validation.labels])
    # With boxes, the label of an image is a number for all of its objects, and is not a class.
    has_classes = not hasattr(dataset.train, "boxes")
    keep, contradictory = _choose(digests, labels, len(train.labels), has_classes)
    tested = set(dataset.test_digests)
    keep[: len(train.labels)] &= [digest not in tested for digest in train.digests]
    dropped = np.flatnonzero(~keep)
    if not len(dropped):
        return dataset
    rows = np.flatnonzero(keep[: len(train.labels)]), np.flatnonzero(keep[len(train.labels) :])
    _check_rest(dataset, labels, keep, len(train.labels), has_classes)
    parts = [_some(split, chosen) for split, chosen in zip(dataset.splits, rows, strict=True)]
    names = [*train.names, *validation.names]
    old_note = duplicates_note(train.digests, validation.digests, dataset.test_digests)
    counts = len(train.labels) - len(rows[0]), len(validation.labels) - len(rows[1])
    return replace(
        dataset,
        train=SomeSamples(dataset.train, rows[0]),
        validation=SomeSamples(dataset.validation, rows[1]),
        fingerprint=fingerprint(dataset.classes, dataset.image_shape, *parts),
        notes=(
            *(note for note in dataset.notes if note not in old_note),
            _note(*counts, contradictory),
        ),
        splits=(parts[0], parts[1]),
        dropped=Split(
            labels[dropped], [names[row] for row in dropped], [digests[row] for row in dropped]
        ),
    )


def _choose(
    digests: Sequence[bytes], labels: np.ndarray, border: int, has_classes: bool
) -> tuple[np.ndarray, int]:
    """Return (N,) bool, whether each image is kept, and the number with contradictory labels.

    Args:
        digests: The digests of the training images, and then those of the validation images.
        labels: (N,) labels in the same order.
        border: Number of training images.
        has_classes: Whether a label is the class of an image.
    """
    keep = np.ones(len(digests), bool)
    contradictory = 0
    in_both = []
    for group in equal_items(digests):
        if len({int(labels[row]) for row in group}) > 1:
            keep[group] = False
            contradictory += len(group)
            continue
        training = [row for row in group if row < border]
        keep[training[1:]] = False
        if training and len(training) < len(group):
            keep[training] = False
            in_both.append(group)
    left = {int(label) for label in labels[:border][keep[:border]]}
    for group in in_both if has_classes else ():
        if int(labels[group[0]]) not in left:
            keep[group[0]] = True
            keep[[row for row in group if row >= border]] = False
    return keep, contradictory


def _check_rest(
    dataset: Dataset, labels: np.ndarray, keep: np.ndarray, border: int, has_classes: bool
) -> None:
    for part, chosen in (("training", keep[:border]), ("validation", keep[border:])):
        if not chosen.any():
            raise DataError(
                f"all {part} images of {printable(dataset.name)} are copies of others: nothing is "
                f"left for {part} without them; 'cnnforge data check' lists them"
            )
    if not has_classes:
        return
    present, left = set(labels[:border].tolist()), set(labels[:border][keep[:border]].tolist())
    if gone := sorted(present - left):
        shown = ", ".join(repr(dataset.classes[label]) for label in gone[:3])
        raise DataError(
            f"all training images of the class {shown} have copies with other labels or in the "
            "test split, so none is left without them: correct what 'cnnforge data check' lists"
        )


def _some(split: Split, rows: np.ndarray) -> Split:
    return Split(
        split.labels[rows],
        [split.names[int(row)] for row in rows],
        [split.digests[int(row)] for row in rows],
    )


def _note(training: int, validation: int, contradictory: int) -> str:
    parts = [
        f"{count} {part}" for count, part in ((training, "training"), (validation, "validation"))
    ]
    shown = " and ".join(part for part in parts if not part.startswith("0 "))
    if training + validation == 1:
        return f"{shown} image is left out: an exact copy of another"
    text = f"{shown} images are left out: exact copies of others"
    if contradictory:
        text += f", {contradictory} of them with different labels"
    return text
