"""Apply two operations to each image, which are drawn from a list."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from cnnforge.data import Augment, Draws, compose, translations
from cnnforge_plugins.augmentations._arguments import number, per_image, to_uint8
from cnnforge_plugins.augmentations.color import brighter, contrasted
from cnnforge_plugins.augmentations.geometry import rotated, sheared, translated

_OPERATIONS = 2


def randaugment(argument: str | None) -> Augment:
    """Make an augmentation that applies two random operations, as Keras' `RandAugment`.

    E. Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search
    Space", 2020. The operations are those of Keras: shear, translation, rotation, brightness, color
    degeneration, contrast, sharpness, posterization, solarization, auto contrast, equalization.

    Args:
        argument: Strength of the operations, from 0 to 1; by default 0.5. The strengths at 1 are
            those of the paper: a shear of 0.3, a translation by 45 % of the size, a rotation by 30
            degrees, a change of 90 % in brightness, color, contrast and sharpness, 4 bits, and a
            solarization of all values. (Keras passes the number to each of its layers, so that 0.5
            is a rotation by up to half a turn.)

    Returns:
        The augmentation.

    Raises:
        ValueError: The argument is not a number from 0 to 1.
    """
    strength = number(argument, 0.5, 0.0, 1.0, "a number")

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        count = len(images)
        result, moved = images.copy(), translations(np.zeros(count), np.zeros(count))
        for _ in range(_OPERATIONS):
            chosen = draws.integers(0, len(_ALL))
            # Every operation gets one amount from -strength to strength, whichever was drawn.
            amounts = draws.uniform(-strength, strength)
            vertical = draws.uniform() < 0.5
            for which, operation in enumerate(_ALL):
                mine = np.flatnonzero(chosen == which)
                if not len(mine):
                    continue
                changed = operation(result[mine], amounts[mine], vertical[mine])
                if isinstance(changed, tuple):
                    changed, transforms = changed
                    moved[mine] = compose(moved[mine], transforms)
                result[mine] = changed
        return result, moved

    return augment


Moved = tuple[np.ndarray, np.ndarray]


def _shear(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> Moved:
    amounts = 0.3 * amounts
    return sheared(images, np.where(vertical, 0, amounts), np.where(vertical, amounts, 0))


def _translate(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> Moved:
    _, height, width, _ = images.shape
    right = np.where(vertical, 0, np.rint(0.45 * amounts * width))
    down = np.where(vertical, np.rint(0.45 * amounts * height), 0)
    return translated(images, right, down)


def _rotate(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> Moved:
    return rotated(images, amounts / 12)


def _brightness(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    return brighter(images, 0.9 * amounts)


def _color(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    if images.shape[3] == 1:
        return images
    # The gray value of ITU-R BT.601, as in Pillow.
    red, green, blue = (images[..., channel] for channel in range(3))
    gray = red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)
    factor = per_image(1 + 0.9 * amounts)
    return to_uint8(images * factor + gray[..., np.newaxis] * (1 - factor))


def _contrast(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    return contrasted(images, 1 + 0.9 * amounts)


def _sharpness(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    result = np.empty_like(images)
    for image, amount, changed in zip(images, amounts, result, strict=True):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture = ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * float(amount))
        changed[:] = np.asarray(picture).reshape(image.shape)
    return result


def _posterize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    lost = np.rint(4 * np.abs(amounts)).astype(np.uint8)
    return images & (0xFF << lost).astype(np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]


def _solarize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    # With threshold 256, no value is inverted; with 0, all are.
    threshold = per_image(256 * (1 - np.abs(amounts)))
    return np.where(images >= threshold, 255 - images, images)


def _auto_contrast(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    if not amounts.any():
        return images
    count, _, _, channels = images.shape
    values = images.reshape(count, -1, channels)
    low = values.min(axis=1).astype(np.float32)[:, np.newaxis, np.newaxis, :]
    high = values.max(axis=1).astype(np.float32)[:, np.newaxis, np.newaxis, :]
    # A channel with one value stays as it is.
    flat = low == high
    scale = np.where(flat, 1, 255 / np.maximum(high - low, 1))
    return to_uint8((images - low) * scale + low * flat)


def _equalize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    if not amounts.any():
        return images
    count, height, width, channels = images.shape
    # One histogram for each channel of each image: their 256 places follow each other.
    first = 256 * np.arange(count * channels).reshape(count, 1, 1, channels)
    places = images + first
    histograms = np.bincount(places.ravel(), minlength=256 * count * channels).reshape(-1, 256)
    top = 255 - np.argmax(histograms[:, ::-1] > 0, axis=1)
    largest = histograms[np.arange(len(top)), top]
    step = ((height * width - largest) // 255)[:, np.newaxis]
    below = np.cumsum(histograms, axis=1) - histograms
    table = np.minimum((below + step // 2) // np.maximum(step, 1), 255)
    # A channel with few pixels, or with one value, stays as it is.
    table = np.where(step == 0, np.arange(256), table).astype(np.uint8)
    return table.ravel()[places]


_ALL = (
    _shear,
    _translate,
    _rotate,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _auto_contrast,
    _equalize,
)
