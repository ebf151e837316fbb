"""The summary of a dataset tells a user what was found."""

import json

import numpy as np
from detection_samples import one

from cnnforge.data import ArraySamples, Dataset, SkippedFile, summarize


def dataset(labels=(0, 0, 0, 1), validation=(1,), classes=("cat", "dog"), **more):
    parts = [
        ArraySamples(
            np.zeros((len(part), 4, 6, 3), np.uint8), np.array(part, int), ["x"] * len(part)
        )
        for part in (labels, validation)
    ]
    return Dataset("photos", classes, *parts, "", **more)


def test_the_line_has_counts_names_and_shape():
    assert summarize(dataset()).line == (
        "data: 5 images of 4x6x3 in 2 classes (cat 3, dog 2); 4 for training, 1 for validation"
    )


def test_of_many_classes_the_first_are_named():
    classes = [f"c{number}" for number in range(9)]
    line = summarize(dataset(tuple(range(9)), (0,), classes)).line
    assert "in 9 classes (c0 2, c1 1, c2 1, c3 1, c4 1 and 4 more)" in line


def test_files_that_were_left_out_are_counted_by_reason():
    skipped = [SkippedFile(f"{n}", f"not an image; it begins with {n}") for n in range(3)]
    skipped += [SkippedFile("x", "empty file")]
    summary = summarize(dataset(skipped=tuple(skipped)))
    assert summary.line.endswith("; left out: 3 (not an image), 1 (empty file)")
    assert json.loads(json.dumps(summary.as_dict()))["left_out"] == {
        "not an image": 3,
        "empty file": 1,
    }


def test_one_large_class_is_a_note():
    assert summarize(dataset()).notes == ()
    (note,) = summarize(dataset((0,) * 9, (1,))).notes
    assert note.startswith("90% of the images are of the class cat")


def test_a_part_has_only_its_own_classes():
    data = dataset()
    summary = summarize(data, {"used": (data.train, np.array([3]))})
    assert summary.line == "data: 1 image of 4x6x3 in 1 class (dog 1)"


def test_data_without_labels_have_no_classes():
    data = dataset((0, 0), (), (), labelled=False)
    assert summarize(data, {"used": (data.train, np.arange(2))}).line == ("data: 2 images of 4x6x3")


def test_objects_are_counted_and_not_images():
    train = one((0, 0, 9, 9), (9, 9, 20, 20), (1, 1, 5, 5), labels=[0, 0, 1])
    data = Dataset("boxes", ("cat", "dog"), train, one(), "", task="detection")
    summary = summarize(data)
    assert summary.line == (
        "data: 2 images of 32x48x1, with 3 objects in 2 classes (cat 2, dog 1); 1 for training, "
        "1 for validation"
    )
    assert summary.as_dict()["objects"] == 3
    assert "objects" not in summarize(dataset()).as_dict()
    # A large class does not mean that a model could always predict it.
    large = Dataset("boxes", ("cat", "dog"), one(*[(0, 0, 9, 9)] * 20), one(), "")
    assert summarize(large).notes == ()
