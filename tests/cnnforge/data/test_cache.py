import os
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import AugmentedSamples, DataOptions, cached, dataset_from_arrays
from cnnforge.data.cache import make_cache_file
from cnnforge.data.picture_dataset import PictureFile, check_pictures, dataset_from_files
from cnnforge.errors import CnnforgeError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens ten images of two classes."""
    root = tmp_path / "data"
    root.mkdir()
    generator = np.random.default_rng(0)
    files = []
    for number in range(10):
        path = root / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (6, 5, 3), np.uint8)).save(path)
        files.append(PictureFile(str(path), "ab"[number % 2]))

    def call(test=0):
        files[:test] = [file._replace(split="test") for file in files[:test]]
        pictures, _ = check_pictures(str(root), files, DataOptions())
        return dataset_from_files("images:data", str(root), pictures, "ab", DataOptions())

    return call


def remove(dataset):
    for path in (*dataset.train.names, *dataset.validation.names):
        os.remove(path)


def all_images(dataset):
    parts = (dataset.train, dataset.validation)
    return [part.fetch(np.arange(len(part))[::-1]) for part in parts]


def test_a_complete_cache_needs_no_files(opened, tmp_path):
    plain = opened()
    expected = all_images(plain)
    first = cached(plain, tmp_path / "cache")
    assert "has 0 of 10 images, this run adds the others: 0.0 MB in" in first.notes[-1]
    for _ in range(2):
        for found, wanted in zip(all_images(first), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    # The caller may change what it gets.
    all_images(first)[0][:] = 0
    second = cached(plain, tmp_path / "cache")
    assert "the image cache has all images" in second.notes[-1]
    remove(plain)
    for found, wanted in zip(all_images(second), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert second.train.names == plain.train.names
    assert second.train.labels is plain.train.labels
    assert second.fingerprint == plain.fingerprint


def test_the_test_split_is_kept_too(opened, tmp_path):
    plain = opened(test=2)
    expected = plain.test.fetch(np.arange(2))
    first = cached(plain, tmp_path / "cache")
    assert "has 0 of 10 images" in first.notes[-1]
    first.test.fetch(np.arange(2))
    assert "has 2 of 10 images" in cached(plain, tmp_path / "cache").notes[-1]
    for path in plain.test.names:
        os.remove(path)
    again = cached(plain, tmp_path / "cache")
    np.testing.assert_array_equal(again.test.fetch(np.arange(2)), expected)
    # Other images of the same size in the test split do not change the fingerprint.
    other = replace(plain, test_digests=[bytes(32), bytes(32)])
    assert "has 0 of 10 images" in cached(other, tmp_path / "cache").notes[-1]


def test_files_that_nobody_uses_are_removed(opened, tmp_path):
    folder = tmp_path / "cache"
    plain = opened()
    cached(plain, folder)
    used = set(folder.iterdir())
    old, other = folder / "0123-train.cache", folder / "notes.txt"
    for path in (old, other, *used):
        path.touch()
        os.utime(path, (0, 0))
    # These files are used again, and no file is made.
    cached(plain, folder)
    assert old.exists()
    cached(opened(test=2), folder)
    assert not old.exists()
    assert {other, *used} < set(folder.iterdir())


def test_an_interrupted_epoch_is_continued(opened, tmp_path):
    plain = opened()
    rows = np.array([3, 0, 3])
    expected = plain.train.fetch(rows)
    cached(plain, tmp_path / "cache").train.fetch(rows)
    again = cached(plain, tmp_path / "cache")
    assert "has 2 of 10 images" in again.notes[-1]
    os.remove(plain.train.names[3])
    np.testing.assert_array_equal(again.train.fetch(rows), expected)


def test_two_runs_fill_one_file(opened, tmp_path):
    plain = opened()
    expected = plain.train.fetch(np.arange(4))
    one, two = (cached(plain, tmp_path / "cache").train for _ in range(2))
    one.fetch(np.arange(2))
    two.fetch(np.arange(2, 4))
    for path in plain.train.names[:4]:
        os.remove(path)
    for samples in (one, two):
        np.testing.assert_array_equal(samples.fetch(np.arange(4)), expected)


@pytest.mark.parametrize("damage", ["pixels", "checksums", "header", "truncated", "folder"])
def test_a_damaged_or_foreign_file_is_made_again(opened, tmp_path, damage):
    plain = opened()
    expected = all_images(plain)
    all_images(cached(plain, tmp_path / "cache"))
    for path in (tmp_path / "cache").iterdir():
        content = bytearray(path.read_bytes())
        if damage == "pixels":
            content[-100] ^= 1
        elif damage == "checksums":
            content[4096 + 8] ^= 1
        elif damage == "header":
            content[30] ^= 1
        elif damage == "truncated":
            content = content[:-1]
        path.write_bytes(content)
    made = cached(plain, tmp_path / "cache")
    for _ in range(2):
        for found, wanted in zip(all_images(made), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    remove(plain)
    for found, wanted in zip(all_images(cached(plain, tmp_path / "cache")), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_other_data_have_another_file(opened, tmp_path):
    plain = opened()
    all_images(cached(plain, tmp_path / "cache"))
    Image.new("RGB", (5, 6), "red").save(plain.train.names[0])
    other = opened()
    images = cached(other, tmp_path / "cache").train.fetch(np.arange(1))
    np.testing.assert_array_equal(images[0, 0, 0], [255, 0, 0])


def test_the_cache_holds_the_images_before_augmentation(opened, tmp_path):
    plain = opened()

    def invert(images, draws):
        return 255 - images

    made = cached(plain, tmp_path / "cache")
    rows = np.arange(4)
    for epoch in range(2):
        augmented = AugmentedSamples(made.train, [("invert", invert)], 0, epoch)
        np.testing.assert_array_equal(augmented.fetch(rows), 255 - plain.train.fetch(rows))


def test_a_full_disk_is_refused(opened, tmp_path, monkeypatch):
    plain = opened()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(9, 9, 100))
    with pytest.raises(CnnforgeError, match=r"--cache needs .* are free: make room, or set XDG_"):
        cached(plain, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(CnnforgeError, match=r"cannot be written: No space left on device: make"):
        make_cache_file(tmp_path / "cache" / "x.cache", "x", 2, (4, 4, 3))
    assert not list((tmp_path / "cache").iterdir())


def test_images_that_are_in_memory_are_not_cached(opened, tmp_path):
    images = np.zeros((8, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(8)
    labels, names = np.arange(8) % 2, list("abcdefgh")
    plain = dataset_from_arrays(
        "x", images, labels, names=names, classes=("a", "b"), options=DataOptions()
    )
    made = cached(plain, tmp_path / "cache")
    assert made.train is plain.train
    assert "--cache has no effect" in made.notes[-1]
    assert not (tmp_path / "cache").exists()
