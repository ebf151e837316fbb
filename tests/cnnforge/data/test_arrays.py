import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions, dataset_from_arrays, fit
from cnnforge.errors import DataError


def build(images=None, labels=None, classes=("a", "b"), **arguments):
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 1)).astype(np.uint8)
    if labels is None:
        labels = np.arange(len(images)) % 2
    own = {
        name: arguments.pop(name) for name in ("split_seed", "ids", "id_name") if name in arguments
    }
    options = DataOptions(**arguments)
    return dataset_from_arrays(
        "arrays",
        images,
        labels,
        names=[f"row {row}" for row in range(len(images))],
        classes=classes,
        options=options,
        **own,
    )


def test_the_arrays_are_split_and_named():
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((6, 8, 1), np.uint8)
    images[:, 0, 1] = 99
    dataset = build(images)
    assert (len(dataset.train), len(dataset.validation)) == (16, 4)
    for part in (dataset.train, dataset.validation):
        values = part.fetch(np.arange(len(part)))[:, 0, 0, 0]
        assert [f"row {value}" for value in values] == list(part.names)
        np.testing.assert_array_equal(part.labels, values % 2)
    assert dataset.notes == ()


def test_size_and_color_are_those_of_the_options():
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3)).astype(np.uint8)
    dataset = build(images, image_size=(4, 5), color="grayscale")
    assert dataset.image_shape == (4, 5, 1)
    assert dataset.notes == ("20 of 20 images are resized to 4x5: their size is 6x8",)
    row = int(dataset.train.names[0].split()[1])
    expected = fit(Image.fromarray(images[row]), (4, 5, 1))
    np.testing.assert_array_equal(dataset.train.fetch(np.array([0]))[0], expected)
    assert build(images, max_size=4).image_shape == (3, 4, 3)
    assert "choose another size with --image-size" in build(images, max_size=4).notes[0]
    assert build(images, max_size=4, image_size=(6, 8)).notes == ()
    assert build(color="rgb").image_shape == (6, 8, 3)
    assert build().image_shape == (6, 8, 1)


def test_the_fingerprint_depends_on_data_split_and_shape():
    variants = [{}, {"seed": 1}, {"validation_fraction": 0.5}, {"color": "rgb"}]
    variants += [{"image_size": (6, 7)}, {"labels": (np.arange(20) + 1) % 2}]
    assert len({build(**variant).fingerprint for variant in variants}) == len(variants)
    assert build().fingerprint == build(strict=True).fingerprint
    assert build(split_seed=3, seed=1).fingerprint == build(split_seed=3).fingerprint


def test_copies_and_singleton_classes_are_noted():
    labels = np.array([0, 1] * 10)
    labels[7] = 2
    dataset = build(np.zeros((20, 2, 2, 1), np.uint8), labels, ("a", "b", "c"))
    assert dataset.notes[0] == "20 of 20 images are one color only; the first is row 0"
    assert "single image of the class 'c'" in dataset.notes[1]
    assert "4 of 4 validation images are exact copies" in dataset.notes[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_blank_images_are_counted(channels):
    images = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, channels)).astype(np.uint8)
    images[3] = images[3, 2, 2]
    images[1999] = 0
    images[5, ..., 0] = 7  # one color in one channel
    images[5, 0, 0, -1] = 8
    assert build(images).notes[0] == "2 of 2000 images are one color only; the first is row 3"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1, 1], "only images of the class 'b'"),
        ([], "no sample"),
        ([0, 1], "nothing is left for validation"),
    ],
)
def test_too_little_is_an_error(labels, message):
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    with pytest.raises(DataError, match=message):
        build(images, np.array(labels, np.int64))


def test_one_class_and_one_sample_are_enough_to_evaluate():
    image = np.zeros((1, 2, 2, 1), np.uint8)
    one = build(image, np.zeros(1, int), ("a", "b"), purpose="evaluation")
    assert (len(one.train), len(one.validation), one.labelled) == (1, 0, True)
    with pytest.raises(DataError, match="images of the class 'a': training needs at least two"):
        build(image, np.zeros(1, int), ("a", "b"))
    with pytest.raises(DataError, match="holds no sample"):
        build(image[:0], np.zeros(0, int), purpose="evaluation")


def test_ids_belong_to_the_samples_that_they_name():
    dataset = build(ids=[f"id {number}" for number in range(20)], id_name="image_id")
    assert dataset.id_name == "image_id"
    for part in (dataset.train, dataset.validation):
        assert [name.split()[1] for name in part.names] == [i.split()[1] for i in part.ids]
