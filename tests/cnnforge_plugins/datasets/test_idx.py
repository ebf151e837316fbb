"""Folders of IDX files as people bring them."""

import gzip
import os
import struct

import numpy as np
import pytest

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.idx import load, read_idx

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 4, 6), np.uint8)
LABELS = (np.arange(20) % 3).astype(np.uint8)
DEBIAN = "/usr/share/datasets/fashion-mnist"


def idx(array, kind=8):
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.tobytes()


def write(folder, files, pack=False):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        content = idx(content) if isinstance(content, np.ndarray) else content
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(folder)


def opened(folder, purpose="training", **options):
    return load(str(folder), DataOptions(purpose=purpose, **options))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-{}-idx{}-ubyte", "t10k-{}-idx{}-ubyte"),
        ("train-{}-idx{}-ubyte.gz", "t10k-{}-idx{}-ubyte.gz"),
        ("train-{}.idx{}-ubyte", "t10k-{}.idx{}-ubyte"),
        ("emnist-letters-train-{}-idx{}-ubyte.gz", "emnist-letters-test-{}-idx{}-ubyte.gz"),
        ("train_{}_idx{}_ubyte", "test_{}_idx{}_ubyte"),
        ("Train-{}-idx{}-UBYTE", "T10K-{}-idx{}-UBYTE"),
        ("train-{}-ubyte.gz", "test-{}-ubyte.gz"),
    ],
)
def test_every_spelling_of_the_files_is_known(tmp_path, train, test):
    write(
        tmp_path,
        {
            train.format("images", 3): IMAGES,
            train.format("labels", 1): LABELS,
            test.format("images", 3): IMAGES[:6][::-1],
            test.format("labels", 1): LABELS[:6][::-1],
            "LICENSE": b"x",
        },
    )
    dataset = opened(tmp_path)
    assert dataset.classes == ("0", "1", "2")
    assert len(dataset.train) + len(dataset.validation) == 20
    assert dataset.test.labels.tolist() == LABELS[:6][::-1].tolist()
    np.testing.assert_array_equal(dataset.test.fetch(np.arange(6))[..., 0], IMAGES[:6][::-1])
    rows = [int(name.split()[-1]) for name in dataset.train.names]
    np.testing.assert_array_equal(dataset.train.fetch(np.arange(len(rows)))[..., 0], IMAGES[rows])
    evaluated = opened(tmp_path, "evaluation")
    assert (len(evaluated.train), len(evaluated.test)) == (20, 6)


def test_only_a_part_may_be_there(tmp_path):
    write(tmp_path, {"t10k-images-idx3-ubyte": IMAGES, "t10k-labels-idx1-ubyte": LABELS})
    assert len(opened(tmp_path, "evaluation").train) == 20
    with pytest.raises(DataError, match=r"all images .* are for .*nothing is left for training"):
        opened(tmp_path)


def test_images_without_labels_can_be_predicted(tmp_path):
    write(tmp_path, {"train-images-idx3-ubyte": IMAGES})
    assert not opened(tmp_path, "prediction").labelled
    with pytest.raises(DataError, match="no labels for train"):
        opened(tmp_path)


def test_one_file_of_a_folder_may_be_named(tmp_path):
    for part in ("digits", "letters"):
        write(
            tmp_path,
            {
                f"emnist-{part}-train-{kind}-ubyte": array
                for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
            },
        )
    with pytest.raises(DataError, match="several files of images for one split"):
        opened(tmp_path)
    dataset = opened(tmp_path / "emnist-letters-train-images-idx3-ubyte")
    assert len(dataset.train) + len(dataset.validation) == 20


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no IDX files: expected files such as"),
        ({"train-labels-idx1-ubyte": LABELS}, "has only labels"),
        (
            {"train-images-idx3-ubyte": IMAGES, "train-labels-idx1-ubyte": LABELS[:5]},
            "20 images and 5 labels",
        ),
        (
            {"train-images-idx3-ubyte": idx(IMAGES)[:-7], "train-labels-idx1-ubyte": LABELS},
            r"damaged: expected 480 bytes for the shape \(20, 4, 6\), got only 473",
        ),
        (
            {"train-images-idx3-ubyte": b"<html>404</html>", "train-labels-idx1-ubyte": LABELS},
            "not an IDX file; it begins with b'<htm'",
        ),
        (
            {"train-images-idx3-ubyte": b"", "train-labels-idx1-ubyte": LABELS},
            "not an IDX file; it begins with b''",
        ),
        (
            {"train-images-idx3-ubyte": LABELS, "train-labels-idx1-ubyte": IMAGES},
            r"uint8 of shape \(20,\): expected images",
        ),
        (
            {"train-images-idx3-ubyte": IMAGES, "train-labels-idx1-ubyte": IMAGES[:, 0]},
            r"labels of shape \(20, 6\)",
        ),
        (
            {
                "train-images-idx3-ubyte": idx(IMAGES[..., None].repeat(4, -1)),
                "train-labels-idx1-ubyte": LABELS,
            },
            r"images of shape \(4, 6, 4\): expected",
        ),
        (
            {
                "train-images-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**31] * 3),
                "train-labels-idx1-ubyte": LABELS,
            },
            "damaged: its header gives the shape",
        ),
        (
            {
                "train-images-idx3-ubyte": IMAGES,
                "train-labels-idx1-ubyte": LABELS,
                "t10k-images-idx3-ubyte": IMAGES[:, :3],
                "t10k-labels-idx1-ubyte": LABELS,
            },
            "images of 3x6x1 and 4x6x1",
        ),
        (
            {
                "train-images-idx3-ubyte": IMAGES[:4],
                "train-labels-idx1-ubyte": LABELS[:4],
                "t10k-images-idx3-ubyte": IMAGES[:1],
                "t10k-labels-idx1-ubyte": LABELS[:1] + 9,
            },
            "the class '9' has images for testing and none for training",
        ),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_a_truncated_gzip_file_is_named(tmp_path):
    packed = gzip.compress(idx(IMAGES))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cannot be read: .*copy or download it again"):
        opened(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        opened(tmp_path / "missing")
    with pytest.raises(UsageError, match="idx needs a folder"):
        load(None, DataOptions())


@pytest.mark.parametrize(("kind", "dtype"), [(9, "i1"), (11, "i2"), (12, "i4"), (13, "f4")])
def test_other_types_are_read_in_the_order_of_the_machine(tmp_path, kind, dtype):
    array = np.arange(-3, 3).astype(f">{dtype}")
    (tmp_path / "x").write_bytes(idx(array, kind))
    read = read_idx(str(tmp_path / "x"))
    assert read.dtype == np.dtype(dtype)
    assert read.tolist() == array.tolist()


@pytest.mark.skipif(not os.path.isdir(DEBIAN), reason="needs Debian's dataset-fashion-mnist")
def test_the_package_of_debian_is_read():
    dataset = opened(DEBIAN)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [
        48000,
        12000,
        10000,
    ]
    assert dataset.classes == tuple("0123456789")
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
