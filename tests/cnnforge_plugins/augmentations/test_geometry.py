"""Shifting and flipping."""

import numpy as np
import pytest

from cnnforge.data import Draws, transform_points
from cnnforge_plugins.augmentations.geometry import flip, shift

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 7, 6, 3)).astype(np.uint8)


def moved(image, down, right, most):
    """The image, moved, from one with a border that repeats its edge."""
    wide = np.pad(image, ((most, most), (most, most), (0, 0)), "edge")
    height, width, _ = image.shape
    return wide[most - down : most - down + height, most - right : most - right + width]


@pytest.mark.parametrize(("argument", "most"), [(None, 2), ("1", 1), ("9", 9)])
def test_shift(argument, most):
    before = IMAGES.copy()
    result, transforms = shift(argument)(IMAGES, Draws(3, np.arange(200)))
    np.testing.assert_array_equal(IMAGES, before)
    draws = Draws(3, np.arange(200))
    down, right = draws.integers(-most, most + 1), draws.integers(-most, most + 1)
    assert set(down) == set(right) == set(range(-most, most + 1))
    assert result.dtype == np.uint8
    points = transform_points(np.tile(np.float32([2.5, 3.5]), (200, 1, 1)), transforms)
    np.testing.assert_array_equal(points[:, 0], np.stack([2.5 + right, 3.5 + down], 1))
    for index, image in enumerate(IMAGES):
        np.testing.assert_array_equal(result[index], moved(image, down[index], right[index], most))


def test_flip():
    result, transforms = flip(None)(IMAGES, Draws(3, np.arange(200)))
    same = (result == IMAGES).all(axis=(1, 2, 3))
    mirrored = (result == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 70 < same.sum() < 130
    assert result.dtype == np.uint8
    # The centre of the second pixel of six becomes that of the fifth.
    points = transform_points(np.tile(np.float32([1.5, 0.5]), (200, 1, 1)), transforms)
    assert points[same].tolist() == [[[1.5, 0.5]]] * same.sum()
    assert points[mirrored].tolist() == [[[4.5, 0.5]]] * mirrored.sum()


@pytest.mark.parametrize("argument", ["", "0", "-1", "far"])
def test_wrong_arguments(argument):
    with pytest.raises(ValueError, match=f"1 or more, or a fraction such as 0.1, got {argument!r}"):
        shift(argument)
    with pytest.raises(ValueError, match=f"takes no argument, got {argument!r}"):
        flip(argument)
