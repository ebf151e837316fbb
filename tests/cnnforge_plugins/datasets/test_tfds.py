"""Datasets of TensorFlow Datasets, with a stand-in for that package."""

import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions
from cnnforge.errors import CnnforgeError, DataError, UsageError
from cnnforge_plugins.datasets.tfds import load

KINDS = ["cat", "dog", "elk"]


def array(seed):
    return np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)


def png(seed):
    file = io.BytesIO()
    Image.fromarray(array(seed)).save(file, "PNG")
    return file.getvalue()


def rows(count, first=0, image=png, label=lambda n: n % 3):
    return [{"image": image(n), "label": label(n)} for n in range(first, first + count)]


@pytest.fixture
def fake(monkeypatch):
    """Return a function that installs a stand-in with the given splits and features."""

    def install(splits, features=None, error=None):
        module = ModuleType("tensorflow_datasets")
        features = features or {"image": object(), "label": SimpleNamespace(names=KINDS)}

        class Builder:
            info = SimpleNamespace(features=features)

            def download_and_prepare(self, file_format):
                assert file_format == "array_record"
                if error:
                    raise error

            def as_data_source(self, decoders):
                assert set(decoders) == {"image"}
                return splits

        module.builder = lambda name: Builder()
        module.decode = SimpleNamespace(SkipDecoding=object)
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)

    return install


@pytest.mark.parametrize(
    "image", [png, array, lambda n: np.array(png(n), object), lambda n: np.bytes_(png(n))]
)
def test_images_and_splits_are_read(fake, image):
    fake({"train": rows(12, image=image), "test": rows(6, 20, image)})
    dataset = load("beans", DataOptions())
    assert dataset.name == "tfds:beans"
    assert dataset.classes == tuple(KINDS)
    assert len(dataset.train) + len(dataset.validation) == 12
    assert dataset.test.names[2] == "beans/test 2"
    np.testing.assert_array_equal(
        dataset.test.fetch(np.arange(6)), np.stack([array(n) for n in range(20, 26)])
    )
    assert dataset.test.labels.tolist() == [n % 3 for n in range(20, 26)]


def test_a_gray_image_is_gray(fake):
    fake({"train": rows(12, image=lambda n: array(n)[..., :1])})
    assert load("mnist", DataOptions()).image_shape == (5, 6, 1)


def test_other_splits_are_told(fake):
    fake({"train": rows(12), "unlabelled": rows(5, label=lambda n: -1)})
    dataset = load("stl10", DataOptions())
    assert "splits that are not used: 'unlabelled'" in dataset.notes


def test_a_test_split_without_labels_is_left_out(fake):
    fake({"train": rows(12), "validation": rows(6, 20), "test": rows(5, 40, label=lambda n: -1)})
    dataset = load("x", DataOptions())
    assert dataset.test is None
    assert len(dataset.validation) == 6
    assert "the 5 images of the test split have no labels: left out" in dataset.notes


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"audio": 1}, "has the features audio: expected a dataset with the features image and"),
        (
            {"image": 1, "label": SimpleNamespace(feature=SimpleNamespace(names=KINDS))},
            r"several labels for one image.*\(multi-label\)",
        ),
        ({"image": 1, "label": 1.5}, "labels of the type float: expected a ClassLabel"),
    ],
)
def test_other_tasks_are_named(fake, features, message):
    fake({"train": rows(12)}, features)
    with pytest.raises(DataError, match=message):
        load("x", DataOptions())


@pytest.mark.parametrize("error", [ValueError("no such\ndataset"), ConnectionError("no network")])
def test_a_dataset_that_cannot_be_prepared_is_named(fake, error):
    fake({}, error=error)
    with pytest.raises(DataError, match=r"cannot open 'x': .*no .*catalog lists") as found:
        load("x", DataOptions())
    assert "\n" not in str(found.value)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(CnnforgeError, match=r"type: pip install 'cnnforge\[tfds\]'"):
        load("beans", DataOptions())
    with pytest.raises(UsageError, match="tfds needs the name of a dataset"):
        load(None, DataOptions())


def test_an_empty_split_is_named(fake):
    fake({"train": []})
    with pytest.raises(DataError, match="tfds:x has no images"):
        load("x", DataOptions())
