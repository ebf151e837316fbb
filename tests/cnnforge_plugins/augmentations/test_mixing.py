"""Mixup, cutmix and erasing."""

import keras
import numpy as np
import pytest

from cnnforge.data import ArraySamples, AugmentedSamples, Draws
from cnnforge.tasks.classification import Classification
from cnnforge_plugins.augmentations.erasing import erasing
from cnnforge_plugins.augmentations.mixing import cutmix, mixup

COUNT = 300
LABELS = np.arange(COUNT, dtype=np.int32) % 3
# The value of an image is 60 times its class: what is mixed can be told from the values.
IMAGES = np.broadcast_to(60 * LABELS.astype(np.uint8)[:, None, None, None], (COUNT, 8, 10, 1))
SAMPLES = ArraySamples(IMAGES.copy(), LABELS, list(map(str, range(COUNT))))
TASK = Classification(("a", "b", "c"))


def read(*augmentations, indices=None, epoch=0):
    named = [(f"number {n}", it) for n, it in enumerate(augmentations)]
    augmented = AugmentedSamples(SAMPLES, named, 0, epoch)
    images, targets = TASK.read(augmented, np.arange(COUNT) if indices is None else indices)
    assert list(targets) == ["shares"]
    return images, targets["shares"]


@pytest.mark.parametrize(
    "augmentations",
    [(mixup(None),), (cutmix(None),), (mixup("1"), cutmix("0.5"))],
    ids=["mixup", "cutmix", "both"],
)
def test_the_shares_are_those_of_the_pixels(augmentations):
    images, shares = read(*augmentations)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    expected = shares @ np.array([0, 60, 120])
    # Every pixel is rounded, and cutmix mixes pixels that mixup has rounded.
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=0.51)
    assert ((shares > 0.01).sum(axis=1) > 1).mean() > 0.3
    part = np.array([7, 200, 3])
    few, few_shares = read(*augmentations, indices=part)
    np.testing.assert_array_equal(few, images[part])
    np.testing.assert_array_equal(few_shares, shares[part])
    assert (read(*augmentations, epoch=1)[1] != shares).any(axis=1).mean() > 0.5


def test_mixup_is_the_layer_of_keras():
    images, partners = np.random.default_rng(0).integers(0, 256, (2, 9, 5, 5, 3)).astype(np.uint8)
    result, weights = mixup("0.7").mix(images, partners, Draws(0, np.arange(9)))
    transformation = {
        "mix_weight": np.concatenate([weights, np.zeros(9, np.float32)]),
        "permutation_order": np.roll(np.arange(18), 9),
    }
    both = np.concatenate([images, partners]).astype(np.float32)
    expected = keras.layers.MixUp().transform_images(both, transformation)[:9]
    np.testing.assert_allclose(result, np.asarray(expected), atol=0.51)


def test_partners_come_from_all_samples():
    partners = mixup(None).partners(Draws(0, np.arange(20_000)), 50)
    counts = np.bincount(partners, minlength=50)
    assert len(counts) == 50
    assert counts.min() > 300


def test_cutmix_pastes_one_rectangle():
    images, partners = np.zeros((200, 9, 7, 1), np.uint8), np.ones((200, 9, 7, 1), np.uint8)
    result, weights = cutmix(None).mix(images, partners, Draws(0, np.arange(200)))
    for image, weight in zip(result[..., 0], weights, strict=True):
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.sum() == len(rows) * len(columns)
        assert np.array_equal(rows, np.arange(len(rows)) + rows[:1].sum())
        assert weight == np.float32(1 - image.sum() / 63)
    assert 0.4 < weights.mean() < 0.6
    assert weights.min() < 0.1
    assert weights.max() > 0.9


def test_erasing_changes_a_rectangle_of_some_images():
    images = np.full((400, 20, 30, 3), 128, np.uint8)
    result = erasing("0.25")(images, Draws(0, np.arange(400)))
    changed = (result != images).any(axis=3)
    erased = changed.any(axis=(1, 2))
    assert 70 < erased.sum() < 130
    for mask in changed[erased]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # The square roots of 0.02 to 0.33.
        assert 2 <= np.ptp(rows) + 1 <= 12
        assert 3 <= np.ptp(columns) + 1 <= 18
    noise = result[erased][changed[erased]]
    assert 120 < noise.mean() < 136
    assert 70 < noise.std() < 77
