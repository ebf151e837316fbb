"""Exact copies of images: how they are found and left out."""

from dataclasses import replace

import numpy as np
import pytest

from cnnforge.data import (
    ArraySamples,
    Dataset,
    Split,
    drop_duplicates,
    duplicates_note,
    equal_items,
    fingerprint,
)
from cnnforge.errors import DataError, UsageError


def dataset(training: str, validation: str, classes: str = "ab", known: bool = True) -> Dataset:
    """Make a dataset from texts such as `"a1 a2 b3"`: class and content of each image."""
    parts, splits = [], []
    for part, text in (("train", training), ("validation", validation)):
        items = text.split()
        labels = np.array([classes.index(item[0]) for item in items], np.int32)
        images = np.zeros((len(items), 1, 1, 1), np.uint8)
        images[:, 0, 0, 0] = [int(item[1:]) for item in items]
        names = [f"{part} {number} {item}" for number, item in enumerate(items)]
        parts.append(ArraySamples(images, labels, names, [item[1:] for item in items]))
        splits.append(Split(labels, names, [image.tobytes() for image in images]))
    return Dataset(
        "made",
        tuple(classes),
        parts[0],
        parts[1],
        fingerprint(classes, (1, 1, 1), *splits),
        notes=("first",),
        splits=tuple(splits) if known else None,
    )


def names(samples) -> list[str]:
    return [name.split()[-1] for name in samples.names]


def test_groups_of_equal_items():
    assert equal_items(["x", "y", "x", "z", "y", "x"]) == [[0, 2, 5], [1, 4]]
    assert equal_items([]) == []


@pytest.mark.parametrize(
    ("training", "validation", "left"),
    [
        ("a1 a1 a2 b3", "a4 b5", ("a1 a2 b3", "a4 b5")),
        ("a1 a2 b3 b4", "a1 b5", ("a2 b3 b4", "a1 b5")),
        # Equal images with different labels: none of them is right for certain.
        ("a1 b1 a2 b3", "a4 b5", ("a2 b3", "a4 b5")),
        ("a1 a2 b3", "b1 b5", ("a2 b3", "b5")),
        # A class keeps a training image.
        ("a1 b2 b3", "a1 b5", ("a1 b2 b3", "b5")),
        ("a1 a1 b2 b3", "a1 a1 b5", ("a1 b2 b3", "b5")),
        # Copies within the validation part stay.
        ("a1 b2", "a3 a3 b5", ("a1 b2", "a3 a3 b5")),
    ],
)
def test_images_that_are_left(training, validation, left):
    given = dataset(training, validation)
    result = drop_duplicates(given)
    assert (" ".join(names(result.train)), " ".join(names(result.validation))) == left
    all_names = sorted([*names(given.train), *names(given.validation)])
    dropped = [] if result.dropped is None else [name.split()[-1] for name in result.dropped.names]
    assert sorted([*names(result.train), *names(result.validation), *dropped]) == all_names


def test_samples_notes_and_fingerprint_agree():
    given = dataset("a1 a2 b1 b3 b3 a4", "a2 b5")
    result = drop_duplicates(given)
    assert result.splits is not None
    assert names(result.train) == ["b3", "a4"]
    assert result.train.fetch(np.array([1, 0]))[:, 0, 0, 0].tolist() == [4, 3]
    assert result.train.labels.tolist() == [1, 0]
    assert result.train.ids == ["3", "4"]
    assert result.splits[0].names == list(result.train.names)
    assert result.fingerprint != given.fingerprint
    assert result.fingerprint == fingerprint(result.classes, (1, 1, 1), *result.splits)
    assert result.notes == (
        "first",
        "4 training images are left out: exact copies of others, 2 of them with different labels",
    )


def test_the_note_about_copies_is_replaced():
    given = dataset("a1 a2 b3", "a1 b4")
    (note,) = duplicates_note(*(split.digests for split in given.splits or ()))
    result = drop_duplicates(replace(given, notes=(note,)))
    assert result.notes == ("1 training image is left out: an exact copy of another",)


def test_data_without_copies_are_the_same():
    given = dataset("a1 b2", "a3 b4")
    assert drop_duplicates(given) is given


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        ("a1 b1", "a3 b4", "all training images of made are copies"),
        ("a1 b2 b3", "b1", "all validation images of made are copies"),
        ("a1 b1 b2", "b4", "all training images of the class 'a' have copies with other labels"),
    ],
)
def test_nothing_is_left(training, validation, message):
    with pytest.raises(DataError, match=message):
        drop_duplicates(dataset(training, validation))


def test_copies_of_test_images_are_left_out():
    given = replace(dataset("a1 a2 b3 b4", "a5 b6"), test_digests=[bytes([1]), bytes([5])])
    notes = duplicates_note(*(split.digests for split in given.splits or ()), given.test_digests)
    assert notes[0].startswith("1 of 2 test images is an exact copy")
    result = drop_duplicates(replace(given, notes=notes))
    assert result.notes == ("1 training image is left out: an exact copy of another",)
    assert (names(result.train), names(result.validation)) == (["a2", "b3", "b4"], ["a5", "b6"])


def test_unknown_digests():
    with pytest.raises(UsageError, match="leave out --drop-duplicates"):
        drop_duplicates(dataset("a1 b2", "a1 b4", known=False))
