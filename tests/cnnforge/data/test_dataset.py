import subprocess
import sys

import numpy as np
import pytest

from cnnforge.data import ArraySamples, DataOptions, Dataset, fingerprint, samples_of_epoch
from cnnforge.data.digests import Split, duplicates_note
from cnnforge.errors import DataError, UsageError


def samples(labels=(0, 1, 0), shape=(2, 3, 1)):
    count = len(labels)
    images = np.arange(count * np.prod(shape), dtype=np.uint8).reshape(count, *shape)
    return ArraySamples(images, np.array(labels), [f"sample {n}" for n in range(count)])


def test_array_samples_return_copies_in_the_asked_order():
    held = samples()
    batch = held.fetch(np.array([2, 0, 2]))
    assert batch.shape == (3, 2, 3, 1)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, held.images[[2, 0, 2]])
    batch[:] = 255
    assert held.images.max() < 255
    assert held.labels.dtype == np.int32
    assert len(held) == 3
    with pytest.raises(IndexError):
        held.fetch(np.array([3]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), "expected uint8 of shape"),
        (np.zeros((2, 4, 4, 1), np.float32), "images are float32"),
        (np.zeros((2, 4, 4, 2), np.uint8), "expected uint8 of shape"),
        (np.zeros((3, 4, 4, 1), np.uint8), "3 images, 2 labels and 2 names"),
    ],
)
def test_array_samples_refuse_other_arrays(images, message):
    with pytest.raises(ValueError, match=message):
        ArraySamples(images, np.array([0, 1]), ["a", "b"])


def test_a_dataset_knows_its_image_shape():
    dataset = Dataset("x", ("a", "b"), samples(), samples(), "")
    assert dataset.image_shape == (2, 3, 1)
    assert dataset.skipped == dataset.notes == ()


def test_a_dataset_refuses_splits_without_samples_or_with_missing_names():
    unnamed = samples((0, 1))
    unnamed.names = ["one"]
    with pytest.raises(ValueError, match="0 samples"):
        Dataset("x", ("a", "b"), samples(()), samples(), "")
    with pytest.raises(ValueError, match="2 samples and 1 names"):
        Dataset("x", ("a", "b"), samples(), unnamed, "")
    assert len(Dataset("x", ("a", "b"), samples(), samples(()), "").validation) == 0


class Drawn(ArraySamples):
    """Samples that are drawn again for each epoch."""

    def at_epoch(self, epoch):
        images = np.full_like(self.images, epoch)
        return ArraySamples(
            images[epoch // 9 :], self.labels[epoch // 9 :], self.names[epoch // 9 :]
        )


def test_samples_of_an_epoch():
    fixed = samples((0, 1))
    assert samples_of_epoch(fixed, 3) is fixed
    drawn = Drawn(fixed.images, fixed.labels, fixed.names)
    assert samples_of_epoch(drawn, 3).fetch(np.array([1])).max() == 3
    with pytest.raises(DataError, match="epoch 10 has 1 training samples, and the dataset has 2"):
        samples_of_epoch(drawn, 9)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": (0, 3)},
        {"image_size": (3,)},
        {"image_size": (2.5, 3)},
        {"color": "blue"},
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"validation_fraction": float("nan")},
        {"seed": -1},
    ],
)
def test_options_outside_of_their_range_are_the_users_mistake(options):
    with pytest.raises(UsageError):
        DataOptions(**options)


def split(labels, names, digests):
    return Split(np.array(labels, np.int32), names, digests)


def test_a_fingerprint_changes_with_everything_it_is_made_from():
    one, two = b"1" * 32, b"2" * 32
    base = [("a", "b"), (2, 2, 1), split([0], ["x"], [one]), split([1], ["y"], [two])]
    variants = [
        base,
        [("a", "c"), *base[1:]],
        [("ab", ""), *base[1:]],
        [base[0], (2, 2, 3), *base[2:]],
        [*base[:2], split([1], ["x"], [one]), base[3]],
        [*base[:2], split([0], ["z"], [one]), base[3]],
        [*base[:2], split([0], ["x"], [two]), base[3]],
        [*base[:2], base[3], base[2]],
        [("a", "b", "x"), base[1], split([0], [], [one]), base[3]],
        [*base[:2], split([0, 1], ["x", "y"], [one, two]), split([], [], [])],
    ]
    assert len({fingerprint(*variant) for variant in variants}) == len(variants)
    assert fingerprint(*base) == fingerprint(*base)


def test_a_fingerprint_takes_names_that_are_not_text():
    assert len(fingerprint(("\udcff", "b"), (1, 1, 1), split([], [], []), split([], [], []))) == 64


def test_copies_in_both_splits_are_counted():
    assert duplicates_note([b"a", b"b"], [b"c"]) == ()
    assert duplicates_note([b"a", b"b"], [b"b", b"c"])[0].startswith("1 of 2 validation images is")
    assert duplicates_note([b"a", b"b"], [b"b", b"b"])[0].startswith("2 of 2 validation images are")
    assert duplicates_note([b"a"], [b"c"], [b"a", b"d", b"e"])[0].startswith(
        "1 of 3 test images is an exact copy of a training image"
    )
    assert duplicates_note([b"a"], [b"a"], [b"a", b"d"])[0].startswith(
        "1 of 1 validation images and 1 of 2 test images are exact copies of a training image"
    )


def test_the_data_package_imports_no_framework():
    code = (
        "import sys, cnnforge.data; "
        "print(sorted({'keras', 'tensorflow', 'matplotlib', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_classes_of_any_plugin_are_in_normal_form():
    dataset = Dataset("d", ("e\u0301", "b "), samples(), samples(), "")
    assert dataset.classes == ("\xe9", "b\\x20")
