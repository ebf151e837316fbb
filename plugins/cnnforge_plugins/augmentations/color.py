"""Augmentations that change brightness, contrast and color."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws
from cnnforge_plugins.augmentations._arguments import by_image, number, per_image, to_uint8


def brightness(argument: str | None) -> Augment:
    """Make an augmentation that makes images lighter or darker, as Keras' `RandomBrightness`.

    Args:
        argument: Max change as a fraction of 255, from 0 to 1; by default 0.2.

    Returns:
        The augmentation. For each image, it draws a fraction uniformly from -max to max, and adds
        255 times this fraction to all values.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    largest = number(argument, 0.2, 0.0, 1.0, "a fraction")
    return lambda images, draws: brighter(images, draws.uniform(-largest, largest))


def contrast(argument: str | None) -> Augment:
    """Make an augmentation that changes the contrast of images, as Keras' `RandomContrast`.

    Args:
        argument: Max change as a fraction, from 0 to 1; by default 0.2.

    Returns:
        The augmentation. For each image, it draws a factor uniformly from 1 - max to 1 + max. The
        difference of each value from the mean of its channel is multiplied by this factor.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    largest = number(argument, 0.2, 0.0, 1.0, "a fraction")
    return lambda images, draws: contrasted(images, draws.uniform(1 - largest, 1 + largest))


def saturation(argument: str | None) -> Augment:
    """Make an augmentation that makes colors stronger or paler, as Keras' `RandomSaturation`.

    Args:
        argument: Max change M, from 0 to 0.5; by default 0.1.

    Returns:
        The augmentation. For each image, it draws F uniformly from 0.5 - M to 0.5 + M, and
        multiplies the saturation of all pixels by F / (1 - F). It is Keras'
        `RandomSaturation((0.5 - M, 0.5 + M))`. Grayscale images stay the same.

    Raises:
        ValueError: The argument is not such a number.
    """
    largest = number(argument, 0.1, 0.0, 0.5, "a number")

    def augment(images: np.ndarray, draws: Draws) -> np.ndarray:
        factor = draws.uniform(0.5 - largest, 0.5 + largest)
        return saturated(images, factor / (1.0 - factor + 1e-7))

    return augment


def hue(argument: str | None) -> Augment:
    """Make an augmentation that changes the hue of images, as Keras' `RandomHue`.

    Args:
        argument: Max change as a fraction of half the color circle, from 0 to 1; by default 0.1.

    Returns:
        The augmentation. For each image, it draws a fraction uniformly from -max to max. Grayscale
        images stay the same.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    largest = number(argument, 0.1, 0.0, 1.0, "a fraction")
    return lambda images, draws: hue_turned(images, 0.5 * draws.uniform(-largest, largest))


@by_image
def brighter(images: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Add a fraction of 255 to all values of an image.

    Args:
        images: (N, H, W, C) uint8.
        fractions: (N,) fractions from -1 to 1.

    Returns:
        (N, H, W, C) uint8.
    """
    added = np.rint(255.0 * fractions).astype(np.int16)[:, np.newaxis, np.newaxis, np.newaxis]
    return np.clip(images + added, 0, 255).astype(np.uint8)


@by_image
def contrasted(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the difference of each value from the mean of its channel by a factor.

    Args:
        images: (N, H, W, C) uint8.
        factors: (N,) factors, 0 or more.

    Returns:
        (N, H, W, C) uint8.
    """
    # A sum of integers is exact, so it does not depend on the number of images in the batch.
    count, height, width, channels = images.shape
    sums = images.reshape(count, height * width, channels).sum(axis=1, dtype=np.int64)
    means = (sums / (height * width)).astype(np.float32)[:, np.newaxis, np.newaxis, :]
    factor = per_image(factors)
    return to_uint8(images * factor + means * (1 - factor))


@by_image
def saturated(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the saturation of all pixels by a factor; the hue and the max value stay the same.

    Args:
        images: (N, H, W, C) uint8.
        factors: (N,) factors, 0 or more.

    Returns:
        (N, H, W, C) uint8.
    """
    if images.shape[3] == 1:
        return images.copy()
    top, spread = _top_and_spread(images)
    # The saturation is spread / top, and at most 1.
    factor = np.minimum(per_image(factors)[..., 0], top / np.maximum(spread, 1))
    offset = top * (1 - factor)
    return to_uint8(images * factor[..., np.newaxis] + offset[..., np.newaxis])


@by_image
def hue_turned(images: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Turn the hue of all pixels; saturation and max value stay the same.

    Args:
        images: (N, H, W, C) uint8.
        turns: (N,) angles as fractions of the color circle.

    Returns:
        (N, H, W, C) uint8.
    """
    if images.shape[3] == 1:
        return images.copy()
    red, green, blue = (images[..., channel].astype(np.float32) for channel in range(3))
    top, spread = _top_and_spread(images)
    # The hue in sixths of the color circle.
    sixths = np.where(
        top == red,
        green - blue,
        np.where(top == green, blue - red, red - green),
    )
    sixths /= np.maximum(spread, 1)
    sixths += np.where(top == red, np.float32(6), np.where(top == green, np.float32(2), 4))
    sixths += per_image(6.0 * turns)[..., 0]
    result = np.empty(images.shape, np.float32)
    for channel, start in enumerate((5, 3, 1)):
        place = sixths + np.float32(start)
        # The remainder of the division by 6, which is faster than %.
        place -= 6 * np.floor(place / 6)
        place = np.clip(np.minimum(place, 4 - place), 0, 1)
        result[..., channel] = top - spread * place
    return to_uint8(result)


def _top_and_spread(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the max value of each pixel, and max - min: two arrays (N, H, W) float32."""
    # A reduction over the last axis would be several times slower.
    red, green, blue = (images[..., channel] for channel in range(3))
    top = np.maximum(np.maximum(red, green), blue)
    spread = top - np.minimum(np.minimum(red, green), blue)
    return top.astype(np.float32), spread.astype(np.float32)
