"""Scenes that are made by code: the same for the same seed, epoch and index."""

import hashlib

import numpy as np
import pytest

from cnnforge.data import DataOptions, EpochSamples, samples_of_epoch, summarize
from cnnforge.errors import UsageError
from cnnforge_plugins.datasets import emoji
from cnnforge_plugins.datasets.mnist5k import load as load_digits
from cnnforge_plugins.detection_data import digits_in_scenes, emoji_in_scenes
from cnnforge_plugins.detection_data._scene_kernel import MAX_OBJECTS, make_scenes
from cnnforge_plugins.detection_data._scenes import Scenes, Sprites

HAS_EMOJI = emoji.LIST.is_file() and any(path.is_file() for path in emoji.FONTS)


@pytest.fixture(scope="module")
def dataset():
    return digits_in_scenes.load("60", DataOptions())


def test_new_scenes_in_every_epoch(dataset):
    assert isinstance(dataset.train, EpochSamples)
    assert (dataset.name, dataset.task) == ("digits_in_scenes:60", "detection")
    assert dataset.classes == tuple("0123456789")
    rows = np.arange(60)
    first, second = (samples_of_epoch(dataset.train, epoch) for epoch in (0, 1))
    assert first.fetch(rows).shape == (60, 128, 128, 1)
    assert (first.fetch(rows) != second.fetch(rows)).any(axis=(1, 2, 3)).all()
    assert first.boxes[0].tolist() != second.boxes[0].tolist()
    assert (dataset.train.fetch(rows) == first.fetch(rows)).all()


def test_a_scene_is_a_function_of_seed_epoch_and_index(dataset):
    rows = np.array([5, 17, 5])
    scenes = dataset.train.at_epoch(3)
    again = digits_in_scenes.load("60", DataOptions()).train.at_epoch(3)
    assert (scenes.fetch(rows) == again.fetch(np.arange(60))[rows]).all()
    more = digits_in_scenes.load("90", DataOptions()).train.at_epoch(3)
    assert (scenes.fetch(rows) == more.fetch(rows)).all()
    other = digits_in_scenes.load("60", DataOptions(seed=1)).train.at_epoch(3)
    assert (scenes.fetch(rows) != other.fetch(rows)).any(axis=(1, 2, 3)).all()


def test_scenes_do_not_change_between_versions():
    # A run that is resumed must get the scenes that it had.
    scenes = digits_in_scenes.load("2", DataOptions(seed=7)).train.at_epoch(2)
    content = b"".join(
        (np.round(boxes).astype("<i4").tobytes() + labels.astype("<i4").tobytes())
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True)
    )
    assert hashlib.sha256(content).hexdigest()[:16] == "c7d12babe07ce99b"


def test_boxes_fit_the_objects():
    # White discs on the digits' background: every object is as bright as its gain.
    side = 28
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = np.where(y**2 + x**2 < 13.5**2, 255, 0).astype(np.uint8)[None]
    sprites = Sprites(disc, np.zeros((1, side, side, 0), np.uint8), np.zeros(1, np.int32))
    scenes = Scenes("disc", sprites, 40, (128, 128, 1), 0, 0)
    images = scenes.fetch(np.arange(40))
    for image, boxes in zip(images, scenes.boxes, strict=True):
        assert 1 <= len(boxes) <= MAX_OBJECTS
        assert (boxes == np.round(boxes)).all()
        assert (boxes[:, :2] >= 1).all()
        assert (boxes[:, 2:] <= 127).all()
        for left, top, right, bottom in boxes.astype(int):
            middle = image[(top + bottom) // 2, left:right, 0]
            assert middle[2:-2].min() > 120
            assert 16 <= bottom - top <= 57


def test_digits_are_divided_as_in_mnist5k(monkeypatch):
    seen = {}

    def scenes_dataset(name, count, classes, parts, options):
        seen.update(zip(("train", "validation", "test"), parts, strict=True))

    monkeypatch.setattr(digits_in_scenes, "scenes_dataset", scenes_dataset)
    digits_in_scenes.load(None, DataOptions())
    digits = load_digits(None, DataOptions())
    keys = {name: {image.tobytes() for image in part.alpha} for name, part in seen.items()}
    assert [len(part.alpha) for part in seen.values()] == [4000, 500, 500]
    held_out = {image.tobytes() for image in digits.validation.images[..., 0]}
    assert keys["validation"] | keys["test"] == held_out
    assert not keys["validation"] & keys["test"]
    assert not keys["train"] & held_out
    for part in seen.values():
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() == counts.max()


def test_validation_does_not_depend_on_the_seed(dataset):
    other = digits_in_scenes.load(None, DataOptions(seed=5))
    assert (dataset.validation.images == other.validation.images).all()
    assert (len(dataset.validation), len(dataset.test), len(other.train)) == (300, 300, 8000)
    assert not (dataset.validation.images == dataset.test.images).all(axis=(1, 2, 3)).any()
    assert dataset.fingerprint != other.fingerprint
    assert dataset.fingerprint == digits_in_scenes.load("60", DataOptions()).fingerprint
    assert dataset.notes == ("60 new training scenes in every epoch, from seed 0",)
    assert dataset.splits is None


def test_other_purposes(dataset):
    used = digits_in_scenes.load("60", DataOptions(purpose="evaluation"))
    assert (len(used.train), len(used.validation), len(used.test)) == (300, 0, 300)
    assert used.fingerprint == dataset.fingerprint
    assert (used.train.images == dataset.validation.images).all()
    inspected = digits_in_scenes.load("60", DataOptions(purpose="inspection"))
    assert len(inspected.train) == 660
    assert inspected.inspection.splits.count("validation") == 300
    assert len(inspected.splits[0].digests) == 660


def test_size_and_color():
    options = DataOptions(image_size=(96, 160), color="rgb")
    wide = digits_in_scenes.load("8", options)
    images = wide.train.fetch(np.arange(8))
    assert images.shape == (8, 96, 160, 3)
    assert (images == images[..., :1]).all()
    assert wide.train.sizes.tolist() == [[96, 160]] * 8
    boxes = np.concatenate(wide.train.boxes)
    assert boxes[:, 2].max() <= 160
    assert boxes[:, 3].max() <= 96
    with pytest.raises(UsageError, match="scenes of 32x128 pixels have no room for objects"):
        digits_in_scenes.load("8", DataOptions(image_size=(32, 128)))


@pytest.mark.parametrize("argument", ["1", "0", "-3", "x", "2.5", "", "9" * 11, "1000001", "²"])
def test_the_argument_is_a_number_of_scenes(argument):
    with pytest.raises(UsageError, match="takes the number of training scenes in an epoch, from 2"):
        digits_in_scenes.load(argument, DataOptions())


def test_no_picture_is_kept(dataset):
    scenes = dataset.train.at_epoch(0)
    scenes.fetch(np.arange(60))
    arrays = [value for value in vars(scenes).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 60 * 128


def test_the_summary_counts_objects(dataset):
    total = sum(map(len, [*dataset.train.boxes, *dataset.validation.boxes, *dataset.test.boxes]))
    assert f"660 images of 128x128x1, with {total} objects in 10 classes" in summarize(dataset).line


def test_every_pixel_is_written(dataset):
    sprites = dataset.train._sprites
    made = []
    for fill in (0, 255):
        pixels = np.full((3, 128, 128, 1), fill, np.uint8)
        boxes, labels = np.zeros((3, MAX_OBJECTS, 4)), np.zeros((3, MAX_OBJECTS), np.int32)
        counts = np.zeros(3, np.int64)
        numbers, sides = np.array([0, 0, 0]), np.array([18, 56, 128, 128])
        make_scenes(
            *(numbers, np.arange(3), sprites.alpha, sprites.colors, sprites.labels, sides, False),
            *(pixels, boxes, labels, counts),
        )
        made.append(pixels)
    assert (made[0] == made[1]).all()


@pytest.mark.skipif(not HAS_EMOJI, reason="no font with emoji")
def test_emoji():
    dataset = emoji_in_scenes.load("20", DataOptions())
    assert (dataset.name, dataset.task, dataset.image_shape) == (
        *("emoji_in_scenes:20", "detection"),
        (128, 128, 3),
    )
    assert len(dataset.classes) == 7
    images = dataset.train.fetch(np.arange(20))
    assert (images.max(axis=3) - images.min(axis=3)).mean() > 20
    gray = emoji_in_scenes.load("20", DataOptions(color="grayscale"))
    luma = images @ np.array([0.299, 0.587, 0.114])
    assert abs(gray.train.fetch(np.arange(20))[..., 0] - luma).max() < 1
    assert gray.train.boxes[3].tolist() == dataset.train.boxes[3].tolist()


@pytest.mark.skipif(not HAS_EMOJI, reason="no font with emoji")
def test_emoji_keep_their_colors():
    drawn = emoji.draw_emoji(None)
    sprites = emoji_in_scenes._sprites(
        drawn.pictures[:20], drawn.on_black()[:20], np.zeros(20, np.int32)
    )
    alpha = sprites.alpha[..., None] / 255
    reduced = drawn.pictures[:20].reshape(20, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert abs(sprites.colors * alpha + 255 * (1 - alpha) - reduced).max() < 4
