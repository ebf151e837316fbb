"""Checks of augmentations: the built-in ones pass, and mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest

from cnnforge.plugin import AugmentationSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import augmentation_checks


def sound(images, draws):
    factor = draws.uniform(0.5, 1.0)[:, None, None, None]
    return (images * factor).astype(np.uint8)


def in_place(images, draws):
    images[:] = 255 - images
    return images


def of_floats(images, draws):
    return images * draws.uniform()[:, None, None, None]


def smaller(images, draws):
    return images[:, 1:]


def of_numpy(images, draws):
    return (images * np.random.random((len(images), 1, 1, 1))).astype(np.uint8)


def of_the_batch(images, draws):
    return (images // 2 + images.mean(0) // 2).astype(np.uint8)


def shifted(images, draws, sign=1):
    by = draws.integers(-3, 4)
    moved = np.stack([np.roll(image, k, 1) for image, k in zip(images, by, strict=True)])
    transforms = np.tile(np.eye(2, 3, dtype=np.float32), (len(images), 1, 1))
    transforms[:, 0, 2] = sign * by
    return moved, transforms


def shifted_back(images, draws):
    return shifted(images, draws, -1)


class Mixes:
    """Mixes each image with another, with a share of its own."""

    def partners(self, draws, count):
        return draws.integers(0, count)

    def mix(self, images, partners, draws):
        share = draws.uniform().astype(np.float32)
        mixed = share[:, None, None, None] * images + (1 - share)[:, None, None, None] * partners
        return mixed.astype(np.uint8), share


class MixesWithBeyond(Mixes):
    def partners(self, draws, count):
        return draws.integers(0, count) + 1


MADE = {}


def make(argument):
    return MADE["augment"]


def failures(augment):
    MADE["augment"] = augment
    spec = AugmentationSpec(name="mine", target=f"{__name__}:make", summary="one", plugin="test")
    found = {}
    for check in augmentation_checks(spec):
        status, message = check.result()
        if status == "failed":
            found[check.kind] = message
    return found


@pytest.mark.parametrize("augment", [sound, shifted, Mixes()])
def test_a_sound_augmentation_passes(augment):
    assert failures(augment) == {}


@pytest.mark.parametrize(
    ("augment", "check", "text"),
    [
        (3, "targets", "returns a int, expected a function"),
        (in_place, "shapes", "changes the images that it gets"),
        (of_floats, "shapes", "returned float64"),
        (smaller, "shapes", "expected uint8 of shape"),
        (of_numpy, "pure", "draw all random numbers from `draws`"),
        (of_the_batch, "pure", "differ if they are augmented again in other batches"),
        (shifted_back, "transforms", "but the augmentation moved the pixels to"),
        (MixesWithBeyond(), "shapes", "must return indices of training samples"),
    ],
)
def test_a_mistake_is_named(augment, check, text):
    found = failures(augment)
    assert list(found) == [check]
    assert text in found[check]


@pytest.mark.parametrize("name", discover().augmentations.names())
def test_the_built_in_augmentations_pass(name):
    for check in augmentation_checks(name):
        check()
