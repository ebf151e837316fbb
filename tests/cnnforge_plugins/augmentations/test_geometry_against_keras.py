"""Cropping, rotating and zooming: what Keras' layers do, and where the transforms say."""

import keras
import numpy as np
import pytest

from cnnforge.data import Draws, transform_points
from cnnforge_plugins.augmentations.geometry import (
    crop,
    rotate,
    rotated,
    sheared,
    shift,
    translated,
    zoom,
    zoomed,
)

generator = np.random.default_rng(0)
# Smooth images: at an edge, a small difference of the place would be a large one of the value.
SMOOTH = np.stack(
    [
        127 + 100 * np.sin(np.add.outer(a * np.arange(14), b * np.arange(11)))
        for a, b in generator.uniform(0.1, 0.6, (12, 2))
    ]
)
SMOOTH = np.repeat(SMOOTH[..., None], 3, 3).astype(np.uint8)
FILL = {"fill_mode": "nearest", "interpolation": "bilinear"}


@pytest.mark.parametrize("factor", [0.0, 0.03, -0.2, 0.5])
@pytest.mark.parametrize(
    ("layer", "function"),
    [(keras.layers.RandomRotation, rotated), (keras.layers.RandomZoom, zoomed)],
    ids=["rotation", "zoom"],
)
def test_it_is_the_layer_of_keras(layer, function, factor):
    expected = np.asarray(layer((factor, factor), **FILL)(SMOOTH.astype(np.float32)))
    result, _ = function(SMOOTH, np.full(len(SMOOTH), factor))
    # Pillow rounds down.
    assert np.abs(result - expected).max() <= 1.5
    if factor == 0:
        np.testing.assert_array_equal(result, SMOOTH)


def dots(count: int, height: int = 40, width: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Black images with one bright spot each, and the centres of the spots."""
    places = np.random.default_rng(1).uniform(0.35, 0.65, (count, 2)) * (width, height)
    y, x = np.mgrid[:height, :width] + 0.5
    distances = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return (250 * np.exp(-distances / 6))[..., None].astype(np.uint8), places


@pytest.mark.parametrize(
    "move",
    [
        crop("0.7"),
        rotate("0.1"),
        zoom("0.2"),
        shift("0.1"),
        lambda images, draws: sheared(images, draws.uniform(-0.3, 0.3), draws.uniform(-0.3, 0.3)),
        lambda images, draws: translated(images, draws.uniform(-5, 5), draws.uniform(-5, 5)),
    ],
    ids=["crop", "rotate", "zoom", "shift", "shear", "translate"],
)
def test_the_transforms_say_where_a_point_goes(move):
    images, places = dots(30)
    moved, transforms = move(images, Draws(5, np.arange(30)))
    assert moved.dtype == np.uint8
    assert (moved != images).any(axis=(1, 2, 3)).mean() > 0.9
    y, x = np.mgrid[:40, :50] + 0.5
    weights = moved[..., 0].astype(float)
    found = [np.average(axis, weights=image) for image in weights for axis in (x, y)]
    expected = transform_points(places[:, None], transforms)[:, 0]
    # The spot stays inside the image.
    inside = ((expected > 8) & (expected < (42, 32))).all(axis=1)
    assert inside.sum() > 15
    np.testing.assert_allclose(np.reshape(found, (30, 2))[inside], expected[inside], atol=0.3)


@pytest.mark.parametrize("fraction", ["0.1", "0.25"])
def test_a_shift_by_a_fraction_of_the_size(fraction):
    _, transforms = shift(fraction)(np.zeros((500, 20, 40, 1), np.uint8), Draws(0, np.arange(500)))
    right, down = transforms[:, 0, 2], transforms[:, 1, 2]
    assert right.max() == -right.min() == 40 * float(fraction)
    assert down.max() == -down.min() == 20 * float(fraction)


def test_a_shift_by_a_fraction_is_at_least_a_pixel_unless_it_is_zero():
    images = np.zeros((50, 4, 4, 1), np.uint8)
    assert shift("0.01")(images, Draws(0, np.arange(50)))[1][:, 0, 2].max() == 1
    assert shift("0.0")(images, Draws(0, np.arange(50)))[1][:, 0, 2].max() == 0


def test_a_crop_is_a_window_of_the_image():
    images = np.full((200, 16, 16, 1), 9, np.uint8)
    _, transforms = crop("0.5")(images, Draws(0, np.arange(200)))
    scales = transforms[:, 0, 0]
    assert 1 <= scales.min() < 1.1
    assert 1.9 < scales.max() <= 2
    # The corners of the new image come from inside the old one.
    for corner in ([0, 0], [16, 16]):
        places = (np.array(corner) - transforms[:, :, 2]) / scales[:, None]
        assert places.min() >= -1e-4
        assert places.max() <= 16 + 1e-4


@pytest.mark.parametrize("argument", ["", "x", "1.5", "-0.1", "nan", "inf"])
@pytest.mark.parametrize("make", [crop, rotate, zoom])
def test_wrong_fractions(make, argument):
    with pytest.raises(ValueError, match=f"from 0.* to .*, such as 0.*, got {argument!r}"):
        make(argument)


@pytest.mark.parametrize("argument", ["1.5", "0.x"])
def test_a_wrong_fraction_of_a_shift(argument):
    with pytest.raises(ValueError, match=f"a fraction from 0 to 1, such as 0.1, got {argument!r}"):
        shift(argument)
