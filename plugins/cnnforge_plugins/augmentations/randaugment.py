"""Apply two operations to each image, which are drawn from a list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

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
    factors = iter(1 + 0.9 * amounts)
    return _pillow(images, lambda it: ImageEnhance.Sharpness(it).enhance(float(next(factors))))


def _posterize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    lost = np.rint(4 * np.abs(amounts)).astype(np.uint8)
    return images & (0xFF << lost).astype(np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]


def _solarize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    # With threshold 256, no value is inverted; with 0, all are.
    threshold = per_image(256 * (1 - np.abs(amounts)))
    return np.where(images >= threshold, 255 - images, images)


def _auto_contrast(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    return images if not amounts.any() else _pillow(images, ImageOps.autocontrast)


def _equalize(images: np.ndarray, amounts: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    return images if not amounts.any() else _pillow(images, ImageOps.equalize)


def _pillow(images: np.ndarray, function: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    gray = images.shape[3] == 1
    changed = [
        np.asarray(function(Image.fromarray(image[:, :, 0] if gray else image))) for image in images
    ]
    return np.stack(changed).reshape(images.shape)


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
