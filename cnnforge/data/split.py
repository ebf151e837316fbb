"""Split samples into training and validation, in the same way on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnforge.data.dataset import DataOptions
from cnnforge.errors import DataError
from cnnforge.utils.names import printable


class Parts(NamedTuple):
    """The samples of each part of a dataset, as ascending indices.

    Attributes:
        train: The samples for training; for inspection, all samples; for other purposes, all
            samples but those of `test`.
        validation: The samples for validation; empty for other purposes than training.
        test: The samples of the test split.
        notes: Messages for the user.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays in this order."""
        return self.train, self.validation, self.test


def choose_parts(
    name: str,
    labels: np.ndarray | None,
    classes: Sequence[str],
    splits: Sequence[str],
    options: DataOptions,
    *,
    seed: int | None = None,
    left_out: str = "",
) -> Parts:
    """Choose the samples for training, validation and testing.

    If the data do not say which samples are for validation, they are chosen by `stratified_split`
    among those for training. If the purpose is not training, and the data have no samples for
    training, then all samples are in `train`.

    Args:
        name: Name of the dataset, for messages.
        labels: (N,) integers, indices into `classes`; `None`: a sample has no single class, so the
            classes are neither checked nor divided equally.
        classes: The names of the classes.
        splits: N texts: `"train"`, `"validation"` or `"test"` if the data say where the sample
            belongs; empty otherwise, which means `"train"` if other samples have a text.
        options: Options of the dataset.
        seed: Random seed of the split; by default `options.seed`.
        left_out: End of an error message, which says what was left out.

    Returns:
        The parts.

    Raises:
        DataError: If training is the purpose, and there are fewer than two classes, or nothing is
            left for training or validation, or a class has samples, but none of them for training.
    """
    given = np.array(splits, dtype="U10") if len(splits) else np.zeros(0, "U10")
    in_validation, in_test = given == "validation", given == "test"
    in_train = ~(in_validation | in_test)
    none = np.zeros(0, np.int64)
    if not options.for_training:
        if not in_train.any() or options.purpose == "inspection":
            return Parts(np.arange(len(given)), none, none)
        return Parts(np.flatnonzero(~in_test), none, np.flatnonzero(in_test))
    train, validation, test = map(np.flatnonzero, (in_train, in_validation, in_test))
    shown, notes = printable(name), ()
    if not len(train):
        what = "validation" if not len(test) else "validation or testing"
        raise DataError(
            f"all images of {shown} are for {what}: nothing is left for training{left_out}"
        )
    if labels is not None:
        _check_classes(shown, labels, classes, (train, validation, test), left_out)
    if not len(validation):
        kinds = np.zeros(len(train), np.int64) if labels is None else labels[train]
        chosen = stratified_split(
            kinds, options.validation_fraction, options.seed if seed is None else seed
        )
        if labels is not None:
            notes = singleton_classes_note(kinds, classes)
        train, validation = train[chosen[0]], train[chosen[1]]
    if not len(validation):
        lacks, more = "one image of every class", "images to a class"
        if labels is None:
            lacks, more = "one image", "another one"
        raise DataError(
            f"{shown} has {lacks}: nothing is left for validation, so add {more}{left_out}"
        )
    return Parts(train, validation, test, notes)


def _check_classes(
    shown: str,
    labels: np.ndarray,
    classes: Sequence[str],
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    left_out: str,
) -> None:
    train, validation, test = parts
    for role, rows in (("validation", validation), ("testing", test)):
        unknown = np.setdiff1d(labels[rows], labels[train])
        if len(unknown):
            texts = ", ".join(f"'{printable(classes[int(label)])}'" for label in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise DataError(
                f"{shown}: the class {texts}{more} has images for {role} and none for training: "
                f"every class needs images for training{left_out}"
            )
    present = np.unique(labels[train])
    if len(present) < 2:
        raise DataError(
            f"{shown} holds only images of the class {printable(classes[int(present[0])])!r}: "
            f"training needs at least two classes{left_out}"
        )


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into training and validation samples, every class in the same proportion.

    The result depends only on the arguments. Samples are chosen by the raw numbers of a bit
    generator, which are the same in every version of NumPy. `Generator.permutation` may change in
    newer versions (NEP 19), so it is not used.

    Args:
        labels: (N,) integers from 0 up.
        fraction: Fraction of every class that is kept for validation, between 0 and 1.
        seed: Random seed, a whole number from 0 up.

    Returns:
        Two ascending int64 arrays: the indices of the training samples, and those of the validation
        samples. Every sample is in one of them. A class with two or more samples has at least one
        sample in each. If a class has only one sample, this is a training sample.
    """
    labels = np.asarray(labels)
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys = np.random.PCG64([seed, int(label)]).random_raw(len(rows))
        # Round 0.5 up in all cases. round() would round 0.5 down and 1.5 up.
        count = int(len(rows) * fraction + 0.5)
        count = min(max(count, 1), len(rows) - 1)
        kept.append(rows[np.argsort(keys, kind="stable")[:count]])
    validation = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    chosen = np.zeros(len(labels), bool)
    chosen[validation] = True
    return np.flatnonzero(~chosen), validation.astype(np.int64)


def singleton_classes_note(labels: np.ndarray, classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note for the user with the names of the classes that have a single sample.

    `stratified_split` uses such a sample for training, so validation lacks these classes.

    Args:
        labels: (N,) integers, indices into `classes`.
        classes: The names of the classes.

    Returns:
        A tuple of one note; empty if there is no such class.
    """
    counts = np.bincount(labels, minlength=len(classes))
    single = [repr(name) for name, count in zip(classes, counts, strict=True) if count == 1]
    if not single:
        return ()
    shown = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
    return (f"a single image of the class {shown}: used for training, not for validation",)
