"""Brightness, contrast, saturation and hue: what Keras' layers do."""

import keras
import numpy as np
import pytest

from cnnforge.data import Draws
from cnnforge_plugins.augmentations import color

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 7, 3)).astype(np.uint8)
IMAGES[0], IMAGES[1] = 0, 255
IMAGES[2, ..., 1] = IMAGES[2, ..., 0]
IMAGES[3, ..., 2] = IMAGES[3, ..., 0]
FLOATS = IMAGES.astype(np.float32)
FACTORS = np.linspace(-0.9, 0.9, 9)
layers = keras.layers


def near(result: np.ndarray, expected: object) -> None:
    assert result.dtype == np.uint8
    # Rounded to the nearest integer.
    np.testing.assert_allclose(result, np.asarray(expected), atol=0.51)


def test_brightness():
    added = np.repeat(255 * FACTORS[:, None, None, None], 3, 3).astype(np.float32)
    expected = layers.RandomBrightness(1.0).transform_images(FLOATS, {"rgb_delta": added})
    near(color.brighter(IMAGES, FACTORS), expected)


def test_contrast():
    factors = (1 + FACTORS)[:, None, None, None].astype(np.float32)
    expected = layers.RandomContrast(1.0).transform_images(FLOATS, {"contrast_factor": factors})
    near(color.contrasted(IMAGES, 1 + FACTORS), expected)


def test_saturation():
    factors = (1 + FACTORS)[:, None].astype(np.float32)[:, 0]
    layer = layers.RandomSaturation(0.5, value_range=(0, 1))
    expected = np.asarray(layer.transform_images(FLOATS / 255, {"factor": factors})) * 255
    near(color.saturated(IMAGES, 1 + FACTORS), expected)


def test_hue():
    layer = layers.RandomHue(1.0)
    expected = layer.transform_images(FLOATS, {"factor": np.float32(FACTORS / 2)})
    near(color.hue_turned(IMAGES, FACTORS / 2), expected)


@pytest.mark.parametrize(
    ("make", "argument", "changed", "low", "high"),
    [
        (color.brightness, "0.1", lambda image: image.mean() - 100, -26, 26),
        (color.contrast, "0.3", lambda image: image.std() / 50, 0.7, 1.3),
    ],
    ids=["brightness", "contrast"],
)
def test_the_argument_is_the_max_change(make, argument, changed, low, high):
    images = np.full((400, 2, 2, 1), 50, np.uint8)
    images[:, 0] = 150
    values = [changed(image) for image in make(argument)(images, Draws(0, np.arange(400)))]
    assert low - 0.02 <= min(values) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(values) <= high + 0.02


def test_large_images_give_the_same():
    large = np.random.default_rng(0).integers(0, 256, (3, 80, 90, 3)).astype(np.uint8)
    factors = np.array([0.3, 1.2, 0.9])
    for function in (color.contrasted, color.saturated, color.hue_turned, color.brighter):
        direct = function.__wrapped__(large, factors)
        np.testing.assert_array_equal(function(large, factors), direct)


@pytest.mark.parametrize(
    ("make", "argument", "what"),
    [
        (color.brightness, "2", "a fraction from 0 to 1"),
        (color.contrast, "-1", "a fraction from 0 to 1"),
        (color.saturation, "0.6", "a number from 0 to 0.5"),
        (color.hue, "far", "a fraction from 0 to 1"),
    ],
)
def test_wrong_arguments(make, argument, what):
    with pytest.raises(ValueError, match=f"{what}, such as 0.[12], got {argument!r}"):
        make(argument)
