"""Mosaic: windows of four images."""

import numpy as np
import pytest

from cnnforge.data import Draws, transform_points
from cnnforge_plugins.augmentations.mosaic import mosaic

H, W = 40, 60


def ramp(offset: int) -> np.ndarray:
    """An image whose first channel grows to the right and whose second one grows downwards."""
    y, x = np.mgrid[:H, :W] + 0.5
    return np.stack([x * 2 + offset, y * 2 + offset, np.full((H, W), offset)], -1).astype(np.uint8)


def composed(argument: str | None = "1", count: int = 50):
    images = np.stack([ramp(0)] * count)
    partners = np.stack([np.stack([ramp(offset) for offset in (40, 80, 120)])] * count)
    draws = Draws(3, np.arange(count))
    return images, mosaic(argument).compose(images, partners, draws)


def test_parts_fill_the_image_and_do_not_overlap():
    _, (_, transforms, regions) = composed()
    covered = np.zeros((50, H, W), int)
    for image, parts in zip(covered, regions.astype(int), strict=True):
        for left, top, right, bottom in parts:
            image[top:bottom, left:right] += 1
    assert (covered == 1).all()
    middle = regions[:, 0, 2:] / [W, H]
    assert middle.min() >= 0.29
    assert middle.max() <= 0.71
    assert np.ptp(middle, axis=0).min() > 0.2
    scales = transforms[..., 0, 0]
    assert scales.max() <= 1
    # A window lies inside of its image.
    corners = np.tile(np.float32([[0, 0], [W, H]]), (200, 1, 1))
    moved = transform_points(corners, transforms.reshape(-1, 2, 3)).reshape(50, 4, 4)
    assert (moved[..., :2] <= regions[..., :2] + 1e-3).all()
    assert (moved[..., 2:] >= regions[..., 2:] - 1e-3).all()


def test_pixels_are_where_the_transforms_say():
    _, (result, transforms, regions) = composed()
    for image, parts, rectangles in zip(result, transforms, regions.astype(int), strict=True):
        offsets = (0, 40, 80, 120)
        for transform, (left, top, right, bottom), offset in zip(
            parts, rectangles, offsets, strict=True
        ):
            y, x = np.mgrid[top:bottom, left:right] + 0.5
            scale = transform[0, 0]
            expected = [
                (x - transform[0, 2]) / scale * 2 + offset,
                (y - transform[1, 2]) / scale * 2 + offset,
            ]
            found = image[top:bottom, left:right].astype(float)
            assert (found[..., 2] == offset).all()
            # Values are rounded twice, and the border of a window is averaged over less.
            inside = slice(1, -1), slice(1, -1)
            for channel in (0, 1):
                difference = found[..., channel] - expected[channel]
                assert np.abs(difference[inside]).max() <= 2


@pytest.mark.parametrize(("argument", "share"), [("0", 0), ("1", 1), (None, 0.5), ("0.2", 0.2)])
def test_the_probability_is_that_of_the_argument(argument, share):
    images, (result, transforms, regions) = composed(argument, 400)
    changed = (result != images).any(axis=(1, 2, 3))
    assert abs(changed.mean() - share) < 0.1
    assert (transforms[~changed, 0] == np.eye(2, 3)).all()
    assert (regions[~changed, 0] == [0, 0, W, H]).all()
    assert (regions[~changed, 1:] == 0).all()


def test_partners_are_drawn_from_all_samples():
    partners = mosaic(None).partners(Draws(0, np.arange(3000)), 50)
    assert partners.shape == (3000, 3)
    assert partners.dtype == np.int64
    assert np.bincount(partners.ravel(), minlength=50).min() > 100
    assert (partners[:, 0] != partners[:, 1]).mean() > 0.9


@pytest.mark.parametrize("argument", ["2", "-0.1", "x", "nan"])
def test_other_arguments_are_refused(argument):
    with pytest.raises(ValueError, match=r"a probability from 0 to 1, such as 0\.5"):
        mosaic(argument)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (7, 5, 3)])
def test_small_images_are_composed_too(shape):
    images = np.random.default_rng(0).integers(0, 256, (9, *shape)).astype(np.uint8)
    partners = np.repeat(images[:, None], 3, axis=1)
    result, transforms, _ = mosaic("1").compose(images, partners, Draws(0, np.arange(9)))
    assert result.shape == images.shape
    assert np.isfinite(transforms).all()
