"""Datasets made from annotated pictures."""

import math

import numpy as np
import pytest
from boxes import write_pictures
from pictures import photo
from PIL import Image

from cnnforge.data import (
    AnnotatedPicture,
    Box,
    DataOptions,
    DetectionArrays,
    DetectionSource,
    PictureFile,
    cached,
    dataset_from_box_arrays,
    dataset_from_boxes,
    drop_duplicates,
    summarize,
)
from cnnforge.errors import DataError


def source(tmp_path, boxes, *, fractions=False, size=None, splits=None, **more):
    """Return a source with a picture of 40 x 30 for each list of boxes."""
    names = write_pictures(tmp_path, len(boxes))
    pictures = [
        AnnotatedPicture(
            PictureFile(str(tmp_path / name), split=splits[row] if splits else ""),
            [
                Box("cat" if place % 2 == 0 else "dog", corners, f"{name}, line {place + 1}")
                for place, corners in enumerate(own)
            ],
            size,
        )
        for row, (name, own) in enumerate(zip(names, boxes, strict=True))
    ]
    return DetectionSource("toy", str(tmp_path), pictures, ("cat", "dog"), fractions, "TOY", **more)


def opened(tmp_path, boxes, purpose="evaluation", **more):
    return dataset_from_boxes(source(tmp_path, boxes, **more), DataOptions(purpose=purpose))


GOOD = (4, 5, 14, 20)


def test_boxes_labels_and_sizes(tmp_path):
    dataset = opened(tmp_path, [[GOOD, (0, 0, 40, 30)], []])
    assert (dataset.task, dataset.classes, dataset.labelled) == ("detection", ("cat", "dog"), True)
    assert dataset.train.boxes[0].tolist() == [list(GOOD), [0, 0, 40, 30]]
    assert dataset.train.labels[0].tolist() == [0, 1]
    assert dataset.train.crowd[0].tolist() == [False, False]
    assert dataset.train.boxes[1].shape == (0, 4)
    assert dataset.train.sizes.tolist() == [[30, 40], [30, 40]]
    assert dataset.notes == ("1 picture has no object: background, which counts",)
    assert summarize(dataset).line == (
        "data: 2 images of 30x40x3, with 2 objects in 2 classes (cat 1, dog 1); "
        "2 for training, 0 for validation"
    )


def test_one_class_is_enough(tmp_path):
    dataset = opened(tmp_path, [[GOOD]] * 5, "training")
    assert (len(dataset.train), len(dataset.validation)) == (4, 1)


def test_bad_boxes_are_counted_and_no_picture_is_dropped(tmp_path):
    boxes = [
        [GOOD, (30, 20, 45, 29)],
        [(5, 5, 5, 9), (5, 9, 9, 5), (50, 5, 60, 9), (math.nan, 1, 2, 3)],
        [(-1, 0, 5, 5)],
    ]
    dataset = opened(tmp_path, boxes)
    assert [len(each) for each in dataset.train.boxes] == [2, 0, 1]
    assert dataset.train.boxes[0][1].tolist() == [30, 20, 40, 29]
    assert dataset.notes[:3] == (
        "2 of 7 objects are changed: the box leaves the picture, and is clipped; the first is "
        "0.png, line 2 (30 20 45 29 in a picture of 40x30 pixels); 'cnnforge data check' lists "
        "them",
        "1 of 7 objects is left out: the box has a negative width or height; the first is 1.png, "
        "line 2 (5 9 9 5 in a picture of 40x30 pixels)",
        "1 of 7 objects is left out: the box has a number that is not finite; the first is 1.png, "
        "line 4 (nan 1 2 3 in a picture of 40x30 pixels)",
    )
    assert len(dataset.notes) == 6
    inspected = opened(tmp_path, boxes, "inspection")
    assert [each.place for each in inspected.inspection.objects] == [
        *("0.png, line 2", "1.png, line 1", "1.png, line 2"),
        *("1.png, line 3", "1.png, line 4", "2.png, line 1"),
    ]
    assert inspected.notes == ()


def test_an_unreadable_picture_is_skipped_with_its_objects(tmp_path):
    given = source(tmp_path, [[GOOD], [GOOD], [GOOD]])
    (tmp_path / "1.png").write_bytes(b"<html>")
    dataset = dataset_from_boxes(given, DataOptions(purpose="evaluation"))
    assert [name[-5:] for name in dataset.train.names] == ["0.png", "2.png"]
    assert len(dataset.train.boxes) == 2
    assert dataset.skipped[0].path.endswith("1.png")


def test_a_picture_that_is_named_twice_is_one_picture(tmp_path):
    given = source(tmp_path, [[GOOD], [GOOD]])
    again = given.pictures[0]._replace(objects=[Box("dog", (1, 1, 2, 2), "again")])
    given = given._replace(pictures=[*given.pictures, again])
    dataset = dataset_from_boxes(given, DataOptions(purpose="evaluation"))
    assert [len(each) for each in dataset.train.boxes] == [2, 1]
    assert "1 of 2 pictures are named twice, and their objects are joined" in dataset.notes[0]


def test_fractions_where_pixels_are_meant(tmp_path):
    dataset = opened(tmp_path, [[(0.1, 0.2, 0.5, 0.5)], [(0, 0, 1, 1)]])
    assert dataset.train.boxes[0].tolist() == [[4, 6, 20, 15]]
    assert "are between 0 and 1, and TOY has pixels: they are read as fr" in dataset.notes[0]


def test_pixels_where_fractions_are_meant(tmp_path):
    dataset = opened(tmp_path, [[GOOD], [(0, 0, 3, 3)]], fractions=True)
    assert dataset.train.boxes[0].tolist() == [list(GOOD)]
    assert "greater than 1, and TOY has fractions of width and height" in dataset.notes[0]
    mixed = opened(tmp_path, [[(0.5, 0.5, 0.75, 1)], [GOOD]], fractions=True)
    assert mixed.train.boxes[0].tolist() == [[20, 15, 30, 30]]
    assert "1 of 2 objects is left out: the box is outside" in mixed.notes[0]


def test_fractions_of_six_digits_give_whole_pixels(tmp_path):
    sides = zip((7, 7, 13, 11), (40, 30) * 2, strict=True)
    corners = [round(value / side, 6) for value, side in sides]
    dataset = opened(tmp_path, [[tuple(corners)]], fractions=True)
    assert dataset.train.boxes[0].tolist() == [[7, 7, 13, 11]]
    dataset = opened(tmp_path, [[(0.1234, 0.2, 0.5, 0.5)]], fractions=True)
    assert dataset.train.boxes[0][0, 0] == 0.1234 * 40


def rotated(tmp_path, orientation=6):
    """A picture that is stored with 40 x 30 pixels, and shown with 30 x 40."""
    image = photo(1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif)
    return AnnotatedPicture(
        PictureFile(str(tmp_path / "turned.jpg")), [Box("cat", (0, 0, 10, 5), "here")]
    )


def test_the_declared_size_says_which_picture_the_boxes_are_for(tmp_path):
    picture, options = rotated(tmp_path), DataOptions(purpose="evaluation")
    given = DetectionSource("toy", str(tmp_path), [], ("cat",), False, "TOY")
    for size, expected in (
        (None, [0, 0, 10, 5]),
        ((40, 30), [0, 0, 10, 5]),
        # The stored picture: its upper left corner is shown at the upper right.
        ((30, 40), [25, 0, 30, 10]),
    ):
        dataset = dataset_from_boxes(
            given._replace(pictures=[picture._replace(size=size)]), options
        )
        assert dataset.train.boxes[0].tolist() == [expected]
        assert dataset.train.sizes.tolist() == [[40, 30]]
    assert "before it is rotated (EXIF), so they are rotated, too" in dataset.notes[0]


def test_a_size_that_is_only_wrong_changes_nothing(tmp_path):
    dataset = opened(tmp_path, [[GOOD]], size=(40, 30))
    assert dataset.train.boxes[0].tolist() == [list(GOOD)]
    assert "(30x40 is given): the boxes are read as pixels of the file" in dataset.notes[0]


def test_boxes_of_a_picture_that_was_reduced_are_scaled(tmp_path):
    dataset = opened(tmp_path, [[(8, 10, 28, 40)]], size=(60, 80))
    assert dataset.train.boxes[0].tolist() == [[4, 5, 14, 20]]
    assert "(80x60 is given): the boxes are scaled to the file" in dataset.notes[0]
    outside = opened(tmp_path, [[(8, 10, 28, 29)]], size=(20, 20))
    assert outside.train.boxes[0].tolist() == [[8, 10, 28, 29]]


def test_splits_of_the_data(tmp_path):
    splits = ["train", "validation", "test", "train"]
    dataset = opened(tmp_path, [[GOOD]] * 4, "training", splits=splits)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (2, 1, 1)
    assert len(dataset.test.boxes) == 1
    assert dataset.splits is not None
    assert [len(split.names) for split in dataset.splits] == [2, 1]


def test_a_random_split_depends_on_the_seed_only(tmp_path):
    given = source(tmp_path, [[GOOD]] * 10)
    names = [
        dataset_from_boxes(given, DataOptions(seed=seed, validation_fraction=0.3)).validation.names
        for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 3


def test_one_picture_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="has one image: nothing is left for validation, so add"):
        opened(tmp_path, [[GOOD]], "training")


def test_the_fingerprint_has_the_boxes(tmp_path):
    prints = {
        opened(tmp_path, [[box], []]).fingerprint
        for box in (GOOD, (4, 5, 14, 20.5), (5, 4, 14, 20), GOOD)
    }
    assert len(prints) == 3
    crowd = source(tmp_path, [[GOOD], []])
    first = crowd.pictures[0]
    pictures = [first._replace(objects=[first.objects[0]._replace(crowd=True)]), crowd.pictures[1]]
    dataset = dataset_from_boxes(
        crowd._replace(pictures=pictures), DataOptions(purpose="evaluation")
    )
    assert dataset.fingerprint not in prints
    assert dataset.notes[1] == (
        "1 object is a group (crowd): it counts neither as found nor as missed"
    )


def test_classes_without_objects(tmp_path):
    given = source(tmp_path, [[GOOD], [GOOD]])._replace(classes=("cat", "a<b", "train"))
    dataset = dataset_from_boxes(given, DataOptions(purpose="evaluation"))
    assert dataset.classes == ("cat", "a<b", "train")
    # Here, train is a vehicle and not the name of a split.
    assert dataset.notes == ("2 of 3 classes have no object: 'a<b', 'train'",)


def test_data_without_objects_can_be_predicted(tmp_path):
    dataset = opened(tmp_path, [[], []], "prediction")
    assert (dataset.labelled, dataset.classes, dataset.task) == (False, (), "detection")


def test_copies_are_dropped(tmp_path):
    splits = ["train", "train", "train", "validation", "validation"]
    given = source(tmp_path, [[GOOD], [GOOD], [(1, 1, 9, 9)], [GOOD], [GOOD]], splits=splits)
    for name in ("1.png", "3.png"):
        (tmp_path / name).write_bytes((tmp_path / "0.png").read_bytes())
    dataset = dataset_from_boxes(given, DataOptions())
    assert any("1 of 2 validation images is an exact copy" in note for note in dataset.notes)
    rest = drop_duplicates(dataset)
    assert [name[-5:] for name in rest.train.names] == ["2.png"]
    assert rest.train.boxes[0].tolist() == [[1, 1, 9, 9]]
    assert [name[-5:] for name in rest.validation.names] == ["3.png", "4.png"]


def test_copies_with_different_boxes_are_contradictory(tmp_path):
    splits = ["train", "train", "train", "validation"]
    given = source(tmp_path, [[GOOD], [(1, 1, 9, 9)], [GOOD], [GOOD]], splits=splits)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    rest = drop_duplicates(dataset_from_boxes(given, DataOptions()))
    assert [name[-5:] for name in rest.train.names] == ["2.png"]
    assert "2 of them with different labels" in rest.notes[-1]


def test_decoded_images_are_kept_with_their_boxes(tmp_path):
    dataset = opened(tmp_path / "data", [[GOOD], [], [GOOD]])
    kept = cached(dataset, tmp_path / "cache")
    assert (kept.train.fetch(np.arange(3)) == dataset.train.fetch(np.arange(3))).all()
    assert kept.train.boxes is dataset.train.boxes
    assert kept.train.sizes is dataset.train.sizes


def test_images_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 1), np.uint8)
    images[5] = images[0]
    samples = DetectionArrays(
        images, [[[1, 1, 4, 5]]] * 6, [[row % 2] for row in range(6)], [str(n) for n in range(6)]
    )
    splits = ["train"] * 3 + ["validation"] * 2 + ["test"]
    dataset = dataset_from_box_arrays("toy", samples, ("a", "b"), DataOptions(), splits=splits)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 2, 1)
    assert dataset.test.labels[0].tolist() == [1]
    assert "1 of 1 test images is an exact copy of a training image" in dataset.notes[0]
    moved = DetectionArrays(images, [[[1, 1, 4, 6]]] * 6, samples.labels, samples.names)
    other = dataset_from_box_arrays("toy", moved, ("a", "b"), DataOptions(), splits=splits)
    assert other.fingerprint != dataset.fingerprint
    inspected = dataset_from_box_arrays(
        "toy", samples, ("a", "b"), DataOptions(purpose="inspection"), splits=splits
    )
    assert (len(inspected.train), inspected.inspection.splits) == (6, splits)
