"""Samples with boxes: files and arrays."""

import numpy as np
import pytest
from boxes import write_pictures

from cnnforge.data import DetectionArrays, DetectionFiles, Objects, letterbox


def objects(*, count=3):
    return Objects(
        [np.array([[1.0, 2, 11, 12]])] * (count - 1) + [np.zeros((0, 4))],
        [np.array([1], np.int32)] * (count - 1) + [np.zeros(0, np.int32)],
        [np.array([False])] * (count - 1) + [np.zeros(0, bool)],
        np.array([[30, 40]] * count, np.int64),
    )


def test_files_are_letterboxed(tmp_path):
    names = write_pictures(tmp_path, 3)
    files = [str(tmp_path / name) for name in names]
    samples = DetectionFiles(files, objects(), (32, 32, 3), list("abc"))
    image = samples.fetch(np.array([1]))[0]
    # 40 x 30 pixels become 32 x 24, with 4 gray rows above and below.
    assert letterbox((30, 40), (32, 32))[2:] == (0, 4, 32, 24)
    assert (image[:4] == 114).all()
    assert (image[28:] == 114).all()
    assert image[4:28].std() > 1
    assert (samples.ids, len(samples)) == (list("abc"), 3)
    assert samples.boxes[0].tolist() == [[1, 2, 11, 12]]
    assert samples.labels[2].shape == (0,)
    assert samples.sizes.tolist() == [[30, 40]] * 3
    assert samples.resized((24, 24, 1)).fetch(np.array([0])).shape == (1, 24, 24, 1)
    with pytest.raises(ValueError, match="2 files and 3"):
        DetectionFiles(files[:2], objects(), (32, 32, 3))


def test_some_of_the_objects():
    some = objects().some(np.array([2, 0]))
    assert [len(each) for each in some.boxes] == [0, 1]
    assert some.sizes.shape == (2, 2)


def test_arrays_have_the_size_of_their_images():
    images = np.zeros((2, 6, 8, 1), np.uint8)
    samples = DetectionArrays(images, [np.zeros((0, 4)), [[1, 2, 3, 4]]], [[], [7]], ["a", "b"])
    assert samples.sizes.tolist() == [[6, 8], [6, 8]]
    assert samples.boxes[1].dtype == np.float64
    assert samples.labels[1].dtype == np.int32
    assert samples.crowd[1].tolist() == [False]
    fetched = samples.fetch(np.array([1, 1]))
    fetched[:] = 9
    assert not samples.images.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 6, 8), np.uint8)}, "expected uint8 of shape"),
        ({"images": np.zeros((1, 6, 8, 1), np.float32)}, "images are float32"),
        ({"names": ["a", "b"]}, "1 images, boxes of 1, labels of 1 and 2 names"),
        ({"labels": [[1, 2]]}, "a has 1 boxes, 2 labels and 2 values of crowd"),
    ],
)
def test_what_does_not_fit(change, message):
    given = {
        "images": np.zeros((1, 6, 8, 1), np.uint8),
        "boxes": [[[1, 2, 3, 4]]],
        "labels": [[0]],
        "names": ["a"],
    }
    with pytest.raises(ValueError, match=message):
        DetectionArrays(**{**given, **change})
