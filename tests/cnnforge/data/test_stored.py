"""Images inside other files, and the choice of the parts of a dataset."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import (
    ArraySamples,
    DataOptions,
    Dataset,
    ImageFiles,
    StoredImage,
    UnreadableImage,
    check_image,
    choose_parts,
    describe_image,
    read_image,
    reader_of,
)
from cnnforge.errors import DataError


def encoded(seed, form="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_an_image_in_a_file_is_read_like_a_file(tmp_path, form):
    content = encoded(1, form)
    (tmp_path / "one").write_bytes(content)
    (tmp_path / "all").write_bytes(b"before" + content + b"after")
    stored = StoredImage("all/one", reader_of(str(tmp_path / "all")), 6, len(content))
    one = tmp_path / "one"
    assert check_image(stored) == check_image(one)
    assert describe_image(stored) == describe_image(one)
    np.testing.assert_array_equal(read_image(stored, (8, 9, 3)), read_image(one, (8, 9, 3)))
    samples = ImageFiles([stored, str(one)], np.zeros(2), (8, 9, 3))
    assert samples.names == ("all/one", str(one))
    first, second = samples.fetch(np.arange(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("content", "size", "reason"),
    [
        (b"<html>", 6, "not an image that can be read; it begins with b'<html>'"),
        (b"", 0, "empty file"),
        (encoded(1)[:500], 500, "damaged"),
        (b"x", 2**31, "damaged: 2147483648 bytes, at most 1073741824 are read"),
    ],
)
def test_an_image_in_a_file_that_cannot_be_read_has_a_reason(tmp_path, content, size, reason):
    (tmp_path / "all").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"^a\.tar/x: ") as raised:
        check_image(StoredImage("a.tar/x", reader_of(str(tmp_path / "all")), 0, size))
    assert raised.value.reason.startswith(reason)


LABELS = np.array([0, 1] * 6)


def parts(splits, purpose="training", labels=LABELS):
    options = DataOptions(purpose=purpose, validation_fraction=0.5)
    return choose_parts("x", labels, ("a", "b"), splits, options)


def test_given_parts_are_kept():
    found = parts(["train"] * 6 + ["validation"] * 4 + ["test"] * 2)
    assert [part.tolist() for part in found.parts] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9],
        [10, 11],
    ]


def test_without_a_validation_split_it_is_taken_from_training():
    for splits in (["train"] * 8 + ["test"] * 4, [""] * 8 + ["test"] * 4):
        found = parts(splits)
        assert found.test.tolist() == [8, 9, 10, 11]
        assert sorted([*found.train, *found.validation]) == [*range(8)]
        assert len(found.validation) == 4


@pytest.mark.parametrize("purpose", ["evaluation", "prediction"])
def test_for_use_only_the_test_split_is_apart(purpose):
    found = parts(["train"] * 6 + ["validation"] * 4 + ["test"] * 2, purpose)
    assert [len(part) for part in found.parts] == [10, 0, 2]
    found = parts(["validation"] * 6 + ["test"] * 6, purpose)
    assert [len(part) for part in found.parts] == [12, 0, 0]


@pytest.mark.parametrize(
    ("splits", "labels", "message"),
    [
        (["test"] * 12, LABELS, "all images of x are for validation or testing: nothing is left"),
        (["validation"] * 12, LABELS, "all images of x are for validation: nothing is left"),
        (["train"] * 6 + ["test"] * 6, [0, 0, 0, 0, 0, 0, 1] + [0] * 5, "'b' has images for test"),
        (["train"] * 6 + ["test"] * 6, [0] * 12, "holds only images of the class 'a'"),
    ],
)
def test_parts_that_cannot_be_used_are_named(splits, labels, message):
    with pytest.raises(DataError, match=message):
        parts(splits, labels=np.array(labels))


def test_a_dataset_has_a_test_split_or_none():
    samples = ArraySamples(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), ["x", "y"])
    empty = ArraySamples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0), [])
    assert Dataset("x", ("a", "b"), samples, samples, "").test is None
    assert Dataset("x", ("a", "b"), samples, samples, "", test=samples).test is samples
    with pytest.raises(ValueError, match="test of dataset 'x' has 0 samples"):
        Dataset("x", ("a", "b"), samples, samples, "", test=empty)
