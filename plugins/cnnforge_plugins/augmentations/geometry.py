"""Augmentations that move pixels: shift, flip, crop, rotate and zoom.

What a movement leaves empty is filled with the nearest pixel of the border of the image.
"""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws, translations
from cnnforge_plugins.augmentations._arguments import number, refuse
from cnnforge_plugins.augmentations._warping import centred, warp


def shift(argument: str | None) -> Augment:
    """Make an augmentation that shifts images by whole pixels, as Keras' `RandomTranslation`.

    Args:
        argument: Max shift in each direction: a whole number of pixels, 1 or more, or a fraction
            of the height and of the width, below 1 and with a decimal point. By default 2 pixels.

    Returns:
        The augmentation. For each image, it draws a horizontal and a vertical shift uniformly from
        the integers -max to max. A fraction gives max = fraction * size, rounded, at least 1.

    Raises:
        ValueError: The argument is neither a number of pixels nor a fraction.
    """
    fraction = None
    if argument is not None and "." in argument:
        fraction = number(argument, 0.1, 0.0, 1.0, "a fraction")
    elif argument is not None and not (argument.isascii() and argument.isdigit() and int(argument)):
        raise ValueError(
            f"expected a number of pixels, 1 or more, or a fraction such as 0.1, got {argument!r}"
        )
    pixels = 2 if argument is None or fraction is not None else int(argument)

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        _, height, width, _ = images.shape
        max_down = max_right = pixels
        if fraction is not None:
            max_down, max_right = (
                max(int(fraction > 0), round(fraction * size)) for size in (height, width)
            )
        down = draws.integers(-max_down, max_down + 1)
        right = draws.integers(-max_right, max_right + 1)
        rows = np.clip(np.arange(height) - down[:, np.newaxis], 0, height - 1)
        columns = np.clip(np.arange(width) - right[:, np.newaxis], 0, width - 1)
        numbers = np.arange(len(images))[:, np.newaxis, np.newaxis]
        moved = images[numbers, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
        return moved, translations(right, down)

    return augment


def flip(argument: str | None) -> Augment:
    """Make an augmentation that flips each image left to right with probability 0.5.

    It is Keras' `RandomFlip("horizontal")`.

    Args:
        argument: Must be `None`, since the augmentation takes no argument.

    Returns:
        The augmentation.

    Raises:
        ValueError: `argument` is not `None`.
    """
    refuse(argument)

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        flipped = draws.uniform() < 0.5
        transforms = translations(np.where(flipped, images.shape[2], 0), np.zeros(len(images)))
        transforms[flipped, 0, 0] = -1
        flipped = flipped[:, np.newaxis, np.newaxis, np.newaxis]
        return np.where(flipped, images[:, :, ::-1], images), transforms

    return augment


def crop(argument: str | None) -> Augment:
    """Make an augmentation that cuts a window out of each image and enlarges it to the image size.

    Keras' `RandomCrop` cuts a window of one size. Here the images keep their size, so the window is
    enlarged, and its size is drawn, so that objects have several sizes.

    Args:
        argument: Min height and width of the window as a fraction of those of the image, from 0.1
            to 1; by default 0.8.

    Returns:
        The augmentation. For each image, it draws the fraction uniformly from the min to 1, and the
        place of the window.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    least = number(argument, 0.8, 0.1, 1.0, "a fraction")

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        _, height, width, _ = images.shape
        fraction = draws.uniform(least, 1.0)
        x, y = (draws.uniform() * (1.0 - fraction) * size for size in (width, height))
        transforms = np.zeros((len(images), 2, 3))
        transforms[:, 0, 0] = transforms[:, 1, 1] = 1.0 / fraction
        transforms[:, 0, 2], transforms[:, 1, 2] = -x / fraction, -y / fraction
        return warp(images, transforms)

    return augment


def rotate(argument: str | None) -> Augment:
    """Make an augmentation that rotates images about their centre, as Keras' `RandomRotation`.

    Args:
        argument: Max angle as a fraction of a full turn, from 0 to 1; by default 0.03, which is
            about 11 degrees.

    Returns:
        The augmentation. For each image, it draws an angle uniformly from -max to max. A positive
        angle is a counterclockwise turn.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    largest = number(argument, 0.03, 0.0, 1.0, "a fraction of a full turn")

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        return rotated(images, draws.uniform(-largest, largest))

    return augment


def zoom(argument: str | None) -> Augment:
    """Make an augmentation that enlarges and reduces images, as Keras' `RandomZoom`.

    Args:
        argument: Max zoom as a fraction, from 0 to 0.9; by default 0.1.

    Returns:
        The augmentation. For each image, it draws a factor uniformly from -max to max: an image
        with a positive factor becomes smaller, 1 / (1 + factor) of its size.

    Raises:
        ValueError: The argument is not such a fraction.
    """
    largest = number(argument, 0.1, 0.0, 0.9, "a fraction")

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        return zoomed(images, draws.uniform(-largest, largest))

    return augment


def rotated(images: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate images about their centre.

    Args:
        images: (N, H, W, C) uint8.
        turns: (N,) angles as fractions of a full turn, counterclockwise.

    Returns:
        The images, and their transforms, (N, 2, 3) float32.
    """
    angles = 2.0 * np.pi * turns
    cosine, sine = np.cos(angles), np.sin(angles)
    # The y axis points down.
    linear = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    return warp(images, centred(linear, *images.shape[1:3]))


def zoomed(images: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge or reduce images about their centre.

    Args:
        images: (N, H, W, C) uint8.
        factors: (N,) numbers above -1: an image becomes 1 / (1 + factor) of its size.

    Returns:
        The images, and their transforms, (N, 2, 3) float32.
    """
    linear = np.eye(2) / (1.0 + factors)[:, np.newaxis, np.newaxis]
    return warp(images, centred(linear, *images.shape[1:3]))


def sheared(
    images: np.ndarray, horizontal: np.ndarray, vertical: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shear images about their centre.

    Args:
        images: (N, H, W, C) uint8.
        horizontal: (N,) shift to the right of a pixel per pixel down.
        vertical: (N,) shift down of a pixel per pixel to the right.

    Returns:
        The images, and their transforms, (N, 2, 3) float32.
    """
    linear = np.tile(np.eye(2), (len(images), 1, 1))
    linear[:, 0, 1], linear[:, 1, 0] = horizontal, vertical
    return warp(images, centred(linear, *images.shape[1:3]))


def translated(
    images: np.ndarray, right: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift images.

    Args:
        images: (N, H, W, C) uint8.
        right: (N,) distances to the right, in pixels.
        down: (N,) distances down, in pixels.

    Returns:
        The images, and their transforms, (N, 2, 3) float32.
    """
    return warp(images, translations(right, down).astype(np.float64))
