"""The operations of RandAugment: what Pillow and Keras compute."""

import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnnforge.data import Draws, transform_points
from cnnforge_plugins.augmentations import randaugment

generator = np.random.default_rng(0)
# Images with few and with many values, and constant ones.
IMAGES = generator.integers(0, 256, (8, 24, 20, 3)).astype(np.uint8)
IMAGES[1] //= 3
IMAGES[2] = IMAGES[2] // 64 * 64
IMAGES[3], IMAGES[4], IMAGES[5] = 0, 255, 77
IMAGES[6, ..., 1] = 9
AMOUNTS = np.array([-0.9, -0.5, -0.2, 0.1, 0.3, 0.6, 0.8, 1.0])
ACROSS = np.zeros(8, bool)


def by_pillow(function) -> np.ndarray:
    return np.stack(
        [
            np.asarray(function(Image.fromarray(image), a))
            for image, a in zip(IMAGES, AMOUNTS, strict=True)
        ]
    )


def test_equalization_is_that_of_pillow():
    expected = by_pillow(lambda image, amount: ImageOps.equalize(image))
    np.testing.assert_array_equal(randaugment._equalize(IMAGES, AMOUNTS, ACROSS), expected)


def test_auto_contrast_is_that_of_keras():
    expected = np.asarray(keras.layers.AutoContrast()(IMAGES.astype(np.float32)))
    result = randaugment._auto_contrast(IMAGES, AMOUNTS, ACROSS)
    np.testing.assert_allclose(result, expected, atol=0.51)


def test_sharpness_and_color_are_those_of_pillow():
    def sharp(image, amount):
        return ImageEnhance.Sharpness(image).enhance(1 + 0.9 * amount)

    def colored(image, amount):
        return ImageEnhance.Color(image).enhance(1 + 0.9 * amount)

    result = randaugment._sharpness(IMAGES, AMOUNTS, ACROSS)
    np.testing.assert_array_equal(result, by_pillow(sharp))
    result = randaugment._color(IMAGES, AMOUNTS, ACROSS).astype(int)
    assert np.abs(result - by_pillow(colored)).max() <= 2


def test_posterization_keeps_the_high_bits():
    result = randaugment._posterize(IMAGES, AMOUNTS, ACROSS)
    lost = [4, 2, 1, 0, 1, 2, 3, 4]
    expected = [image >> bits << bits for image, bits in zip(IMAGES, lost, strict=True)]
    np.testing.assert_array_equal(result, expected)


def test_solarization_inverts_values_from_a_threshold():
    result = randaugment._solarize(IMAGES, AMOUNTS, ACROSS)
    np.testing.assert_array_equal(result[7], 255 - IMAGES[7])
    low = IMAGES[1] < 128
    np.testing.assert_array_equal(result[1], np.where(low, IMAGES[1], 255 - IMAGES[1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_is_drawn_and_transforms_follow_the_pixels(monkeypatch, channels):
    drawn = []

    def counted(operation):
        def call(images, amounts, vertical):
            drawn.extend([operation.__name__] * len(images))
            assert np.abs(amounts).max() <= 0.3
            return operation(images, amounts, vertical)

        return call

    monkeypatch.setattr(randaugment, "_ALL", tuple(map(counted, randaugment._ALL)))
    y, x = np.mgrid[:40, :50] + 0.5
    spot = 200 * np.exp(-((x - 22) ** 2 + (y - 18) ** 2) / 6) + 10
    images = np.repeat(np.tile(spot.astype(np.uint8), (300, 1, 1))[..., None], channels, 3)
    result, transforms = randaugment.randaugment("0.3")(images, Draws(0, np.arange(300)))
    counts = [drawn.count(name) for name in set(drawn)]
    assert len(counts) == 11
    assert min(counts) > 25
    places = transform_points(np.tile(np.float32([22, 18]), (300, 1, 1)), transforms)[:, 0]
    moved = (np.abs(places - (22, 18)) > 1e-3).any(axis=1)
    assert 50 < moved.sum() < 250
    # The spot is where the transform says, unless its values are inverted.
    values = result[..., 0].astype(float)
    values -= np.median(values, axis=(1, 2), keepdims=True)
    for place, image in zip(places, np.maximum(values, 0), strict=True):
        if image.max() > 60 and 8 < place[0] < 42 and 8 < place[1] < 32:
            assert abs(np.average(x, weights=image**2) - place[0]) < 1
            assert abs(np.average(y, weights=image**2) - place[1]) < 1
