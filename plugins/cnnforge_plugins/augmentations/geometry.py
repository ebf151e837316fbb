"""Augmentations that move pixels: shifting and flipping images."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws, translations


def shift(argument: str | None) -> Augment:
    """Make an augmentation that shifts images by whole pixels.

    The pixels at the border are repeated to fill the part of an image that the shift leaves empty.

    Args:
        argument: Max shift in pixels, in each direction; by default 2.

    Returns:
        The augmentation. For each image, it draws a horizontal and a vertical shift uniformly from
        the integers -max to max.

    Raises:
        ValueError: The argument is not a number of pixels.
    """
    if argument is not None and not (argument.isascii() and argument.isdigit() and int(argument)):
        raise ValueError(f"expected a number of pixels, 1 or more, got {argument!r}")
    max_shift = 2 if argument is None else int(argument)

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        _, height, width, _ = images.shape
        down = draws.integers(-max_shift, max_shift + 1)
        right = draws.integers(-max_shift, max_shift + 1)
        rows = np.clip(np.arange(height) - down[:, np.newaxis], 0, height - 1)
        columns = np.clip(np.arange(width) - right[:, np.newaxis], 0, width - 1)
        numbers = np.arange(len(images))[:, np.newaxis, np.newaxis]
        moved = images[numbers, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
        return moved, translations(right, down)

    return augment


def flip(argument: str | None) -> Augment:
    """Make an augmentation that flips each image left to right with probability 0.5.

    Args:
        argument: Must be `None`, since the augmentation takes no argument.

    Returns:
        The augmentation.

    Raises:
        ValueError: `argument` is not `None`.
    """
    if argument is not None:
        raise ValueError(f"it takes no argument, got {argument!r}")

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        flipped = draws.uniform() < 0.5
        transforms = translations(np.where(flipped, images.shape[2], 0), np.zeros(len(images)))
        transforms[flipped, 0, 0] = -1
        flipped = flipped[:, np.newaxis, np.newaxis, np.newaxis]
        return np.where(flipped, images[:, :, ::-1], images), transforms

    return augment
