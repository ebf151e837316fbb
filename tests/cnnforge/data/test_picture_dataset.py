"""Datasets made from image files."""

import gc
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import (
    DataOptions,
    PictureFile,
    SkippedFile,
    check_pictures,
    dataset_from_files,
    file_ids,
)
from cnnforge.errors import DataError


def files_of(tmp_path, count=8, labels=("a", "b"), **fields):
    files = []
    for number in range(count):
        path = tmp_path / f"{number}.png"
        Image.new("L", (4, 4), number).save(path)
        files.append(PictureFile(str(path), labels[number % len(labels)], **fields))
    return files


def made(tmp_path, files, purpose="training", classes=("a", "b"), **more):
    options = DataOptions(purpose=purpose)
    pictures, skipped = check_pictures(str(tmp_path), files, options)
    return dataset_from_files(
        "files", str(tmp_path), pictures, classes, options, skipped=skipped, **more
    )


def test_only_training_splits_the_files(tmp_path):
    files = files_of(tmp_path)
    dataset = made(tmp_path, files)
    assert (len(dataset.train), len(dataset.validation)) == (6, 2)
    assert dataset.splits is not None
    assert [len(split.names) for split in dataset.splits] == [6, 2]
    used = made(tmp_path, files[::-1], "evaluation")
    assert list(used.train.names) == [file.path for file in files[::-1]]
    assert len(used.validation) == 0
    assert [used.classes[label] for label in used.train.labels] == ["b", "a"] * 4


def test_files_may_say_themselves_where_they_belong(tmp_path):
    files = [
        file._replace(split="validation" if number in (0, 3) else "train")
        for number, file in enumerate(files_of(tmp_path))
    ]
    dataset = made(tmp_path, files)
    assert [name[-5:] for name in dataset.validation.names] == ["0.png", "3.png"]
    with pytest.raises(DataError, match="nothing is left for training"):
        made(tmp_path, [file._replace(split="validation") for file in files])


def test_files_without_labels(tmp_path):
    dataset = made(tmp_path, files_of(tmp_path, labels=(None,)), "prediction", ())
    assert not dataset.labelled
    assert (len(dataset.train), dataset.classes) == (8, ())
    assert dataset.train.ids == list("01234567")


def test_what_was_left_out_is_said_with_the_error_that_it_causes(tmp_path):
    files = files_of(tmp_path)
    for file in files[1::2]:
        with open(file.path, "w") as broken:
            broken.write("<html>")
    with pytest.raises(DataError, match=r"only images of the class 'a'.*; 4 files were left out"):
        made(tmp_path, files, classes=("a",))


def test_ids_are_given_or_the_names_of_the_files(tmp_path):
    files = [file._replace(id=f"no. {n}") for n, file in enumerate(files_of(tmp_path))]
    dataset = made(tmp_path, files, "prediction", id_name="code")
    assert (dataset.id_name, dataset.train.ids[2]) == ("code", "no. 2")
    np.testing.assert_array_equal(dataset.train.labels, [0, 1] * 4)
    assert made(tmp_path, files, "prediction").id_name == "id"
    assert file_ids(["x/a.png", "y/b.jpg"]) == ["a", "b"]
    assert file_ids(["x/a.png", "y/z/a.png"]) == ["x/a.png", "y/z/a.png"]
    assert file_ids(["x/a.png", "x/a.jpg"]) == ["a.png", "a.jpg"]


def test_skipped_files_are_errors_if_nothing_else_is_there(tmp_path):
    skipped = [SkippedFile("x.png", "gone")]
    with pytest.raises(DataError, match=r"1 of 1 files.*x\.png: gone; convert, repair or"):
        check_pictures(str(tmp_path), [], DataOptions(), skipped)


def test_the_memory_for_an_image_is_small(tmp_path):
    """100,000 images more may take 150 MB at most, which is 1,500 bytes for an image."""

    def peak(count):
        files = []
        for number in range(count):
            path = tmp_path / f"a-name-of-usual-length-{number:06d}.png"
            if not path.exists():
                Image.fromarray(np.full((3, 4), number % 251, np.uint8)).save(path)
            files.append(PictureFile(str(path), "ab"[number % 2]))
        gc.collect()
        tracemalloc.start()
        try:
            pictures, _ = check_pictures(str(tmp_path), files, DataOptions())
            dataset = dataset_from_files("x", str(tmp_path), pictures, "ab", DataOptions())
            dataset.train.fetch(np.arange(8))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    more = peak(1100) - peak(100)
    print(more)
    assert more < 1000 * 1500
