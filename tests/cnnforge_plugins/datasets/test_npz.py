"""Files of NumPy arrays as people bring them."""

import io
import zipfile

import numpy as np
import pytest

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.npz import load

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (20, 4, 6), np.uint8)
COLOR = RANDOM.integers(0, 256, (20, 4, 6, 3), np.uint8)
LABELS = np.arange(20) % 3
WORDS = np.array(["cat", "dog", "elk"])[LABELS]


def opened(tmp_path, purpose="training", save=np.savez, args=(), **arrays):
    save(tmp_path / "x.npz", *args, **arrays)
    return load(str(tmp_path / "x.npz"), DataOptions(purpose=purpose))


def pixels(dataset):
    rows = [int(name.split()[-1]) for name in dataset.train.names]
    return rows, dataset.train.fetch(np.arange(len(rows)))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("x", "y"),
        ("data", "target"),
        ("arr_0", "arr_1"),
    ],
)
def test_every_spelling_of_the_arrays_is_known(tmp_path, images, labels):
    dataset = opened(tmp_path, **{images: GRAY, labels: LABELS})
    assert dataset.classes == ("0", "1", "2")
    assert dataset.test is None
    rows, read = pixels(dataset)
    np.testing.assert_array_equal(read[..., 0], GRAY[rows])


@pytest.mark.parametrize(
    ("images", "expected", "note"),
    [
        (GRAY, GRAY[..., None], ""),
        (GRAY[..., None], GRAY[..., None], ""),
        (COLOR, COLOR, ""),
        (COLOR.transpose(0, 3, 1, 2), COLOR, r"read as (N, C, H, W)"),
        (GRAY[:, None], GRAY[..., None], r"read as (N, C, H, W)"),
        (COLOR / 255, COLOR, "floats from 0 to 1"),
        ((COLOR / 255).astype("f4"), COLOR, "floats from 0 to 1"),
        (COLOR.astype("f4"), COLOR, ""),
        (GRAY.astype("i8"), GRAY[..., None], ""),
        (GRAY > 99, (GRAY > 99)[..., None] * np.uint8(255), ""),
        ((GRAY > 99).astype("u1"), (GRAY > 99)[..., None].astype("u1"), "almost black"),
    ],
)
def test_images_are_understood(tmp_path, images, expected, note):
    dataset = opened(tmp_path, images=images, labels=LABELS)
    rows, read = pixels(dataset)
    np.testing.assert_array_equal(read, expected[rows])
    assert any(note in text for text in dataset.notes) or not note


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS, ("0", "1", "2")),
        (LABELS[:, None], ("0", "1", "2")),
        (np.eye(3)[LABELS], ("0", "1", "2")),
        (LABELS.astype("f4"), ("0", "1", "2")),
        (LABELS.astype("u1") + 7, ("7", "8", "9")),
        (WORDS, ("cat", "dog", "elk")),
        (WORDS.astype("S"), ("cat", "dog", "elk")),
    ],
)
def test_labels_are_understood(tmp_path, labels, classes):
    dataset = opened(tmp_path, images=GRAY, labels=labels)
    assert dataset.classes == classes
    rows, _ = pixels(dataset)
    assert dataset.train.labels.tolist() == LABELS[rows].tolist()


def test_the_splits_of_keras_and_of_medmnist_are_kept(tmp_path):
    dataset = opened(tmp_path, x_train=GRAY, y_train=LABELS, x_test=GRAY[:6], y_test=LABELS[:6])
    assert len(dataset.train) + len(dataset.validation) == 20
    assert dataset.test.names[0] == "x_test 0"
    parts = {
        f"{part}_{kind}": array
        for part in ("train", "val", "test")
        for kind, array in (("images", GRAY), ("labels", LABELS[:, None]))
    }
    dataset = opened(tmp_path, save=np.savez_compressed, **parts)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [20] * 3
    predicted = opened(tmp_path, "prediction", args=(GRAY, LABELS, GRAY[:6], LABELS[:6]))
    assert (len(predicted.train), predicted.test) == (20, None)
    assert predicted.notes == ("images of the test part that are left out: 6",)
    dataset = opened(tmp_path, args=(GRAY, LABELS, GRAY[:6], LABELS[:6]))
    assert len(dataset.test) == 6


def test_names_of_classes_are_taken_from_the_file(tmp_path):
    dataset = opened(tmp_path, images=GRAY, labels=LABELS, class_names=["cat", "dog", "elk"])
    assert dataset.classes == ("cat", "dog", "elk")
    with pytest.raises(DataError, match="the label 2 for images 2: expected labels from 0 to 1"):
        opened(tmp_path, images=GRAY, labels=LABELS, class_names=["cat", "dog"])


def test_images_without_labels_can_be_predicted(tmp_path):
    assert not opened(tmp_path, "prediction", images=GRAY).labelled
    with pytest.raises(DataError, match="no labels for images"):
        opened(tmp_path, images=GRAY)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([1, "x"], object), "labels": LABELS}, "images is an array of Python"),
        ({"images": GRAY, "labels": WORDS.astype(object)}, "labels is an array of Python objects"),
        ({"weights": GRAY}, "has weights: expected x_train and y_train"),
        ({}, "has no arrays"),
        ({"images": GRAY.reshape(20, 24), "labels": LABELS}, r"\(20, 24\), one row of values"),
        ({"x": GRAY[:, :, :4].reshape(20, 16), "y": LABELS}, r"\.reshape\(-1, 4, 4\)"),
        ({"images": COLOR.repeat(2, -1), "labels": LABELS}, "4 channels|channels; expected 1 or 3"),
        ({"images": np.zeros((20, 8, 8, 4), "u1"), "labels": LABELS}, r"4 channels \(RGBA\)"),
        ({"images": GRAY * 257.0, "labels": LABELS}, "divide 16-bit values by 257"),
        ({"images": COLOR / 127.5 - 1, "labels": LABELS}, "add 1, multiply by 127.5"),
        ({"images": COLOR / 51 - 1, "labels": LABELS}, "undo the normalization"),
        ({"images": COLOR * np.nan, "labels": LABELS}, "not finite"),
        ({"images": GRAY, "labels": LABELS[:7]}, "20 images and 7 labels for images"),
        ({"images": GRAY, "labels": LABELS + 0.5}, "not measured values"),
        (
            {"images": GRAY, "labels": (RANDOM.random((20, 5)) > 0.5).astype(int)},
            r"classes for image \d+: .*\(multi-label\) are not read",
        ),
        ({"images": GRAY[:0], "labels": LABELS[:0]}, "holds no sample"),
        ({"images": GRAY, "labels": LABELS * 0}, "only images of the class '0'"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, **arrays)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "x.npz"
    np.save(tmp_path / "x.npy", GRAY)
    (tmp_path / "x.npy").rename(path)
    cases = {"one array": path.read_bytes(), "not a .npz file": b"<html>", "damaged": b"PK\3\4xx"}
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load(str(path), DataOptions())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(DataError, match="zip archive with other files"):
        load(str(path), DataOptions())
    for bad, message in ((str(tmp_path), "is a folder"), ("no.npz", "does not exist")):
        with pytest.raises(UsageError, match=message):
            load(bad, DataOptions())
    with pytest.raises(UsageError, match="npz needs a file"):
        load(None, DataOptions())


def test_a_damaged_member_is_named(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=GRAY, labels=LABELS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load(str(tmp_path / "x.npz"), DataOptions())


def test_t23_arrays_that_do_not_fit_into_the_memory_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=np.zeros((30, 1000, 1000), np.uint8), labels=np.arange(30))
    monkeypatch.setattr("cnnforge_plugins.datasets.npz.available_memory", lambda: 20_000_000)
    with pytest.raises(DataError, match=r"has 30 MB of arrays, and 20 MB of memory are free: make"):
        load(str(path), DataOptions())


def test_t23_an_array_that_is_not_as_large_as_it_says_is_damaged(tmp_path):
    path = tmp_path / "x.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content.getvalue())
    with pytest.raises(DataError, match=r"is damaged .*: copy or download it again"):
        load(str(path), DataOptions())
